"""A dynamics learns one transition at a time, on the latents of an encoder that is already trained and stays as it is.

The ELBO's term of the dynamics, alone: every frame is predicted from the true latents before it, and the encoder's
posterior of that frame is held against the prediction (KL divergence; fields of a token as much as it is present).
Three things differ, and make it fast. Latents are given by their means, so that nothing blurs what they say about
motion. The KL of transparencies can be weakened: of tokens anchored to places it tells who takes over a thing, and it
costs fifty nats where one doubts that. And what the frozen encoder saw can be remembered.

It comes before rollouts (objective ``two-stage``), or does without them: a dynamics that is good at one step is good at
ten. Points (slots) have no density: half the squared distance counts. An implicit dynamics (diffusion) learns by its
own loss.

Reductions: means over the numbers of a latent, frames and clips, as ``two-stage`` has them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from pydantic import Field
from torch import Tensor

from ..batch import Batch
from ..config import ComponentConfig
from ..distributions import Sampler
from ..errors import ShapeError
from .base import Loss, Objective
from .remembered import RememberedPosteriors
from .terms import action_kl, by_field, head_terms, implicit_terms

if TYPE_CHECKING:
    from ..latents import LatentDist
    from ..model import ComposedWorldModel


class OneStepConfig(ComponentConfig):
    """Options of the one-step objective.

    Attributes:
        burn_in: First frames of a clip, which are given and not predicted: from one frame alone nobody knows where
            things are going.
        num_frames: Frames of a training clip, at most one more than the dynamics' window, which is None.
        transparency_weight: Factor on the KL of transparencies.
        kl_weight: Of the latent actions' KL beside the dynamics'; 1 is the ELBO's balance. In a world that leaves
            nothing to chance, 10 makes the dynamics predict by itself what actions would tell it.
        remember: Training clips whose posteriors are kept in memory, so that they are encoded once only. It pays where
            clips come again soon: with ``train.clips=tile``.
    """

    name: str = "one-step"
    burn_in: int = Field(default=2, gt=0)
    num_frames: int | None = Field(default=None, gt=1)
    transparency_weight: float = Field(default=1.0, ge=0)
    kl_weight: float = Field(default=1.0, ge=0)
    remember: int = Field(default=0, ge=0)


class OneStep(Objective):
    """Teacher-forced predictions of a frozen encoder's posteriors; see the module's docstring."""

    Config = OneStepConfig
    requires = frozenset({"dynamics", "no-filtering"})
    frozen = frozenset({"encoder", "decoder"})
    config: OneStepConfig

    def __init__(self, config: OneStepConfig):
        super().__init__(config)
        self._remembered = RememberedPosteriors(config.remember)

    def study(self, model: ComposedWorldModel, batches: Iterable[Batch]) -> None:
        self._remembered.fill(model.encoder, batches)

    def forward(self, model: ComposedWorldModel, batch: Batch, step: int, *, sampler: Sampler) -> Loss:
        posterior, first = self._remembered.posterior(model.encoder, batch), self.config.burn_in
        frames, z = posterior.shape[1], posterior.mode()
        if first >= frames:
            raise ShapeError(f"a clip of {frames} frames leaves nothing to predict after {first} given ones; set "
                             f"objective.burn_in below {frames}")
        if model.dynamics.explicit_prior:
            steering = model.condition(z, batch, sampler=sampler)
            prior, cond = model.predict_next(z, steering.cond), steering.cond
            terms = by_field(posterior[:, first:].kl(prior[:, first - 1:]), z.spec, z[:, first:])
            acted, name = action_kl(steering, z.spec, first - 1), "kl_dynamics"
        else:
            terms, acted, cond = implicit_terms(model, batch, z, sampler)
            terms, name = {k: v[:, :, first - 1:] for k, v in terms.items()}, "dynamics"
            acted = None if acted is None else acted[:, :, first - 1:]
        share = _share(batch.done_mask, frames, first, like=z.presence)
        terms = {field: (value * share).sum(2).mean() for field, value in terms.items()}
        total = sum(value * (self.config.transparency_weight if field == "transparency" else 1.0)
                    for field, value in terms.items())
        logged = {name: sum(terms.values())} | {f"{name}/{field}": value for field, value in terms.items()}
        if acted is not None:
            logged["kl_latent_action"] = (acted * share).sum(2).mean()
            total = total + self.config.kl_weight * logged["kl_latent_action"]
        heads, told = head_terms(model, batch, z, cond)
        total = total / _numbers(posterior) + heads
        return Loss(total, {name: value.detach() for name, value in (logged | told).items()})


def _share(done: Tensor | None, frames: int, first: int, *, like: Tensor) -> Tensor:
    """Weights of the frames from ``first`` on, ``[B, 1 or V, T']`` or ``[T']``, which add up to 1 over valid ones."""
    if done is None:
        return like.new_full((frames - first,), 1 / (frames - first))
    valid = (done if done.ndim == 3 else done[:, None])[..., first:].to(like.dtype)
    return valid / valid.sum(-1, keepdim=True).clamp(min=1)


def _numbers(dist: LatentDist) -> int:
    """Numbers of a frame's latent, per view."""
    spec = dist.spec
    return sum(group.size * field.dim for group in spec.groups for field in group.fields) // spec.views
