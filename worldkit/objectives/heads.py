"""Heads learn on a model that is trained already; everything else stays as it is.

Frames are encoded by their means (states of a dynamics that filters likewise), and every transition of a clip counts
alike, those outside of the episode (done mask) not at all. Objectives that train a dynamics train the heads besides;
this one adds heads to a finished model:
``worldkit train PRESET --data ... -o heads.reward=two-hot -o objective=heads -o train.init_from=RUN``.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch
from pydantic import Field

from ..batch import Batch
from ..config import ComponentConfig
from ..distributions import Sampler
from .base import Loss, Objective
from .remembered import Remembered
from .terms import head_terms

if TYPE_CHECKING:
    from ..model import ComposedWorldModel


class HeadsConfig(ComponentConfig):
    """Options of the heads objective.

    Attributes:
        num_frames: Frames of a training clip; None = one more than the dynamics' window.
        remember: Training clips whose latents are kept in memory, so that they are encoded once only. It pays where
            clips come again soon: with ``train.clips=tile``. Of no account with a dynamics that filters.
    """

    name: str = "heads"
    num_frames: int | None = Field(default=None, gt=1)
    remember: int = Field(default=0, ge=0)


class Heads(Objective):
    """Losses of the heads, by their weights; see the module's docstring."""

    Config = HeadsConfig
    requires = frozenset({"dynamics", "heads"})
    frozen = frozenset({"encoder", "decoder", "dynamics", "latent_action", "conditioners"})

    def __init__(self, config: HeadsConfig):
        super().__init__(config)
        self._remembered = Remembered(config.remember)

    def study(self, model: ComposedWorldModel, batches: Iterable[Batch]) -> None:
        if not model.dynamics.filtering:
            self._remembered.fill(model.encoder, batches)

    def forward(self, model: ComposedWorldModel, batch: Batch, step: int, *, sampler: Sampler) -> Loss:
        with torch.no_grad():
            if model.dynamics.filtering:
                seen = model.perceive(batch)
                z, cond = seen.latent, seen.cond.at(slice(1, None))
            else:
                z = self._remembered.means(model.encoder, batch)
                cond = model.condition(z, batch, sampler=sampler).cond
        total, terms = head_terms(model, batch, z, cond)
        return Loss(total, terms)
