"""What the particle decoders share: glimpses of particles, blended by depth over a background.

Which particles are drawn, when there are more than the spec's ``drawn``: the most certain ones if the latent carries a
score (observed frames), else the most opaque ones (predicted frames).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import ClassVar, cast

import torch
from einops import rearrange
from torch import Tensor

from ..config import ComponentConfig, ObsSpec
from ..latents import Latent, LatentSpec, Particles
from ..nn.composite import blend, composite, particle_masks
from ..nn.glimpse import paste
from .base import Decoded, Decoder


class CompositingDecoder(Decoder):
    """Particles -> video, with foreground, background and (on request) one mask per drawn particle.

    Subclasses say how a particle and a background look.

    Attributes:
        corners: Where pixels lie, see `worldkit.nn.glimpse.crop`.
    """

    kinds = frozenset({"particles"})
    corners: ClassVar[bool] = False

    def __init__(self, config: ComponentConfig, *, spec: LatentSpec, obs: ObsSpec):
        super().__init__(config, spec=spec, obs=obs)
        group = spec.group("particles")
        self.num_drawn = group.drawn or group.size // spec.views
        self.num_tokens = group.size // spec.views

    @abstractmethod
    def look(self, features: Tensor) -> Tensor:
        """Features of particles ``[M, D]`` -> glimpses ``[M, 4, P, P]`` in (0, 1): alpha, red, green, blue."""

    @abstractmethod
    def look_behind(self, features: Tensor) -> Tensor:
        """Features of backgrounds ``[M, D]`` -> ``[M, C, H, W]`` in (0, 1)."""

    def forward(self, z: Latent, *, masks: bool = False) -> Decoded:
        return self._draw(z, masks=masks)

    def _draw(self, z: Latent, *, masks: bool, disturb: Callable[[Tensor], Tensor] | None = None) -> Decoded:
        """Draw; ``disturb`` changes the pasted alphas ``[M, K, 1, H, W]``."""
        z = cast(Particles, z)
        (batch, time), views = z.shape, self.spec.views

        def fold(x: Tensor) -> Tensor:
            return rearrange(x, "b t (v n) d -> (b v t) n d", v=views)

        tokens = self._select(z, fold)
        position, scale, depth, opacity, features = (
            x if tokens is None else x.gather(1, tokens[..., None].expand(-1, -1, x.shape[-1]))
            for x in map(fold, (z.position, z.size, z.depth, z.transparency, z.features))
        )
        glimpses = self.look(rearrange(features, "m k d -> (m k) d"))
        glimpses = rearrange(glimpses, "(m k) c h w -> m k c h w", k=position.shape[1])
        background = self.look_behind(rearrange(z.background, "b t v d -> (b v t) d"))
        size = (self.obs.height, self.obs.width)
        where = (glimpses, position, scale, opacity[..., 0], depth[..., 0], size)
        if disturb is None:
            foreground, rest = composite(*where, corners=self.corners)
        else:
            canvases = paste(*where[:3], size, corners=self.corners)
            canvases = torch.cat([disturb(canvases[:, :, :1]), canvases[:, :, 1:]], 2)
            foreground, rest = blend(canvases, *where[3:5])

        def unfold(x: Tensor) -> Tensor:
            x = rearrange(x, "(b v t) ... -> b v t ...", b=batch, t=time)
            return x if views > 1 else x[:, 0]

        return Decoded(
            video=unfold(rest * background + foreground),
            masks=unfold(particle_masks(*where, corners=self.corners)) if masks else None,
            foreground=unfold(foreground),
            background=unfold(background),
            background_mask=unfold(rest),
            glimpses=unfold(glimpses),
            tokens=None if tokens is None else unfold(tokens),
        )

    def _select(self, z: Particles, fold: Callable[[Tensor], Tensor]) -> Tensor | None:
        """Tokens to draw, ``[M, K]``; None: all, in order."""
        if self.num_drawn == self.num_tokens:
            return None
        last = 1 - z.transparency if z.score is None else z.score[..., None]
        return fold(last)[..., 0].topk(self.num_drawn, largest=False).indices
