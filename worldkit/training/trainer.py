"""The training loop: one readable loop on accelerate, with exact resume, in one process or several.

It calls ``model(batch, step)`` and knows no term of any loss. A run folder holds ``run.json`` (model, training, data,
command, versions), ``log.jsonl``, ``checkpoints/``, ``best/`` (the model that predicted best so far) and ``figures/``.

The noise of every clip comes from a generator of its own (`ClipSampler`), so two processes with half the batch each
take the same step as one with the whole batch, to float rounding (dropout apart). The main process alone evaluates
and writes.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from ..batch import Batch
from ..data import ClipDataset, collate, make_loader
from ..distributions import ClipSampler
from ..errors import TrainingError
from ..files import check_writable, reason
from ..memory import keep_memory
from ..model import ComposedWorldModel
from ..nn.checkpoint import set_checkpointing
from ..nn.decay import decaying
from ..nn.quantize import forget_restarted
from ..progress import Meter
from ..storage.folders import write_folder
from ..storage.hub import write_model
from ..viz import save_animation, save_png
from .checkpoint import (
    RunLog,
    drop_later,
    latest_checkpoint,
    load_checkpoint,
    prune,
    random_state,
    save_checkpoint,
    tidy,
    way_back,
    writing,
)
from .config import TrainConfig
from .denormals import flush_denormals
from .ema import EMA
from .evaluation import evaluate, mean_image, validation_loss
from .figures import film, panel, samples
from .lock import locked
from .loggers import open_loggers
from .muon import hidden_matrices
from .optimizers import make_optimizer
from .processes import STRATEGIES, all_finite, in_any, make_accelerator, whole_tensor
from .progress import ProgressBar
from .record import fingerprint, in_words, surroundings, where_to_begin, write_record
from .schedule import learning_rate, weight_decay
from .scores import VECTOR_ERROR
from .settings import SETTINGS_FILE, Settings
from .stop import graceful_stop
from .trainable import check_trainable
from .unused import fed, unused
from .watch import Watch
from .weightless import mode_of

LOCK_PATIENCE = 10.0
"""Seconds to wait for a run folder: data loaders outlive a killed run by five."""


@dataclass
class Progress:
    """Where a run is. ``batch``: steps made in this epoch. ``seconds`` and ``cpu`` count steps only, not evaluations.
    ``owed``: the evaluation of this step is still to be made, since the run was told to stop.
    """

    step: int = 0
    epoch: int = 0
    batch: int = 0
    seconds: float = 0.0
    cpu: float = 0.0
    best: float = -math.inf
    owed: bool = False


@dataclass(frozen=True)
class TrainResult:
    """What a run left: its folder, where it stopped, and the log. ``cpu``: seconds that the main process computed."""

    run: Path
    step: int
    seconds: float
    finished: bool
    log: list[dict[str, Any]] = field(repr=False)
    cpu: float = 0.0


class Trainer:
    """Trains a model on clips.

    Args:
        model: The model; trained in place.
        train, valid: Clips of ``model.clip_length`` frames; conditions the model does not take are left out, with a
            note.
        config: Options.
        run: Run folder. If it holds checkpoints of the same model and data, training goes on from the newest.
        rollouts: Clips to predict at evaluations (longer than training clips), with the number of given frames; None
            skips predictions.
        facts: Stored with the run (data, command, ...).
        show_progress: Show a progress bar.
    Attributes:
        after_step: Called behind every step of the main process with the trainer and its progress bar, if it is set
            before `fit`. What it does is no training time; `looking` gives it the model.
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
        check_trainable(model)
        self.notes = [*model.objective.notes(model), *unused(model, train)]
        train, valid = fed(model, train), fed(model, valid)
        if "dynamics" in model.objective.frozen | model.objective.idle or model.decoder is None:
            rollouts = None  # it predicts as it did before, or nothing that could be looked at
        if rollouts is not None:
            rollouts = (fed(model, rollouts[0], targets=False), rollouts[1])
        self.config, self.run, self.valid, self.rollouts = config, Path(run), valid, rollouts
        self.accelerator = make_accelerator(config.precision, config.device)
        self.device, self.is_main = self.accelerator.device, self.accelerator.is_main_process
        self.rank, self.world = self.accelerator.process_index, self.accelerator.num_processes
        self.loader = make_loader(
            train, config.batch_size, shuffle=True, num_workers=config.num_workers, seed=config.seed, drop_last=True,
            device=self.device, rank=self.rank, world=self.world,
        )
        self.sampler = self.loader.batch_sampler
        self.steps_per_epoch = len(self.loader) // config.gradient_accumulation
        if not self.steps_per_epoch:
            raise TrainingError(
                f"an epoch has {len(self.loader)} batches per process, too few for gradient_accumulation="
                f"{config.gradient_accumulation}"
            )
        self.limit = config.steps or config.num_epochs * self.steps_per_epoch
        if mode_of(model) is None:  # one without weights is only planned with
            model.to(self.device)
        self.model = model
        set_checkpointing(model, config.checkpointing)
        model.objective.steps_per_epoch = self.steps_per_epoch
        if config.strategy == "fsdp" and self.world == 1:
            raise TrainingError("strategy 'fsdp' shards over processes: start several with torchrun, or use 'ddp'")
        if config.strategy == "fsdp" and config.precision == "fp16":
            raise TrainingError("strategy 'fsdp' does not scale losses, which 'fp16' needs: take precision 'bf16'")
        if config.select_by == "inferred" and model.latent_action is None:
            raise TrainingError("select_by='inferred' needs a model with latent actions; use 'prior' or 'loss'")
        self.strategy = STRATEGIES[config.strategy](self.accelerator, model)
        if config.strategy == "fsdp" and (config.optimizer not in ("adam", "adamw") or config.agc is not None):
            raise TrainingError("strategy 'fsdp' shards tensors, and this optimiser asks for the norm of whole ones: "
                                "take train.optimizer 'adam' or 'adamw' without train.agc, or strategy 'ddp'")
        self.optimizer = make_optimizer(
            config.optimizer, [p for p in model.parameters() if p.requires_grad], lr=config.lr, betas=config.betas,
            eps=config.eps, weight_decay=config.weight_decay, agc=config.agc,
            decays=decaying(model, config.decay),
            fused=config.strategy == "ddp" and self.device.type in ("cpu", "cuda"), matrices=hidden_matrices(model),
        )
        forget_restarted(self.optimizer, model)
        self.ema = None if config.ema is None else EMA(
            model, config.ema, every=config.ema_every, after=config.ema_after, warmup=config.ema_warmup)
        self.facts = dict(facts or {})
        self.progress = Progress()
        self.watch = Watch(model.spec.gated_tokens)
        self.show_progress = show_progress and self.is_main
        self.after_step: Callable[[Trainer, ProgressBar], None] | None = None
        self._stop, self._saved = False, -1  # told to stop; step of the newest checkpoint
        self._terms: dict[str, Any] = {}  # the newest value of every term; not every step has all of them
        self._changed: dict[str, Any] = {}  # option -> (when the run began, now)

    # -- the loop

    def fit(self) -> TrainResult:
        """Train until the configured epochs, steps or seconds are over.

        Raises:
            TrainingError: a loss, gradient or weight became NaN or infinite, a file cannot be written, the run folder
                belongs to another model or other data, or another training is at work in it.
        """
        try:
            check_writable(self.run)
            self.run.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise TrainingError(f"run folder {self.run} cannot be written: {reason(error)}. Name another") from error
        lock = locked(self.run, command="worldkit train", instead="--run", patience=LOCK_PATIENCE)
        with lock if self.is_main else nullcontext():
            if self.is_main:
                tidy(self.run)
            self.accelerator.wait_for_everyone()  # nobody reads before the main process has the folder to itself
            self._open_run()
            self._loop()
            for logger in self.loggers:
                logger.close()
            log = self.log.read() if self.is_main else []
        return TrainResult(self.run, self.progress.step, self.progress.seconds, not self._stop, log, self.progress.cpu)

    def _loop(self) -> None:
        engine = self.strategy.wrap()
        if self.config.compile:
            engine = torch.compile(engine)
        optimizer = self.accelerator.prepare(self.optimizer) if self.config.strategy == "ddp" else self.optimizer
        bar = ProgressBar(self.progress.step, self.limit, self.config.seconds, spent=self.progress.seconds,
                          enabled=self.show_progress)
        with graceful_stop(self.stop), flush_denormals(), keep_memory(), bar:
            for note in self.notes:
                bar.say(note)
            if self._changed:
                bar.say(f"changed since the run began: {in_words(self._changed)}")
            ended = self._done()
            if self.progress.owed and not self._stop:
                self.evaluate(bar)
                self._save()
            while not ended:
                self.sampler.set_state(self.progress.epoch, self.progress.batch * self.config.gradient_accumulation)
                for batches in _grouped(self.loader, self.config.gradient_accumulation):
                    terms = self._step(engine, optimizer, batches)
                    bar.update(self.progress, terms)
                    ended = self._done()
                    self._after_step(terms, bar, ended=ended)
                    if self.after_step is not None and self.is_main:
                        self.after_step(self, bar)
                    if ended:
                        break
                if self.progress.batch >= self.steps_per_epoch:
                    self.progress.epoch, self.progress.batch = self.progress.epoch + 1, 0
            if self._saved != self.progress.step:
                self._save()

    def stop(self) -> None:
        """Finish the step at hand, write a checkpoint and leave `fit`."""
        self._stop = True

    def _step(self, engine: torch.nn.Module, optimizer: torch.optim.Optimizer, batches: list[Batch]) -> dict[str, Any]:
        started, computed, config = time.perf_counter(), time.process_time(), self.config
        self.model.train()
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(config, self.progress.step, self.limit, self.steps_per_epoch)
            if config.final_weight_decay is not None and group["weight_decay"]:
                group["weight_decay"] = weight_decay(config, self.progress.step, self.limit)
        optimizer.zero_grad(set_to_none=True)
        losses = []
        for number, batch in enumerate(batches):
            batch = batch.to(self.device, non_blocking=True)
            first = (number * self.world + self.rank) * config.batch_size
            noise = ClipSampler(config.seed, self.progress.step, range(first, first + batch.batch_size), self.device)
            last = number == len(batches) - 1
            with nullcontext() if last else self.strategy.no_sync(engine):
                with self.accelerator.autocast():
                    loss = engine(batch, self.progress.step, sampler=noise)
                if not torch.isfinite(loss.total):
                    bad = [name for name, value in loss.terms.items() if not torch.isfinite(value)]
                    raise self._not_finite("the loss", loss.total.detach(), step=self.progress.step + 1, terms=bad)
                if not loss.total.requires_grad:
                    raise TrainingError("the loss does not depend on anything that learns; is it detached?")
                self.accelerator.backward(loss.total / len(batches))
            losses.append({**({} if loss.partial else {"loss": loss.total.detach()}), **loss.terms})
        terms = self._mean(losses)
        if config.max_grad_norm is not None:
            norm = self.accelerator.clip_grad_norm_(self.model.parameters(), config.max_grad_norm)
            terms["grad_norm"] = whole_tensor(norm)
            if self.accelerator.scaler is None and not torch.isfinite(terms["grad_norm"]):  # a scaler skips such steps
                raise self._not_finite("the gradients' norm", terms["grad_norm"], step=self.progress.step + 1)
        optimizer.step()
        self.model.objective.after_step(self.model, self.progress.step)
        if self.ema is not None:
            self.ema.update(self.model)
        self.progress.step += 1
        self.progress.batch += 1
        self.progress.seconds += time.perf_counter() - started
        self.progress.cpu += time.process_time() - computed
        return terms

    def _mean(self, losses: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        """Terms averaged over micro-batches and processes."""
        names = list(losses[0])
        values = torch.stack([torch.stack([loss[name].float() for name in names]) for loss in losses]).mean(0)
        if self.world > 1:
            values = self.accelerator.reduce(values, "mean")
        return dict(zip(names, values, strict=True))

    def _done(self) -> bool:
        """Whether to stop now; all processes agree."""
        limits = ((self.config.seconds, self.progress.seconds), (self.config.cpu_seconds, self.progress.cpu))
        over = any(limit is not None and spent >= limit for limit, spent in limits)
        self._stop, over = in_any(self.accelerator, self._stop, over)
        self._finished = over or self.progress.step >= self.limit
        return self._stop or self._finished

    def _after_step(self, terms: dict[str, Any], bar: ProgressBar, *, ended: bool) -> None:
        step, config = self.progress.step, self.config
        every = config.eval_every or self.steps_per_epoch
        self.progress.owed = step % every == 0 or self._finished
        looking = self.progress.owed or ended
        if self.is_main and self._saved == step - 1:  # whose weights have taken a step now, so that older ones may go
            prune(self.run, self._saved, keep=config.keep)
        self._terms |= terms
        if step % config.log_every == 0 or step == 1 or looking:
            values = {name: float(value) for name, value in self._terms.items()}
            self._write(values | {"lr": self.optimizer.param_groups[0]["lr"]})
            self._warn(self.watch.look(step, values), bar)
        evaluating = self.progress.owed and not self._stop
        if evaluating:
            self.evaluate(bar)
        if looking or (config.save_every and step % config.save_every == 0):
            self._save(proven=evaluating)

    def _write(self, values: dict[str, Any]) -> None:
        if self.is_main:
            head = {"step": self.progress.step, "epoch": self.progress.epoch,
                    "seconds": round(self.progress.seconds, 3), "cpu": round(self.progress.cpu, 3)}
            with self._writing("log.jsonl"):
                self.log.write(head | values)
            numbers = {name: value for name, value in values.items() if isinstance(value, float)}
            for logger in self.loggers:
                logger.write(self.progress.step, numbers)

    def _writing(self, name: str) -> AbstractContextManager[None]:
        return writing(self.run / name, self.run, self.progress.step)

    def _warn(self, warnings: list[str], bar: ProgressBar | None) -> None:
        for text in warnings:
            newest = latest_checkpoint(self.run)
            text = f"step {self.progress.step}: {text}. Last checkpoint: {newest or 'none yet'}"
            self._write({"warning": text})
            if bar is not None:
                bar.say(text)

    def evaluate(self, bar: ProgressBar | None = None) -> dict[str, float]:
        """Validation loss, predictions and pictures at the present step; random state is left untouched.

        Only the main process computes (and gets an answer); weights are the moving average, if there is one.
        """
        entry: dict[str, float] = {}
        with nullcontext() if bar is None else bar.paused("evaluating"), self.looking() as model:
            if self.is_main:
                entry = self._evaluate(model, bar)
            self.accelerator.wait_for_everyone()
        self.progress.owed = False
        return entry

    @contextmanager
    def looking(self) -> Iterator[ComposedWorldModel]:
        """The model as evaluations see it: the moving average of the weights, if there is one, and nothing learns.

        All processes must enter. Random state is left untouched.
        """
        averaged = nullcontext() if self.ema is None else self.ema.weights_in(self.model)
        cuda = list(range(torch.cuda.device_count()))
        with averaged, self.strategy.whole() as model, torch.random.fork_rng(devices=cuda), torch.no_grad():
            was_training = model.training
            yield model.eval()
            model.train(was_training)

    def _evaluate(self, model: ComposedWorldModel, bar: ProgressBar | None) -> dict[str, float]:
        step, config = self.progress.step, self.config
        torch.manual_seed(config.seed)
        entry: dict[str, float] = {"valid_loss": validation_loss(
            model, self.valid, max_clips=config.eval_clips, batch_size=config.batch_size, step=step,
            device=self.device)}
        if not math.isfinite(entry["valid_loss"]):
            raise self._not_finite("the validation loss", entry["valid_loss"], step=step)
        with self._writing("figures"):
            if "prior" in model.objective.requires:
                frames, picture, name = *samples(model, seed=config.seed), "samples"
                save_animation(frames, self.run / "figures" / f"step-{step:08d}-{name}.gif")
            else:
                clip, name = collate([self.valid[len(self.valid) // 2]]).to(self.device), "panel"
                picture = panel(model, clip) if clip.video.numel() and model.decoder is not None else None
            if picture is not None:
                save_png(picture, self.run / "figures" / f"step-{step:08d}-{name}.png")
        self._warn(self.watch.look_at_masks(self._masks(model)), bar)
        if self.rollouts is not None:
            entry |= self._predictions(model)
        self._write(entry)
        chosen = {"prior": "psnr_prediction", "inferred": "psnr_inferred", "loss": ""}[config.select_by]
        worse = entry.get(chosen.replace("psnr", VECTOR_ERROR), entry["valid_loss"])  # where there are no pictures
        score = entry.get(chosen, -worse)
        if score > self.progress.best:
            self.progress.best = score
            with self._writing("best"):
                write_folder(self.run / "best", lambda folder: write_model(model, folder, facts=self._card()))
        return entry

    def _masks(self, model: ComposedWorldModel) -> torch.Tensor | None:
        """Masks in some validation clips, of an encoder whose tokens all ought to draw something."""
        if not model.encoder.every_token_draws:
            return None
        batch = collate([self.valid[i] for i in self.valid.spread(8)]).to(self.device)
        return model.decode(model.encode(batch), masks=True).masks

    @cached_property
    def _mean_image(self) -> torch.Tensor:
        return mean_image(self.loader.dataset)

    def _predictions(self, model: ComposedWorldModel) -> dict[str, float]:
        dataset, context = self.rollouts  # type: ignore[misc]
        drivers = ("prior", "inferred") if self.config.select_by == "inferred" else ("prior",)
        reports = evaluate(
            model, dataset, context_frames=context, driven_by=drivers, training_mean=self._mean_image,
            max_clips=self.config.eval_clips, batch_size=self.config.batch_size, device=self.device, split="val",
        )
        report = reports["prior"]
        batch = collate([dataset[len(dataset) // 2]]).to(self.device)
        if batch.video.numel():
            frames, still = film(model, batch, context_frames=context)
            with self._writing("figures"):
                picture = self.run / "figures" / f"step-{self.progress.step:08d}-rollout.gif"
                save_animation(frames, picture)
                save_png(still, picture.with_suffix(".png"))
        names = {"model": "prediction", "copy last frame": "copy_last", "mean training frame": "mean_frame"}
        scores, inferred = {}, reports.get("inferred")
        for metric in ("psnr", VECTOR_ERROR):
            scores |= {f"{metric}_{short}": report.summary(name, metric).mean for name, short in names.items()
                       if metric in report.scores.get(name, {})}
            if inferred is not None and metric in inferred.scores["model"]:
                scores[f"{metric}_inferred"] = inferred.summary("model", metric).mean
        return scores

    # -- the run folder

    def _open_run(self) -> None:
        newest, record = where_to_begin(self.run, self.describe())
        if newest is None:
            torch.manual_seed(self.config.seed + 1_000_003 * self.rank)  # of dropout; noise has its own generators
        else:
            self._resume(newest)
            self._changed = record["resumed"][-1]["changed"]
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            self.strategy.prepare(lambda model: model.objective.study(model, self._all_clips()))
        self.accelerator.wait_for_everyone()  # nobody writes before everybody has read
        self.loggers: list = []
        if not self.is_main:
            return
        drop_later(self.run, self.progress.step)
        self.log = RunLog(self.run / "log.jsonl", step=self.progress.step)
        write_record(self.run, record)
        if "preset" in self.facts:
            Settings.of_run(self.facts, record["model"], self.config.to_dict()).write(self.run / SETTINGS_FILE)
        self.loggers = open_loggers(self.config.loggers, self.run, record, self.progress.step)

    def _all_clips(self) -> Iterator[Batch]:
        """Every training clip once; all processes get all of them."""
        clips = self.loader.dataset
        loader = make_loader(clips, self.config.batch_size, shuffle=False, num_workers=self.config.num_workers,
                             device=self.device)
        with Meter("looking at all training clips", total=len(loader), noun="batch", enabled=self.show_progress,
                   keep=False) as meter:
            for number, batch in enumerate(loader, 1):
                yield batch.to(self.device, non_blocking=True)
                meter.update(number)

    def _resume(self, folder: Path) -> None:
        with self.strategy.whole() as model:
            state = load_checkpoint(folder, model, rank=self.rank)
            self.strategy.load(model, self.optimizer, state["optimizer"])
        if self.ema is not None:
            if state.get("ema") is None:
                raise TrainingError(f"checkpoint {folder} has no moving average; it was made without train.ema")
            self.ema.load_state_dict(state["ema"])
        if self.accelerator.scaler is not None and "scaler" in state:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        if "watch" in state:
            self.watch.load_state_dict(state["watch"])
        self._terms = dict(state.get("terms", {}))
        made_with = state["progress"].pop("clips_per_step", self._clips_per_step)
        if made_with != self._clips_per_step:
            raise TrainingError(
                f"checkpoint {folder} was made with {made_with} clips per step, this run has {self._clips_per_step} "
                "(batch_size x gradient_accumulation x processes): make them equal, or give a new folder"
            )
        self.progress = Progress(**state["progress"])
        self._saved = self.progress.step

    @property
    def _clips_per_step(self) -> int:
        return self.config.batch_size * self.config.gradient_accumulation * self.world

    def describe(self) -> dict[str, Any]:
        """The record of a run that begins now, as JSON has it."""
        record = {
            "model": self.model.config.to_dict(), "train": self.config.to_dict(), "facts": self.facts,
            "notes": self.notes, "data fingerprint": fingerprint(self.loader.dataset),
            **surroundings(), "device": str(self.device), "processes": self.world,
        }
        return json.loads(json.dumps(record, default=str))

    def _card(self) -> dict[str, Any]:
        return self.facts | {
            "step": self.progress.step, "training seconds": round(self.progress.seconds, 1),
            "training cpu seconds": round(self.progress.cpu, 1), "seed": self.config.seed,
            "batch size": self._clips_per_step, "learning rate": self.config.lr, "device": str(self.device),
        }

    def _save(self, *, proven: bool = True) -> None:
        """Write a checkpoint; until its weights are ``proven`` to give finite losses, the one before it stays."""
        if any(in_any(self.accelerator, not all_finite(self.model.parameters()))):
            raise self._not_finite("a weight", math.nan, step=self.progress.step)
        state = {
            "optimizer": self.strategy.optimizer_state(self.optimizer),
            "progress": vars(self.progress) | {"clips_per_step": self._clips_per_step},
            "rng": [random_state()],
            "watch": self.watch.state_dict(),
            "terms": {name: float(value) for name, value in self._terms.items()},
        }
        if self.ema is not None:
            state["ema"] = self.ema.state_dict()
        if self.accelerator.scaler is not None:
            state["scaler"] = self.accelerator.scaler.state_dict()
        if self.world > 1:
            from accelerate.utils import gather_object

            state["rng"] = gather_object(state["rng"])
        with self.strategy.whole() as model:
            if self.is_main:
                save_checkpoint(self.run, model, state, keep=self.config.keep if proven else max(2, self.config.keep),
                                facts=self._card())
            self.accelerator.wait_for_everyone()
        self._saved = self.progress.step

    def _not_finite(self, what: str, value: Any, *, step: int, terms: Sequence[str] = ()) -> TrainingError:
        named = f"terms that are not finite: {', '.join(terms)}; " if terms else ""
        return TrainingError(
            f"{what} became {float(value)} at step {step}; {named}{way_back(self.run, self.progress.step)}. A lower lr "
            "is the usual cure: -o train.lr=..."
        )


def _grouped(loader: Iterable[Batch], size: int) -> Iterator[list[Batch]]:
    """Batches in groups of ``size``; a rest is left out."""
    batches = iter(loader)
    return (list(group) for group in zip(*[batches] * size, strict=False))
