"""Drawing: every object by itself, blended by soft depth order over the background.

With an object's alpha and colour pasted as ``a`` and ``y`` (presence and alpha are in both), and ``w`` its share
``a sigmoid(-depth)`` of the sum over all, the foreground is ``sum w y`` and covers ``sum w a``; smaller is nearer.

Source: G-SWM (arXiv:2006.02940) appendix; github.com/zhixuan-lin/G-SWM @ 1423553, written from its description.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor

from ..config import ObsSpec
from ..decoders.base import Decoded, Decoder
from ..distributions import full_precision
from ..latents import Latent, LatentSpec
from ..nn.glimpse import EPS_WEIGHT, paste
from .boxes import place
from .config import PerceptionConfig, RendererConfig
from .latent import BACKGROUND, attributes_of
from .networks import MapDecoder
from .objects import Attributes


@dataclass(frozen=True)
class Drawing:
    """M frames with N objects.

    Attributes:
        foreground: ``[M, C, S, S]``; what objects cover, ``[M, 1, S, S]``, is ``cover``.
        shares: Of every object in every pixel, ``[M, N, 1, S, S]``.
    """

    foreground: Tensor
    cover: Tensor
    shares: Tensor

    def over(self, background: Tensor | None) -> Tensor:
        """The frame, on a background ``[M, C, S, S]`` (None: black)."""
        return self.foreground if background is None else self.foreground + (1 - self.cover) * background


class Renderer(Decoder):
    """Objects and a background -> frames. Its config: `worldkit.gswm.config.RendererConfig`."""

    Config = RendererConfig

    def __init__(self, config: RendererConfig, *, spec: LatentSpec, obs: ObsSpec, seen: PerceptionConfig):
        super().__init__(config, spec=spec, obs=obs)
        self.feature_dim, self.size = seen.feature_dim, (obs.height, obs.width)
        self.glimpses = MapDecoder(seen.feature_dim, side=seen.glimpse_size, channels=config.channels,
                                   outputs=obs.channels + 1, activated=True)
        self.scenery = None
        if config.context_dim:
            self.scenery = MapDecoder(config.context_dim, side=obs.height, channels=config.background_channels,
                                      outputs=obs.channels, activated=False)

    def background(self, context: Tensor | None) -> Tensor | None:
        """Contexts ``[M, D]`` -> backgrounds ``[M, C, S, S]``; None without one."""
        return None if self.scenery is None or context is None else self.scenery(context)

    def draw(self, objects: Attributes) -> Drawing:
        """Objects ``[M, N]`` of M frames."""
        count = objects.features.shape[1]
        glimpses = full_precision(self.glimpses(objects.features.flatten(0, 1)))
        glimpses = rearrange(glimpses, "(m n) c h w -> m n c h w", n=count)
        colour, alpha = glimpses.split([glimpses.shape[2] - 1, 1], 2)
        alpha = alpha * objects.presence[..., None, None]
        pasted = paste(torch.cat([alpha, alpha * colour], 2), *place(objects.box), self.size)
        alpha, painted = pasted[:, :, :1], pasted[:, :, 1:]
        weights = alpha * torch.sigmoid(-objects.depth)[..., None, None]
        weights = weights / (weights.sum(1, keepdim=True) + EPS_WEIGHT)
        shares = weights * alpha
        return Drawing(torch.einsum("mnxhw,mnchw->mchw", weights, painted), shares.sum(1), shares)

    def forward(self, z: Latent, *, masks: bool = False) -> Decoded:
        batch, frames = z.shape
        drawn = self.draw(attributes_of(z))
        context = z.values[BACKGROUND].flatten(0, 2)
        background = self.background(context)

        def unfold(x: Tensor) -> Tensor:
            return x.unflatten(0, (batch, frames))

        behind = torch.zeros_like(drawn.foreground) if background is None else background
        return Decoded(
            unfold(drawn.over(background)), masks=unfold(drawn.shares) if masks else None,
            foreground=unfold(drawn.foreground), background=unfold(behind), background_mask=unfold(1 - drawn.cover),
        )
