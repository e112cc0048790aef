"""The particle decoder of DLPv3 / LPWM: draw every particle as a small RGBA glimpse, paste, blend, add the background.

Which particles are drawn, when there are more than the spec's ``drawn``: the most certain ones if the latent carries a
score (observed frames), else the most opaque ones (predicted frames).

Source: LPWM (arXiv:2603.04553); upstream modules/modules.py @ 4cf53c4, written from its description.
"""

from __future__ import annotations

from typing import cast

import torch
from einops import rearrange
from pydantic import Field
from torch import Tensor

from ..config import ComponentConfig, ObsSpec
from ..errors import ConfigError
from ..latents import Latent, LatentSpec, Particles
from ..nn.composite import composite, particle_masks
from ..nn.conv import ConvConfig, ConvDecoder, LatentToMap, doublings, init_convs, zero_linear_biases
from ..nn.glimpse import glimpse_side
from .base import Decoded, Decoder


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


class ParticleDecoder(Decoder):
    """Particles -> video, with foreground, background and (on request) one mask per drawn particle."""

    Config = ParticleDecoderConfig
    kinds = frozenset({"particles"})

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
        group = spec.group("particles")
        self.num_drawn = group.drawn or group.size // spec.views
        self.num_tokens = group.size // spec.views
        zero_linear_biases(self)
        init_convs(self.glimpse_cnn, 0.02)
        init_convs(self.background_cnn, 0.005)

    def forward(self, z: Latent, *, masks: bool = False) -> Decoded:
        z = cast(Particles, z)
        (batch, time), views = z.shape, self.spec.views

        def fold(x: Tensor) -> Tensor:
            return rearrange(x, "b t (v n) d -> (b v t) n d", v=views)

        tokens = self._select(z, fold)
        position, scale, depth, opacity, features = (
            x if tokens is None else x.gather(1, tokens[..., None].expand(-1, -1, x.shape[-1]))
            for x in map(fold, (z.position, z.size, z.depth, z.transparency, z.features))
        )
        glimpses = torch.sigmoid(self.glimpse_cnn(self.to_map(rearrange(features, "m k d -> (m k) d"))))
        glimpses = rearrange(glimpses, "(m k) c h w -> m k c h w", k=position.shape[1])
        background = self.background_cnn(self.to_background_map(rearrange(z.background, "b t v d -> (b v t) d")))
        background = torch.sigmoid(background)
        where = (glimpses, position, scale, opacity[..., 0], depth[..., 0], (self.obs.height, self.obs.width))
        foreground, rest = composite(*where)

        def unfold(x: Tensor) -> Tensor:
            x = rearrange(x, "(b v t) ... -> b v t ...", b=batch, t=time)
            return x if views > 1 else x[:, 0]

        return Decoded(
            video=unfold(rest * background + foreground),
            masks=unfold(particle_masks(*where)) if masks else None,
            foreground=unfold(foreground),
            background=unfold(background),
            background_mask=unfold(rest),
            glimpses=unfold(glimpses),
            tokens=None if tokens is None else unfold(tokens),
        )

    def _select(self, z: Particles, fold) -> Tensor | None:
        if z.score is None:
            return fold(1 - z.transparency)[..., 0].topk(self.num_drawn, largest=False).indices
        if self.num_drawn == self.num_tokens:
            return None
        return fold(z.score[..., None])[..., 0].topk(self.num_drawn, largest=False).indices
