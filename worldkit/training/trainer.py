"""The training loop: one readable loop on accelerate, with exact resume.

It calls ``model(batch, step)`` and knows no term of any loss. A run folder holds ``run.json`` (model, training, data,
command, versions), ``log.jsonl``, ``checkpoints/``, ``best/`` (the model that predicted best so far) and ``figures/``.
"""

from __future__ import annotations

import json
import math
import platform
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from .. import __version__
from ..batch import Batch
from ..data import ClipDataset, collate, make_loader
from ..errors import TrainingError, require_extra
from ..hub import save_pretrained
from ..model import ComposedWorldModel
from ..nn.checkpoint import set_checkpointing
from ..viz import save_animation, save_png
from .checkpoint import RunLog, latest_checkpoint, load_checkpoint, save_checkpoint
from .config import TrainConfig
from .evaluate import evaluate, mean_image, validation_loss
from .figures import animation, panel
from .progress import ProgressBar


@dataclass
class Progress:
    """Where a run is. ``seconds`` counts optimiser steps only, not evaluations."""

    step: int = 0
    epoch: int = 0
    batch: int = 0
    seconds: float = 0.0
    best: float = -math.inf


@dataclass(frozen=True)
class TrainResult:
    """What a run left: its folder, where it stopped, and the log."""

    run: Path
    step: int
    seconds: float
    finished: bool
    log: list[dict[str, Any]] = field(repr=False)


class Trainer:
    """Trains a model on clips.

    Args:
        model: The model; trained in place.
        train, valid: Clips of ``model.clip_length`` frames.
        config: Options.
        run: Run folder. If it holds checkpoints of the same model, training goes on from the newest.
        rollouts: Clips to predict at evaluations (longer than training clips), with the number of given frames; None
            skips predictions.
        facts: Stored with the run (data, command, ...).
        show_progress: Show a progress bar.
    Example::

        Trainer(model, train, valid, TrainConfig(steps=100), run="runs/first").fit()
    """

    def __init__(
        self,
        model: ComposedWorldModel,
        train: ClipDataset,
        valid: ClipDataset,
        config: TrainConfig,
        *,
        run: str | Path,
        rollouts: tuple[ClipDataset, int] | None = None,
        facts: Mapping[str, Any] | None = None,
        show_progress: bool = True,
    ):
        accelerate = require_extra("accelerate", "train", "training")
        accelerate.state.AcceleratorState._reset_state()  # a process may train in one precision after the other
        self.config, self.run, self.valid, self.rollouts = config, Path(run), valid, rollouts
        self.accelerator = accelerate.Accelerator(mixed_precision=config.precision)
        self.device = self.accelerator.device
        self.loader = make_loader(
            train, config.batch_size, shuffle=True, num_workers=config.num_workers, seed=config.seed, drop_last=True,
            device=self.device,
        )
        self.sampler = self.loader.batch_sampler
        self.model = model.to(self.device)
        set_checkpointing(model, config.checkpointing)
        model.objective.steps_per_epoch = len(self.loader)
        fused = self.device.type in ("cpu", "cuda")
        self.optimizer = torch.optim.Adam(
            [p for p in model.parameters() if p.requires_grad], lr=config.lr, betas=config.betas, eps=config.eps,
            weight_decay=config.weight_decay, fused=fused,
        )
        self.facts = dict(facts or {})
        self.progress = Progress()
        self.show_progress = show_progress
        self._mean_image = mean_image(train) if rollouts is not None else None
        self._stop = False

    # -- the loop

    def fit(self) -> TrainResult:
        """Train until the configured epochs, steps or seconds are over.

        Raises:
            TrainingError: a loss became NaN or infinite, or the run folder belongs to another model.
        """
        self._open_run()
        engine = self.accelerator.prepare(self.model)
        optimizer = self.accelerator.prepare(self.optimizer)
        if self.config.compile:
            engine = torch.compile(engine)
        limit = self.config.steps or self.config.num_epochs * len(self.loader)
        with _graceful_stop(self), ProgressBar(self.progress.step, limit, self.config.seconds,
                                               enabled=self.show_progress) as bar:
            for note in self.model.objective.notes(self.model):
                bar.say(note)
            while not self._done(limit):
                self.sampler.set_state(self.progress.epoch, self.progress.batch)
                for batch in self.loader:
                    terms = self._step(engine, optimizer, batch.to(self.device, non_blocking=True))
                    bar.update(self.progress, terms)
                    self._after_step(terms, bar, ended=self._done(limit))
                    if self._done(limit):
                        break
                if self.progress.batch >= len(self.loader):
                    self.progress.epoch, self.progress.batch = self.progress.epoch + 1, 0
        if not self._saved_now():
            self._save()
        finished = not self._stop
        return TrainResult(self.run, self.progress.step, self.progress.seconds, finished, self.log.read())

    def _step(self, engine: torch.nn.Module, optimizer: torch.optim.Optimizer, batch: Batch) -> dict[str, float]:
        started = time.perf_counter()
        self.model.train()
        loss = engine(batch, self.progress.step)
        if not torch.isfinite(loss.total):
            raise TrainingError(self._not_finite(loss))
        optimizer.zero_grad(set_to_none=True)
        self.accelerator.backward(loss.total)
        terms = {"loss": loss.total.detach(), **loss.terms}
        if self.config.max_grad_norm is not None:
            terms["grad_norm"] = self.accelerator.clip_grad_norm_(self.model.parameters(), self.config.max_grad_norm)
        optimizer.step()
        self.progress.step += 1
        self.progress.batch += 1
        self.progress.seconds += time.perf_counter() - started
        return terms

    def _done(self, limit: int) -> bool:
        over = self.config.seconds is not None and self.progress.seconds >= self.config.seconds
        return self._stop or over or self.progress.step >= limit

    def _after_step(self, terms: dict[str, Any], bar: ProgressBar, *, ended: bool) -> None:
        step, config = self.progress.step, self.config
        every = config.eval_every or len(self.loader)
        evaluating = step % every == 0 or ended
        if step % config.log_every == 0 or step == 1 or evaluating:
            entry = {name: float(value) for name, value in terms.items()}
            self.log.write({"step": step, "epoch": self.progress.epoch, "seconds": round(self.progress.seconds, 3)}
                           | entry)
        if evaluating and not self._stop:
            with bar.paused("evaluating"):
                self.evaluate()
        if evaluating or (config.save_every and step % config.save_every == 0):
            self._save()

    def evaluate(self) -> dict[str, float]:
        """Validation loss, predictions and pictures at the present step; random state is left untouched."""
        step, config = self.progress.step, self.config
        cuda = list(range(torch.cuda.device_count()))
        with torch.random.fork_rng(devices=cuda), torch.no_grad():
            torch.manual_seed(config.seed)
            entry: dict[str, float] = {"valid_loss": validation_loss(
                self.model, self.valid, max_clips=config.eval_clips, batch_size=config.batch_size, step=step,
                device=self.device)}
            self.model.eval()
            figures = self.run / "figures"
            clip = torch.as_tensor(self.valid[len(self.valid) // 2]["video"]).to(self.device)
            save_png(panel(self.model, clip), figures / f"step-{step:08d}-panel.png")
            if self.rollouts is not None:
                entry |= self._predictions(figures)
            self.model.train()
        self.log.write({"step": step, "epoch": self.progress.epoch, "seconds": round(self.progress.seconds, 3)} | entry)
        score = entry.get("psnr_prediction", -entry["valid_loss"])
        if score > self.progress.best:
            self.progress.best = score
            save_pretrained(self.model, self.run / "best", facts=self._card())
        return entry

    def _predictions(self, figures: Path) -> dict[str, float]:
        dataset, context = self.rollouts  # type: ignore[misc]
        report = evaluate(
            self.model, dataset, context_frames=context, driven_by=("prior",), training_mean=self._mean_image,
            max_clips=self.config.eval_clips, batch_size=self.config.batch_size, device=self.device, split="val",
        )["prior"]
        batch = collate([dataset[len(dataset) // 2]]).to(self.device)
        frames = animation(self.model, batch, context_frames=context)
        save_animation(frames, figures / f"step-{self.progress.step:08d}-rollout.gif")
        names = {"model": "prediction", "copy last frame": "copy_last", "mean training frame": "mean_frame"}
        return {f"psnr_{short}": report.summary(name, "psnr").mean for name, short in names.items()}

    # -- the run folder

    def _open_run(self) -> None:
        self.run.mkdir(parents=True, exist_ok=True)
        described = self.run / "run.json"
        model = self.model.config.to_dict()
        if described.exists():
            old = json.loads(described.read_text(encoding="utf-8")).get("model")
            if old != model:
                raise TrainingError(
                    f"run folder {self.run} belongs to another model configuration; give a new folder, or delete it"
                )
        newest = latest_checkpoint(self.run)
        if newest is None:
            torch.manual_seed(self.config.seed)  # the noise of a run depends on its seed alone
        else:
            self.progress = Progress(**load_checkpoint(newest, self.model, self.optimizer))
        self.log = RunLog(self.run / "log.jsonl", step=self.progress.step)
        temporary = self.run / ".run.json.tmp"
        temporary.write_text(json.dumps(self._describe(model), indent=2, default=str) + "\n", encoding="utf-8")
        temporary.replace(described)

    def _describe(self, model: dict[str, Any]) -> dict[str, Any]:
        return {
            "model": model, "train": self.config.to_dict(), "facts": self.facts,
            "notes": self.model.objective.notes(self.model),
            "command": " ".join(sys.argv), "worldkit": __version__, "torch": torch.__version__,
            "python": platform.python_version(), "machine": platform.machine(), "device": str(self.device),
            "threads": torch.get_num_threads(),
        }

    def _card(self) -> dict[str, Any]:
        return self.facts | {
            "step": self.progress.step, "training seconds": round(self.progress.seconds, 1), "seed": self.config.seed,
            "batch size": self.config.batch_size, "learning rate": self.config.lr, "device": str(self.device),
        }

    def _save(self) -> None:
        save_checkpoint(self.run, self.model, self.optimizer, dict(vars(self.progress)), keep=self.config.keep,
                        facts=self._card())

    def _saved_now(self) -> bool:
        return (self.run / "checkpoints" / f"step-{self.progress.step:08d}").exists()

    def _not_finite(self, loss: Any) -> str:
        bad = [name for name, value in loss.terms.items() if not math.isfinite(float(value))]
        newest = latest_checkpoint(self.run)
        where = f"the last good checkpoint is {newest}" if newest else "there is no checkpoint yet"
        return (
            f"the loss became {float(loss.total)} at step {self.progress.step}; terms that are not finite: "
            f"{', '.join(bad) or 'none by itself'}; {where}. A lower lr is the usual cure: -o train.lr=..."
        )


@contextmanager
def _graceful_stop(trainer: Trainer) -> Iterator[None]:
    """On SIGTERM or Ctrl-C finish the step, write a checkpoint and leave; a second Ctrl-C leaves at once."""

    def stop(number: int, frame: Any) -> None:
        if trainer._stop:
            raise KeyboardInterrupt
        trainer._stop = True

    previous: dict[int, Callable | int | None] = {}
    try:
        for number in (signal.SIGTERM, signal.SIGINT):
            previous[number] = signal.signal(number, stop)
    except ValueError:
        pass  # not in the main thread: no handlers
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
