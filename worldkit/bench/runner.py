"""`run`: the cells of a suite that are not finished yet, in processes of their own, and the tables of all of them.

The loop, the processes, budgets and the folder that remembers what it is for are those of ablations.
"""

from __future__ import annotations

import hashlib
import json
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..ablation.study import Budget, remember
from ..ablation.work import Cell, Work
from ..config import WorldModelConfig
from ..errors import ConfigError, WorldkitError
from ..factory import create_config, get_model_spec
from ..metrics import Protocol
from ..presets import resolve_preset
from ..training.lock import locked
from ..training.protocols import find_protocol
from ..training.recipes import train_config
from .cell import do
from .formats import write_all
from .results import Bench, Record
from .suite import Entry, Stage, Suite, Task, load_suite


def run(
    suite: str | Path | Mapping[str, Any] | Suite,
    *,
    models: Sequence[str] | None = None,
    tasks: Sequence[str] | None = None,
    seeds: int | None = None,
    budget: float | str | None = None,
    data: Mapping[str, str] | None = None,
    out: str | Path | None = None,
    retry: bool = False,
    isolate: bool = True,
    show_progress: bool = True,
) -> Bench:
    """Train and score the models of a suite on its tasks, and write the tables.

    The same call (or ``worldkit bench``) goes on where an interrupted one stopped; more models, tasks or seeds only add
    cells.

    Args:
        suite: Name of a suite, a TOML file, or a dict of the same shape.
        models, tasks: Names of some of them; None: all.
        seeds, budget: Instead of the suite's.
        data: Task -> where its data lie.
        out: Folder; default ``runs/bench/SUITE``.
        retry: Try failed cells again.
        isolate: Every cell in a process of its own; False is for debugging and for parts registered by hand.
        show_progress: Show progress.
    Returns:
        The results, also written to ``out`` as JSON, CSV, Markdown, LaTeX and HTML.
    Raises:
        ConfigError: a suite that contradicts itself, data that nobody named, or a folder of another protocol or budget.
        UnknownComponentError: an unknown suite.
    Example::

        worldkit.bench.run("small-worlds", models=["ddlp", "lpwm"], seeds=2, budget="30cpu").print()
    """
    suite = _asked(load_suite(suite), models, tasks, seeds, budget, data or {})
    folder = Path(out or Path("runs") / "bench" / suite.name).resolve()
    cells, records = _cells(suite, folder)
    folder.mkdir(parents=True, exist_ok=True)
    command = _command(suite, models, tasks, seeds, budget, data or {}, out)
    work = Work(cells, verdict=_verdict, does=do, module="worldkit.bench" if isolate else None, retry=retry,
                show=show_progress)
    with locked(folder, command="worldkit bench", instead="--out") as lock:
        remember(folder, _common(suite), "a benchmark")
        try:
            todo = work.look_up()
            work.console.print(f"{suite.name}: {len(cells)} cells, {len(cells) - len(todo)} done already; {folder}")
            work.do(todo, lock)
        finally:
            found = [replace(record, result=work.results.get(number)) for number, record in enumerate(records)]
            result = Bench(suite, found, folder, command)
            write_all(result)
    return result


def _asked(suite: Suite, models: Sequence[str] | None, tasks: Sequence[str] | None, seeds: int | None,
           budget: float | str | None, data: Mapping[str, str]) -> Suite:
    """The suite as this call wants it."""
    suite = suite.only(models=None if models is None else list(models), tasks=None if tasks is None else list(tasks))
    if unknown := [name for name in data if name not in {task.name for task in suite.tasks}]:
        raise ConfigError(f"--data {unknown[0]}=...: suite '{suite.name}' has no such task; it has: "
                          f"{', '.join(task.name for task in suite.tasks)}")
    changes: dict[str, Any] = {"tasks": tuple(
        task.model_copy(update={"data": data[task.name]}) if task.name in data else task for task in suite.tasks)}
    if seeds is not None:
        if not isinstance(seeds, int) or seeds < 1:
            raise ConfigError(f"seeds must be a whole number of at least 1, got {seeds!r}")
        changes["seeds"] = seeds
    if budget is not None:
        changes["budget"] = str(budget)
    suite = suite.model_copy(update=changes)
    if missing := [task for task in suite.tasks if task.data == ""]:
        about = f" ({missing[0].note})" if missing[0].note else ""
        raise ConfigError(f"say where the data of task '{missing[0].name}' lie{about}: --data {missing[0].name}=PATH, "
                          "or leave it out with --tasks")
    amount = Budget.parse(suite.budget)
    if suite.kind == "control" and amount.unit not in ("steps", "seconds"):
        raise ConfigError(f"agents are trained for steps or seconds, got --budget {suite.budget}")
    return suite


def _common(suite: Suite) -> dict[str, Any]:
    """What all cells of a folder share: numbers of other protocols or budgets do not stand in one table."""
    both = {"suite": suite.name, "kind": suite.kind, "budget": str(Budget.parse(suite.budget))}
    names = ("context_frames", "horizon", "split", "clips") if suite.kind == "prediction" else (
        "episodes", "steps", "deterministic")
    return {**both, **{name: getattr(suite, name) for name in names}}


def _cells(suite: Suite, folder: Path) -> tuple[list[Cell], list[Record]]:
    """All models on all tasks with one seed, then with the next."""
    cells, records, sizes = [], [], {}
    for seed in range(suite.seeds):
        for task in suite.tasks:
            for entry in suite.models:
                if entry.tasks is not None and task.name not in entry.tasks:
                    continue
                if entry.weights == "shipped" and seed:
                    continue  # the same weights and clips again would be no other run
                cell = _cell(suite, entry, task, seed, folder, sizes)
                cells.append(cell)
                records.append(Record(entry.name, task.name, seed, cell.folder))
    if not cells:
        raise ConfigError(f"suite '{suite.name}' has nothing to do: no model is measured on these tasks")
    return cells, records


def _cell(suite: Suite, entry: Entry, task: Task, seed: int, folder: Path, sizes: dict[str, str]) -> Cell:
    budget, error = Budget.parse(suite.budget), ""
    try:
        make = _prediction if suite.kind == "prediction" else _control
        content = make(suite, entry, task, seed, budget)
        _refuse_other_size(task, content, sizes)
    except WorldkitError as found:  # a model that does not exist is a failed cell, not the end of all others
        content, error = {}, f"{type(found).__name__}: {found}"
    known = {**content, "seed": None} if content else {"error": error}
    key = hashlib.sha256(json.dumps(known, sort_keys=True, default=str).encode()).hexdigest()[:10]
    names = [re.sub(r"[^A-Za-z0-9_.-]+", "-", name) for name in (entry.name, task.name)]
    trains = content.get("kind") in ("train", "agent")
    place = folder / "cells" / names[0] / f"{names[1]}-seed-{seed}-{key}"
    return Cell(f"{entry.name} on {task.name}, seed {seed}", place, content, (entry.name, task.name),
                budget if trains and not entry.stages else None, error)


def _refuse_other_size(task: Task, content: Mapping[str, Any], sizes: dict[str, str]) -> None:
    """Scores of pictures of two sizes do not stand in one table: a task's is its protocol's, or the first model's."""
    if "protocol" not in content:
        return
    obs = (content["stages"][-1] if content["kind"] == "train" else content)["model"]["obs"]
    own = f"{obs['height']}x{obs['width']}"
    size = content["protocol"]["resolution"] or sizes.setdefault(task.name, own)
    if own != size:
        raise ConfigError(f"its pictures are {own}, those of task '{task.name}' {size}: such scores cannot be "
                          "compared. Another preset, or obs in the model's overrides, has that size")


def _prediction(suite: Suite, entry: Entry, task: Task, seed: int, budget: Budget) -> dict[str, Any]:
    preset = resolve_preset(entry.presets.get(task.name) or str(entry.preset))
    protocol = _protocol(suite, task)
    common = {"data": task.data, "data_options": task.options, "protocol": protocol.to_dict(), "seed": seed}
    if entry.weights == "shipped":
        if get_model_spec(preset).weights is None:
            raise ConfigError(f"preset '{preset}' comes without weights: weights = \"train\" trains it")
        return {"kind": "shipped", "preset": preset, "model": create_config(preset).to_dict(), **common}
    stages = [*entry.stages, Stage.model_construct(
        preset=preset, presets={}, share=1 - sum(s.share for s in entry.stages), overrides=entry.overrides)]
    return {"kind": "train", "stages": [_stage(stage, task, entry.on.get(task.name, {}), seed, budget)
                                        for stage in stages], **common}


def _stage(stage: Stage, task: Task, here: Mapping[str, Any], seed: int, budget: Budget) -> dict[str, Any]:
    """One training; what a model is on this task holds for all of its stages."""
    options = joined(stage.overrides, here)
    own = {key: value for key, value in options.items() if key != "train"}
    preset = resolve_preset(stage.presets.get(task.name) or stage.preset)
    config = train_config(preset, options.get("train", {}))
    part = replace(budget, amount=budget.amount * stage.share)
    if part.unit in ("steps", "samples"):
        part = replace(part, amount=max(1, round(part.amount)))
    spent = part.train_options(config.batch_size * config.gradient_accumulation)
    model = create_config(preset, **own)
    if not isinstance(model, WorldModelConfig):
        raise ConfigError(f"'{preset}' is a model family with a training of its own")
    return {"preset": preset, "overrides": own, "model": model.to_dict(),
            "train": {**options.get("train", {}), **spent, "seed": seed}}


def joined(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """Overrides on top of others; unlike `worldkit.config.merge` it keeps None, which removes a part later.

    Example:
        >>> joined({"a": {"b": 1}}, {"a": {"c": None}})
        {'a': {'b': 1, 'c': None}}
    """
    both = {key: joined(first[key], value) if isinstance(value, Mapping) and isinstance(first.get(key), Mapping)
            else value for key, value in second.items()}
    return {**first, **both}


def _protocol(suite: Suite, task: Task) -> Protocol:
    """What is predicted and scored; metrics whose networks do not come along are left out."""
    if task.protocol is None:
        return Protocol(f"suite {suite.name}", "frames of the suite", "worldkit", suite.context_frames, suite.horizon,
                        suite.split, max_clips=suite.clips)
    base = find_protocol(task.protocol)
    metrics = tuple(metric for metric in base.metrics if metric not in ("lpips", "fvd", "fid"))
    driven_by = ("prior",) if "prior" in base.driven_by else base.driven_by[:1]
    return base.changed(metrics=metrics or ("psnr", "ssim"), driven_by=driven_by)[0]


def _control(suite: Suite, entry: Entry, task: Task, seed: int, budget: Budget) -> dict[str, Any]:
    common = {"env": task.env, "env_options": task.options, "size": task.size, "seed": seed, "acting": {
        "budget": suite.steps, "episodes": suite.episodes, "seeds": [seed], "deterministic": suite.deterministic}}
    if entry.policy is not None:
        return {"kind": "policy", "policy": entry.policy, **common}
    overrides = joined(entry.overrides, entry.on.get(task.name, {}))
    preset = resolve_preset(entry.presets.get(task.name) or str(entry.preset))
    if not get_model_spec(preset).agent:
        raise ConfigError(f"preset '{preset}' does not act; see worldkit list for those with an agent")
    spent = {"steps": int(budget.amount)} if budget.unit == "steps" else {"seconds": budget.amount, "steps": 10**9}
    overrides = joined(overrides, {"online": spent, "train": {"seed": seed}, "env": task.options})
    return {"kind": "agent", "preset": preset, "overrides": overrides, **common}


def _verdict(result: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value:.3g}" for name, value in result["scores"].items())


def _command(suite: Suite, models: Sequence[str] | None, tasks: Sequence[str] | None, seeds: int | None,
             budget: float | str | None, data: Mapping[str, str], out: str | Path | None) -> str:
    """The command that makes the same tables."""
    words = ["worldkit", "bench", suite.name]
    for option, value in (("--models", None if models is None else ",".join(models)),
                          ("--tasks", None if tasks is None else ",".join(tasks)), ("--seeds", seeds),
                          ("--budget", budget), ("--out", out)):
        words += [option, str(value)] if value is not None else []
    words += [word for task, place in data.items() for word in ("--data", f"{task}={place}")]
    return shlex.join(words)
