"""Genie's video decoder: tokens on a grid through a spatio-temporal transformer, every one to the pixels of its patch.

Causal in time, and as far-sighted as the encoder: a frame is drawn by its own tokens and those of the frames before it
(`Decoder.history`). Alone, a frame would be drawn from codes that count on what was there before.

Source: Genie (arXiv:2402.15391), section 2.1.2. The sigmoid at the end is stated there for latent actions alone.
"""

from __future__ import annotations

from typing import cast

import torch
from pydantic import Field
from torch import nn

from ..config import ComponentConfig, ObsSpec
from ..errors import ConfigError
from ..latents import Latent, LatentSpec, PatchTokens
from ..nn.patches import from_patches, patch_grid
from ..nn.space_time import SpaceTimeTransformer
from .base import Decoded, Decoder


class SpaceTimeDecoderConfig(ComponentConfig):
    """Options of the spatio-temporal decoder; as those of encoder ``space-time-vq``.

    Attributes:
        dim, num_layers, num_heads, head_dim, dropout: The transformer.
        window: Frames that a picture depends on at most, its own included.
    """

    name: str = "space-time"
    dim: int = Field(default=512, gt=0)
    num_layers: int = Field(default=8, gt=0)
    num_heads: int = Field(default=8, gt=0)
    head_dim: int | None = Field(default=None, gt=0)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    window: int = Field(default=16, gt=0)


class SpaceTimeDecoder(Decoder):
    """Grid of tokens -> video; ``Decoded.masks`` stays None."""

    Config = SpaceTimeDecoderConfig
    kinds = frozenset({"patches"})

    def __init__(self, config: SpaceTimeDecoderConfig, *, spec: LatentSpec, obs: ObsSpec):
        super().__init__(config, spec=spec, obs=obs)
        assert spec.grid is not None  # patches lie on a grid
        self.patch_size = -(-obs.height // spec.grid[0])
        if obs.views > 1 or patch_grid(obs.height, obs.width, self.patch_size) != spec.grid:
            raise ConfigError(
                f"decoder 'space-time' draws every token as a square patch of one camera, which a grid of "
                f"{spec.grid[0]} x {spec.grid[1]} tokens does not allow for {obs.views} view(s) of {obs.height} x "
                f"{obs.width} pixels; choose another encoder.patch_size, or decoder 'patch'"
            )
        self.embed_tokens = nn.Linear(spec.flat_dim("patches"), config.dim)
        self.transformer = SpaceTimeTransformer(
            dim=config.dim, num_layers=config.num_layers, num_heads=config.num_heads, head_dim=config.head_dim,
            dropout=config.dropout, num_tokens=spec.num_tokens, max_frames=config.window,
        )
        self.to_pixels = nn.Linear(config.dim, obs.channels * self.patch_size**2)
        self.history = config.window - 1

    def forward(self, z: Latent, *, masks: bool = False) -> Decoded:
        tokens = self.transformer.slide(self.embed_tokens(cast(PatchTokens, z).features))
        pixels = torch.sigmoid(self.to_pixels(tokens))
        video = from_patches(pixels, self.patch_size, height=self.obs.height, width=self.obs.width)
        return Decoded(video=video)
