"""The demo's report: at its top what one must see in ten seconds, below it curves, tables and details."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ...metrics import Report
from ...metrics.report import ARROWS
from ...viz import HtmlReport
from ...viz.images import labelled_rows
from .looks import CONTEXT, HORIZON, Look, Pictures
from .words import Verdict, margins

TITLE = "worldkit demo: a world model of bouncing balls, learned from video alone"
RELOAD = 5
_HOLD = 4  # times the last frame of an animation is shown
_LEGEND = (
    "Blue: frames it was given (drawn again). Green: its prediction of what comes next, which it has never seen. Red: "
    "what really happened."
)
SHORT = {"model": "this model", "copy last frame": "copying the last frame", "mean training frame": "the mean frame"}
_MOVED = "What if one thing lay elsewhere?"


@dataclass
class Ended:
    """What the end of the demo adds to the page."""

    predicted: Report
    verdict: Verdict
    commands: Sequence[tuple[str, str]]
    shipped: tuple[str, Tensor] | None
    panel: Tensor
    log: list[dict[str, Any]] = field(repr=False)
    times: str = ""


def draw(
    status: str, pictures: Pictures | None, truth: Tensor | None, looks: Sequence[Look], ended: Ended | None
) -> HtmlReport:
    """The page as it stands.

    Args:
        status: What is going on, or what it took.
        pictures: What the model makes of the clip that is shown; None: it has not been looked at.
        truth: That clip, framed, ``[T, 3, h, w]``; None: there are no data yet.
        looks: All so far.
        ended: The end, if it has come.
    """
    page = HtmlReport(TITLE).text(status)
    if ended is not None:
        page.text(headline(ended.predicted))
    _glance(page, pictures, truth)
    if ended is not None:
        _verdict(page, ended)
    if looks:
        _progress(page, looks)
    if ended is not None:
        _details(page, ended)
    page.heading("What this is").text(
        "Synthetic data: three balls of radius 8 (in 64 pixels) bounce and collide; shown at 32 pixels. The model sees "
        f"only video. It is trained on the training split; {CONTEXT} frames of clips it never saw are given, {HORIZON} "
        "are predicted with the mean of its own policy. Two baselines stand beside it: repeating the last given frame, "
        "and the mean frame of the training data."
    )
    return page


def headline(report: Report) -> str:
    """The numbers in two lines."""
    rows = {row: report.summary(row, "psnr").mean for row in report.scores}
    over = "; ".join(f"{interval.mean:+.2f} ± {(interval.high - interval.low) / 2:.2f} dB against {SHORT[name]}"
                     for name, interval in margins(report).items())
    return (f"Over {HORIZON} predicted frames of {report.protocol['n']} clips it never saw: {rows['model']:.1f} dB; "
            f"copying {rows['copy last frame']:.1f}, the mean frame {rows['mean training frame']:.1f}. {over} "
            "(paired, ± half of the 95 % interval).")


def _glance(page: HtmlReport, pictures: Pictures | None, truth: Tensor | None) -> None:
    if pictures is None:
        if truth is not None:
            page.tiles({"What happened: the clip that will be predicted": _held(truth)}, fps=3)
            page.text("The first prediction appears here in a moment.")
        return
    what, predicted, *found = pictures.seen.rows.values()
    rows = {"What happened": what, "What the model predicts": predicted}
    rows |= {"What it found: a colour for each thing": found[0]} if found else {}
    rows |= {_MOVED: pictures.edit.row} if pictures.edit is not None else {}
    page.tiles({name: _held(row) for name, row in rows.items()}, fps=3)
    page.text(_LEGEND + (" The white box marks what was moved." if pictures.edit is not None else ""))
    strip = dict(pictures.seen.rows)
    strip |= {"what if it lay elsewhere": pictures.edit.row} if pictures.edit is not None else {}
    page.image(type(pictures.seen)(strip, CONTEXT, True).strip(), caption="The same, standing still.")
    if pictures.edit is None:
        page.text(f"Nothing to move yet: {pictures.nothing}.")


def _held(row: Tensor) -> Tensor:
    """An animation that rests on its last frame."""
    return torch.cat([row, row[-1:].expand(_HOLD, -1, -1, -1)])


def _verdict(page: HtmlReport, ended: Ended) -> None:
    for title, found in ended.verdict.parts():
        page.heading(title).points(found)
    page.heading("Type next").points([f"{command}  {what}" for command, what in ended.commands], code=True)


def _progress(page: HtmlReport, looks: Sequence[Look]) -> None:
    page.heading("How the prediction gets better")
    seconds = [look.seconds for look in looks]
    page.curve({title: (seconds, [look.psnr[row] for look in looks]) for row, title in SHORT.items()},
               x_label="seconds of training", y_label=f"PSNR of {HORIZON} predicted frames (dB)",
               caption=f"{looks[-1].clips} validation clips at each look: enough for a trend, not for a claim.")
    chosen = sorted({round(i * (len(looks) - 1) / 5) for i in range(6)})
    rows = {f"after {looks[i].seconds:.0f} s": looks[i].predicted for i in chosen}
    truth = looks[-1].pictures.seen.rows["what happened"][CONTEXT:]
    page.image(labelled_rows({**rows, "what happened": truth}, [f"predicted {t + 1}" for t in range(HORIZON)]),
               caption="The same clip at each look.")


def _details(page: HtmlReport, ended: Ended) -> None:
    page.heading("Numbers")
    header, rows = ended.predicted.table()
    page.table(header, rows, caption=f"{ended.predicted.protocol['n']} test clips")
    page.text(f"Mean over {HORIZON} predicted frames and all clips ± half of the 95% interval over clips; differences "
              f"are paired. {ARROWS}")
    page.curve(_over_frames(ended.predicted), x_label="predicted frame", y_label="PSNR (dB)")
    if ended.shipped is not None:
        text, picture = ended.shipped
        page.heading("What longer training reaches").text(text).image(picture, caption="The same clip.")
    page.heading("Training")
    lines = [line for line in ended.log if "loss" in line]
    for entry, title, unit in (("loss", "training loss", "loss"), ("psnr", "reconstruction PSNR", "dB")):
        if all(entry in line for line in lines):
            page.curve({title: ([line["step"] for line in lines], [line[entry] for line in lines])}, x_label="step",
                       y_label=unit)
    page.text(ended.times)
    page.heading("Taken apart").image(ended.panel, caption="one column per frame")


def _over_frames(report: Report) -> dict[str, Any]:
    """PSNR of every row over the predicted frames, with its interval."""
    curves = {}
    for row in report.scores:
        points = report.curve(row, "psnr")
        curves[SHORT[row]] = ([*range(1, len(points) + 1)], [p.mean for p in points], [p.low for p in points],
                              [p.high for p in points])
    return curves
