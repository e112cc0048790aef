"""Checks of a dynamics that filters: it agrees with what it predicts, in any pieces, whatever comes later."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ..batch import Batch
from ..conditions import Condition
from ..distributions import MEANS, Sampler
from ..dynamics.filtering import Filtered
from ..encoders.base import Encoding
from ..latents import Latent
from ..perception import Seen
from .examples import BATCH, LAST, SECOND, WINDOW, changed
from .report import Reporter, score, tensors


def check_filter(
    report: Reporter, module: Any, make: Callable[[], nn.Module], encoding: Encoding, cond: Condition
) -> None:
    """Check `Dynamics.filter`.

    Args:
        report: Where failures go.
        module: The dynamics, shaken.
        make: Makes another one.
        encoding: What an encoder found in ``WINDOW`` frames of ``BATCH`` clips.
        cond: Of the transitions that lead to them.
    """
    start = torch.zeros(BATCH, WINDOW, dtype=torch.bool)
    start[:, 0] = True

    def run(seen: Encoding, told: Condition, first: Tensor = start, last: Latent | None = None, seed: int | None = None,
            filters: Any = module) -> Filtered:
        sampler = MEANS if seed is None else Sampler(generator=torch.Generator().manual_seed(seed))
        return filters.filter(seen, told, sampler, first=first, last=last)

    found = run(encoding, cond, seed=0)
    for what in ("latent", "posterior", "prior"):
        report.fields(getattr(found, what), module.spec, BATCH, WINDOW, what)
    report.gradients(module, score(_all(found)))
    with torch.no_grad():
        predicted = module.prior(found.latent[:, :-1], cond.at(slice(1, None)))
        for a, b in zip(tensors(predicted), tensors(found.prior), strict=True):
            report.equal(a, b[:, 1:], "the prior is the prediction from the state before", "prior()")
        for a, b in zip(_all(run(encoding, cond, seed=0)), _all(found), strict=True):
            report.equal(a, b, "determinism under a generator", "the second clip", 0.0)
        base = run(encoding, cond)
        _check_independence(report, run, encoding, cond, base)
        _check_pieces(report, run, encoding, cond, base, start)
        report.reload(module, make, lambda m: _all(run(encoding, cond, filters=m)))


def _check_independence(report: Reporter, run: Any, encoding: Encoding, cond: Condition, base: Filtered) -> None:
    """Of later frames, of their actions, and of other clips; and dependence on the frame."""
    late = run(_changed(encoding, LAST), cond)
    for a, b in zip(_all(late), _all(base), strict=True):
        report.equal(a[:, :-1], b[:, :-1], "causality", "a state of earlier frames, when the last one changes,")
    for a, b in zip(tensors(late.prior), tensors(base.prior), strict=True):
        report.equal(a, b, "causality", "a prior, when its own frame changes,")
    report.require(any(not torch.equal(a, b) for a, b in zip(tensors(late.posterior), tensors(base.posterior),
                                                             strict=True)),
                   "it looks", "the posterior does not depend on the frame")
    for a, b in zip(_all(run(_changed(encoding, SECOND), cond)), _all(base), strict=True):
        report.independent(a, b, "the state")


def _check_pieces(
    report: Reporter, run: Any, encoding: Encoding, cond: Condition, base: Filtered, start: Tensor
) -> None:
    """Frame by frame as at once; and what begins in the middle as alone."""
    last = None
    for t in range(WINDOW):
        now = slice(t, t + 1)
        piece = run(_at(encoding, now), cond.at(now), start[:, now], last)
        last = piece.latent
        for a, b in zip(_all(piece), _all(base), strict=True):
            report.equal(a, b[:, now], "frame by frame equals the whole clip", f"frame {t}")
    begins = start.clone()
    begins[0, WINDOW // 2] = True
    inside, rest = run(encoding, cond, begins), slice(WINDOW // 2, None)
    alone = run(_at(encoding, rest), cond.at(rest), start[:, : WINDOW - WINDOW // 2])
    for a, b, c in zip(_all(inside), _all(alone), _all(base), strict=True):
        report.equal(a[:1, rest], b[:1], "nothing is carried over a border", "what follows it")
        report.equal(a[1:], c[1:], "borders concern their own clip", "another clip")


def _all(found: Filtered) -> list[Tensor]:
    return [x for part in (found.latent, found.posterior, found.prior) for x in tensors(part)]


def _at(encoding: Encoding, time: slice) -> Encoding:
    return Encoding(encoding.posterior[:, time], encoding.latent[:, time])


def _changed(encoding: Encoding, index: Any) -> Encoding:
    def moved(params: Tensor) -> Tensor:  # up, which any parameters may be
        params = params.clone()
        params[index] += 0.1
        return params

    return Encoding(encoding.posterior.map(moved), changed(encoding.latent, index))


def check_seen(report: Reporter, model: Any, batch: Batch) -> None:
    """Check what a whole model whose dynamics filters sees in a batch.

    Args:
        report: Where failures go.
        model: The model, shaken.
        batch: Clips of at least two frames, with conditions.
    """
    batch = replace(batch, masks={name: torch.ones_like(mask) for name, mask in batch.masks.items()})
    base, frames = model.perceive(batch), batch.video.shape[-4]
    report.require(base.latent.spec == model.spec, "types", "perceive() gives latents of another spec than the model's")
    late = model.perceive(changed(batch, LAST))
    moved = [not torch.equal(a[:, -1], b[:, -1]) for a, b in zip(tensors(late.posterior), tensors(base.posterior),
                                                               strict=True)]
    report.require(any(moved), "it looks", "the posterior does not depend on the image")
    for a, b in zip(tensors(late.prior), tensors(base.prior), strict=True):
        report.equal(a, b, "causality", "what was expected of a frame, when that frame changes,", 0.0)
    moving = {name: c for name, c in model.conditioners.items() if c.per_frame}
    for name, conditioner in moving.items():
        raw, axis = batch.conditions[name], conditioner.axis(batch.conditions[name])
        where = (..., slice(frames - 2, frames - 1), *[slice(None)] * (-1 - axis))
        other = model.perceive(replace(batch, conditions={**batch.conditions, name: changed(raw, where)}))
        for a, b in zip(tensors(other.latent), tensors(base.latent), strict=True):
            report.equal(a[:, :-1], b[:, :-1], "causality", f"a state, when '{name}' after it changes,", 0.0)
        told = [not torch.equal(a[:, -1], b[:, -1]) for a, b in zip(tensors(other.prior), tensors(base.prior),
                                                                  strict=True)]
        report.require(any(told), "conditions", f"what is expected of a frame does not depend on '{name}' before it")
    begun = model.dynamics.prior(model.dynamics.blank(batch.batch_size), base.cond.at(slice(0, 1)))
    for a, b in zip(tensors(begun), tensors(base.prior), strict=True):
        report.equal(a, b[:, :1], "an episode begins from the blank state", "what is expected of its first frame")
    if model.encoder.borders:
        _check_clip(report, model, batch, base, moving)


def _check_clip(report: Reporter, model: Any, batch: Batch, base: Seen, moving: Mapping[str, Any]) -> None:
    """A model frame by frame, and at a border."""
    frames, state = batch.video.shape[-4], None

    def told(start: int, stop: int) -> dict[str, Any]:
        cut = {name: batch.conditions[name].narrow(c.axis(batch.conditions[name]), start, stop - start)
               for name, c in moving.items()}
        return {**batch.conditions, **cut}

    for t in range(frames):
        led = None if t == 0 else told(t - 1, t)
        state = model.perceive(_frames(batch, t, t + 1), last=state, last_action=led).latent
        for a, b in zip(tensors(state), tensors(base.latent), strict=True):
            report.equal(a, b[:, t : t + 1], "frame by frame equals the whole clip", f"the state of frame {t}")
    first = torch.zeros(batch.batch_size, frames, dtype=torch.bool)
    first[0, frames // 2] = True
    inside = model.perceive(batch, first=first)
    alone = model.perceive(_frames(batch, frames // 2, frames), conditions=told(frames // 2, frames))
    for a, b, c in zip(tensors(inside.latent), tensors(alone.latent), tensors(base.latent), strict=True):
        report.equal(a[:1, frames // 2 :], b[:1], "nothing is carried over a border", "what follows it")
        report.equal(a[1:], c[1:], "borders concern their own clip", "another clip")


def _frames(batch: Batch, start: int, stop: int) -> Batch:
    """Some frames of a batch, with its conditions as they are."""
    return Batch(batch.video[..., start:stop, :, :, :], batch.conditions,
                 vectors={name: x[:, start:stop] for name, x in batch.vectors.items()})
