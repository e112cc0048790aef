"""``worldkit ablate``."""

from __future__ import annotations

from argparse import Namespace

from ..options import (
    Commands,
    check_device,
    check_place,
    command,
    device_argument,
    overrides_of,
    positive,
    protocol_arguments,
)
from ..output import console

_ABLATE_HELP = """All values of all --swap and --set are combined; the unchanged preset is always among the rows.
The same command goes on where an interrupted one stopped; more values or seeds only add cells.

examples:
  worldkit ablate lpwm-balls-mini --swap latent_action=gaussian,none --budget 120
  worldkit ablate lpwm-balls-mini --swap encoder=particle,patch,slot --swap dynamics=pint,gru,diffusion --budget 120
  worldkit ablate lpwm-balls-mini --set dynamics.num_layers=2,4 --set train.lr=6e-4,2e-4 --seeds 3 --budget 1000steps
  worldkit ablate lpwm-mini --data my_video.mp4 --swap 'encoder=particle,{"name":"slot","num_slots":4}' --budget 10min

The folder then holds table.md, table.json and report.html (with example rollouts)."""


def add(commands: Commands) -> None:
    """Its arguments."""
    p = command(commands, "ablate",
                "Train combinations of parts and options alike, and compare their predictions in one table.",
                _ABLATE_HELP)
    p.add_argument("preset", help="the baseline, see worldkit list")
    p.add_argument("--data", help="data source as for worldkit train (default: the preset's own, if it names one)")
    p.add_argument("--swap", action="append", default=[], metavar="PART=NAME,...",
                   help="components to compare; repeatable; none removes a part. PART: encoder, decoder, dynamics, "
                        "latent_action, objective, conditioners.FIELD, heads.FIELD")
    p.add_argument("--set", action="append", default=[], metavar="OPTION=VALUE,...", dest="settings",
                   help="values to compare of a model option or of train.OPTION; repeatable")
    p.add_argument("--seeds", type=positive(int), default=2, help="trainings of each combination (default: 2)")
    p.add_argument("--budget", required=True, metavar="AMOUNT",
                   help="training of each cell: 120 (seconds), 10min, 2h, 60cpu (CPU seconds), 500steps or "
                        "8000samples (training clips)")
    p.add_argument("-o", "--override", action="append", default=[], metavar="PATH=VALUE",
                   help="option of all cells, the baseline included: model option, train.OPTION or data.OPTION")
    protocol_arguments(p)
    p.add_argument("--clips", type=positive(int), default=100, help="clips that are scored at most (default: 100)")
    p.add_argument("--out", help="folder (default: runs/ablations/PRESET)")
    device_argument(p, "auto")
    p.add_argument("--retry", action="store_true", help="try failed cells again")
    p.add_argument("--quiet", action="store_true", help="only the table")
    p.trains = True
    p.set_defaults(function=run_ablate)


def run_ablate(options: Namespace) -> None:
    """``worldkit ablate``."""
    from ...ablation import run
    from ...ablation.grid import parse_axes

    check_device(options.device)
    overrides = overrides_of(options)
    if options.device is not None:
        overrides.setdefault("train", {})["device"] = options.device
    check_place(options.out or "runs/ablations", "--out")
    result = run(
        options.preset, options.data, swaps=parse_axes(options.swap, "--swap"), budget=options.budget,
        settings=parse_axes(options.settings, "--set"), seeds=options.seeds, out=options.out, retry=options.retry,
        overrides=overrides, context_frames=options.context, horizon=options.horizon,
        split=options.split, clips=options.clips, show_progress=not options.quiet,
    )
    result.print()
    console.print(f"written: {result.folder}/table.md, table.json, report.html", soft_wrap=True)
