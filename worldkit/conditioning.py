"""What a model is told: raw conditions, as batches have them -> `Condition`, for who receives them.

Conditions at index t concern the transition from frame t to frame t + 1. `gather` keeps that order. `leading` gives a
dynamics that filters what it needs at frame t, the transition that LEADS TO it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .batch import to_float_video
from .conditioners.base import Conditioner, ModelView
from .conditions import EMPTY, Condition
from .distributions import Sampler
from .errors import ConditionError
from .wiring import check_condition, refuse_unread

if TYPE_CHECKING:
    from .model import ComposedWorldModel


def gather(
    model: ComposedWorldModel, conditions: Mapping[str, Any], masks: Mapping[str, Tensor], frames: int,
    sampler: Sampler, *, strict: bool = False, only: Collection[str] | None = None,
) -> dict[str, Condition]:
    """Receiver (``"latent_action"``, ``"dynamics"``) -> condition with one entry per frame.

    Args:
        model: Its conditioners.
        conditions: Condition name -> raw value; with a time axis it covers ``frames`` frames or more.
        masks: Condition name -> where it is given.
        frames: Entries that are needed.
        sampler: Source of randomness, of conditions that are hidden in training and of goals that are encoded.
        strict: Refuse conditions the model does not take.
        only: Of these conditions alone.
    Raises:
        ConditionError: a condition is missing, unknown or too short.
    """
    if strict:
        refuse_unknown(model, conditions, masks)
    total = {"latent_action": EMPTY, "dynamics": EMPTY}
    for name, conditioner in model.conditioners.items():
        if only is not None and name not in only:
            continue
        raw, mask = _raw(name, conditioner, conditions, masks, frames)
        mask = conditioner.hide_clips(raw, mask, sampler, name=name)
        target = model.receivers[name]
        for receiver in total if target == "both" else [target]:
            total[receiver] = total[receiver] + told(model, name, raw, mask, frames, sampler, receiver=receiver)
    return total


def leading(
    model: ComposedWorldModel, conditions: Mapping[str, Any], masks: Mapping[str, Tensor], first: Tensor,
    sampler: Sampler, *, before: Mapping[str, Any] | None = None,
) -> Condition:
    """What a dynamics that filters is told about the transitions that lead to the frames it sees, one entry per frame.

    No transition leads to a frame that begins an episode: there the conditioner gives what it has for a value that is
    not given (`Conditioner.takes_mask`), or, if it has nothing, zeros.

    Args:
        model: A model whose dynamics filters.
        conditions: Condition name -> raw value; with a time axis (actions) index t leads from frame t to frame t + 1,
            and the T - 1 entries between T frames suffice.
        masks: Condition name -> where it is given, likewise.
        first: bool ``[B, T]``: frames that begin an episode.
        sampler: As for `gather`.
        before: Condition name -> the entry ``[B, 1, ...]`` of the transition that led to frame 0; None: none did.
    Raises:
        ConditionError: a condition is missing, unknown or too short.
    """
    refuse_unknown(model, conditions, masks)
    total, frames = EMPTY, first.shape[1]
    for name, conditioner in model.conditioners.items():
        if not conditioner.per_frame:
            raw, mask = _raw(name, conditioner, conditions, masks, frames)
            mask = conditioner.hide_clips(raw, mask, sampler, name=name)
            total = total + told(model, name, raw, mask, frames, sampler)
            continue
        raw, given = _shifted(name, conditioner, conditions, masks, first, before)
        given = conditioner.hide_clips(raw, given, sampler, name=name)
        cond = told(model, name, raw, given if conditioner.takes_mask else None, frames, sampler)
        total = total + (cond if conditioner.takes_mask else cond.where(~first))
    return total


def told(
    model: ComposedWorldModel, name: str, raw: Any, mask: Tensor | None, frames: int, sampler: Sampler, *,
    receiver: str = "dynamics", check: bool = True,
) -> Condition:
    """What one conditioner tells its receiver, with one entry per frame. ``check``: it might not fit."""
    conditioner, module = model.conditioners[name], getattr(model, receiver)
    view = ModelView(
        encode=lambda video: model.encoder.encode_goal(to_float_video(video), sampler=sampler),
        embed=module.embed,
        spread=model.spec.spread_views,
    )
    cond = conditioner(raw, mask, view=view)
    if check:
        refuse_unread(module, cond, f"condition '{name}'")
        check_condition(conditioner, cond, f"condition '{name}'", (_clips(raw), frames, model.spec.num_tokens),
                        dim=conditioner.dim, memory=conditioner.memory_tokens(conditioner.config))
    if cond.token is not None and cond.token.shape[1] != frames:
        cond = Condition(cond.frame, cond.token.expand(-1, frames, -1, -1), cond.memory)
    return cond


def _clips(raw: Any) -> int:
    """Number of clips; of tensors as their shape has it, which exporters leave open."""
    return raw.shape[0] if torch.is_tensor(raw) else len(raw)


def refuse_unknown(model: ComposedWorldModel, *given: Mapping[str, Any]) -> None:
    """Refuse conditions (and masks, given second) that a model does not take.

    Raises:
        ConditionError: naming what it takes.
    """
    for values, what in zip(given, ("condition", "mask"), strict=False):
        for name in values:
            if name not in model.conditioners:
                takes = ", ".join(model.conditioners) or "none"
                raise ConditionError(
                    f"this model takes no {what} '{name}'; it takes: {takes}. Add one when creating it: "
                    f'create_model(..., conditioners={{"{name}": ...}}); or leave it out of the batch, as '
                    "ClipDataset(..., conditions=model.config.columns) does"
                )


def _shifted(
    name: str, conditioner: Conditioner, conditions: Mapping[str, Any], masks: Mapping[str, Tensor], first: Tensor,
    before: Mapping[str, Any] | None,
) -> tuple[Tensor, Tensor]:
    """Raw values of the transitions that lead to frames, and where they are given."""
    batch, frames = first.shape
    if before is not None:
        start, _ = _raw(name, conditioner, before, {}, 1, "last_action")
    elif frames == 1:
        start = conditioner.absent(batch, first.device)
    else:
        start = None
    mask = None
    if frames == 1:
        raw, axis = start, conditioner.axis(start)
    else:
        inside, mask = _raw(name, conditioner, conditions, masks, frames - 1, "inside")
        axis = conditioner.axis(inside)
        start = torch.zeros_like(inside.narrow(axis, 0, 1)) if start is None else start.to(inside.device)
        raw = torch.cat([start, inside], axis)
    shape = raw.shape[: raw.ndim + axis + 1]  # [B, (V,) T]
    given = ~first.reshape(batch, *[1] * (len(shape) - 2), frames).expand(shape)
    if mask is not None:
        whole = mask.ndim == 1
        mask = mask.reshape(batch, *[1] * (len(shape) - 1)) if whole else mask.expand(*shape[:-1], frames - 1)
        given = given & (mask if whole else torch.cat([torch.ones_like(mask[..., :1]), mask], -1))
    return raw, given


_ASKS = {
    "": "pass Batch(video, conditions={{\"{name}\": ...}}) or rollout(..., conditions={{\"{name}\": ...}})",
    "inside": "its dynamics filters, so what it sees in a frame depends on what was done before: give it the "
              "{frames} value(s) between the frames it sees, encode(video, conditions={{\"{name}\": ...}})",
    "last_action": "it goes on from a state, so it is told what led from there to the first frame: "
                   "last_action={{\"{name}\": [B, 1, ...]}}",
}


def _raw(
    name: str, conditioner: Conditioner, conditions: Mapping[str, Any], masks: Mapping[str, Tensor], frames: int,
    why: str = "",
) -> tuple[Any, Tensor | None]:
    raw, mask = conditions.get(name), masks.get(name)
    if raw is None:
        asks = _ASKS[why].format(name=name, frames=frames)
        raise ConditionError(f"this model needs the condition '{name}' ({conditioner.config.name}): {asks}")
    conditioner.check(raw, name=name)
    if mask is not None and not conditioner.takes_mask:
        raise ConditionError(
            f"condition '{name}' was given a mask, but its conditioner has no stand-in for absent values; create "
            f'the model with conditioners={{"{name}": {{"null_embedding": True}}}}'
        )
    if conditioner.per_frame:
        axis = conditioner.axis(raw)
        covered = raw.shape[axis]
        if covered < frames:
            needed = "between the frames that are seen" if why else "(context and horizon)"
            raise ConditionError(
                f"condition '{name}' covers {covered} frames, but {frames} are needed {needed}"
            )
        raw = raw.narrow(axis, 0, frames)
        if torch.is_tensor(mask) and mask.ndim > 1:
            mask = mask[..., :frames]
    if mask is not None:
        conditioner.check_mask(mask, raw, name=name)
    return raw, mask
