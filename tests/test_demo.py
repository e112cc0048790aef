"""The demo as one types it: what it says while it works, and the page it writes."""

import re

import pytest

from worldkit.cli import main


@pytest.mark.slow
def test_the_demo_tells_what_it_does_and_its_page_fits(tmp_path, capsys, layout):
    assert main(["demo", "--seconds", "3", "--out", str(tmp_path / "out")]) == 0
    shown = capsys.readouterr().out
    steps = [shown.index(text) for text in ("1/3 making balls-32", "2/3 predicting 40", "3/3 drawing the report")]
    tables = [shown.index(text) for text in ("this run (", "shipped weights (1500 steps")]
    assert steps[0] < shown.index("training: step") < steps[1] < tables[0] < tables[1] < steps[2]
    page = (tmp_path / "out" / "report.html").read_text("utf-8")
    captions = re.findall("<caption>(.*?)</caption>", page)
    assert len(captions) == 2 and captions[0].startswith("this run (") and captions[1].startswith("shipped weights (")
    films = 5 if "Nothing to move: no token is visible" in page else 6  # of so short a run
    assert page.count("data:image/gif") == films and page.count("data:image/png") == films + 2  # strips, and two panels
    layout(tmp_path / "out" / "report.html")
