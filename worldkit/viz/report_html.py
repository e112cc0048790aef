"""`HtmlReport`: text, tables, pictures and curves in one HTML file that needs no network and no other file."""

from __future__ import annotations

import base64
import html
import os
from collections.abc import Mapping, Sequence

from torch import Tensor

from ..errors import ShapeError
from ..files import write_atomically
from .curves import NARROW, WIDE, Series, curve_svg
from .images import gif_bytes, png_bytes


class HtmlReport:
    """A report that grows from top to bottom; every method returns the report, so that calls can be chained.

    All text is escaped: what a data set or a checkpoint name contains is shown, never run.

    Args:
        title: Heading of the page.
    Example:
        >>> page = HtmlReport("Run 1").text("All fine.").table(["step", "loss"], [[1, 0.5]])
        >>> '<td data-label="loss">0.5</td>' in page.to_html()
        True
    """

    def __init__(self, title: str):
        self.title = title
        self._parts: list[str] = []
        self._colors: dict[str, int] = {}

    def heading(self, text: str) -> HtmlReport:
        """Start a section."""
        return self._add(f"<h2>{html.escape(text)}</h2>")

    def text(self, text: str) -> HtmlReport:
        """Add paragraphs; an empty line starts a new one."""
        return self._add("".join(f"<p>{html.escape(part)}</p>" for part in text.split("\n\n")))

    def points(self, items: Sequence[str], *, code: bool = False) -> HtmlReport:
        """Add a list; ``code``: what stands before the first two blanks in a row is to be typed."""
        lines = []
        for item in items:
            typed, _, rest = item.partition("  ") if code else ("", "", item)
            lines.append(f"<li>{f'<code>{html.escape(typed)}</code> ' if code else ''}{html.escape(rest)}</li>")
        return self._add(f"<ul>{''.join(lines)}</ul>")

    def table(self, header: Sequence[object], rows: Sequence[Sequence[object]], *, caption: str = "") -> HtmlReport:
        """Add a table. The first column is set as row names, the others as numbers.

        Cells wrap where room is short; on a phone, rows of more than three cells become cards.

        Raises:
            ShapeError: if a row has another length than the header.
        """
        for i, row in enumerate(rows):
            if len(row) != len(header):
                raise ShapeError(f"table row {i} has {len(row)} cells, the header {len(header)}")
        names = [html.escape(str(cell)) for cell in header]
        head = "".join(f'<th scope="col">{name}</th>' for name in names)
        body = "".join(f"<tr>{_cells(names, row)}</tr>" for row in rows)
        title = f"<caption>{html.escape(caption)}</caption>" if caption else ""
        kind = "" if len(header) <= 3 else ' class="cards"' if len(header) <= 9 else ' class="cards many"'
        return self._add(
            f'<div class="scroll"><table{kind}>{title}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
        )

    def image(self, picture: Tensor | bytes, *, caption: str = "") -> HtmlReport:
        """Add a picture: ``[3, h, w]`` (uint8, or float in [0, 1]), or the bytes of a PNG or JPEG file."""
        return self._pictures([picture if isinstance(picture, bytes) else png_bytes(picture)], caption)

    def gif(self, frames: Tensor | bytes, *, still: Tensor | bytes | None = None, fps: float = 8,
            caption: str = "") -> HtmlReport:
        """Add an animation.

        Args:
            frames: ``[T, 3, h, w]`` (uint8, or float in [0, 1]), or the bytes of a GIF file.
            still: A picture of the same that stands still and is shown below, as for `image`: for print, for a closer
                look, and for readers who stop animations.
            fps: Frames per second, of a tensor.
            caption: Text below.
        """
        data = [frames if isinstance(frames, bytes) else gif_bytes(frames, fps=fps)]
        if still is not None:
            data.append(still if isinstance(still, bytes) else png_bytes(still))
        return self._pictures(data, caption)

    def tiles(self, pictures: Mapping[str, Tensor | bytes], *, fps: float = 8) -> HtmlReport:
        """Add pictures or animations side by side, two in a row on a phone.

        Args:
            pictures: Caption -> ``[3, h, w]``, an animation ``[T, 3, h, w]`` (uint8, or float in [0, 1]), or the bytes
                of a file. Animations of as many frames keep step.
            fps: Frames per second of animations.
        """
        files = {name: x if isinstance(x, bytes) else gif_bytes(x, fps=fps) if x.ndim == 4 else png_bytes(x)
                 for name, x in pictures.items()}
        drawn = "".join(f'<figure><img src="{_source(data)}" alt="{html.escape(name)}">{_figcaption(name)}</figure>'
                        for name, data in files.items())
        return self._add(f'<div class="tiles">{drawn}</div>')

    def curve(
        self,
        series: Mapping[str, Series],
        *,
        x_label: str = "",
        y_label: str = "",
        log: bool = False,
        caption: str = "",
    ) -> HtmlReport:
        """Add a line chart as inline SVG. A name has the same colour in every chart of the page.

        Args:
            series: Name -> (x, y), or (x, y, low, high) to shade an interval; sequences of numbers of one length.
            x_label: Name and unit of the horizontal axis.
            y_label: Name and unit of the vertical axis.
            log: Logarithmic vertical axis.
            caption: Text below; also says how many values could not be drawn.
        Raises:
            ShapeError: if a series is empty or its parts differ in length, or no value at all can be drawn.
        """
        charts = []
        for name in series:
            self._colors.setdefault(name, len(self._colors))
        for name, sheet in (("wide", WIDE), ("narrow", NARROW)):
            svg, hidden = curve_svg(series, x_label=x_label, y_label=y_label, log=log, description=caption, sheet=sheet,
                                    colors=self._colors)
            charts.append(f'<div class="{name}">{svg}</div>')
        if hidden:
            kind = "not finite or not positive" if log else "not finite"
            caption = f"{caption} ({hidden} values not drawn: {kind})".strip()
        keys = [f'<i style="background:var(--line{self._colors[name] % 8})"></i>{html.escape(name)}' for name in series]
        names = "".join(f"<li>{key}</li>" for key in keys)
        drawn = "".join(charts) + _figcaption(caption)
        return self._add(f'<figure><ul class="legend">{names}</ul>{drawn}</figure>')

    def to_html(self, *, reload: float | None = None) -> str:
        """The whole page.

        Args:
            reload: Seconds after which a browser loads it again, for a page that is written again and again.
        """
        title = html.escape(self.title)
        again = "" if reload is None else f'<meta http-equiv="refresh" content="{reload:g}">'
        return (
            f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
            f'{again}<meta name="viewport" content="width=device-width, initial-scale=1">'
            f'<meta name="color-scheme" content="light dark"><style>{_CSS}</style></head>'
            f"<body><main><h1>{title}</h1>\n" + "\n".join(self._parts) + "\n</main></body></html>\n"
        )

    def write(self, path: str | os.PathLike[str], *, reload: float | None = None) -> None:
        """Write the page to one file; replaces it in one step. ``reload``: as for `to_html`."""
        page = self.to_html(reload=reload)
        write_atomically(path, lambda temporary: temporary.write_text(page, "utf-8"))

    def _pictures(self, files: Sequence[bytes], caption: str) -> HtmlReport:
        alt = html.escape(caption or "picture")
        drawn = "".join(f'<img src="{_source(data)}" alt="{alt}">' for data in files)
        return self._add(f"<figure>{drawn}{_figcaption(caption)}</figure>")

    def _add(self, part: str) -> HtmlReport:
        self._parts.append(part)
        return self


def _source(data: bytes) -> str:
    """A picture's file as the address of an ``img``."""
    kinds = {b"\x89PNG": "png", b"GIF8": "gif", b"\xff\xd8\xff": "jpeg"}
    kind = next((name for start, name in kinds.items() if data.startswith(start)), None)
    if kind is None:
        raise ShapeError(f"picture bytes must be a PNG, GIF or JPEG file, got bytes that start with {data[:8]!r}")
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def _cells(names: Sequence[str], row: Sequence[object]) -> str:
    """Cells of a row; each knows its column's name, for cards. A line breaks before "±", never behind it."""
    texts = [html.escape(str(cell)).replace("± ", "±&nbsp;").replace(" *", "&nbsp;*") for cell in row]
    return "".join(f'<td data-label="{name}">{text}</td>' for name, text in zip(names, texts, strict=True))


def _figcaption(caption: str) -> str:
    return f"<figcaption>{html.escape(caption)}</figcaption>" if caption else ""


_CSS = """
:root{--ground:#fbfbfd;--card:#fff;--ink:#1d2330;--muted:#5d6678;--rule:#e1e5ec;--accent:#2f5fd0;
--line0:#2f6fde;--line1:#d9480f;--line2:#2b8a3e;--line3:#9c36b5;--line4:#b8860b;--line5:#0b8793;--line6:#c2255c;
--line7:#5c6470}
@media(prefers-color-scheme:dark){:root{--ground:#12151b;--card:#1a1f28;--ink:#e7eaf0;--muted:#9aa4b5;--rule:#2e3644;
--accent:#82a7ff;--line0:#74a5ff;--line1:#ff9352;--line2:#5fd07a;--line3:#d78cf0;--line4:#e6bd4a;--line5:#4fd1dc;
--line6:#ff7fa8;--line7:#aab2c0}}
*{box-sizing:border-box}
body{margin:0;background:var(--ground);color:var(--ink);
font:16px/1.6 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
main{max-width:1180px;margin:0 auto;padding:40px 24px 80px}
h1{font-size:1.9rem;line-height:1.2;letter-spacing:-.015em;margin:0 0 20px}
h2{font-size:1.25rem;margin:44px 0 12px;padding-bottom:6px;border-bottom:1px solid var(--rule)}
ul{margin:0 0 14px;padding-left:1.3em;overflow-wrap:anywhere}li{margin:4px 0}
code{background:var(--rule);padding:2px 5px;border-radius:4px;font-size:.9em}
p{max-width:72ch;margin:0 0 14px;white-space:pre-line;overflow-wrap:anywhere}
.scroll{overflow-x:auto;margin:0 0 22px;background:var(--card);border:1px solid var(--rule);border-radius:10px}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
caption{text-align:left;padding:12px 16px;font-weight:600;border-bottom:1px solid var(--rule)}
th,td{padding:9px 16px;text-align:right;vertical-align:top;border-bottom:1px solid var(--rule)}
.cards th,.cards td{padding:9px 10px}
.many th,.many td{padding:8px 6px;font-size:.8rem}
th:first-child,td:first-child{text-align:left;min-width:8em}
th{font-size:.82rem;font-weight:600;color:var(--muted)}
tbody tr:last-child td{border-bottom:0}
figure{margin:0 0 22px;padding:16px;background:var(--card);border:1px solid var(--rule);border-radius:10px;
overflow-x:auto}
img{display:block;max-width:100%;height:auto;border-radius:4px}
img+img{margin-top:12px}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(150px,1fr));gap:12px;margin:0 0 22px}
.tiles figure{margin:0;padding:10px;max-width:300px}.tiles img{width:100%;image-rendering:pixelated}
figcaption{margin-top:10px;color:var(--muted);font-size:.88rem;max-width:90ch;overflow-wrap:anywhere}
.narrow{display:none}
svg{display:block;width:100%;max-width:1080px;height:auto;
font:12px system-ui,-apple-system,"Segoe UI",sans-serif}
svg text{fill:var(--muted)}
.legend{display:flex;flex-wrap:wrap;gap:4px 18px;list-style:none;margin:0 0 8px;padding:0;font-size:.88rem}
.legend i{display:inline-block;width:14px;height:4px;border-radius:2px;margin-right:7px;vertical-align:middle}
@media(max-width:640px){main{padding:24px 14px 56px}h1{font-size:1.5rem}figure{padding:12px}
.wide{display:none}.narrow{display:block}
th,td{padding:8px 10px;font-size:.88rem}th:first-child,td:first-child{min-width:0}
.cards,.cards caption,.cards tbody,.cards tr{display:block}
.cards thead{display:none}
.cards tr{padding:6px 0;border-bottom:1px solid var(--rule)}.cards tr:last-child{border-bottom:0}
.cards td,.cards td:first-child{display:flex;justify-content:space-between;gap:14px;padding:3px 12px;border:0;
font-size:.88rem;text-align:right}
.cards td::before{content:attr(data-label);color:var(--muted);text-align:left}
.cards td:first-child{font-weight:600;text-align:left}.cards td:first-child::before,.cards td:empty{display:none}}
@media print{main{padding:0}figure,.scroll{break-inside:avoid}}
"""
