"""Latent actions by themselves: the stage in which a model learns what happens between frames, before any dynamics.

Genie's second stage: its latent actions read pixels and have a decoder of their own, so neither the tokenizer nor the
dynamics has a part in this. What is there of them is carried along as it is, so that the third stage can begin with one
model folder (``train.init_from``).

Source: Genie (arXiv:2402.15391), which trains latent actions beside the dynamics, without gradients between the two;
that is objective ``two-stage`` with ``actions = "learn"``. Apart, the codes no longer move while the dynamics learns.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from pydantic import Field

from ..batch import Batch
from ..config import ComponentConfig
from ..distributions import MEANS, Sampler
from .base import Loss, Objective
from .terms import action_terms

if TYPE_CHECKING:
    from ..model import ComposedWorldModel


class LatentActionObjectiveConfig(ComponentConfig):
    """Options of the objective of latent actions alone.

    Attributes:
        num_frames: Frames of a training clip; None = one more than the model's horizon.
    """

    name: str = "latent-action"
    num_frames: int | None = Field(default=None, gt=1)


class LatentActionObjective(Objective):
    """Mean over transitions of what latent actions learn by on their own (`LatentAction.losses`)."""

    Config = LatentActionObjectiveConfig
    requires = frozenset({"latent-action"})
    idle = frozenset({"encoder", "decoder", "dynamics", "conditioners", "heads"})
    action_losses = True

    def forward(self, model: ComposedWorldModel, batch: Batch, step: int, *, sampler: Sampler) -> Loss:
        with torch.no_grad():
            reads_pixels = model.latent_action.reads == "video"
            z = None if reads_pixels else model.encoder.see(batch, sampler=MEANS).latent
        found = model.condition(z, batch, sampler=sampler)
        valid = None if batch.done_mask is None else batch.done_mask.float()
        total, terms = action_terms(model.latent_action, found, valid)
        return Loss(total, {name: value.detach() for name, value in terms.items()})
