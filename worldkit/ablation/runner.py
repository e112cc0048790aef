"""`run`: expand the grid, train and score the cells that are not finished yet, write the table."""

from __future__ import annotations

import json
import shlex
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.markup import escape

from ..config import WorldModelConfig
from ..data import open_dataset
from ..data.decided import FOR_A_MODEL, refuse_decided
from ..errors import ConfigError
from ..factory import get_model_spec
from ..presets import resolve_preset
from ..progress import Meter, duration
from ..training.lock import locked
from ..training.recipes import train_config
from .cell import CELL_FILE, RESULT_FILE, failure, read_json, run_cell, write_json
from .grid import Variant, expand, flatten
from .page import draw_page
from .process import run_isolated
from .study import Budget, Study, data_of
from .table import Ablation, make_rows

CLIPS = 100


def run(
    preset: str,
    data: str | None = None,
    *,
    budget: float | str,
    swaps: Mapping[str, Sequence[Any]] | None = None,
    settings: Mapping[str, Sequence[Any]] | None = None,
    seeds: int = 2,
    overrides: Mapping[str, Any] | None = None,
    context_frames: int | None = None,
    horizon: int | None = None,
    split: str = "test",
    clips: int = CLIPS,
    out: str | Path | None = None,
    retry: bool = False,
    isolate: bool = True,
    show_progress: bool = True,
) -> Ablation:
    """Train every combination of swapped parts and changed options under one budget and compare the predictions.

    The same call (or ``worldkit ablate``) goes on where an interrupted one stopped; more values or seeds only add
    cells.

    Args:
        preset: The baseline.
        data: Data source; default: what the preset's ``eval`` table names.
        budget: Training of each cell: seconds, or ``"10min"``, ``"500steps"``, ``"8000samples"``.
        swaps: Part -> names: ``{"dynamics": ["pint", "gru"], "latent_action": ["gaussian", None]}``. None removes
            the part; ``{"name": "pint", "num_layers": 1}`` gives it options.
        settings: Option -> values: ``{"dynamics.num_layers": [2, 4], "train.lr": [1e-3, 1e-4]}``.
        seeds: How often each combination is trained, with seeds 0, 1, ...
        overrides: Options of all cells: ``{"dynamics.dim": 64, "train.batch_size": 8, "data.num_episodes": 50}``.
        context_frames, horizon: Frames given and predicted; default: the preset's.
        split: Split that is scored.
        clips: Clips that are scored at most.
        out: Folder; default ``runs/ablations/PRESET``.
        retry: Try failed cells again.
        isolate: Train each cell in a process of its own. False is for components that a script registers by hand, and
            for debugging: no peak memory then, and a crash ends everything.
        show_progress: Show progress.
    Returns:
        The table, also written to ``out`` as ``table.md``, ``table.json`` and ``report.html``.
    Raises:
        ConfigError: an unknown part or option, a bad budget, or a folder with another budget, data or protocol.
        UnknownComponentError: an unknown preset or component.
        DataError: data that cannot be opened.
    Example::

        table = worldkit.ablation.run("lpwm-balls-mini", swaps={"latent_action": ["gaussian", None]}, budget=120)
        table.print()
    """
    if not swaps and not settings:
        raise ConfigError("nothing to compare: give --swap PART=NAME,NAME (swaps=) or --set OPTION=VALUE,VALUE "
                          "(settings=)")
    counts = {"seeds": seeds, "clips": clips, "context": context_frames, "horizon": horizon}
    for name, count in counts.items():
        if count is not None and (not isinstance(count, int) or count < 1):
            raise ConfigError(f"{name} must be a whole number of at least 1, got {count!r}")
    study = _study(resolve_preset(preset), data, Budget.parse(budget), flatten(overrides or {}), context_frames,
                   horizon, split, clips)
    variants = expand(study.preset, swaps or {}, settings or {}, study.common)
    _check_data(study, variants[0].config)
    folder = Path(out or Path("runs") / "ablations" / study.preset).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    work = _Work(study, variants, seeds, folder, retry=retry, isolate=isolate, show=show_progress)
    command = command_line(study, swaps or {}, settings or {}, seeds, out)
    with locked(folder, command="worldkit ablate", instead="--out") as lock:
        study.remember(folder)
        try:
            work.do(lock)
        finally:
            rows = make_rows(variants, work.results, work.folders, seeds)
            result = Ablation(study, rows, folder, seeds, command)
            result.write()
            draw_page(result).write(folder / "report.html")
    return result


def _study(preset: str, data: str | None, budget: Budget, options: Mapping[str, Any], context_frames: int | None,
           horizon: int | None, split: str, clips: int) -> Study:
    evaluation = get_model_spec(preset).eval
    common = {k: v for k, v in options.items() if not k.startswith("data.")}
    data_options = {k.removeprefix("data."): v for k, v in options.items() if k.startswith("data.")}
    refuse_decided(data_options, FOR_A_MODEL, typed="-o data.{}")
    window = common.get("timestep_horizon") or get_model_spec(preset).config.get("timestep_horizon", 20)
    return Study(
        preset=preset, data=data_of(preset, data), common=common, budget=budget, split=split, clips=clips,
        data_options=data_options,
        context_frames=context_frames or int(evaluation.get("context_frames", 1)),
        horizon=horizon or int(evaluation.get("horizon", window)),
    )


def _check_data(study: Study, config: WorldModelConfig) -> None:
    """Open (and make, if it is generated) the data before anything trains."""
    for split, frames in (("train", config.clip_length), ("val", config.clip_length),
                          (study.split, study.context_frames + study.horizon)):
        open_dataset(study.data, split=split, num_frames=frames, height=config.obs.height, width=config.obs.width,
                     mode="tile", **study.data_options)


def command_line(study: Study, swaps: Mapping[str, Sequence[Any]], settings: Mapping[str, Sequence[Any]], seeds: int,
                 out: str | Path | None) -> str:
    """The command that makes the same table."""
    def text(value: Any) -> str:
        return "none" if value is None else value if isinstance(value, str) else json.dumps(value)

    def joined(axis: str, values: Sequence[Any]) -> str:
        return f"{axis}={','.join(map(text, values))}"

    plain = get_model_spec(study.preset).eval
    words = ["worldkit", "ablate", study.preset, "--data", study.data]
    words += [w for axis, values in swaps.items() for w in ("--swap", joined(axis, values))]
    words += [w for axis, values in settings.items() for w in ("--set", joined(axis, values))]
    unit = "" if study.budget.unit == "seconds" else study.budget.unit
    words += ["--seeds", str(seeds), "--budget", f"{study.budget.amount:.15g}{unit}"]
    if study.context_frames != plain.get("context_frames"):
        words += ["--context", str(study.context_frames)]
    if study.horizon != plain.get("horizon"):
        words += ["--horizon", str(study.horizon)]
    words += ["--split", study.split] if study.split != "test" else []
    words += ["--clips", str(study.clips)] if study.clips != CLIPS else []
    for path, value in [*study.common.items(), *((f"data.{k}", v) for k, v in study.data_options.items())]:
        words += ["-o", f"{path}={text(value)}"]
    return shlex.join([*words, "--out", str(out)] if out else words)


class _Work:
    """The cells of one call: which are finished, and the loop over the others, all combinations of a seed first."""

    def __init__(self, study: Study, variants: Sequence[Variant], seeds: int, folder: Path, *, retry: bool,
                 isolate: bool, show: bool):
        self.study, self.variants, self.isolate, self.show = study, variants, isolate, show
        self.folder, self.retry = folder, retry
        self.cells = [(index, seed) for seed in range(seeds) for index in range(len(variants))]
        self.folders = {(i, seed): self._cell_folder(variants[i], seed) for i, seed in self.cells}
        self.results: dict[tuple[int, int], dict[str, Any]] = {}
        self.durations: list[float] = []

    def _cell_folder(self, variant: Variant, seed: int) -> Path:
        """The folder of a cell; an earlier command may have put other words before the same key."""
        known = list((self.folder / "cells").glob(f"*-{variant.key(self.study.preset)}"))
        parent = known[0] if known else self.folder / "cells" / variant.folder_name(self.study.preset)
        return parent / f"seed-{seed}"

    def do(self, lock: int | None) -> None:
        """Run what is not finished."""
        self._look_up()
        todo = [cell for cell in self.cells if cell not in self.results]
        console = Console(quiet=not self.show)
        console.print(f"{len(self.variants)} combinations x {self.cells[-1][1] + 1} seed(s): {len(self.cells)} cells, "
                      f"{len(self.cells) - len(todo)} done already; {self.study.budget} each; {self.folder}")
        if todo:
            console.print(f"in all {self.study.budget.times(len(todo))} of training to go, scoring comes on top")
        for variant in self.variants:
            if variant.error:
                console.print(f"  cannot be built: {variant.label}: {variant.error}", markup=False)
        for number, cell in enumerate(todo):
            try:
                self._do_cell(cell, number, len(todo), console, lock)
            except BaseException:
                console.print(f"stopped: {len(self.results)} of {len(self.cells)} cells are done; the same "
                              "command goes on")
                raise

    def _look_up(self) -> None:
        for cell in self.cells:
            variant = self.variants[cell[0]]
            stored = read_json(self.folders[cell] / RESULT_FILE)
            if variant.error:
                self.results[cell] = failure(variant.error, "building")
            elif stored is not None and stored["status"] == "failed" and self.retry:
                shutil.rmtree(self.folders[cell])
            elif stored is not None:
                self.results[cell] = stored
            self._inherit(cell)

    def _do_cell(self, cell: tuple[int, int], number: int, count: int, console: Console, lock: int | None) -> None:
        index, seed = cell
        name = f"[{number + 1}/{count}] {self.variants[index].label}, seed {seed}"
        if self._inherit(cell):
            return
        folder, started = self.folders[cell], time.monotonic()
        self._prepare(cell)
        budget, left = self.study.budget, self._left(count - number)
        unit = {"seconds": " s", "steps": ""}.get(budget.unit, f" {budget.unit}")
        meter = Meter(name, total=budget.amount, unit=unit, enabled=self.show, console=console, keep=False)
        meter.update(0, step="0" if unit else "", terms=[escape(left)] if left else [])
        with meter:
            if self.isolate:
                self.results[cell] = run_isolated(folder, lock=lock, watch=lambda: self._show(meter, folder))
            elif (result := run_cell(folder, isolated=False)) is not None:
                self.results[cell] = result
            else:
                raise KeyboardInterrupt
        self.durations.append(time.monotonic() - started)
        console.print(f"{name}: {_verdict(self.results[cell])} ({self.durations[-1]:.0f} s)", markup=False,
                      highlight=False, soft_wrap=True)

    def _inherit(self, cell: tuple[int, int]) -> bool:
        """What cannot be built with the first seed cannot be built with another."""
        first = self.results.get((cell[0], 0), {})
        if first.get("stage") == "building":
            self.results[cell] = first
        return cell in self.results

    def _prepare(self, cell: tuple[int, int]) -> None:
        variant, study = self.variants[cell[0]], self.study
        config = train_config(study.preset, variant.train)
        samples = config.batch_size * config.gradient_accumulation
        self.folders[cell].mkdir(parents=True, exist_ok=True)
        write_json(self.folders[cell] / CELL_FILE, {
            "preset": study.preset, "data": study.data, "data_options": dict(study.data_options),
            "overrides": variant.overrides, "label": variant.label,
            "train": {**variant.train, **study.budget.train_options(samples), "seed": cell[1]},
            "protocol": {"context_frames": study.context_frames, "horizon": study.horizon, "split": study.split,
                         "clips": study.clips},
            "threads": torch.get_num_threads(),
        })

    def _left(self, remaining: int) -> str:
        """Estimated time of the cells that are not done."""
        if self.durations:
            seconds = sum(self.durations) / len(self.durations) * remaining
            return f"all cells: about {duration(seconds)} left"
        if self.study.budget.unit == "seconds":
            return f"all cells: at least {duration(self.study.budget.amount * remaining)} left"
        return ""

    def _show(self, meter: Meter, folder: Path) -> None:
        try:
            last = json.loads((folder / "run" / "log.jsonl").read_text(encoding="utf-8").splitlines()[-1])
        except (OSError, IndexError, json.JSONDecodeError):
            return  # nothing written yet
        spent = last["seconds"] if self.study.budget.unit == "seconds" else last["step"]
        if self.study.budget.unit == "samples":
            cell = read_json(folder / CELL_FILE)
            spent = last["step"] / cell["train"]["steps"] * self.study.budget.amount
        meter.update(spent, step=str(last["step"]) if meter.unit else "", terms=meter.terms)


def _verdict(result: Mapping[str, Any]) -> str:
    if result["status"] == "failed":
        return f"failed: {result['error']}"
    return f"PSNR {result['psnr']:.2f}, SSIM {result['ssim']:.3f}, {result['steps']} steps"
