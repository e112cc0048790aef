"""``worldkit probe``."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from rich.table import Table

from ..loading import data_of, load
from ..options import (
    SPLITS,
    Commands,
    check_device,
    check_place,
    command,
    data_argument,
    data_option,
    data_options,
    device_argument,
    natural,
    positive,
)
from ..output import console

_HELP = """A linear map and a small MLP learn on the training split to read a column of the data off the frozen
latents, and off 16 x 16 pixels, which need no model. Scored is R2: 1 is everything, 0 no more than the mean.

examples:
  worldkit probe runs/lewm-mini --data push-32 --target position
  worldkit probe runs/lewm-mini --data push-32 --target velocity --out probe.json"""


def add(commands: Commands) -> None:
    """Its arguments."""
    p = command(commands, "probe", "What a model's latents know: read a column of the data off them.", _HELP)
    p.add_argument("model", help="preset with weights, model folder, run folder or hub:org/name")
    data_argument(p)
    p.add_argument("--target", default="", help="column of numbers, one row per frame: state, position, ...; left out: "
                                                "an error that lists them")
    p.add_argument("--split", choices=SPLITS, default="test", help="scored (default: test)")
    p.add_argument("--max-clips", type=positive(int), default=400, help="of each split (default: 400)")
    data_option(p)
    p.add_argument("--seed", type=natural, default=0)
    device_argument(p)
    p.add_argument("--out", help="JSON file to write")
    p.set_defaults(function=run_probe)


def run_probe(options: Namespace) -> None:
    """``worldkit probe``."""
    from ...training.probe import probe

    check_device(options.device)
    if options.out:
        check_place(Path(options.out).parent, "--out")
    loaded = load(options.model)
    report = probe(loaded.model, data_of(options, loaded), options.target, split=options.split,
                   max_clips=options.max_clips, seed=options.seed, device=options.device or "cpu",
                   data_options=data_options(options))
    table = Table("read off", "by", "R2 [95% over episodes]", "root mean squared error")
    for row in report.rows():
        table.add_row(*row)
    console.print(table)
    console.print(f"target '{report.target}', {report.numbers} number(s); latents of {report.width} numbers; "
                  f"{report.frames[0]} frames learned from, {report.frames[1]} of {report.episodes} episodes of split "
                  f"'{report.split}' scored; seed {report.seed}", soft_wrap=True)
    if options.out:
        console.print(f"written: {report.write(options.out)}", soft_wrap=True)
