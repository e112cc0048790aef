"""PlaNet's loss: pictures of five bits, rewards, a divergence beyond free nats, and overshooting.

Overshooting (off by default, as upstream) predicts up to ``overshooting`` frames ahead from every state without seeing
them, and holds these priors against the posteriors, which it does not train.

Reductions as upstream: sums over pixels and numbers, means over clips and frames.

Source: google-research/planet @ c04226b, written from its description. Difference: pictures are made coarse here, for
training; who acts shows the model its pictures as they are.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from pydantic import Field
from torch import Tensor

from ..batch import Batch
from ..config import ComponentConfig
from ..distributions import Sampler
from ..latents import LatentDist
from .base import Loss, Objective
from .divergence import beyond, divergence
from .observed import Likelihood, counted, head_parts, head_scales, inside, logged, observation_parts

if TYPE_CHECKING:
    from ..decoders import Decoded
    from ..model import ComposedWorldModel


class PlaNetConfig(ComponentConfig):
    """Options of PlaNet's loss.

    Attributes:
        num_frames: Frames of a training clip; None = one more than the model's ``timestep_horizon``.
        bits: Of every colour of a pixel, with uniform noise below; 8 leaves pictures as they are.
        likelihood: Of pictures and vectors, as in objective "dreamer".
        divergence_scale: Of the divergence.
        free_nats: What of every frame's divergence costs nothing.
        overshooting: Frames to predict ahead; 2 and more have an effect, for the first is the divergence above.
        overshooting_scale: Of the divergences ahead, averaged over how far.
        image_scale: Of the pictures' loss.
    """

    name: str = "planet"
    num_frames: int | None = Field(default=None, gt=1)
    bits: int = Field(default=5, gt=0, le=8)
    likelihood: Likelihood = "normal"
    divergence_scale: float = Field(default=1.0, ge=0)
    free_nats: float = Field(default=3.0, ge=0)
    overshooting: int = Field(default=0, ge=0)
    overshooting_scale: float = Field(default=1.0, ge=0)
    image_scale: float = Field(default=1.0, ge=0)


class PlaNet(Objective):
    """See the module's docstring."""

    Config = PlaNetConfig
    config: PlaNetConfig
    requires = frozenset({"decoder", "dynamics", "filtering"})

    def parts(
        self, model: ComposedWorldModel, seen: Any, batch: Batch, *, sampler: Sampler, step: int = 0
    ) -> dict[str, Tensor]:
        """What the loss is made of, as of objective "dreamer"; of a batch whose pictures are coarse already.

        Returns:
            ``"divergence"``, ``"overshooting"`` if there is any, ``"image"`` and vectors by name, heads by name.
        """
        return self._parts(model, seen, batch, sampler)[0]

    def _parts(
        self, model: ComposedWorldModel, seen: Any, batch: Batch, sampler: Sampler
    ) -> tuple[dict[str, Tensor], Decoded]:
        config, z = self.config, seen.latent
        told, drawn = observation_parts(model, z, batch, config.likelihood)
        parts = {"divergence": beyond(divergence(seen.posterior, seen.prior), config.free_nats), **told,
                 **head_parts(model, z, batch)}
        parts = inside(parts, batch.done_mask)
        if config.overshooting > 1:
            ahead = overshoot(model.dynamics, seen, config.overshooting, sampler, first=batch.first)
            losses = []
            for distance, (prior, known) in enumerate(ahead[1:-1], 1):
                kl = divergence(seen.posterior[:, distance:].detach(), prior)
                losses.append(counted(beyond(kl, config.free_nats), known).mean())
            parts["overshooting"] = torch.stack(losses).mean()
        return parts, drawn

    def scales(self, model: ComposedWorldModel) -> dict[str, float]:
        """Factors of `parts`; what is not named counts once."""
        config = self.config
        return {"divergence": config.divergence_scale, "overshooting": config.overshooting_scale,
                "image": config.image_scale, **head_scales(model)}

    def forward(self, model: ComposedWorldModel, batch: Batch, step: int, *, sampler: Sampler) -> Loss:
        if batch.video.numel() and self.config.bits < 8:
            batch = replace(batch, video=coarse(batch.as_float().video, self.config.bits, sampler))
        seen = model.perceive(batch, sampler)
        parts, drawn = self._parts(model, seen, batch, sampler)
        scales = self.scales(model)
        total = torch.stack([scales.get(name, 1.0) * x.mean() for name, x in parts.items()]).sum()
        with torch.no_grad():
            kl = divergence(seen.posterior, seen.prior).mean()
        return Loss(total, {"kl": kl, **logged(parts, model, drawn, batch)})


def coarse(video: Tensor, bits: int, sampler: Sampler) -> Tensor:
    """Pictures in [0, 1] of this many bits per colour, with uniform noise as wide as a step.

    Example:
        >>> from worldkit.distributions import MEANS
        >>> coarse(torch.tensor([0.0, 9 / 255, 1.0]), 5, MEANS) * 32  # noise is a half on average
        tensor([ 0.5000,  1.5000, 31.5000])
    """
    levels = 2**bits
    steps = torch.floor((video * 255).round() / (256 // levels))
    return (steps + sampler.uniform("video", video)) / levels


def overshoot(
    dynamics: Any, seen: Any, distance: int, sampler: Sampler, *, first: Tensor | None = None
) -> list[tuple[LatentDist, Tensor]]:
    """Open-loop predictions from every state.

    Args:
        dynamics: It filters.
        seen: Priors, and conditions of the transitions that lead to frames.
        distance: The farthest prediction.
        sampler: Of the states on the way.
        first: Frames that begin episodes, bool ``[B, T]``.
    Returns:
        For 0, 1, ... ``distance``: the prior ``[B, T - d]`` of frame k + d from the state before frame k, and whether
        no episode begins on the way, ``[B, T - d]``.
    """
    frames, prior = seen.prior.shape[1], seen.prior
    known = torch.ones(prior.shape, device=next(iter(prior.params.values())).device)
    found = [(prior, known)]
    for d in range(1, min(distance, frames - 1) + 1):
        state = prior.sample(sampler)[:, : frames - d]
        prior = dynamics.prior(state, seen.cond.at(slice(d, None)))
        known = known[:, : frames - d]
        if first is not None:
            known = known * (~first[:, d:]).to(known)
        found.append((prior, known))
    return found
