"""`Ablation`: the table of an ablation, as text, Markdown, JSON and HTML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from ..files import write_atomically
from ..metrics import confidence_interval
from ..metrics.report import Interval
from .cell import write_json
from .grid import Variant, shown
from .study import Study

METRICS = {
    "psnr": "PSNR (dB) ↑", "ssim": "SSIM ↑", "loss": "loss", "parameters": "parameters", "steps": "steps",
    "time_per_step": "ms per step", "peak_memory": "peak memory (MB)",
}
"""Key in the JSON -> column."""
REFERENCES = ("copy last frame", "mean training frame")
"""Predictions without a model, in the order of the column `BEATS`."""
BEATS = "seeds that beat copying, the mean frame"
_SCORES = 2  # metrics that say how well a row predicts; the others say what that cost


@dataclass(frozen=True)
class Row:
    """A line of the table.

    Attributes:
        variant: The model; None for a prediction without a model.
        name: Name of such a prediction, else the variant's label.
        numbers: Metric -> one number per finished seed.
        seeds: Seeds that were asked for.
        errors: Seed -> error.
        gif: Example rollouts of the first finished seed.
        curves: PSNR per predicted frame, one list per finished seed.
        margins: Prediction without a model -> PSNR above it, paired over the scored clips, one per finished seed.
        start: Whose weights, of which parts, the first finished seed began with; None: all parts learned from nothing.
    """

    variant: Variant | None
    name: str
    numbers: Mapping[str, Sequence[float]]
    seeds: int
    errors: Mapping[int, str]
    gif: Path | None = None
    curves: Sequence[Sequence[float]] = ()
    margins: Mapping[str, Sequence[Interval]] = field(default_factory=dict)
    start: str | None = None

    @property
    def beats(self) -> str:
        """In how many finished seeds the margins over `REFERENCES` lie above 0 with their intervals: ``"2/2, 1/2"``."""
        counts = [(sum(m.low > 0 for m in self.margins.get(name, ())), len(self.margins.get(name, ())))
                  for name in REFERENCES]
        return ", ".join(f"{above}/{n}" for above, n in counts) if any(n for _, n in counts) else "-"

    def interval(self, metric: str) -> Interval | None:
        """Mean and 95% Student t interval over the finished seeds; None without a number."""
        values = self.numbers.get(metric, ())
        return confidence_interval(torch.tensor(values, dtype=torch.float64)) if values else None

    @property
    def error(self) -> str:
        """The first error in one line; empty without one."""
        return " ".join(next(iter(self.errors.values()), "").split())

    @property
    def note(self) -> str:
        """What else is to say: which row is the baseline, what failed, what is missing."""
        done = len(self.numbers.get("psnr", ()))
        parts = ["baseline"] if self.variant is not None and self.variant.baseline else []
        if self.errors:
            all_of_them = len(self.errors) == self.seeds
            who = "failed" if all_of_them else f"{len(self.errors)} of {self.seeds} seeds failed"
            parts.append(f"{who}: {self.error}")
        if self.variant is not None and done + len(self.errors) < self.seeds:
            parts.append(f"{done} of {self.seeds} seeds done")
        return "; ".join(parts)


@dataclass(frozen=True)
class Ablation:
    """Results of an ablation; what `worldkit.ablation.run` returns.

    Attributes:
        study: Data, budget and protocol, the same for all rows.
        rows: The baseline first, then the other combinations, then the predictions without a model.
        folder: Where everything is stored.
        seeds: Seeds of every row.
        command: How to make the table again.
    """

    study: Study
    rows: Sequence[Row]
    folder: Path
    seeds: int
    command: str

    @cached_property
    def axes(self) -> list[str]:
        """What was varied: parts and options."""
        return list(self.rows[0].variant.values) if self.rows[0].variant else []

    def table(self) -> tuple[list[str], list[list[str]]]:
        """(header, rows) of text: the combination, how well it predicts, what it cost, a note.

        Errors are numbered, as in `errors`.
        """
        errors, lines = self.errors(), []
        for row in self.rows:
            named = [row.name, *[""] * (len(self.axes) - 1)]
            start = [shown(v) for v in row.variant.values.values()] if row.variant else named
            number = f" [{errors.index(row.error) + 1}]" if row.error else ""
            note = row.note.replace(f": {row.error}", number) if row.error else row.note
            numbers = [_text(metric, row.interval(metric)) for metric in METRICS]
            lines.append([*start, *numbers[:_SCORES], row.beats, *numbers[_SCORES:], note])
        names = list(METRICS.values())
        return [*self.axes, *names[:_SCORES], BEATS, *names[_SCORES:], "note"], lines

    def _counts(self, column: int) -> bool:
        """Whether a column of the table holds numbers: all between the axes and the note."""
        return len(self.axes) <= column <= len(self.axes) + len(METRICS)

    def errors(self) -> list[str]:
        """What went wrong, each error once; the table refers to them as [1], [2], ..."""
        return list(dict.fromkeys(row.error for row in self.rows if row.error))

    def notes(self) -> list[str]:
        """What the numbers mean, and what they do not."""
        s, finished = self.study, [r for r in self.rows if r.variant is not None and r.interval("psnr")]
        spread = f"Mean over {self.seeds} seeds ± half of its 95% Student t interval." if self.seeds > 1 else (
            "One seed: there is no interval, and a difference may be chance. Use two seeds or more.")
        whose = "of the process that trains a cell (Python and PyTorch included), or of the GPU where there is one"
        notes = [
            f"Every cell: {s.budget} of training on {s.data}"
            + (" (forward, backward and update; reading data, scoring and saving are not counted)."
               if s.budget.unit == "seconds" else "."),
            f"PSNR and SSIM: mean over {s.horizon} predicted frames after {s.context_frames} given ones, driven by the "
            f"deterministic prior, of the same clips of split '{s.split}' (at most {s.clips}) for every row. {spread}",
            "Loss: the training loss on the scored split, latents at their means. It may be compared only between rows "
            "with the same parts and loss weights: other parts sum other terms.",
            f"Peak memory: {whose}; '-' where cells share a process.",
            "Seeds that beat: in how many seeds the PSNR is above that of repeating the last given frame, and of the "
            "mean training frame, by more than chance of the clips (paired 95% Student t interval over clips).",
        ]
        starts = {r.name: r.start or "from nothing" for r in finished}
        if len(set(starts.values())) > 1:
            rows = "; ".join(f"{name}: {start}" for name, start in starts.items())
            notes.append(f"Rows did NOT start alike, so the same budget is not the same training: {rows}. "
                         "train.init_parts says which parts to take.")
        elif any(r.start for r in finished):
            notes.append(f"All cells began with the weights of {finished[0].start}.")
        partly = [r.name for r in finished if 0 < len(r.errors)]
        if partly:
            notes.append(f"Means over the seeds that did not fail only: {'; '.join(partly)}.")
        if any(r.errors for r in self.rows):
            notes.append("Failed cells are tried again with --retry (retry=True).")
        return notes

    def print(self) -> None:
        """Show the table on the terminal."""
        from rich import box
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        console = Console()
        console = console if console.is_terminal else Console(width=max(console.width, 180))
        header, lines = self.table()
        table = Table(box=box.SIMPLE_HEAD)
        for column, name in enumerate(header):
            table.add_column(name, justify="right" if self._counts(column) else "left", overflow="fold")
        for line in lines:
            table.add_row(*map(Text, line))
        console.print(table)
        for text in [*(f"[{number}] {error}" for number, error in enumerate(self.errors(), 1)), *self.notes()]:
            console.print(Text(text))

    def to_markdown(self) -> str:
        """Title, table and notes in GitHub's Markdown."""
        header, rows = self.table()
        lines = [header, ["---:" if self._counts(column) else "---" for column in range(len(header))], *rows]
        text = "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
        errors = "".join(f"- [{number}] {error}\n" for number, error in enumerate(self.errors(), 1))
        notes = errors + "\n".join(f"- {note}" for note in self.notes())
        return f"# Ablation of {self.study.preset}\n\n{text}\n\n{notes}\n\n    {self.command}\n"

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain values: per row and metric the mean, the interval and the number of each seed."""
        rows = [{
            "name": row.name,
            "values": row.variant.values if row.variant else None,
            "baseline": bool(row.variant and row.variant.baseline),
            "note": row.note,
            "errors": {str(seed): error for seed, error in row.errors.items()},
            "metrics": {m: interval.to_dict() | {"values": list(row.numbers[m])}
                        for m in row.numbers if (interval := row.interval(m)) is not None},
            "psnr_per_frame": [list(c) for c in row.curves],
            "psnr_over": {name: [margin.to_dict() for margin in margins] for name, margins in row.margins.items()},
        } for row in self.rows]
        s = self.study
        return {
            "preset": s.preset, "data": s.data, "budget": {"amount": s.budget.amount, "unit": s.budget.unit},
            "seeds": self.seeds, "options": dict(s.common), "data_options": dict(s.data_options),
            "protocol": {"context_frames": s.context_frames, "horizon": s.horizon, "split": s.split,
                         "clips_at_most": s.clips, "driven_by": "deterministic prior"},
            "interval": "95% Student t over seeds", "rows": rows, "notes": self.notes(), "command": self.command,
        }

    def write(self) -> None:
        """Write ``table.md`` and ``table.json`` into the folder."""
        write_json(self.folder / "table.json", self.to_dict())
        markdown = self.to_markdown()
        write_atomically(self.folder / "table.md", lambda temporary: temporary.write_text(markdown, "utf-8"))


def _text(metric: str, interval: Interval | None) -> str:
    if interval is None:
        return "-"
    unit, digits = {"psnr": (1, 2), "ssim": (1, 4), "loss": (1, 2), "time_per_step": (1e-3, 0),
                    "peak_memory": (1e6, 0)}.get(metric, (1, 0))
    mean, half = interval.mean / unit, (interval.high - interval.low) / 2 / unit
    exact = interval.n < 2 or (metric in ("parameters", "steps") and half == 0)
    return f"{mean:,.{digits}f}" if exact else f"{mean:,.{digits}f} ± {half:,.{digits}f}"


def make_rows(variants: Sequence[Variant], results: Mapping[tuple[int, int], Mapping[str, Any]],
              folders: Mapping[tuple[int, int], Path], seeds: int) -> list[Row]:
    """Rows of the table.

    Args:
        variants: The combinations.
        results: (variant, seed) -> result of the cell, where there is one.
        folders: (variant, seed) -> folder of the cell.
        seeds: Seeds that were asked for.
    """
    rows = [_row(i, variant, results, folders, seeds) for i, variant in enumerate(variants)]
    finished = [r for r in results.values() if r["status"] == "finished"]
    for name in REFERENCES if finished else ():
        scores = finished[0]["report"]["results"][name]
        numbers = {metric: [scores[metric]["mean"]] for metric in ("psnr", "ssim")}
        curve = [frame["mean"] for frame in scores["psnr"]["per_frame"]]
        rows.append(Row(None, name, numbers, 1, {}, curves=[curve]))
    return rows


def _row(index: int, variant: Variant, results: Mapping[tuple[int, int], Mapping[str, Any]],
         folders: Mapping[tuple[int, int], Path], seeds: int) -> Row:
    own = {seed: results[index, seed] for seed in range(seeds) if (index, seed) in results}
    finished = {seed: r for seed, r in own.items() if r["status"] == "finished"}
    errors = {seed: r["error"] for seed, r in own.items() if r["status"] == "failed"}
    numbers: dict[str, list[float]] = {metric: [] for metric in METRICS}
    for result in finished.values():
        known = {**result, "time_per_step": result["seconds"] / max(1, result["steps"])}
        for metric, values in numbers.items():
            if known[metric] is not None:
                values.append(known[metric])
    curves = [[f["mean"] for f in r["report"]["results"]["model"]["psnr"]["per_frame"]] for r in finished.values()]
    gif = folders[index, min(finished)] / "rollout.gif" if finished else None
    over = [r["report"]["results"]["model"]["psnr"].get("over", {}) for r in finished.values()]
    margins = {name: [Interval.from_dict(margin[name]) for margin in over if name in margin] for name in REFERENCES}
    start = next((r.get("weights_from") for r in finished.values()), None)
    return Row(variant, variant.label, numbers, seeds, errors, gif, curves, margins, start)
