"""``worldkit demo``."""

from __future__ import annotations

from argparse import Namespace

from rich.text import Text

from ..options import Commands, check_device, check_place, command, device_argument, natural, positive
from ..output import console


def add(commands: Commands) -> None:
    """Its arguments."""
    p = command(commands, "demo",
                "Make data, train a small LPWM from scratch, evaluate it, write report.html. No GPU, no download.",
                "The report is there as soon as the training begins and reloads itself in a browser while it goes on.")
    p.add_argument("--seconds", type=positive(float), default=240,
                   help="training time (default: 240); looks at the model and its scoring come on top")
    p.add_argument("--out", default="worldkit-demo", help="folder to write (default: worldkit-demo)")
    p.add_argument("--seed", type=natural, default=0)
    device_argument(p, "auto")
    p.set_defaults(function=run_demo)


def run_demo(options: Namespace) -> None:
    """``worldkit demo``."""
    from ..demo import demo

    check_device(options.device)
    out = check_place(options.out, "--out")
    report = demo(out=out, seconds=options.seconds, seed=options.seed, device=options.device)
    console.print(Text.assemble(("\nopen this in a browser:", "bold"), f" {report.resolve()}"))
