"""``worldkit bench``."""

from __future__ import annotations

from argparse import Namespace

from ...errors import ConfigError
from ..options import Commands, check_place, command, positive
from ..output import console

_BENCH_HELP = """examples:
  worldkit bench                                             which suites there are
  worldkit bench small-worlds --models ddlp,lpwm --seeds 2 --budget 30cpu
  worldkit bench slotformer --data obj3d=PATH --seeds 1 --budget 2h
  worldkit bench games --budget 9000steps
  worldkit bench my_suite.toml --out runs/mine

Every cell is a process of its own. The same command goes on where an interrupted one stopped; more models, tasks or
seeds only add cells. The folder then holds bench.json, bench.csv, bench.md, bench.tex and bench.html."""


def add(commands: Commands) -> None:
    """Its arguments."""
    p = command(commands, "bench", "Compare models over tasks and seeds: tables with intervals, profiles, "
                                   "probabilities of improvement.", _BENCH_HELP)
    p.add_argument("suite", nargs="?", help="name of a suite, or a TOML file; none: list them")
    p.add_argument("--models", metavar="NAME,...", help="some of the suite's models")
    p.add_argument("--tasks", metavar="NAME,...", help="some of its tasks")
    p.add_argument("--seeds", type=positive(int), help="runs of every model on every task (default: the suite's)")
    p.add_argument("--budget", metavar="AMOUNT",
                   help="training of each cell: 60cpu (CPU seconds), 120 (seconds), 10min, 500steps (default: the "
                        "suite's)")
    p.add_argument("--data", action="append", default=[], metavar="TASK=PATH", help="where the data of a task lie")
    p.add_argument("--out", help="folder (default: runs/bench/SUITE)")
    p.add_argument("--retry", action="store_true", help="try failed cells again")
    p.add_argument("--quiet", action="store_true", help="only the tables")
    p.trains = True
    p.set_defaults(function=run_bench)


def run_bench(options: Namespace) -> None:
    """``worldkit bench``."""
    from ...bench import list_suites, load_suite, run
    from ...bench.formats import FILES

    if options.suite is None:
        for name in list_suites():
            suite = load_suite(name)
            console.print(f"{name}: {suite.summary}. {len(suite.models)} models, tasks "
                          f"{', '.join(task.name for task in suite.tasks)}, {suite.seeds} seeds, budget {suite.budget}",
                          soft_wrap=True)
        return
    check_place(options.out or "runs/bench", "--out")
    result = run(options.suite, models=_names(options.models), tasks=_names(options.tasks), seeds=options.seeds,
                 budget=options.budget, data=_places(options.data), out=options.out, retry=options.retry,
                 show_progress=not options.quiet)
    result.print()
    console.print(f"written: {result.folder}/{', '.join(FILES)}", soft_wrap=True)


def _names(text: str | None) -> list[str] | None:
    return None if text is None else [name.strip() for name in text.split(",") if name.strip()]


def _places(texts: list[str]) -> dict[str, str]:
    """``["obj3d=PATH"]`` -> task -> place."""
    found = {}
    for text in texts:
        task, equals, place = text.partition("=")
        if not (task and equals and place):
            raise ConfigError(f"--data is TASK=PATH here, for a suite has several data sets; got '{text}'")
        found[task] = place
    return found
