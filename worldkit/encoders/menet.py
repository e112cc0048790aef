"""PLDM's network for mazes: a few convolutions, from a frame to a large map of narrow tokens.

Norms of groups of four channels and ReLU stand between the convolutions, nothing behind the last. 64 x 64 pixels become
26 x 26 tokens of 16 numbers. Views are put side by side in one group, view-major.

Source: PLDM (arXiv:2502.14819; vladisai/PLDM @ cbaf674, "MeNet6"), written from a description of the facts.
"""

from __future__ import annotations

from einops import rearrange
from pydantic import Field, field_validator
from torch import Tensor, nn

from ..config import ComponentConfig, ObsSpec
from ..distributions import Delta, Sampler, full_precision
from ..errors import ConfigError
from ..latents import Field as LatentField
from ..latents import LatentDist, LatentSpec, TokenGroup
from .base import Encoder, Encoding

GROUP = 4
"""Channels that a norm takes together."""


class MeNetConfig(ComponentConfig):
    """Options of the encoder; defaults are PLDM's for mazes.

    Attributes:
        layers: Of every convolution channels, kernel, stride and padding. The channels of all but the last are
            multiples of 4.
    """

    name: str = "menet"
    layers: tuple[tuple[int, int, int, int], ...] = Field(
        default=((16, 5, 1, 0), (32, 5, 2, 0), (32, 3, 1, 0), (32, 3, 1, 1), (16, 1, 1, 0)), min_length=1)

    @field_validator("layers")
    @classmethod
    def _check(cls, layers: tuple[tuple[int, int, int, int], ...]) -> tuple[tuple[int, int, int, int], ...]:
        for number, (channels, kernel, stride, padding) in enumerate(layers):
            if min(channels, kernel, stride) < 1 or padding < 0:
                raise ValueError(f"layers[{number}] is channels, kernel, stride (each at least 1) and padding, got "
                                 f"{channels}, {kernel}, {stride}, {padding}")
            if channels % GROUP and number + 1 < len(layers):
                raise ValueError(f"layers[{number}] has {channels} channels, which norms of {GROUP} do not divide")
        return layers


class MeNet(Encoder):
    """Video -> tokens on a grid (points).

    Raises:
        ConfigError: there is no picture, or one too small for the layers.
    Example:
        >>> import torch
        >>> encoder = MeNet(MeNetConfig(), obs=ObsSpec(height=64, width=64))
        >>> encoder(torch.rand(2, 3, 3, 64, 64), sampler=Sampler()).latent
        PatchTokens(patches.features[2, 3, 676, 16])
    """

    Config = MeNetConfig
    default_decoder = "semantic"
    config: MeNetConfig

    def __init__(self, config: MeNetConfig, *, obs: ObsSpec):
        super().__init__(config, obs=obs)
        if not obs.height:
            raise ConfigError("encoder 'menet' reads pictures, but these observations have none (obs.height is 0): use "
                              "encoder=mlp, which reads vectors")
        parts, before, grid = [], obs.channels, (obs.height, obs.width)
        for number, (channels, kernel, stride, padding) in enumerate(config.layers):
            parts += [] if number == 0 else [nn.GroupNorm(before // GROUP, before), nn.ReLU()]
            parts.append(nn.Conv2d(before, channels, kernel, stride, padding))
            before, grid = channels, tuple((side + 2 * padding - kernel) // stride + 1 for side in grid)
            if min(grid) < 1:
                raise ConfigError(f"an image of {obs.height} x {obs.width} is too small for encoder.layers of 'menet': "
                                  f"nothing is left after {number + 1} of {len(config.layers)}; give a larger image or "
                                  "fewer layers")
        self.net = nn.Sequential(*parts)
        group = TokenGroup("patches", obs.views * grid[0] * grid[1],
                           (LatentField("features", before, Delta(), "a place of the map"),))
        self.spec = LatentSpec((group,), grid=grid, views=obs.views, kind="patches")

    def forward(self, video: Tensor, *, sampler: Sampler) -> Encoding:
        maps = full_precision(self.net(self.fold_frames(video)))
        tokens = rearrange(maps, "(b v t) d h w -> b t (v h w) d", v=self.obs.views, t=video.shape[-4])
        posterior = LatentDist(self.spec, {("patches", "features"): tokens})
        return Encoding(posterior, posterior.sample(sampler))
