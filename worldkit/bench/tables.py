"""Tables of a benchmark as header and rows of text, for every format alike."""

from __future__ import annotations

from dataclasses import dataclass

from ..metrics.report import Interval
from ..metrics.runs import AGGREGATES
from .results import COPYING, MEAN_FRAME, UNITS, Bench

COSTS = {"parameters": "parameters", "steps": "steps", "cpu_seconds": "CPU s"}
DIGITS = {"ssim": 3, "success": 2, "normalised return": 2, "parameters": 0, "steps": 0, "cpu_seconds": 1}
DAGGER = " †"


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        title: Above it.
        header, rows: Text; the first column holds names, the last of `words` columns words, the others numbers.
        words: Columns at the end that hold words.
    """

    title: str
    header: list[str]
    rows: list[list[str]]
    words: int = 0

    def is_number(self, column: int) -> bool:
        """Whether a column holds numbers."""
        return 0 < column < len(self.header) - self.words


def tables(bench: Bench) -> list[Table]:
    """One for every task, one for all tasks, one of probabilities of improvement."""
    found = [_task(bench, task) for task in bench.tasks if any(r.task == task for r in bench.records)]
    if len(bench.tasks) > 1 or bench.suite.seeds > 1:
        found += [all_tasks(bench)]
    if bench.improvements:
        found.append(_improvement(bench))
    return found


def number(name: str, interval: Interval | None) -> str:
    """A number with half its interval, if there is one."""
    if interval is None:
        return "-"
    digits = DIGITS.get(name, 2)
    mean, half = f"{interval.mean:,.{digits}f}", (interval.high - interval.low) / 2
    exact = interval.n < 2 or (name in ("parameters", "steps") and half == 0)
    return mean if exact else f"{mean} ± {half:,.{digits}f}"


def ranged(name: str, interval: Interval) -> str:
    """A number with its interval in brackets: those of a bootstrap lie unevenly."""
    digits = DIGITS.get(name, 2)
    text = f"{interval.mean:.{digits}f}"
    return text if interval.low != interval.low else f"{text} [{interval.low:.{digits}f}, {interval.high:.{digits}f}]"


def _task(bench: Bench, task: str) -> Table:
    columns = [*(m for m in bench.metrics if m in UNITS), *bench.costs]
    rows = []
    for model in bench.models:
        cells = bench.of(model, task)
        if cells:
            numbers = (number(c, bench.interval(model, task, c)) for c in columns)
            rows.append([model, *numbers, _note(bench, model, task)])
    for name, scores in bench.baselines(task).items():
        if name in (COPYING, MEAN_FRAME):
            rows.append([name, *(f"{scores[c]:,.{DIGITS.get(c, 2)}f}" if c in scores else "-" for c in columns),
                         "no model"])
    rows += _papers(bench, task, columns)
    return Table(task, ["model", *(UNITS.get(c, COSTS.get(c, c)) for c in columns), "note"], rows, words=1)


def _papers(bench: Bench, task: str, columns: list[str]) -> list[list[str]]:
    theirs: dict[tuple[str, str], dict[str, float]] = {}
    for paper in bench.papers()[0]:
        if paper.task == task:
            theirs.setdefault((paper.model, paper.source), {})[paper.metric] = paper.value
    return [[f"{model}{DAGGER}", *(f"{values[c]:g}" if c in values else "-" for c in columns), f"theirs: {source}"]
            for (model, source), values in theirs.items()]


def _note(bench: Bench, model: str, task: str) -> str:
    cells, words = bench.of(model, task), []
    failed = [r for r in cells if r.status == "failed"]
    if failed:
        numbers = sorted({_error_number(bench, r.error) for r in failed})
        who = "failed" if len(failed) == len(cells) else f"{len(failed)} of {len(cells)} seeds failed"
        words.append(f"{who} {' '.join(f'[{n}]' for n in numbers)}")
    missing = sum(r.status == "missing" for r in cells)
    if missing:
        words.append(f"{missing} of {len(cells)} not done")
    shipped = next((r.result for r in cells if (r.result or {}).get("shipped")), None)
    if shipped is not None:
        minutes = shipped.get("shipped_minutes")
        words.append("shipped weights" + (f", {minutes:g} minutes of training" if minutes is not None else ""))
    return "; ".join(words)


def _error_number(bench: Bench, error: str) -> int:
    return next(i for i, (text, _) in enumerate(bench.errors(), 1) if text == error)


def all_tasks(bench: Bench) -> Table:
    """The suite's score of every model on every task, and over all of them."""
    score, kinds = bench.suite.score, list(AGGREGATES)
    rows = []
    for model in bench.models:
        whole = bench.aggregates.get(model)
        several = whole is not None and len(bench.tasks) > 1
        overall = [ranged(score, whole[kind]) for kind in kinds] if whole else ["-"] * len(kinds)
        cells = [number(score, bench.interval(model, task, score)) for task in bench.tasks]
        marked = [_failed(bench, model, task, text) for task, text in zip(bench.tasks, cells, strict=True)]
        rows.append([model, *marked, *(overall if several or whole else ["-"] * len(kinds))])
    return Table(f"All tasks: {UNITS[score]}", ["model", *bench.tasks, *kinds], rows)


def _failed(bench: Bench, model: str, task: str, text: str) -> str:
    failed, cells = len(bench.failed(model, task)), bench.of(model, task)
    if not failed:
        return text if cells else "not measured"
    return "failed" if failed == len(cells) else f"{text} ({failed} of {len(cells)} failed)"


def _improvement(bench: Bench) -> Table:
    names = [m for m in bench.models if any(m == one for one, _ in bench.improvements)]
    rows = [[one, *("" if one == other else ranged("", bench.improvements[one, other]) for other in names)]
            for one in names]
    return Table("Probability of improvement", ["of the row over the column", *names], rows)
