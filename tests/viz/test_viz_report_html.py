"""The page escapes what it shows, and needs nothing but itself."""

import base64
import math
import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest
import torch

from worldkit.errors import ShapeError
from worldkit.viz import HtmlReport, gif_bytes, png_bytes
from worldkit.viz.curves import _linear_ticks, _log_ticks, curve_svg

EVIL = """<script>alert("1")</script>'&"""


def full_page():
    video = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    return (
        HtmlReport(EVIL)
        .heading(EVIL)
        .text(EVIL + "\n\nsecond")
        .table([EVIL, "b"], [[EVIL, 1]], caption=EVIL)
        .image(video[0], caption=EVIL)
        .gif(video, caption=EVIL)
        .curve({EVIL: ([0, 1], [1, 2])}, x_label=EVIL, y_label=EVIL, caption=EVIL)
        .to_html()
    )


class Balance(HTMLParser):
    """Checks that every element is closed in order, and collects the tags."""

    def __init__(self):
        super().__init__()
        self.open, self.tags = [], set()

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        if tag not in {"meta", "img", "line", "polyline", "polygon"}:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.add(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_everything_is_escaped_and_well_formed():
    page = full_page()
    parser = Balance()
    parser.feed(page)
    assert not parser.open and "script" not in parser.tags
    assert "<script" not in page and page.count("&lt;script&gt;") >= 10


def test_the_page_is_self_contained():
    page = full_page()
    assert "http" not in page and "<link" not in page and "@import" not in page
    sources = re.findall(r'src="([^"]*)"', page)
    assert len(sources) == 2 and all(s.startswith("data:image/") for s in sources)
    assert "prefers-color-scheme:dark" in page


def test_pictures_are_the_given_bytes():
    video = torch.rand(3, 3, 8, 8)
    for page, data in (
        (HtmlReport("t").image(video[0]), png_bytes(video[0])),
        (HtmlReport("t").image(png_bytes(video[0])), png_bytes(video[0])),
        (HtmlReport("t").gif(video, fps=5), gif_bytes(video, fps=5)),
        (HtmlReport("t").gif(gif_bytes(video)), gif_bytes(video)),
    ):
        assert base64.b64encode(data).decode() in page.to_html()
    with pytest.raises(ShapeError, match="PNG, GIF or JPEG"):
        HtmlReport("t").image(b"<svg>")


def test_write(tmp_path):
    report = HtmlReport("Grüße")
    report.write(tmp_path / "new" / "r.html")
    assert (tmp_path / "new" / "r.html").read_text("utf-8") == report.to_html()
    assert len(list((tmp_path / "new").iterdir())) == 1


def test_ragged_tables_are_refused():
    with pytest.raises(ShapeError, match="row 1 has 1 cells, the header 2"):
        HtmlReport("t").table(["a", "b"], [[1, 2], [1]])


def points(svg):
    root = ElementTree.fromstring(svg)
    return [[tuple(map(float, p.split(","))) for p in e.get("points").split()] for e in root.iter("polyline")]


def test_curve_maps_linearly_and_logarithmically():
    (line,) = points(curve_svg({"a": ([0, 1, 2], [1.0, 10.0, 100.0])}, log=True)[0])
    assert line[1][1] - line[0][1] == pytest.approx(line[2][1] - line[1][1], abs=0.11)
    assert line[0][1] > line[2][1] and line[1][0] - line[0][0] == pytest.approx(line[2][0] - line[1][0], abs=0.11)
    (line,) = points(curve_svg({"a": ([0, 1, 2], [1.0, 10.0, 100.0])})[0])
    assert (line[0][1] - line[1][1]) / (line[0][1] - line[2][1]) == pytest.approx(9 / 99, abs=1e-3)


def test_gaps_are_shown_and_counted():
    values = [1.0, 2.0, math.nan, 3.0, math.inf, 0.0, 4.0, 5.0]
    svg, hidden = curve_svg({"a": (range(8), values)}, log=True)
    assert hidden == 3 and len(points(svg)) == 2
    page = HtmlReport("t").curve({"a": (range(8), values)}, log=True, caption="Loss").to_html()
    assert "Loss (3 values not drawn: not finite or not positive)" in page


def test_long_curves_keep_their_spikes():
    values = [1.0] * 50_000
    values[12_345] = 9.0
    svg, _ = curve_svg({"a": (range(50_000), values), "b": (range(50_000), [0.0] * 50_000)})
    line = points(svg)[0]
    assert len(line) < 1300 and min(y for _, y in line) < line[0][1] - 100
    assert line == sorted(line, key=lambda p: p[0])


def test_intervals_are_shaded_even_below_zero_on_a_log_axis():
    svg, hidden = curve_svg({"a": ([1, 2], [1.0, 2.0], [-1.0, 1.0], [3.0, 3.0])}, log=True)
    assert hidden == 0 and "<polygon" in svg and "nan" not in svg


@pytest.mark.parametrize("value", [0.0, 5.0, -3.0, 1e-12, 1e9])
def test_constant_curves_have_ticks(value):
    svg, _ = curve_svg({"a": ([0, 1, 2], [value] * 3)})
    assert len(points(svg)[0]) == 3 and svg.count("text-anchor=\"end\"") >= 2


@pytest.mark.parametrize("bad", [([], []), ([1], [1, 2]), ([1], [1], [1]), ([1], [math.nan])])
def test_bad_curves_are_named(bad):
    with pytest.raises(ShapeError, match="curve"):
        curve_svg({"loss": bad})


def test_ticks_are_round():
    assert _linear_ticks(0, 10) == [0, 2, 4, 6, 8, 10]
    assert _linear_ticks(-0.13, 0.31) == pytest.approx([-0.1, 0, 0.1, 0.2, 0.3])
    assert _log_ticks(-2, 3) == pytest.approx([0.01, 0.1, 1, 10, 100, 1000])
    assert _log_ticks(0, 1) == [1, 2, 5, 10]


# -- does it fit?

METRICS = ["method", *(f"metric number {i} ↑" for i in range(12))]


def wide_page():
    """A table of 13 columns, long words, a chart and a picture wider than any screen."""
    return (
        HtmlReport("A page with everything that is wide")
        .table(METRICS, [["a-model-with-a-rather-long-name", *["-12.82 ± 0.45 *"] * 12]] * 3, caption="driven by: " * 9)
        .table(["method", "PSNR (dB) ↑", "SSIM ↑"], [["model − mean training frame", "2.886 ± 0.54 *", "0.51 ± 0.1"]])
        .curve({f"series number {i}": ([0, 1], [i, 2]) for i in range(9)}, x_label="step", y_label="dB")
        .image(torch.rand(3, 40, 2000), caption="wide")
        .text("command --option=" + "x" * 400)
        .points(["worldkit " + "y" * 300 + "  what it does", "short  and long " * 40], code=True)
        .tiles({f"picture {i}": torch.rand(3, 60, 60) for i in range(9)})
    )


def test_a_name_has_one_colour_in_all_charts():
    line = ([0, 1], [1, 2])
    page = HtmlReport("t").curve({"model": line, "copy": line, "mean": line}).curve({"mean": line, "model": line})
    legends = re.findall(r'line(\d)\)"></i>(\w+)', page.to_html())
    assert legends == [("0", "model"), ("1", "copy"), ("2", "mean"), ("2", "mean"), ("0", "model")]
    drawn = re.findall(r'<polyline [^>]*stroke="var\(--line(\d)\)', page.to_html())
    assert drawn == ["0", "1", "2"] * 2 + ["2", "0"] * 2


def test_lists_tiles_and_pages_that_reload():
    page = HtmlReport("t").points(["a < b", "see  c"]).points(["ls -l  <all> files", "pwd"], code=True)
    page.tiles({"moves": torch.zeros(2, 3, 8, 8), "stands": torch.zeros(3, 8, 8), "file": b"GIF89a..."})
    text = page.to_html()
    assert "<ul><li>a &lt; b</li><li>see  c</li></ul>" in text
    assert "<ul><li><code>ls -l</code> &lt;all&gt; files</li><li><code>pwd</code> </li></ul>" in text
    assert text.count("data:image/gif") == 2 and text.count("data:image/png") == 1
    assert text.count("<figure><img") == 3 and "<figcaption>stands</figcaption>" in text
    assert "refresh" not in text and '<meta http-equiv="refresh" content="5">' in page.to_html(reload=5)


def test_rules_for_small_screens():
    page = wide_page().to_html()
    assert '<meta name="viewport" content="width=device-width, initial-scale=1">' in page
    assert "@media(max-width:640px)" in page and "img{display:block;max-width:100%" in page
    assert page.count('<table class="cards many">') == 1 and page.count("<table>") == 1  # three columns fit as they are
    assert '<td data-label="SSIM ↑">0.51 ±&nbsp;0.1</td>' in page and "white-space:nowrap" not in page
    assert page.count('<div class="wide"><svg') == page.count('<div class="narrow"><svg') == 1


def test_the_page_fits_a_phone_and_a_window(tmp_path, layout):
    wide_page().write(tmp_path / "page.html")
    layout(tmp_path / "page.html")
