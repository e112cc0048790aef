"""A dynamics that denoises learns by its own loss (DIAMOND's on frames that it predicted itself); and what heads read.

Encoder and decoder learn nothing. Where predictions are fed back (`Dynamics.unrolls`), so many frames of every clip as
the dynamics needs are cut out, anywhere, and padded with grey frames where that begins before the clip: so every frame
is predicted, and models get used to short contexts; other dynamics learn from whole clips. Heads learn from all
transitions of the clip. Padded frames (done mask) count nowhere.

Two parts that share no weights, `Denoising.turns`, can also learn by turns, as an agent's learner lets them.

Reductions: means over pixels, clips and predicted frames.

Source: DIAMOND (arXiv:2405.12399), eloialonso/diamond @ 5bcd159, written from its description. Differences: transitions
into a padded frame are no target (upstream trains rewards and ends on a grey frame where an episode was cut off).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from ..batch import Batch, check_shape
from ..config import ComponentConfig
from ..distributions import MEANS, Sampler
from ..errors import IncompatibleComponentsError
from .base import Loss, Objective
from .terms import head_terms

if TYPE_CHECKING:
    from ..model import ComposedWorldModel

GREY = 0.5
"""What padded frames are filled with, in [0, 1]."""


class DenoisingConfig(ComponentConfig):
    """Options of the denoising objective.

    Attributes:
        num_frames: Frames of a training clip; None = one more than the dynamics' window. The longer, the further back
            heads may look.
        cut: Where the frames that are predicted lie: ``"anywhere"`` in the clip, or at its ``"end"``.
    """

    name: str = "denoising"
    num_frames: int | None = Field(default=None, gt=1)
    cut: Literal["anywhere", "end"] = "anywhere"


class Denoising(Objective):
    """Loss of a dynamics that denoises, and of the heads; see the module's docstring."""

    Config = DenoisingConfig
    requires = frozenset({"dynamics", "no-filtering"})
    frozen = frozenset({"encoder"})
    idle = frozenset({"decoder"})
    turns: ClassVar[tuple[str, ...]] = ("denoiser", "outcomes")
    config: DenoisingConfig

    def prepare(self, model: ComposedWorldModel) -> None:
        if model.dynamics.explicit_prior:
            raise IncompatibleComponentsError(
                f"objective 'denoising' trains a dynamics that denoises, and '{model.config.dynamics.name}' does not: "
                "take dynamics=unet-diffusion, causal-dit or diffusion, or objective=two-stage"
            )

    def forward(self, model: ComposedWorldModel, batch: Batch, step: int, *, sampler: Sampler) -> Loss:
        check_shape(batch.video, "b t c h w" if model.config.obs.views == 1 else "b v t c h w", name="video")
        dynamics, frames, part = model.dynamics, batch.video.shape[-4], batch
        if dynamics.unrolls:
            wanted = dynamics.window + len(dynamics.predicted(frames))
            if self.config.cut == "anywhere" and frames > wanted and not sampler.deterministic:
                fewest = frames - dynamics.predicted(frames).start + 1  # a given frame and those that are predicted
                chance = sampler.uniform("diffusion.cut", batch.video.new_zeros(batch.batch_size))
                part = cut(model, batch, fewest + (chance * (frames - fewest + 1)).long(), wanted)
        loss = self._denoiser(model, part, sampler)
        if not model.heads:
            return loss
        heads = self._outcomes(model, batch, sampler)
        return Loss(loss.total + heads.total, {**loss.terms, **heads.terms})

    def turn_loss(self, model: ComposedWorldModel, batch: Batch, part: str, *, sampler: Sampler) -> Loss:
        """Loss of one of `turns` alone, on a batch cut for it."""
        return {"denoiser": self._denoiser, "outcomes": self._outcomes}[part](model, batch.as_float(), sampler)

    def turn_parameters(self, model: ComposedWorldModel, part: str) -> list[nn.Parameter]:
        """What one of `turns` trains."""
        outcomes = getattr(model.dynamics, "outcomes", None)
        read = set() if outcomes is None else set(outcomes.parameters())
        if part == "outcomes":
            return [*(p for p in model.dynamics.parameters() if p in read), *model.heads.parameters()]
        return [*(p for p in model.dynamics.parameters() if p not in read), *model.conditioners.parameters()]

    def _denoiser(self, model: ComposedWorldModel, batch: Batch, sampler: Sampler) -> Loss:
        z = model.encoder.see(batch, sampler=MEANS).latent
        told = model.condition(z, batch, sampler=sampler).cond
        losses = model.dynamics.loss(z, told, sampler)
        first = model.dynamics.predicted(z.shape[1]).start if model.dynamics.unrolls else 1
        terms = {name: _mean(loss[:, first - 1 :], batch.done_mask, first) for name, loss in losses.items()}
        return Loss(torch.stack(list(terms.values())).sum(), {k: v.detach() for k, v in terms.items()})

    def _outcomes(self, model: ComposedWorldModel, batch: Batch, sampler: Sampler) -> Loss:
        z = model.encoder.see(batch, sampler=MEANS).latent
        return Loss(*head_terms(model, batch, z, model.condition(z, batch, sampler=sampler).cond))


def _mean(loss: Tensor, done_mask: Tensor | None, first: int) -> Tensor:
    """Mean of ``[B, P]``, over valid clips of every predicted frame by itself, then over these."""
    if done_mask is None:
        return loss.mean()
    valid = (done_mask if done_mask.ndim == 2 else done_mask.float().mean(1))[:, first:].to(loss.dtype)
    return ((loss * valid).sum(0) / valid.sum(0).clamp(min=1)).mean()


def cut(model: ComposedWorldModel, batch: Batch, ends: Tensor, frames: int) -> Batch:
    """The last ``frames`` frames before ``ends`` ``[B]``, grey and without action where that begins before the clip.

    Targets, which only the whole clip is asked for, are left out.
    """
    index = ends[:, None] - frames + torch.arange(frames, device=ends.device)  # [B, frames]
    known = index >= 0

    def taken(x: Tensor, axis: int, fill: float) -> Tensor:
        """Entries of ``[B, ...]`` along a time axis, counted from the end, or ``fill``."""
        rows = x.movedim(axis, 1)
        rows = rows[torch.arange(len(x), device=x.device)[:, None], index.clamp(min=0)]
        rows = rows.masked_fill(~known.reshape(*known.shape, *[1] * (rows.ndim - 2)), fill)
        return rows.movedim(1, axis)

    moving: Mapping[str, int] = {name: conditioner.axis(batch.conditions[name])
                                 for name, conditioner in model.conditioners.items()
                                 if conditioner.per_frame and name in batch.conditions}
    conditions = {name: taken(value, moving[name], 0) if name in moving else value
                  for name, value in batch.conditions.items()}
    masks = {name: taken(mask, -1, False) if name in moving and mask.ndim > 1 else mask
             for name, mask in batch.masks.items()}
    done = known if batch.done_mask is None else taken(batch.done_mask, -1, 0)
    return replace(batch, video=taken(batch.video, -4, GREY), conditions=conditions, masks=masks, done_mask=done,
                   targets={}, first=None, vectors={}, _unit=None)
