"""Line charts as inline SVG. Colours are CSS variables ``--line0`` .. ``--line7`` of the page that shows them."""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from ..errors import ShapeError

Scale = Callable[[float], float]
Numbers = Sequence[float]
Series = tuple[Numbers, Numbers] | tuple[Numbers, Numbers, Numbers, Numbers]
"""(x, y), or (x, y, low, high) with an interval to shade."""

_MAX_POINTS = 1200


class Sheet(NamedTuple):
    """Size of a chart and of the margins around its plot, pixels; letters are 12 of them."""

    width: int
    height: int
    left: int
    ticks: int
    right: int = 16
    top: int = 14
    bottom: int = 52


WIDE, NARROW = Sheet(1080, 360, 72, 6), Sheet(400, 300, 58, 4)
"""For a desktop, and for a phone: a wide chart shrunk to a phone cannot be read."""


def curve_svg(
    series: Mapping[str, Series], *, x_label: str = "", y_label: str = "", log: bool = False, description: str = "",
    sheet: Sheet = WIDE, colors: Mapping[str, int] | None = None,
) -> tuple[str, int]:
    """Line chart of named series.

    Long series are thinned to the minimum and maximum of each bucket, so that spikes stay visible.

    Args:
        series: Name -> (x, y) or (x, y, low, high).
        x_label: Name and unit of the horizontal axis.
        y_label: Name and unit of the vertical axis.
        log: Logarithmic vertical axis.
        description: Text for readers that do not see the picture.
        sheet: Size of the chart.
        colors: Name -> number of its colour; default: in their order.
    Returns:
        (SVG element, number of values left out because they are not finite or, with ``log``, not positive).
    Raises:
        ShapeError: if a series is empty or its parts differ in length, or no value at all can be drawn.
    Example:
        >>> svg, hidden = curve_svg({"loss": ([0, 1, 2], [3.0, float("nan"), 1.0])})
        >>> svg[:4], hidden
        ('<svg', 1)
    """
    lines, hidden = {}, 0
    for name, parts in series.items():
        columns = [[float(v) for v in part] for part in parts]
        if len(columns) not in (2, 4) or not columns[0] or any(len(c) != len(columns[0]) for c in columns):
            lengths = [len(c) for c in columns]
            raise ShapeError(f"curve '{name}' must be (x, y) or (x, y, low, high) of one length > 0, got {lengths}")
        lines[name] = [tuple(row) if _drawable(row, log) else None for row in zip(*columns, strict=True)]
        hidden += sum(row is None for row in lines[name])
    rows = [row for line in lines.values() for row in line if row is not None]
    if not rows:
        raise ShapeError("no value of these curves can be drawn: all are missing, NaN, infinite or not positive (log)")
    span = (sheet.left, sheet.width - sheet.right)
    to_x, x_ticks = _axis([row[0] for row in rows], *span, log=False, ticks=sheet.ticks)
    heights = [v for row in rows for v in row[1:] if not (log and v <= 0)]
    to_y, y_ticks = _axis(heights, sheet.height - sheet.bottom, sheet.top, log=log, ticks=6)
    body = [_frame(sheet, to_x, x_ticks, to_y, y_ticks, x_label, y_label)]
    floor = min(heights)  # an interval may reach below zero on a logarithmic axis
    for i, (name, line) in enumerate(lines.items()):
        color = f"var(--line{(colors or {}).get(name, i) % 8})"
        body += [_draw(run, to_x, to_y, color, floor if log else -math.inf) for run in _runs(line)]
    label = html.escape(description or f"curves: {', '.join(series)}")
    svg = f'<svg viewBox="0 0 {sheet.width} {sheet.height}" role="img" aria-label="{label}">{"".join(body)}</svg>'
    return svg, hidden


def _drawable(row: Sequence[float], log: bool) -> bool:
    return all(map(math.isfinite, row)) and not (log and row[1] <= 0)


def _runs(line: list[tuple[float, ...] | None]) -> list[list[tuple[float, ...]]]:
    """Stretches without gaps, thinned."""
    runs: list[list[tuple[float, ...]]] = [[]]
    for row in line:
        if row is None:
            runs.append([])
        else:
            runs[-1].append(row)
    return [_thin(run) for run in runs if run]


def _thin(run: list[tuple[float, ...]]) -> list[tuple[float, ...]]:
    if len(run) <= _MAX_POINTS:
        return run
    size = math.ceil(2 * len(run) / _MAX_POINTS)
    kept = [run[0]]
    for start in range(0, len(run), size):
        indices = range(start, min(start + size, len(run)))
        ends = {min(indices, key=lambda i: run[i][1]), max(indices, key=lambda i: run[i][1])}
        kept += [run[i] for i in sorted(ends)]
    return [*kept, run[-1]]


def _draw(run: list[tuple[float, ...]], to_x: Scale, to_y: Scale, color: str, floor: float) -> str:
    def path(points: list[tuple[float, float]]) -> str:
        return " ".join(f"{to_x(x):.1f},{to_y(max(y, floor)):.1f}" for x, y in points)

    out = ""
    if len(run[0]) == 4:
        outline = [(r[0], r[3]) for r in run] + [(r[0], r[2]) for r in reversed(run)]
        out += f'<polygon points="{path(outline)}" fill="{color}" opacity=".16"/>'
    if len(run) > 1:
        points, width = path([(r[0], r[1]) for r in run]), 1.2 if len(run) > 300 else 2
        style = f'fill="none" stroke="{color}" stroke-width="{width}" stroke-linejoin="round"'
        out += f'<polyline points="{points}" {style}/>'
    if len(run) <= 60:
        for x, y, *_ in run:
            dot = f'<circle cx="{to_x(x):.1f}" cy="{to_y(y):.1f}" r="2.8" fill="{color}">'
            out += f"{dot}<title>{x:.6g}: {y:.6g}</title></circle>"
    return out


def _axis(values: list[float], start: float, end: float, *, log: bool, ticks: int) -> tuple[Scale, list[float]]:
    """Mapping value -> pixel, and where to put ticks."""
    scale = math.log10 if log else float
    low, high = min(map(scale, values)), max(map(scale, values))
    if high - low < 1e-9 * max(1.0, abs(high)):
        margin = 0.5 if log else max(abs(high) * 0.1, 0.5)
        low, high = low - margin, high + margin
    pad = 0.04 * (high - low) if start > end else 0.0  # room above and below, none at the sides
    low, high = low - pad, high + pad
    marks = _log_ticks(low, high) if log else _linear_ticks(low, high, ticks)
    return (lambda v: start + (scale(v) - low) / (high - low) * (end - start)), marks


def _linear_ticks(low: float, high: float, most: int = 6) -> list[float]:
    raw = (high - low) / most
    unit = 10.0 ** math.floor(math.log10(raw))
    step = next(m * unit for m in (1, 2, 5, 10) if m * unit >= raw)
    first = math.ceil(low / step - 1e-9)
    return [round(k * step, 12) for k in range(first, math.floor(high / step + 1e-9) + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten, or 1-2-5 steps if the axis spans less than two of them."""
    if high - low < 2:
        factors: tuple[int, ...] = (1, 2, 5)
    else:
        factors = (1,)
    every = max(1, math.ceil((high - low) / 8))
    powers = range(math.floor(low), math.ceil(high) + 1, every)
    found = [m * 10.0**p for p in powers for m in factors if low - 1e-9 <= p + math.log10(m) <= high + 1e-9]
    return found if len(found) > 1 else [10**v for v in _linear_ticks(low, high)]


def _frame(
    sheet: Sheet, to_x: Scale, x_ticks: list[float], to_y: Scale, y_ticks: list[float], x_label: str, y_label: str
) -> str:
    out, left, bottom, right = [], sheet.left, sheet.height - sheet.bottom, sheet.width - sheet.right
    for v in y_ticks:
        y = f"{to_y(v):.1f}"
        out.append(f'<line x1="{left}" x2="{right}" y1="{y}" y2="{y}" stroke="var(--rule)"/>')
        out.append(f'<text x="{left - 8}" y="{y}" dy=".35em" text-anchor="end">{v:.4g}</text>')
    out.append(f'<line x1="{left}" x2="{right}" y1="{bottom}" y2="{bottom}" stroke="var(--muted)"/>')
    for v in x_ticks:
        x = f"{to_x(v):.1f}"
        out.append(f'<line x1="{x}" x2="{x}" y1="{bottom}" y2="{bottom + 5}" stroke="var(--muted)"/>')
        out.append(f'<text x="{x}" y="{bottom + 19}" text-anchor="middle">{v:.6g}</text>')
    middle_x, middle_y = (left + right) / 2, (sheet.top + bottom) / 2
    out.append(f'<text x="{middle_x}" y="{sheet.height - 8}" text-anchor="middle">{html.escape(x_label)}</text>')
    out.append(
        f'<text transform="translate(16 {middle_y}) rotate(-90)" text-anchor="middle">{html.escape(y_label)}</text>'
    )
    return "".join(out)
