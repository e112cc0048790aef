"""semantic-wm's pixel decoder: a grid of features -> pictures, by residual convolutions (`worldkit.nn.pixel_decoder`).

Source: semantic-wm (arXiv:2605.06388), written from a description of the facts.
"""

from __future__ import annotations

import torch.nn.functional as F
from einops import rearrange
from pydantic import Field, PositiveInt

from ..config import ComponentConfig, ObsSpec
from ..errors import ConfigError
from ..latents import Latent, LatentSpec
from ..nn.pixel_decoder import PixelDecoder
from .base import Decoded, Decoder


class SemanticDecoderConfig(ComponentConfig):
    """Options of the pixel decoder; defaults are upstream's (16 x 16 tokens -> 256 x 256 pixels).

    Attributes:
        channels: Width of the level in full resolution.
        multipliers: Width of every level, full resolution first; sides double between levels.
        num_blocks: Residual blocks of a level.
        num_heads: Of attention at the bottom.
        level_attention: Attention also behind the blocks of the innermost level. Upstream's older checkpoints lack it.
    """

    name: str = "semantic"
    channels: int = Field(default=128, gt=0)
    multipliers: tuple[PositiveInt, ...] = Field(default=(1, 1, 2, 4, 8), min_length=1)
    num_blocks: int = Field(default=2, gt=0)
    num_heads: int = Field(default=4, gt=0)
    level_attention: bool = True


class SemanticDecoder(Decoder):
    """Grid of tokens -> video, resized to the picture's size if it is another.

    Raises:
        ConfigError: widths that do not divide into heads, or into the groups of norms.
    """

    Config = SemanticDecoderConfig
    kinds = frozenset({"patches"})

    def __init__(self, config: SemanticDecoderConfig, *, spec: LatentSpec, obs: ObsSpec):
        super().__init__(config, spec=spec, obs=obs)
        deep = config.channels * config.multipliers[-1]
        if deep % config.num_heads:
            raise ConfigError(f"decoder 'semantic': {deep} channels at the bottom cannot be shared among decoder."
                              f"num_heads {config.num_heads}")
        for width in {config.channels * m for m in config.multipliers}:
            if width % min(32, width):
                raise ConfigError(f"decoder 'semantic': norms have 32 groups, which {width} channels do not divide "
                                  "into; take decoder.channels a multiple of 32, or all below")
        self.net = PixelDecoder(spec.flat_dim(spec.groups[0].name), obs.channels, channels=config.channels,
                                multipliers=config.multipliers, num_blocks=config.num_blocks,
                                num_heads=config.num_heads, level_attention=config.level_attention)

    def forward(self, z: Latent, *, masks: bool = False) -> Decoded:
        maps = rearrange(z.flat(self.spec.groups[0].name), "b t (v h w) d -> (b v) t d h w", v=self.spec.views,
                         h=self.spec.grid[0])
        video = self.net(maps)
        size = (self.obs.height, self.obs.width)
        if video.shape[-2:] != size:
            video = F.interpolate(video.flatten(0, 1), size, mode="bilinear").unflatten(0, video.shape[:2])
        video = video.unflatten(0, (-1, self.spec.views))
        return Decoded(video=video if self.spec.views > 1 else video[:, 0])
