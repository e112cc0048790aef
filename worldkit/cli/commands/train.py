"""``worldkit train``."""

from __future__ import annotations

from argparse import Namespace
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import ConfigError
from ..options import (
    Commands,
    check_device,
    check_place,
    command,
    data_argument,
    device_argument,
    natural,
    overrides_of,
    positive,
)
from ..output import console, table_of

if TYPE_CHECKING:
    from ...training.settings import Settings

_TRAIN_HELP = """DATA is recognised: a video file, a folder of videos or of frame folders, an HDF5 file of the Balls
layout, or generated data by name: balls (64 px), balls-32, push-32, shapes.

Several processes: torchrun --nproc-per-node 2 -m worldkit train ... --out RUN   (-o train.strategy=fsdp shards weights)

The run folder holds run.json, log.jsonl, checkpoints/, best/ and figures/. The same command goes on where an
interrupted run stopped, to the same numbers."""


def add(commands: Commands) -> None:
    """Its arguments."""
    p = command(commands, "train", "Train a model, or go on with an interrupted run.", _TRAIN_HELP)
    p.add_argument("preset", nargs="?", help="model to train, see worldkit list")
    data_argument(p)
    p.add_argument("--config", metavar="FILE",
                   help="TOML file with preset, data, [model], [train], [data_options], as every run folder has one: "
                        "config.toml; options given besides come on top")
    p.add_argument("--run", "--out", dest="run",
                   help="run folder (default: runs/PRESET); say --out under torchrun, whose options begin with --run")
    p.add_argument("-o", "--override", action="append", default=[], metavar="PATH=VALUE",
                   help="model option (dynamics.num_layers=4, encoder=slot), train.OPTION or data.OPTION")
    p.add_argument("--steps", type=positive(int), help="stop after so many steps (short for -o train.steps=N)")
    p.add_argument("--seconds", type=positive(float),
                   help="stop after so much training time (short for -o train.seconds=S)")
    p.add_argument("--seed", type=natural, help="short for -o train.seed=N")
    p.add_argument("--keep", type=positive(int), help="newest checkpoints that stay (short for -o train.keep=N)")
    device_argument(p, "auto")
    p.add_argument("--quiet", action="store_true", help="no progress bar")
    p.add_argument("--dry-run", action="store_true",
                   help="print the plan (run folder, parameters, memory, steps, shapes of the first batch) and stop; "
                        "only the data cache may be filled")
    p.trains = True
    p.set_defaults(function=run_train)


def run_train(options: Namespace) -> None:
    """``worldkit train``."""
    from ...training.plan import plan
    from ...training.recipes import make_trainer

    overrides = overrides_of(options)
    training, data = overrides.pop("train", {}), overrides.pop("data", {})
    for name in ("steps", "seconds", "seed", "keep", "device"):
        if getattr(options, name) is not None:
            training[name] = getattr(options, name)
    check_device(training.get("device"))
    settings = _settings(options)
    run = check_place(options.run or Path("runs") / settings.preset, "--run")
    trainer = make_trainer(settings.preset, settings.data, run=run, overrides=overrides, train_overrides=training,
                           data_options=data, show_progress=not options.quiet, dry_run=options.dry_run,
                           settings=settings)
    if options.dry_run and not trainer.is_main:
        return None
    if options.dry_run:
        title = f"plan: worldkit train {settings.preset} (nothing was trained; at most the data cache was filled)"
        table = table_of(title, "", "")
        for name, text in plan(trainer).items():
            table.add_row(name, text)
        return console.print(table)
    result = trainer.fit()
    if not trainer.is_main:
        return None
    state = "finished" if result.finished else "stopped; the same command goes on"
    console.print(f"{state} at step {result.step} after {result.seconds:.0f} s of training: {result.run}")
    best = result.run / "best" if (result.run / "best").exists() else "none yet"
    figures = result.run / "figures"
    console.print(f"{f'pictures: {figures}   ' if figures.is_dir() else ''}best model: {best}")


def _settings(options: Namespace) -> Settings:
    """What to start from: a file, or the preset; with the data to train on."""
    from ...training.settings import Settings

    if options.config is not None:
        settings = Settings.read(options.config, options.preset)
        if options.preset not in (None, settings.preset):
            raise ConfigError(f"--config {options.config} is of preset '{settings.preset}', not '{options.preset}': "
                              "leave the name out")
    elif options.preset is not None:
        settings = Settings.of_preset(options.preset)
    else:
        raise ConfigError("say what to train: worldkit train PRESET --data DATA, or worldkit train --config FILE")
    data = options.data or settings.data
    if data is None:
        raise ConfigError("say what to train on: --data DATA (a video file, folder, HDF5 file, or balls, push, shapes)")
    return replace(settings, data=data)
