"""The particle decoder of DLPv3 / LPWM: draw every particle as a small RGBA glimpse, paste, blend, add the background.

Source: LPWM (arXiv:2603.04553); upstream modules/modules.py @ 4cf53c4, written from its description.
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from ..config import ComponentConfig, ObsSpec
from ..errors import ConfigError
from ..latents import LatentSpec
from ..nn.conv import ConvConfig, ConvDecoder, LatentToMap, doublings, init_convs, zero_linear_biases
from ..nn.glimpse import glimpse_side
from .compositing import CompositingDecoder


class ParticleDecoderConfig(ComponentConfig):
    """Options of the particle decoder.

    Attributes:
        glimpse_ratio: Side of a decoded glimpse over the image's longer side.
        glimpse_map_size: Side of the map a glimpse grows from; the glimpse side is this times a power of two.
        hidden_dim: Width of the MLPs from features to maps.
        glimpse_cnn, background_cnn: Convolution stacks; the background starts at the image sides over its downsampling.
    """

    name: str = "particle"
    glimpse_ratio: float = Field(default=0.25, gt=0, lt=1)
    glimpse_map_size: int = Field(default=8, gt=0)
    hidden_dim: int = Field(default=256, gt=0)
    glimpse_cnn: ConvConfig = ConvConfig()
    background_cnn: ConvConfig = ConvConfig(channel_multipliers=(1, 1, 1, 2, 4))


class ParticleDecoder(CompositingDecoder):
    """Particles -> video, with foreground, background and (on request) one mask per drawn particle."""

    Config = ParticleDecoderConfig

    def __init__(self, config: ParticleDecoderConfig, *, spec: LatentSpec, obs: ObsSpec):
        super().__init__(config, spec=spec, obs=obs)
        side = glimpse_side(config.glimpse_ratio, obs)
        ups = doublings(config.glimpse_map_size, side)
        if config.glimpse_map_size * 2**ups != side:
            raise ConfigError(
                f"decoder.glimpse_map_size {config.glimpse_map_size} cannot grow to a glimpse of {side} pixels "
                f"(glimpse_ratio {config.glimpse_ratio} of {max(obs.height, obs.width)}) by doubling; change one of "
                "the two"
            )
        dim = spec.field(("particles", "features")).dim
        small = (config.glimpse_map_size, config.glimpse_map_size)
        self.to_map = LatentToMap(dim, small, config.hidden_dim, config.glimpse_cnn.latent_channels)
        self.glimpse_cnn = ConvDecoder(
            config.glimpse_cnn, inputs=self.to_map.channels, outputs=1 + obs.channels, ups=ups
        )
        background = config.background_cnn
        ups = len(background.channel_multipliers) - 1
        low = (obs.height // background.downsampling, obs.width // background.downsampling)
        for small_side, side in zip(low, (obs.height, obs.width), strict=True):
            if small_side * 2**ups != side:
                raise ConfigError(
                    f"decoder.background_cnn cannot double {small_side} pixels {ups} times to reach {side}"
                )
        dim = spec.field(("background", "features")).dim
        self.to_background_map = LatentToMap(dim, low, config.hidden_dim, background.latent_channels)
        self.background_cnn = ConvDecoder(
            background, inputs=self.to_background_map.channels, outputs=obs.channels, ups=ups
        )
        zero_linear_biases(self)
        init_convs(self.glimpse_cnn, 0.02)
        init_convs(self.background_cnn, 0.005)

    def look(self, features: Tensor) -> Tensor:
        return torch.sigmoid(self.glimpse_cnn(self.to_map(features)))

    def look_behind(self, features: Tensor) -> Tensor:
        return torch.sigmoid(self.background_cnn(self.to_background_map(features)))
