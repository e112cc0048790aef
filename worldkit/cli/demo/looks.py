"""Looks at a model while it is trained: a few clips scored, one drawn, the report written anew."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from ...data import ClipDataset, collate
from ...errors import WorldkitError
from ...metrics import Report
from ...metrics.report import Interval
from ...model import ComposedWorldModel
from ...training import Trainer, evaluate
from ...training.glance import PREDICTED, Glance, glance
from ...training.progress import ProgressBar
from .moved import Moved, move_one

CONTEXT, HORIZON = 5, 5
CLIPS = 8
"""Clips scored at a look: about half a second of one core."""
FIRST, EVERY, LAST = (3.0, 10.0, 20.0, 40.0), 30.0, 0.9
"""Seconds of training of the first looks, then one every so many; none in the last tenth, since the end comes."""
SHARE = 0.1
"""What later looks take at most, of the time of the training: on a busy machine there are fewer of them."""


@dataclass(frozen=True)
class Pictures:
    """One clip as the model sees it: the rows that the report draws, and why there is no what-if, if there is none."""

    seen: Glance
    edit: Moved | None
    nothing: str = ""


@dataclass(frozen=True)
class Look:
    """What a look found, after so many seconds and steps of training. ``psnr``: row of the report -> mean, dB."""

    seconds: float
    step: int
    clips: int
    psnr: dict[str, float]
    over: dict[str, Interval]
    pictures: Pictures
    predicted: Tensor = field(repr=False)


def times_of(seconds: float) -> list[float]:
    """After how many seconds of training one looks, of a training of so many.

    Example:
        >>> times_of(240), times_of(20), times_of(3)
        ([3.0, 10.0, 20.0, 40.0, 70.0, 100.0, 130.0, 160.0, 190.0], [3.0, 10.0], [])
    """
    times = list(FIRST)
    while times[-1] + EVERY < LAST * seconds:
        times.append(times[-1] + EVERY)
    return [t for t in times if t < LAST * seconds]


def look_at(model: ComposedWorldModel, clips: ClipDataset, index: int, *, device: Any = "cpu") -> Pictures:
    """The pictures of one clip."""
    batch = collate([clips[index]]).to(device)
    seen = glance(model, batch, context_frames=CONTEXT)
    try:
        return Pictures(seen, move_one(model, batch.video, context_frames=CONTEXT))
    except WorldkitError as error:  # a model that was hardly trained may see nothing
        return Pictures(seen, None, str(error))


def scored(model: ComposedWorldModel, clips: ClipDataset, training: Tensor, *, count: int, **facts: Any) -> Report:
    """Predictions of so many clips beside copying and the mean frame."""
    return evaluate(model, clips, context_frames=CONTEXT, training_mean=training, max_clips=count, **facts)["prior"]


class Looks:
    """`Trainer.after_step`: looks when it is time, and counts what that takes.

    Args:
        valid: Validation clips of ``CONTEXT + HORIZON`` frames, to be scored.
        shown: Clips of that length, of which one is drawn.
        index: Which one.
        training: Mean frame of the training clips.
        seconds: Of the whole training.
        found: Called with every look, the newest last.
    """

    def __init__(self, valid: ClipDataset, shown: ClipDataset, index: int, training: Tensor, *, seconds: float,
                 found: Callable[[list[Look]], None]):
        self.valid, self.shown, self.index, self.training, self.found = valid, shown, index, training, found
        self.times, self.looks, self.spent = times_of(seconds), [], 0.0  # type: tuple[list[float], list[Look], float]

    def __call__(self, trainer: Trainer, bar: ProgressBar) -> None:
        """Look, if it is time; several times that have passed are one."""
        done = trainer.progress.seconds
        if not self.times or done < self.times[0]:
            return
        started = time.perf_counter()
        with bar.paused("looking at what it predicts"), trainer.looking() as model:
            report = scored(model, self.valid, self.training, count=CLIPS, split="val", device=trainer.device)
            pictures = look_at(model, self.shown, self.index, device=trainer.device)
        psnr = {row: report.summary(row, "psnr").mean for row in report.scores}
        over = {row: report.margin("psnr", row) for row in report.baselines}
        self.looks.append(Look(done, trainer.progress.step, report.protocol["n"], psnr, over, pictures,
                               pictures.seen.rows[PREDICTED][CONTEXT:]))
        self.found(self.looks)
        took = time.perf_counter() - started
        self.spent += took
        rest = took / SHARE if len(self.looks) >= len(FIRST) else 0.0
        self.times = [t for t in self.times if t > done + rest]
        bar.meter.say(in_a_line(self.looks[-1]))


def in_a_line(look: Look) -> str:
    """What a look found, on a terminal of 80 letters."""
    model, copying, mean = (look.psnr[row] for row in ("model", "copy last frame", "mean training frame"))
    return (f"{look.seconds:5.0f} s, step {look.step}: predicts at {model:.1f} dB (copying {copying:.1f}, mean frame "
            f"{mean:.1f})")
