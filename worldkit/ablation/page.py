"""The HTML report of an ablation: the table, the predictions frame by frame, example rollouts, errors."""

from __future__ import annotations

from ..viz import HtmlReport
from .table import Ablation, Row


def draw_page(ablation: Ablation) -> HtmlReport:
    """Everything in one file that needs no network."""
    study = ablation.study
    page = HtmlReport(f"Ablation of {study.preset}")
    page.text(f"{study.budget} of training for every cell, {ablation.seeds} seed(s), data {study.data}. "
              f"{study.context_frames} frames are given, {study.horizon} are predicted.")
    page.table(*ablation.table())
    page.text("\n\n".join([*(f"[{number}] {error}" for number, error in enumerate(ablation.errors(), 1)),
                            *ablation.notes()]))
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
            still = row.gif.with_suffix(".png")
            page.gif(row.gif.read_bytes(), still=still.read_bytes() if still.exists() else None, caption=_name(row))
    page.heading("How this was made")
    return page.text(ablation.command)


def _name(row: Row) -> str:
    return f"{row.name} (baseline)" if row.variant is not None and row.variant.baseline else row.name


def _mean_curve(row: Row) -> tuple[list[int], list[float]]:
    frames = [sum(values) / len(values) for values in zip(*row.curves, strict=True)]
    return list(range(1, len(frames) + 1)), frames
