"""The demo from beginning to end."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.text import Text
from torch import Tensor

from ...batch import to_float_video
from ...data import ClipDataset, collate
from ...errors import ConfigError
from ...factory import create_model, get_model_spec
from ...files import reason
from ...metrics import Report
from ...model import ComposedWorldModel
from ...presets.shipped import facts_of
from ...progress import duration
from ...training import TrainResult, evaluate, mean_image, panel
from ...training.glance import glance
from ...training.recipes import make_trainer, open_clips
from ...viz.animation import framed
from .looks import CONTEXT, HORIZON, Look, Looks, Pictures, look_at, scored, times_of
from .page import RELOAD, Ended, draw, headline
from .words import next_commands, verdict

PRESET, DATA = "lpwm-balls-mini", "balls-32"
CLIPS, SEEN, SEGMENTS = 200, 32, {"segments": True, "num_episodes": 4}
"""Test clips that are predicted at the end, and drawn again, at most; the latter are of the first four episodes."""
SHOWN = 0
"""Test clip that the report shows."""
LEAST = 10.0
"""Seconds of training below which nobody can expect anything."""


def clips_for(seconds: float) -> int:
    """How many clips a training of so many seconds is scored on: one per second, between 8 and `CLIPS`.

    Example:
        >>> clips_for(240), clips_for(20), clips_for(5)
        (200, 20, 8)
    """
    return min(CLIPS, max(8, round(seconds)))


@contextmanager
def one_thread() -> Iterator[None]:
    """PyTorch computes with one thread inside, unless the environment says how many (``OMP_NUM_THREADS``).

    So small a model gains little from more, and on cores that others use as well, threads wait for one another after
    every operation: two threads on two busy cores made a step in 1.4 s that took one of them 0.2 s.
    """
    before = torch.get_num_threads()
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@one_thread()
def demo(*, out: str | Path, seconds: float, seed: int = 0, device: str | None = None) -> Path:
    """Run the demo.

    Args:
        out: Folder for the run and the report.
        seconds: Training time. Looking at the model and scoring it come on top, and are told at the end.
        seed: Of weights, data order and noise.
        device: Where to train; None: the GPU if there is one. Everything at the end happens on the CPU.
    Returns:
        Path of ``report.html``.
    Raises:
        ConfigError: the report cannot be written.
    """
    started, stage = time.perf_counter(), Stage(Path(out) / "report.html", seconds)
    stage.write("Making the data.")
    try:
        trainer = make_trainer(PRESET, DATA, run=Path(out) / f"run-{seconds:g}s-seed{seed}", train_overrides={
            "seconds": seconds, "seed": seed, "eval_every": 10**9, "eval_clips": 4, "log_every": 5, "device": device})
        looks = trainer.after_step = stage.begin(trainer.model)
        result = trainer.fit()
        if trainer.ema is not None:
            trainer.ema.apply(trainer.model)
        stage.finish(trainer.model.eval().to("cpu"), result, looks, seed=seed, started=started)
    except BaseException:
        with suppress(ConfigError):
            stage.write("This demo broke off; the terminal says why.", reload=None)
        raise
    return stage.path


class Stage:
    """Where the demo shows what it has: the terminal and the report.

    Args:
        path: Of the report.
        seconds: Of the training.
    """

    model: ComposedWorldModel
    test: ClipDataset
    mean: Tensor

    def __init__(self, path: Path, seconds: float):
        self.path, self.seconds, self.console = path, seconds, Console()
        self.truth: Tensor | None = None
        self.looks: Sequence[Look] = ()

    def begin(self, model: ComposedWorldModel) -> Looks:
        """Say what is going to happen; returns what looks at the model while it is trained."""
        self.model = model
        self.test = self.open("test")
        self.mean = mean_image(open_clips(model, DATA, split="train", num_frames=1))
        self.truth = framed(to_float_video(collate([self.test[SHOWN]]).video[0]), None)
        say = partial(self.console.print, soft_wrap=True)
        say(f"[bold]1/3[/] training {PRESET} from scratch for {duration(self.seconds)} on {DATA} (synthetic); looking "
            "at it and scoring it come on top")
        self.write("The training begins.")
        say(Text.assemble(("open this in a browser, it reloads itself:", "bold"), f" {self.path.resolve().as_uri()}"))
        if not times_of(self.seconds):
            say(f"--seconds {self.seconds:g} leaves no time for a look in between: the first one comes at the end")
        return Looks(self.open("val"), self.test, SHOWN, self.mean, seconds=self.seconds, found=self.found)

    def open(self, split: str, **options: Any) -> ClipDataset:
        """Clips of ``CONTEXT + HORIZON`` frames."""
        return open_clips(self.model, DATA, split=split, num_frames=CONTEXT + HORIZON, **options)

    def found(self, looks: list[Look]) -> None:
        """Show the newest look."""
        self.looks, newest = list(looks), looks[-1]
        self.write(f"Training: {newest.seconds:.0f} of {self.seconds:g} s, {newest.step} steps.",
                   pictures=newest.pictures)

    def write(self, status: str, *, pictures: Pictures | None = None, ended: Ended | None = None,
              reload: float | None = RELOAD) -> None:
        """Write the report as it stands; ``reload``: a browser loads it again and again, and the page says so.

        Raises:
            ConfigError: it cannot be written.
        """
        if pictures is None and self.looks:
            pictures = self.looks[-1].pictures
        status += "" if reload is None else f" This page reloads itself every {reload} seconds until all is done."
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            draw(status, pictures, self.truth, self.looks, ended).write(self.path, reload=reload)
        except OSError as error:
            raise ConfigError(f"the report {self.path} cannot be written: {reason(error)}. Name another place: "
                              "--out FOLDER") from error

    def finish(
        self, model: ComposedWorldModel, result: TrainResult, looks: Looks, *, seed: int, started: float
    ) -> None:
        """Score the model, say what it learned, and write the last report."""
        begun, count = time.perf_counter(), clips_for(result.seconds)
        self.console.print(f"[bold]2/3[/] predicting {count} test clips it never saw")
        self.write(f"Trained: {result.seconds:.0f} s, {result.step} steps. Scoring {count} clips.")
        facts = {"seed": seed, "split": "test", "data": f"{DATA} (synthetic)"}
        predicted = scored(model, self.test, self.mean, count=count, **facts)
        redrawn = self._redrawn(model, min(count, SEEN))
        pictures = look_at(model, self.test, SHOWN)
        self.console.print("[bold]3/3[/] drawing the report")
        say = verdict(predicted, redrawn, pictures.edit)
        commands = next_commands(result.run, self.seconds, PRESET, DATA)
        judging = time.perf_counter() - begun
        times = (f"{result.seconds:.0f} s of training ({result.step} steps), {looks.spent:.0f} s of looking at it, "
                 f"{judging:.0f} s of scoring; in all {duration(time.perf_counter() - started)} with what came before")
        apart = panel(model, self.test[SHOWN]["video"], cell=96)
        ended = Ended(predicted, say, commands, self._shipped(), apart, result.log,
                      f"This demo took {times}. Seed {seed}.")
        state = "Finished" if result.finished else "Stopped early; the same command goes on"
        self.write(f"{state}: {times}.", pictures=pictures, ended=ended, reload=None)
        self._speak(ended, times, result)

    def _redrawn(self, model: ComposedWorldModel, count: int) -> Report:
        """Test clips that are seen whole and drawn again, with their true segments."""
        return evaluate(model, self.open("test", **SEGMENTS), context_frames=CONTEXT, driven_by=("encoded",),
                        training_mean=self.mean, max_clips=count, metrics=("psnr", "fg_ari"))["encoded"]

    def _shipped(self) -> tuple[str, Tensor] | None:
        """What the model that comes along is, and what it makes of the clip that is shown."""
        spec = get_model_spec(PRESET)
        facts = facts_of(spec)
        if not facts:
            return None
        model = create_model(PRESET, pretrained=True)
        assert isinstance(model, ComposedWorldModel)
        text = (f"{PRESET} comes along with weights of a longer run: {facts['steps']:,} steps, {facts['minutes']:g} "
                f"minutes, {facts['hardware']}. On test clips: {facts['headline']}. How it was made: docs/zoo.md.")
        return text, glance(model, collate([self.test[SHOWN]]), context_frames=CONTEXT).strip()

    def _speak(self, ended: Ended, times: str, result: TrainResult) -> None:
        """What came of it, on the terminal."""
        lines = [Text(headline(ended.predicted))]
        for name, found in ended.verdict.parts():
            lines += [Text(f"{name}:", "bold"), *(Text(f"  - {text}") for text in found)]
        if result.seconds < LEAST:
            lines.append(Text(f"{result.seconds:.0f} s of training teach nothing; try --seconds 240"))
        lines.append(Text("Type next:", "bold"))
        for command, what in ended.commands:
            lines += [Text(f"  {command}", "cyan"), Text(f"      {what}")]
        for line in [*lines, Text(f"Took {times}.")]:
            self.console.print(line, soft_wrap=True)
