"""Tables, JSON and the HTML report of an evaluation of control."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..files import write_atomically
from ..metrics.report import Interval
from ..viz import HtmlReport
from .results import RETURN, SUCCESS, ControlResults

TELLING = 6
"""Episodes below which no difference is marked: were all of one sign by chance, that would happen more often than once
in 20, and a bootstrap of so few knows no better."""
NOTE = ("Success: share of episodes, Wilson's 95% interval. All else: interquartile mean (the middle half of the "
        "episodes), 95% interval of a bootstrap within each seed.")
DIFFERENCES = ("Mean differences on the same episodes, 95% interval of a bootstrap within each seed; * = it does not "
               "hold 0. They tell the chance of episodes; agents trained with other seeds may differ.")
BETTER = {SUCCESS: "↑", RETURN: "↑"}


def heading(results: ControlResults, score: str) -> str:
    """What a score's column is called."""
    return f"{score} {BETTER[score]}" if score in BETTER else score


def text_of(interval: Interval | None, *, share: bool = False) -> str:
    """A number with its interval in brackets."""
    if interval is None:
        return "-"
    low, value, high = (f"{100 * x:.0f}%" if share else f"{x:.3g}" for x in
                        (interval.low, interval.mean, interval.high))
    return value if interval.low != interval.low else f"{value} [{low}, {high}]"


def main_table(results: ControlResults) -> tuple[list[str], list[list[str]]]:
    """Header and rows: a policy, its episodes, a column for every score, behind measures what they began at."""
    scores = results.scores
    rows = []
    for name in results.names:
        n = sum(episode["policy"] == name for episode in results.episodes)
        rows.append([name, str(n), *(text_of(results.interval(name, s), share=s == SUCCESS) for s in scores)])
    first = results.names[0]
    began = [text_of(results.interval(first, s, "start")) if s not in (SUCCESS, RETURN) else "" for s in scores]
    if any(began):
        rows.append(["(at the start)", "", *began])
    return ["policy", "episodes", *(heading(results, s) for s in scores)], rows


def difference_table(results: ControlResults) -> tuple[list[str], list[list[str]]] | None:
    """Every policy against every baseline before it in the list; None for a single policy."""
    rows, names = [], results.names
    for i, name in enumerate(names):
        for other in names[:i]:
            cells = []
            for score in results.scores:
                found = results.difference(name, other, score)
                star = " *" if found is not None and found.n >= TELLING and found.excludes_zero else ""
                cells.append(text_of(found, share=score == SUCCESS) + star)
            rows.append([f"{name} - {other}", *cells])
    return (["difference", *(heading(results, s) for s in results.scores)], rows) if rows else None


def lines_of(results: ControlResults) -> list[str]:
    """The protocol as lines of text."""
    return [f"{name}: {text}" for name, text in results.protocol.in_words().items()]


def markdown(results: ControlResults) -> str:
    """The whole as Markdown."""
    parts = [f"# Control: {results.protocol.env}", "\n".join(f"- {line}" for line in lines_of(results)),
             _table(*main_table(results)), NOTE]
    if (differences := difference_table(results)) is not None:
        parts += [_table(*differences), DIFFERENCES]
    return "\n\n".join(parts) + "\n"


def _table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in lines)


def html(results: ControlResults) -> HtmlReport:
    """The whole as one page, with the animations that lie in the folder."""
    page = HtmlReport(f"Control: {results.protocol.env}").points(lines_of(results))
    page.table(*_unbroken(main_table(results))).text(NOTE)
    if (differences := difference_table(results)) is not None:
        page.heading("Beside one another").table(*_unbroken(differences)).text(DIFFERENCES)
    films = {} if results.folder is None else {
        name: path for name in results.names if (path := Path(results.folder) / f"{name}.gif").is_file()}
    if films:
        page.heading("What they do").text("Episodes of the first seed, a column each. "
                                          + ("Above: the goal. " if results.protocol.goals == "reach" else ""))
        for name, path in films.items():
            page.gif(path.read_bytes(), caption=name)
    page.heading("Who they are").points([f"{name}: {_told(results.policies[name])}" for name in results.names])
    return page


def _unbroken(table: tuple[list[str], list[list[str]]]) -> tuple[list[str], list[list[str]]]:
    """The same table; intervals are not broken at their commas."""
    header, rows = table
    return header, [[cell.replace(", ", ",\u00a0") for cell in row] for row in rows]


def _told(what: Any) -> str:
    return ", ".join(f"{k} {v}" for k, v in what.items()) if isinstance(what, dict) else str(what)


def write(results: ControlResults, folder: Path) -> list[Path]:
    """Write ``control.json``, ``control.md`` and ``report.html``."""
    paths = [folder / name for name in ("control.json", "control.md", "report.html")]
    write_atomically(paths[0], lambda file: file.write_text(json.dumps(results.to_dict(), indent=2) + "\n", "utf-8"))
    write_atomically(paths[1], lambda file: file.write_text(markdown(results), "utf-8"))
    html(results).write(paths[2])
    return paths
