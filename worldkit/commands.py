"""What each command of the command line does: a few calls into the library, and printing."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from rich.console import Console
from rich.table import Table

from .config import parse_assignments

console = Console()


def run_train(options: Namespace) -> None:
    """``worldkit train``."""
    from .training.recipes import train

    overrides = parse_assignments(options.override)
    training, data = overrides.pop("train", {}), overrides.pop("data", {})
    for name in ("steps", "seconds", "seed"):
        if getattr(options, name) is not None:
            training[name] = getattr(options, name)
    run = Path(options.run or Path("runs") / options.preset)
    _, result = train(options.preset, options.data, run=run, overrides=overrides, train_overrides=training,
                      data_options=data, show_progress=not options.quiet)
    state = "finished" if result.finished else "stopped; the same command goes on"
    console.print(f"{state} at step {result.step} after {result.seconds:.0f} s of training: {result.run}")
    console.print(f"pictures: {result.run / 'figures'}   best model: {result.run / 'best'}")


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", show_edge=False)
    for column in columns:
        table.add_column(column)
    return table


