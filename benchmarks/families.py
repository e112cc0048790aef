"""All families with a small preset that predicts pictures, on the same two worlds: the table of docs/bench.md.

    python benchmarks/families.py                      run what is missing (`worldkit bench families`), write the page
    python benchmarks/families.py --only-page          write the page from what there is
    python benchmarks/families.py --budget 600cpu      more than the few seconds of the suite

Finished cells are kept, so the same command goes on where an interrupted one stopped.
"""

from __future__ import annotations

import argparse
import platform
import re
from collections.abc import Sequence
from pathlib import Path

import torch

from worldkit.ablation.study import Budget
from worldkit.bench import Bench, load_suite, run
from worldkit.bench.results import COPYING, MEAN_FRAME, Record
from worldkit.bench.runner import _asked, _cells, _command
from worldkit.bench.tables import number
from worldkit.files import write_atomically

PAGE = Path(__file__).parents[1] / "docs/bench.md"
BEGIN, END = "<!-- families -->", "<!-- end -->"
PSNR, OVER = "psnr", "over copying"


def table(bench: Bench) -> str:
    """A row for every model, three columns for every world, best first on the first world."""
    columns = ("PSNR (dB)", "over copying (dB)", "CPU s")
    header = ["model", *(f"{task}: {what}" for task in bench.tasks for what in columns)]
    header += ["parameters", "seeds", "weights"]
    rows = [(_first(bench, model), _row(bench, model)) for model in bench.models]
    rows = [row for _, row in sorted(rows, key=lambda pair: -pair[0])]
    for name in (COPYING, MEAN_FRAME):
        scores = [bench.baselines(task).get(name, {}).get(PSNR) for task in bench.tasks]
        rows.append([f"*{name}*", *(cell for value in scores
                                    for cell in ("-" if value is None else f"{value:.2f}", "", "")), "", "", "none"])
    rule = ["---", *["---:"] * (len(header) - 2), "---"]
    return "\n".join(f"| {' | '.join(line)} |" for line in (header, rule, *rows))


def _first(bench: Bench, model: str) -> float:
    for task in bench.tasks:
        found = bench.interval(model, task, OVER)
        if found is not None:
            return found.mean
    return -float("inf")


def _row(bench: Bench, model: str) -> list[str]:
    cells: list[str] = []
    for task in bench.tasks:
        records = bench.of(model, task)
        if not records:
            cells += ["", "", ""]
        elif all(r.status == "missing" for r in records):
            cells += ["not run", "", ""]
        elif all(r.status != "finished" for r in records):
            cells += ["failed", "", ""]
        else:
            cells += [number(name, bench.interval(model, task, name)) for name in (PSNR, OVER, "cpu_seconds")]
    done = [[r for r in bench.of(model, task) if r.status == "finished"] for task in bench.tasks]
    counts = sorted({len(found) for task, found in zip(bench.tasks, done, strict=True) if bench.of(model, task)})
    first = next((r.result for found in done for r in found), {})
    size = f"{first['parameters'] / 1e6:.2f} M" if first else "-"
    shipped = first.get("shipped")
    weights = f"shipped: {first['steps']:,} steps, {first['shipped_minutes']:g} minutes" if shipped else "from nothing"
    return [model, *cells, size, str(counts[-1]), weights]


def words(bench: Bench) -> str:
    """How the table came about."""
    suite = bench.suite
    missing = sum(r.status == "missing" for r in bench.records)
    failed = sum(r.status == "failed" for r in bench.records)
    threads = sorted({r.result["threads"] for r in bench.records if r.status == "finished"})
    clips = sorted({r.result["clips"] for r in bench.records if r.status == "finished"})
    notes = [f"{e.name}: {e.note}" for e in suite.models if e.note]
    seeds = "seed 0" if suite.seeds == 1 else f"seeds 0 to {suite.seeds - 1} where they were run"
    return "\n".join([
        f"`{bench.command}`: {Budget.parse(suite.budget)} of training for every cell that is trained, "
        f"{suite.context_frames} frames given, {suite.horizon} predicted, driven by the deterministic prior; "
        f"n = {' or '.join(map(str, clips))} test clips, {seeds}; "
        f"{' or '.join(map(str, threads))} thread, {processor()}, 2 shared cores, torch {torch.__version__}. "
        + ("± is half of a 95 % Student t interval over seeds. " if suite.seeds > 1 else
           "One seed: a difference may be chance. ")
        + (f"{missing} of {len(bench.records)} cells were not run. " if missing else "")
        + (f"{failed} failed. " if failed else "")
        + "CPU s: of training; minutes of shipped weights are wall clock. The page is made by "
        f"`python benchmarks/families.py{bench.command.partition('families')[2]}`.", "",
        "Shares of the budget: " + "; ".join(notes) + "." if notes else ""])


def processor() -> str:
    """Name of the processor, as Linux tells it."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
        return re.search(r"model name\s*:\s*(.+)", text)[1].strip()  # type: ignore[index]
    except (OSError, TypeError):
        return platform.processor() or "an unnamed processor"


def write(bench: Bench, page: Path = PAGE) -> None:
    """Put the table between the marks of the page."""
    text = page.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    after = rest.split(END, 1)[1]
    failed = [f"- {', '.join(f'{r.model} on {r.task}, seed {r.seed}' for r in records)}: {error}"
              for error, records in bench.errors()]
    made = "\n\n".join([BEGIN, table(bench), words(bench), *(["\n".join(failed)] if failed else []), END])
    write_atomically(page, lambda temporary: temporary.write_text(before + made + after, "utf-8"))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suite", default="families", help="another suite of predictions")
    parser.add_argument("--out", default="runs/bench/families", help="folder of the benchmark")
    parser.add_argument("--page", type=Path, default=PAGE)
    parser.add_argument("--budget", help="training of each cell (default: the suite's)")
    parser.add_argument("--seeds", type=int, help="default: the suite's")
    parser.add_argument("--models", help="some of them, NAME,...")
    parser.add_argument("--only-page", action="store_true", help="run nothing")
    options = parser.parse_args(arguments)
    models = options.models.split(",") if options.models else None
    if options.only_page:
        suite = _asked(load_suite(options.suite), models, None, options.seeds, options.budget, {})
        folder = Path(options.out).resolve()
        cells, records = _cells(suite, folder)
        found = [Record(r.model, r.task, r.seed, r.folder, cell.result) for r, cell in zip(records, cells, strict=True)]
        bench = Bench(suite, found, folder, _command(suite, models, None, options.seeds, options.budget, {}, None))
    else:
        bench = run(options.suite, models=models, seeds=options.seeds, budget=options.budget, out=options.out)
    write(bench, options.page)
    print(table(bench))


if __name__ == "__main__":
    main()
