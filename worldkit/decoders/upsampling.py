"""DINO-WM's decoder: residual convolutions and transposed ones, which double a grid of patches four times.

It draws the patches' first field alone (what the picture's encoder found), and is made to be trained apart, on the
latents of a finished model (objective ``decode-only``).

Source: DINO-WM (arXiv:2411.04983); gaoyuezhou/dino_wm @ 0a9492f, written from its description (the decoding half of a
VQ-VAE, without codes).
"""

from __future__ import annotations

import torch.nn.functional as F
from einops import rearrange
from pydantic import Field
from torch import Tensor, nn

from ..config import ComponentConfig, ObsSpec
from ..errors import ConfigError
from ..latents import Latent, LatentSpec
from .base import Decoded, Decoder


class UpsamplingDecoderConfig(ComponentConfig):
    """Options of DINO-WM's decoder; defaults are upstream's.

    Attributes:
        channels: Of the maps.
        num_blocks: Residual blocks of each half.
        hidden: Channels inside of them.
    """

    name: str = "upsampling"
    channels: int = Field(default=384, gt=1)
    num_blocks: int = Field(default=4, ge=0)
    hidden: int = Field(default=128, gt=0)


class _Residual(nn.Module):
    """``x + conv1(relu(conv3(relu(x))))``."""

    def __init__(self, channels: int, hidden: int):
        super().__init__()
        self.first, self.last = nn.Conv2d(channels, hidden, 3, padding=1), nn.Conv2d(hidden, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.last(F.relu(self.first(F.relu(x))))


def _quadruple(inputs: int, outputs: int, config: UpsamplingDecoderConfig) -> nn.Sequential:
    half = config.channels // 2
    return nn.Sequential(
        nn.Conv2d(inputs, config.channels, 3, padding=1),
        *(_Residual(config.channels, config.hidden) for _ in range(config.num_blocks)), nn.ReLU(),
        nn.ConvTranspose2d(config.channels, half, 4, stride=2, padding=1), nn.ReLU(),
        nn.ConvTranspose2d(half, outputs, 4, stride=2, padding=1),
    )


class UpsamplingDecoder(Decoder):
    """Grid of tokens -> video 16 times as large, resized to the picture's size if that is another.

    Raises:
        ConfigError: the latent has several views.
    """

    Config = UpsamplingDecoderConfig
    kinds = frozenset({"patches"})

    def __init__(self, config: UpsamplingDecoderConfig, *, spec: LatentSpec, obs: ObsSpec):
        super().__init__(config, spec=spec, obs=obs)
        if spec.views > 1:
            raise ConfigError("decoder 'upsampling' draws one view; decoder 'patch' draws several")
        self.field = spec.groups[0].fields[0]
        self.first = _quadruple(self.field.dim, self.field.dim, config)
        self.last = _quadruple(self.field.dim, obs.channels, config)

    def forward(self, z: Latent, *, masks: bool = False) -> Decoded:
        tokens = z.values[self.spec.groups[0].name, self.field.name]
        maps = rearrange(tokens, "b t (h w) d -> (b t) d h w", h=self.spec.grid[0])
        video = 0.5 + 0.5 * self.last(self.first(maps))  # upstream's pictures are in [-1, 1]
        if video.shape[-2:] != (self.obs.height, self.obs.width):
            video = F.interpolate(video, (self.obs.height, self.obs.width), mode="bilinear")
        return Decoded(video=video.unflatten(0, (tokens.shape[0], tokens.shape[1])))
