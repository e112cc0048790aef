"""The particle decoder of DLPv2 / DDLP: RGBA glimpses, blended by depth over a background.

It differs from that of `particle` (DLPv3) in its stacks (ReLU, bilinear doubling), and in where pixels lie: -1 and 1
are the centres of the corner pixels. In the stages ``"noisy"`` and ``"warmup"`` the pasted alphas are disturbed, which
costs a canvas per particle; else none is stored.

Source: DDLP (arXiv:2306.05957); upstream modules/modules.py and models.py @ 5686275, written from their description.
Difference: upstream cannot build a background map of 64 pixels, because it rounds a logarithm down; this can.
"""

from __future__ import annotations

import torch
from einops import rearrange
from pydantic import Field
from torch import Tensor, nn

from ..config import ComponentConfig, ObsSpec
from ..distributions import MEANS, Sampler
from ..errors import ConfigError
from ..latents import Latent, LatentSpec
from ..nn.conv_relu import ConvReLU, UpStack, Widths, init_stacks, mlp_relu
from ..nn.glimpse import glimpse_side
from ..nn.stages import NOISE_LOGVAR, Stage, Staged
from .base import Decoded
from .compositing import CompositingDecoder

MAP_SIDE, MAP_CHANNELS, WIDEST = 8, 32, 64
"""Of the map that a picture grows from: side and channels; and the channels of a glimpse while it grows."""


class ParticleTrackingDecoderConfig(ComponentConfig):
    """Options of the DLPv2 / DDLP decoder.

    Attributes:
        glimpse_ratio: Side of a decoded glimpse over the image's longer side; the side is 8 pixels times a power of 2.
        hidden_dim: Width of the layers between features and map.
        background_channels: Widths of the background's levels, the first at full size; each but one doubles the sides.
    """

    name: str = "particle-tracking"
    glimpse_ratio: float = Field(default=0.25, gt=0, lt=1)
    hidden_dim: int = Field(default=256, gt=0)
    background_channels: Widths = (32, 64, 128)


class _Grow(nn.Module):
    """Features ``[M, dim]`` -> picture ``[M, outputs, ...]`` in (0, 1), from a small map."""

    def __init__(self, dim: int, hidden: int, size: tuple[int, int], stack: UpStack):
        super().__init__()
        self.size = size
        self.to_map = mlp_relu(dim, hidden, hidden, MAP_CHANNELS * size[0] * size[1])
        self.stack = stack

    def forward(self, features: Tensor) -> Tensor:
        maps = rearrange(self.to_map(features).relu(), "m (c h w) -> m c h w", h=self.size[0], w=self.size[1])
        return torch.sigmoid(self.stack(maps))


class ParticleTrackingDecoder(CompositingDecoder, Staged):
    """Particles -> video; see the module's docstring.

    Example:
        >>> from worldkit.latents import particle_spec
        >>> from worldkit.testing.examples import example_latent
        >>> spec = particle_spec(num_particles=4, feature_dim=3, background_dim=2)
        >>> config = ParticleTrackingDecoderConfig(hidden_dim=16, background_channels=(8, 16))
        >>> decoder = ParticleTrackingDecoder(config, spec=spec, obs=ObsSpec(height=32, width=32))
        >>> decoder(example_latent(spec, 2, 3)).video.shape
        torch.Size([2, 3, 3, 32, 32])
    """

    Config = ParticleTrackingDecoderConfig
    corners = True

    def __init__(self, config: ParticleTrackingDecoderConfig, *, spec: LatentSpec, obs: ObsSpec):
        super().__init__(config, spec=spec, obs=obs)
        self.glimpse = _Grow(spec.field(("particles", "features")).dim, config.hidden_dim, (MAP_SIDE, MAP_SIDE),
                             _glimpse_stack(config, obs))
        size, stack = _background_stack(config, obs)
        self.background = _Grow(spec.field(("background", "features")).dim, config.hidden_dim, size, stack)
        init_stacks(self)

    def look(self, features: Tensor) -> Tensor:
        return self.glimpse(features)

    def look_behind(self, features: Tensor) -> Tensor:
        return self.background(features)

    def forward(
        self, z: Latent, *, masks: bool = False, stage: Stage = "full", sampler: Sampler = MEANS
    ) -> Decoded:
        """Draw every frame.

        Args:
            z: The latent, ``[B, T]``.
            masks: Also give one mask per particle.
            stage: ``"noisy"`` and ``"warmup"`` disturb the pasted alphas.
            sampler: Source of that disturbance, drawn as ``"alpha"``, ``[B * V * T, K, 1, H, W]``.
        """
        if stage == "full":
            return self._draw(z, masks=masks)

        def disturb(alpha: Tensor) -> Tensor:
            return sampler.normal("alpha", alpha, torch.full_like(alpha, NOISE_LOGVAR)).clamp(0, 1)

        return self._draw(z, masks=masks, disturb=disturb)


def _glimpse_stack(config: ParticleTrackingDecoderConfig, obs: ObsSpec) -> UpStack:
    side = glimpse_side(config.glimpse_ratio, obs)
    doublings = (max(side, 1) // MAP_SIDE).bit_length() - 1
    if doublings < 0 or side != MAP_SIDE << doublings:
        longer = max(obs.height, obs.width)
        fits = [f"{s / longer:.3g} ({s})" for s in (8, 16, 32, 64, 128) if s < min(obs.height, obs.width)]
        raise ConfigError(
            f"decoder.glimpse_ratio {config.glimpse_ratio} of {longer} pixels is a glimpse of {side} pixels, which "
            f"does not grow from {MAP_SIDE} by doubling; ratios that do (pixels): {', '.join(fits) or 'none'}. Set "
            "encoder.glimpse_ratio to the same"
        )
    widths = [MAP_CHANNELS] + [WIDEST] * doublings
    blocks = [ConvReLU(a, b, double=True) for a, b in zip(widths, widths[1:], strict=False)]
    return UpStack([*blocks, ConvReLU(widths[-1], MAP_CHANNELS)], 1 + obs.channels)


def _background_stack(config: ParticleTrackingDecoderConfig, obs: ObsSpec) -> tuple[tuple[int, int], UpStack]:
    """Size of the map that the background grows from, and the stack."""
    channels, factor = config.background_channels, 2 ** (len(config.background_channels) - 1)
    if obs.height % factor or obs.width % factor:
        raise ConfigError(
            f"decoder.background_channels double the sides {len(channels) - 1} times, which does not lead to "
            f"{obs.height} x {obs.width}; give fewer of them, or sides that divide by {factor}"
        )
    height, width, before = obs.height // factor, obs.width // factor, 0
    while height % 2 == width % 2 == 0 and min(height, width) >= 2 * MAP_SIDE:
        height, width, before = height // 2, width // 2, before + 1
    blocks = [ConvReLU(MAP_CHANNELS, MAP_CHANNELS, double=True) for _ in range(before)]
    blocks.append(ConvReLU(MAP_CHANNELS, channels[-1], norm=False, double=True))
    down = channels[::-1]
    blocks += [ConvReLU(a, b, double=i < len(down) - 2)
               for i, (a, b) in enumerate(zip(down, down[1:], strict=False))]
    return (height, width), UpStack(blocks, obs.channels)
