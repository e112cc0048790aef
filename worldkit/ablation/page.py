"""The HTML report of an ablation: the table, the predictions frame by frame, example rollouts, errors."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..viz import HtmlReport

if TYPE_CHECKING:
    from .table import Ablation, Row

NOTE_LENGTH = 60


def draw_page(ablation: Ablation) -> HtmlReport:
    """Everything in one file that needs no network."""
    study = ablation.study
    page = HtmlReport(f"Ablation of {study.preset}")
    page.text(f"{study.budget} of training for every cell, {ablation.seeds} seed(s), data {study.data}. "
              f"{study.context_frames} frames are given, {study.horizon} are predicted.")
    header, lines = ablation.table()
    page.table(header, [[*cells, _shortened(note)] for *cells, note in lines])
    page.text("\n\n".join(ablation.notes()))
    _add_errors(page, ablation)
    models = [row for row in ablation.rows if row.curves]
    if models:
        page.heading("PSNR of each predicted frame")
        page.curve({_name(row): _mean_curve(row) for row in models}, x_label="predicted frame", y_label="PSNR (dB)",
                   caption="mean over clips and seeds")
        page.heading("Example rollouts")
        page.text("The same clips for every row, first finished seed, driven by the deterministic prior. Red: the "
                  "truth; blue: given frames, reconstructed; green: predicted.")
    for row in ablation.rows:
        if row.gif is not None and row.gif.exists():
            page.gif(row.gif.read_bytes(), caption=_name(row))
    page.heading("How this was made")
    return page.text(ablation.command)


def _add_errors(page: HtmlReport, ablation: Ablation) -> None:
    failed = [row for row in ablation.rows if row.errors]
    if failed:
        page.heading("What failed")
    for row in failed:
        for error in dict.fromkeys(row.errors.values()):
            seeds = ", ".join(str(seed) for seed, e in row.errors.items() if e == error)
            page.text(f"{row.name} (seed {seeds}): {error}")


def _name(row: Row) -> str:
    return f"{row.name} (baseline)" if row.variant is not None and row.variant.baseline else row.name


def _shortened(note: str) -> str:
    return note if len(note) <= NOTE_LENGTH else f"{note[:NOTE_LENGTH]}… (see below)"


def _mean_curve(row: Row) -> tuple[list[int], list[float]]:
    frames = [sum(values) / len(values) for values in zip(*row.curves, strict=True)]
    return list(range(1, len(frames) + 1)), frames
