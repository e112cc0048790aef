"""A benchmark's results as JSON, CSV, Markdown, LaTeX and HTML."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from pathlib import Path
from typing import Any

from ..files import write_atomically
from ..viz import HtmlReport
from .results import UNITS, Bench
from .tables import DAGGER, Table, tables

CSV_HEADER = ("suite", "model", "task", "seed", "status", "weights")
FILES = ("bench.json", "bench.csv", "bench.md", "bench.tex", "bench.html")


def write_all(bench: Bench) -> list[Path]:
    """Write `FILES` into the folder; returns the paths."""
    made = (to_json, to_csv, to_markdown, to_latex, lambda b: to_page(b).to_html())
    paths = [bench.folder / name for name in FILES]
    for path, make in zip(paths, made, strict=True):
        text = make(bench)
        write_atomically(path, lambda temporary, text=text: temporary.write_text(text, "utf-8"))
    return paths


def to_dict(bench: Bench) -> dict[str, Any]:
    """Everything as plain values: every cell, and every number made of them."""
    thresholds, profiles = bench.profiles
    beside, apart = bench.papers()
    return {
        "suite": bench.suite.to_dict(), "command": bench.command, "score": bench.suite.score,
        "cells": [{"model": r.model, "task": r.task, "seed": r.seed, "status": r.status,
                   **({"error": r.error} if r.error else {}),
                   "folder": str(r.folder.relative_to(bench.folder)),
                   "result": {k: v for k, v in (r.result or {}).items() if k not in ("report", "status", "error")}}
                  for r in bench.records],
        "per task": {task: {model: {name: interval.to_dict() for name in (*bench.metrics, *bench.costs)
                                    if (interval := bench.interval(model, task, name)) is not None}
                            for model in bench.models} for task in bench.tasks},
        "baselines": {task: bench.baselines(task) for task in bench.tasks},
        "all tasks": {model: {kind: interval.to_dict() for kind, interval in kinds.items()}
                      for model, kinds in bench.aggregates.items()},
        "performance profile": {"thresholds": thresholds, "share of runs above": {
            model: [point.to_dict() for point in points] for model, points in profiles.items()}},
        "probability of improvement": [{"of": one, "over": other, **interval.to_dict()}
                                       for (one, other), interval in bench.improvements.items()],
        "papers": {"beside ours": [paper.to_dict() for paper in beside],
                   "of another protocol": [{**paper.to_dict(), "why": why} for paper, why in apart]},
        "notes": bench.notes(),
    }


def to_json(bench: Bench) -> str:
    """`to_dict`; numbers that are not finite become null."""
    return json.dumps(_finite(to_dict(bench)), indent=2, ensure_ascii=False, allow_nan=False, default=str) + "\n"


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _finite(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def to_csv(bench: Bench) -> str:
    """One line for every cell: scores, costs, and the error of a failed one. Empty: there is no number."""
    columns = [*bench.metrics, *(c for c in (*bench.costs, "seconds") if c not in bench.metrics)]
    columns = [c for c in columns if c != "normalised return"]
    file = io.StringIO()
    lines = csv.writer(file)
    lines.writerow([*CSV_HEADER, *columns, "error"])
    for r in bench.records:
        weights = next(e.weights for e in bench.suite.models if e.name == r.model)
        numbers = ["" if (value := r.number(name)) is None else repr(value) for name in columns]
        lines.writerow([bench.suite.name, r.model, r.task, r.seed, r.status, weights, *numbers, r.error])
    return file.getvalue()


def to_markdown(bench: Bench) -> str:
    """Tables and notes in GitHub's Markdown."""
    parts = [f"# Benchmark {bench.suite.name}", *(f"## {t.title}\n\n{markdown_table(t)}" for t in tables(bench))]
    points = [*(f"[{n}] {', '.join(where)}: {error}" for n, where, error in _errors(bench)), *bench.notes()]
    return "\n\n".join([*parts, "\n".join(f"- {point}" for point in points), f"    {bench.command}"]) + "\n"


def markdown_table(table: Table) -> str:
    """A table in GitHub's Markdown."""
    rule = ["---:" if table.is_number(column) else "---" for column in range(len(table.header))]
    cells = [[cell.replace("|", "\\|") for cell in line] for line in (table.header, rule, *table.rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)


_LATEX = {"\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
          "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
          "±": r"$\pm$", "†": r"$^\dagger$", "Δ": r"$\Delta$", "−": "--", "↑": r"$\uparrow$", "↓": r"$\downarrow$"}


def latex_escaped(text: str) -> str:
    r"""Text as LaTeX prints it.

    Example:
        >>> print(latex_escaped("a_b & 50% ± 1"))
        a\_b \& 50\% $\pm$ 1
    """
    return "".join(_LATEX.get(letter, letter) for letter in text)


def to_latex(bench: Bench) -> str:
    """Tables for ``booktabs``, each with its caption, to be ``\\input`` in a paper."""
    parts = [f"% {line}" for line in ("made by: " + bench.command, r"needs \usepackage{booktabs}")]
    for n, where, error in _errors(bench):
        parts.append(f"% [{n}] {', '.join(where)}: {error}")
    for table in tables(bench):
        columns = "".join("r" if table.is_number(column) else "l" for column in range(len(table.header)))
        lines = [" & ".join(map(latex_escaped, line)) + r" \\" for line in (table.header, *table.rows)]
        label = re.sub("[^a-z0-9]+", "-", f"{bench.suite.name} {table.title}".lower()).strip("-")
        caption = latex_escaped(f"{bench.suite.name}, {table.title}. {_caption(bench, table)}")
        parts += ["", r"\begin{table}", r"\centering", rf"\caption{{{caption}}}", rf"\label{{tab:{label}}}",
                  rf"\begin{{tabular}}{{{columns}}}", r"\toprule", lines[0], r"\midrule", *lines[1:], r"\bottomrule",
                  r"\end{tabular}", r"\end{table}"]
    return "\n".join(parts) + "\n"


def _caption(bench: Bench, table: Table) -> str:
    if table.title in bench.tasks:
        any_theirs = any(row[0].endswith(DAGGER) for row in table.rows)
        theirs = f"{DAGGER.strip()}: theirs, same protocol. " if any_theirs else ""
        return f"{theirs}Mean over at most {bench.suite.seeds} seeds ± half of the 95% Student t interval."
    return "95% intervals of a stratified bootstrap over runs."


def _errors(bench: Bench) -> list[tuple[int, list[str], str]]:
    """Number, where it happened, text."""
    return [(n, list(dict.fromkeys(f"{r.model} on {r.task}" for r in records)), error)
            for n, (error, records) in enumerate(bench.errors(), 1)]


def to_page(bench: Bench) -> HtmlReport:
    """Tables, profiles and example rollouts in one file that needs no network."""
    page = HtmlReport(f"Benchmark {bench.suite.name}").text(bench.suite.summary)
    for table in tables(bench):
        page.heading(table.title).table(table.header, table.rows)
    thresholds, profiles = bench.profiles
    if profiles and bench.suite.seeds * len(bench.tasks) > 1:
        page.heading("Performance profiles")
        page.curve({model: (thresholds, [p.mean for p in points]) for model, points in profiles.items()},
                   x_label=UNITS[bench.suite.score], y_label="share of runs above",
                   caption="failed runs are above nothing; intervals are in the JSON file")
    page.heading("What the numbers mean").points(bench.notes())
    if bench.errors():
        page.heading("What failed").points([f"[{n}] {', '.join(where)}: {error}" for n, where, error in _errors(bench)])
    shown = [r for r in bench.records if r.status == "finished" and (r.folder / "rollout.gif").exists()]
    first = {(r.model, r.task): r for r in reversed(shown)}
    if first:
        page.heading("Example rollouts").text("The same clips for every model of a task, first finished seed. Red: the "
                                              "truth; blue: given frames, reconstructed; green: predicted.")
    for (model, task), record in sorted(first.items(), key=lambda item: (item[0][1], bench.models.index(item[0][0]))):
        page.gif((record.folder / "rollout.gif").read_bytes(), caption=f"{model} on {task}")
    return page.heading("How this was made").text(bench.command)


def print_tables(bench: Bench) -> None:
    """The tables on the terminal."""
    from rich import box
    from rich.console import Console
    from rich.table import Table as Shown
    from rich.text import Text

    console = Console()
    console = console if console.is_terminal else Console(width=max(console.width, 160))
    for table in tables(bench):
        shown = Shown(box=box.SIMPLE_HEAD, title=table.title, title_justify="left")
        for column, name in enumerate(table.header):
            shown.add_column(name, justify="right" if table.is_number(column) else "left", overflow="fold")
        for row in table.rows:
            shown.add_row(*map(Text, row))
        console.print(shown)
    for n, where, error in _errors(bench):
        console.print(Text(f"[{n}] {', '.join(where)}: {error}"))
    for note in bench.notes():
        console.print(Text(note))
