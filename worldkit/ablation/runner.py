"""`run`: expand the grid, train and score the cells that are not finished yet, write the table."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..config import WorldModelConfig
from ..data import open_dataset
from ..data.decided import FOR_A_MODEL, refuse_decided
from ..errors import ConfigError
from ..factory import get_model_spec
from ..presets import resolve_preset
from ..training.lock import locked
from ..training.recipes import train_config
from .grid import Variant, expand, flatten
from .page import draw_page
from .study import Budget, Study, data_of
from .table import Ablation, make_rows
from .work import Cell, Work

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
    cells = _cells(study, variants, seeds, folder)
    work = Work(cells, verdict=_verdict, module="worldkit.ablation" if isolate else None, retry=retry,
                show=show_progress)
    command = command_line(study, swaps or {}, settings or {}, seeds, out)
    with locked(folder, command="worldkit ablate", instead="--out") as lock:
        study.remember(folder)
        try:
            todo = work.look_up()
            _announce(work, study, variants, seeds, len(todo), folder)
            work.do(todo, lock)
        finally:
            places = [(index, seed) for seed in range(seeds) for index in range(len(variants))]
            results = {places[number]: result for number, result in work.results.items()}
            folders = {place: cell.folder for place, cell in zip(places, cells, strict=True)}
            rows = make_rows(variants, results, folders, seeds)
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
    unit = {"seconds": "", "CPU seconds": "cpu"}.get(study.budget.unit, study.budget.unit)
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


def _cells(study: Study, variants: Sequence[Variant], seeds: int, folder: Path) -> list[Cell]:
    """The cells of one call, all combinations of a seed first."""
    return [_cell(study, variant, seed, folder) for seed in range(seeds) for variant in variants]


def _cell(study: Study, variant: Variant, seed: int, folder: Path) -> Cell:
    key = variant.key(study.preset)
    known = list((folder / "cells").glob(f"*-{key}"))  # an earlier command may have put other words before the same key
    parent = known[0] if known else folder / "cells" / variant.folder_name(study.preset)
    content: dict[str, Any] = {}
    if not variant.error:
        config = train_config(study.preset, variant.train)
        spent = study.budget.train_options(config.batch_size * config.gradient_accumulation)
        content = {
            "preset": study.preset, "data": study.data, "data_options": dict(study.data_options),
            "overrides": variant.overrides, "label": variant.label, "train": {**variant.train, **spent, "seed": seed},
            "protocol": {"context_frames": study.context_frames, "horizon": study.horizon, "split": study.split,
                         "clips": study.clips},
        }
    return Cell(f"{variant.label}, seed {seed}", parent / f"seed-{seed}", content, key, study.budget,
                variant.error or "")


def _announce(work: Work, study: Study, variants: Sequence[Variant], seeds: int, todo: int, folder: Path) -> None:
    say = work.console.print
    say(f"{len(variants)} combinations x {seeds} seed(s): {len(work.cells)} cells, {len(work.cells) - todo} done "
        f"already; {study.budget} each; {folder}")
    if todo:
        say(f"in all {study.budget.times(todo)} of training to go, scoring comes on top")
    for variant in variants:
        if variant.error:
            say(f"  cannot be built: {variant.label}: {variant.error}", markup=False)


def _verdict(result: Mapping[str, Any]) -> str:
    return f"PSNR {result['psnr']:.2f}, SSIM {result['ssim']:.3f}, {result['steps']} steps"
