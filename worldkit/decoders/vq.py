"""The VQ decoder: vectors of codes on a grid -> pixels; the mirror of encoder `vq`.

Source: IRIS (arXiv:2209.00588), written from a description of it.
"""

from __future__ import annotations

from einops import rearrange
from torch import nn

from ..config import ObsSpec
from ..errors import ConfigError
from ..latents import Latent, LatentSpec
from ..nn.vqgan import StackConfig, up_stack
from .base import Decoded, Decoder


class VQDecoderConfig(StackConfig):
    """Options of the VQ decoder; sizes of its stack: `worldkit.nn.vqgan.StackConfig`."""

    name: str = "vq"


class VQDecoder(Decoder):
    """Grid of tokens -> video, not clamped; ``Decoded.masks`` stays None."""

    Config = VQDecoderConfig
    kinds = frozenset({"patches"})
    config: VQDecoderConfig

    def __init__(self, config: VQDecoderConfig, *, spec: LatentSpec, obs: ObsSpec):
        super().__init__(config, spec=spec, obs=obs)
        grid = config.grid(obs.height, obs.width)
        if spec.grid != grid:
            assert spec.grid is not None  # patches lie on a grid
            raise ConfigError(
                f"decoder 'vq' doubles a grid {len(config.multipliers) - 1} times, {grid[0]} x {grid[1]} to "
                f"{obs.height} x {obs.width} pixels, but the encoder's is {spec.grid[0]} x {spec.grid[1]}: "
                "decoder.multipliers needs as many entries as the encoder's"
            )
        self.project = nn.Conv2d(spec.flat_dim("patches"), config.map_channels, 1)
        self.stack = up_stack(config, obs.channels, max(obs.height, obs.width))

    def forward(self, z: Latent, *, masks: bool = False) -> Decoded:
        (height, width), views = self.config.grid(self.obs.height, self.obs.width), self.spec.views
        tokens = z.flat("patches")
        maps = rearrange(tokens, "b t (v h w) d -> (b v t) d h w", v=views, h=height, w=width)
        video = (self.stack(self.project(maps)) + 1) / 2
        video = rearrange(video, "(b v t) c h w -> b v t c h w", v=views, t=z.shape[1])
        return Decoded(video=video if views > 1 else video[:, 0])
