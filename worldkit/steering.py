"""What a dynamics is told about the transitions inside a clip: given conditions, and latent actions read off the clip.

`steer` serves objectives (`ComposedWorldModel.condition`). Predictions ask step by step, see `worldkit.dreaming.Loop`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from torch import Tensor

from .batch import Batch
from .conditioning import leading
from .conditions import Condition
from .distributions import Sampler
from .errors import ShapeError
from .latent_actions.base import ActionDist
from .latents import Latent
from .perception import begins
from .wiring import told_by, video_for

if TYPE_CHECKING:
    from .model import ComposedWorldModel


@dataclass(frozen=True)
class Steering:
    """What the transitions 0..T-2 of a clip of T frames are steered by.

    Attributes:
        cond: What the dynamics is told: given conditions, and what sampled latent actions tell it.
        posterior, prior: Of the latent actions, ``[B, T - 1]``; None without them.
        action: The sampled ones, ``[B, T - 1, N or 1, A]``, likewise.
        losses: What latent actions learn by on their own (`LatentAction.losses`), ``[B, T - 1]`` each.
    """

    cond: Condition
    posterior: ActionDist | None = None
    prior: ActionDist | None = None
    action: Tensor | None = None
    losses: Mapping[str, Tensor] = field(default_factory=dict)


def about(model: ComposedWorldModel, z: Latent | None) -> Latent | None:
    """What latent actions read of latents: `Dynamics.factors`, or the latents as they are."""
    return z if z is None or model.dynamics is None else model.dynamics.factors(z)


def steer(model: ComposedWorldModel, z: Latent | None, batch: Batch, *, sampler: Sampler,
          factors: Latent | None = None) -> Steering:
    """See `worldkit.model.ComposedWorldModel.condition`."""
    frames = batch.video.shape[-4] if z is None else z.shape[1]
    if model.dynamics is not None and model.dynamics.filtering:
        led = leading(model, batch.conditions, batch.masks, begins(batch.first, z), sampler)
        return Steering(led.at(slice(1, None)))
    given = model._gather_conditions(batch.conditions, batch.masks, frames, sampler)
    cond, module = given["dynamics"].at(slice(0, frames - 1)), model.latent_action
    if module is None:
        return Steering(cond)
    acted = about(model, z) if factors is None else factors
    posterior, prior = module(acted, given["latent_action"], **video_for(module, batch.video, frames))
    for name, dist, length in (("posterior", posterior, frames - 1), ("prior", prior, frames)):
        if not isinstance(dist, ActionDist) or dist.params.shape[:2] != (batch.batch_size, length):
            raise ShapeError(f"{type(module).__name__}.forward must give ActionDist for {length} "
                             f"{'transitions' if name == 'posterior' else 'frames'} as its {name}")
    action = posterior.sample(sampler, "latent_action.posterior")
    losses = module.losses(batch.video, posterior)
    for name, loss in losses.items():
        if tuple(loss.shape) != (batch.batch_size, frames - 1):
            raise ShapeError(f"{type(module).__name__}.losses must give {[batch.batch_size, frames - 1]}, got "
                             f"{list(loss.shape)} as '{name}'")
    if model.dynamics is not None:
        cond = cond + told_by(module, model.dynamics, action)
    return Steering(cond, posterior, prior[:, :-1], action, losses)
