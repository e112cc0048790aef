"""The patch decoder: tokens on a grid -> pixels, through one convolution stack over the whole frame.

Every token becomes a cell of a map by a layer of its own width, so that narrow trained patches and wide pretrained
features (hundreds of numbers) are drawn alike. A patch covers its place whatever it shows, so there are no masks.

Source: the stack is the one of LPWM's background decoder (arXiv:2603.04553); the rest is ours.
"""

from __future__ import annotations

from typing import cast

import torch
from einops import rearrange
from pydantic import Field
from torch import nn

from ..config import ComponentConfig, ObsSpec
from ..errors import ConfigError
from ..latents import Latent, LatentSpec, PatchTokens
from ..nn.conv import ConvConfig, ConvDecoder
from .base import Decoded, Decoder


class PatchDecoderConfig(ComponentConfig):
    """Options of the patch decoder.

    Attributes:
        hidden_dim: Width that tokens are projected to first.
        cnn: Convolution stack. It doubles the side as often as it has further channel multipliers, but never beyond
            the image: its first multipliers are used then. What doubling does not cover, the projection draws.
    """

    name: str = "patch"
    hidden_dim: int = Field(default=256, gt=0)
    cnn: ConvConfig = ConvConfig(channel_multipliers=(1, 1, 1, 2, 4))


class PatchDecoder(Decoder):
    """Grid of tokens -> video; ``Decoded.masks`` stays None."""

    Config = PatchDecoderConfig
    kinds = frozenset({"patches"})

    def __init__(self, config: PatchDecoderConfig, *, spec: LatentSpec, obs: ObsSpec):
        super().__init__(config, spec=spec, obs=obs)
        assert spec.grid is not None  # patches lie on a grid
        rows, columns = spec.grid
        side, rest = divmod(obs.height, rows)
        if rest or side * columns != obs.width:
            raise ConfigError(
                f"decoder 'patch' draws every token as a square of whole pixels, which a grid of {rows} x {columns} "
                f"tokens does not allow for {obs.height} x {obs.width} pixels; choose an image size (or the encoder's "
                f"input_size or patch_size) so that the image is a multiple of the grid"
            )
        cnn, ups = config.cnn, 0
        while ups + 1 < len(cnn.channel_multipliers) and side % 2 ** (ups + 1) == 0:
            ups += 1
        self.cells = side // 2**ups  # a token is cells x cells places of the map
        self.project = nn.Sequential(
            nn.Linear(spec.flat_dim("patches"), config.hidden_dim), nn.GELU(),
            nn.Linear(config.hidden_dim, cnn.latent_channels * self.cells**2),
        )
        self.cnn = ConvDecoder(cnn, inputs=cnn.latent_channels, outputs=obs.channels, ups=ups)

    def forward(self, z: Latent, *, masks: bool = False) -> Decoded:
        tokens, views = self.project(cast(PatchTokens, z).features), self.spec.views
        frames = rearrange(
            tokens, "b t (v h w) (d p q) -> (b v t) d (h p) (w q)", v=views, h=self.spec.grid[0], p=self.cells,
            q=self.cells,
        )
        video = torch.sigmoid(self.cnn(frames))
        video = rearrange(video, "(b v t) c h w -> b v t c h w", v=views, t=z.shape[1])
        return Decoded(video=video if views > 1 else video[:, 0])
