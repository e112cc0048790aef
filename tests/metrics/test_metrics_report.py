"""Intervals on known numbers, and reports that cannot hide their protocol."""

import json
import math

import pytest
import torch

from worldkit.errors import ConfigError, DataError, ShapeError
from worldkit.metrics import Report, confidence_interval, paired_difference
from worldkit.metrics.report import Interval, _t_quantile

PROTOCOL = {
    "context_frames": 4, "horizon": 2, "split": "test", "resolution": "64x64",
    "decoding": "stochastic", "seed": 0, "driven_by": "sampled",
}
SCORES = {
    "model": {"psnr": torch.tensor([[1.0, 3.0], [2.0, 4.0], [3.0, 5.0]]), "ssim": torch.full((3, 2), 0.5)},
    "copy last frame": {"psnr": torch.tensor([[0.0, 1.0], [0.0, 1.0], [0.0, 4.0]])},
}


@pytest.mark.parametrize(  # printed tables of Student's t
    "freedom, quantile", [(1, 12.7062), (2, 4.3027), (3, 3.1824), (10, 2.2281), (29, 2.0452), (120, 1.9799)]
)
def test_t_quantiles(freedom, quantile):
    assert _t_quantile(freedom) == pytest.approx(quantile, abs=5e-5)


def test_interval_of_known_numbers():
    interval = confidence_interval(torch.tensor([1.0, 2.0, 3.0]))  # s = 1, n = 3
    assert interval.mean == 2 and interval.n == 3
    assert interval.high - 2 == pytest.approx(4.302653 / math.sqrt(3), rel=1e-6)
    assert 2 - interval.low == pytest.approx(interval.high - 2)


def test_interval_covers_the_truth_95_times_in_100():
    draws = torch.randn(2000, 8, generator=torch.Generator().manual_seed(0))
    intervals = [confidence_interval(row) for row in draws]
    assert sum(i.low < 0 < i.high for i in intervals) / 2000 == pytest.approx(0.95, abs=0.015)


def test_one_clip_has_a_mean_but_no_interval(tmp_path):
    report = Report({"model": {"psnr": torch.tensor([[1.0, 3.0]])}}, PROTOCOL)
    assert report.table()[1] == [["model", "2"]]
    report.to_json(tmp_path / "r.json")
    stored = json.loads((tmp_path / "r.json").read_text())["results"]["model"]["psnr"]
    assert stored["low"] is None
    del stored["per_frame"]
    again = Interval.from_dict(stored)
    assert math.isnan(again.low) and math.isnan(again.high) and (again.mean, again.n) == (2.0, 1)


def test_frames_are_averaged_inside_clips_first():
    report = Report(SCORES, PROTOCOL)
    assert report.summary("model", "psnr") == confidence_interval(torch.tensor([2.0, 3.0, 4.0]))
    assert [i.mean for i in report.curve("model", "psnr")] == [2.0, 4.0]
    assert report.protocol["n"] == 3


def test_table_markdown_and_terminal(capsys):
    report = Report(SCORES, PROTOCOL | {"checkpoint": "a|b"})
    header, rows = report.table()
    assert header == ["method", "PSNR (dB) ↑", "SSIM ↑"]
    assert rows[0] == ["model", "3 ± 2.5", "0.5 ± 0"] and rows[1][2] == "-"
    markdown = report.to_markdown()
    assert markdown.splitlines()[:3] == [
        "| method | PSNR (dB) ↑ | SSIM ↑ |", "| --- | ---: | ---: |", "| model | 3 ± 2.5 | 0.5 ± 0 |",
    ]
    report.print()
    shown = capsys.readouterr().out
    for text in ("PSNR", "3 ± 2.5", "frames given 4", "driven by sampled", "clips 3"):
        assert text in shown
        assert text in markdown


def test_margins_over_baselines_are_paired():
    report = Report(SCORES, PROTOCOL)
    over = report.per_clip("model", "psnr") - report.per_clip("copy last frame", "psnr")  # 1.5, 2.5, 2
    margin = report.margin("psnr", "copy last frame")
    assert margin == confidence_interval(over) and margin.mean == 2 and margin.excludes_zero
    assert report.table()[1][2:] == [["model − copy last frame", "2 ± 1.2 *", "-"]]
    assert "* = the 95% interval does not hold 0" in report.footer()
    stored = report.to_dict()["results"]
    assert stored["model"]["psnr"]["over"]["copy last frame"]["low"] == pytest.approx(margin.low)
    assert "over" not in stored["model"]["ssim"] and "over" not in stored["copy last frame"]["psnr"]
    alone = Report({"model": SCORES["model"]}, PROTOCOL)
    assert len(alone.table()[1]) == 1 and "Differences" not in alone.footer()


def test_inferred_latent_actions_carry_a_warning():
    assert "not predictions" not in Report(SCORES, PROTOCOL).to_markdown()
    assert "not predictions" in Report(SCORES, PROTOCOL | {"driven_by": "inferred latent actions"}).to_markdown()


def test_json_holds_everything(tmp_path):
    path = tmp_path / "new folder" / "report.json"
    Report(SCORES, PROTOCOL).to_json(path)
    loaded = json.loads(path.read_text())
    assert loaded["protocol"] == PROTOCOL | {"n": 3} and "Student t" in loaded["interval"]
    assert [f["mean"] for f in loaded["results"]["model"]["psnr"]["per_frame"]] == [2.0, 4.0]
    assert [p.name for p in path.parent.iterdir()] == ["report.json"]


@pytest.mark.parametrize("key", PROTOCOL)
def test_the_protocol_is_complete(key):
    with pytest.raises(ConfigError, match=f"lacks {key}"):
        Report(SCORES, {k: v for k, v in PROTOCOL.items() if k != key})


@pytest.mark.parametrize("change", [{"horizon": 7}, {"n": 9}, {"driven_by": "magic"}, {"decoding": "yes"}])
def test_contradictions_are_refused(change):
    with pytest.raises(ConfigError, match=next(iter(change))):
        Report(SCORES, PROTOCOL | change)


def test_bad_scores_are_named():
    with pytest.raises(DataError, match="psnr of model is NaN or infinite for 1 clips, first clip 1"):
        Report({"model": {"psnr": torch.tensor([[1.0, 2.0], [1.0, math.nan]])}}, PROTOCOL)
    with pytest.raises(ShapeError, match="scores of copy, psnr"):
        Report({"model": SCORES["model"], "copy": {"psnr": torch.zeros(2, 2)}}, PROTOCOL)
    with pytest.raises(ShapeError, match="at least one method"):
        Report({}, PROTOCOL)


def test_a_paired_interval_is_that_of_the_differences():
    draws = torch.randn(12, 2, generator=torch.Generator().manual_seed(0)) * 5
    better = draws + 0.5 + 0.1 * torch.randn(12, 2, generator=torch.Generator().manual_seed(1))
    clips = [(i, 0) for i in range(12)]
    a, b = (Report({"model": {"psnr": x}}, PROTOCOL, clips=clips) for x in (draws, better))
    found = paired_difference(a, b, "psnr")
    assert found == confidence_interval((better.double() - draws.double()).mean(1))
    assert found.low > 0 and a.summary("model", "psnr").high > b.summary("model", "psnr").low  # unpaired: no answer
    other = Report({"model": {"psnr": better}}, PROTOCOL, clips=clips[::-1])
    with pytest.raises(DataError, match="different clips"):
        paired_difference(a, other, "psnr")


def test_frames_without_a_number_are_left_out(tmp_path):
    values = torch.tensor([[0.1, math.nan], [0.3, 0.5], [math.nan, math.nan]])
    report = Report({"model": {"tracking_error": values}}, PROTOCOL, totals={"model": {"med10": 1.25}})
    assert report.summary("model", "tracking_error") == confidence_interval(torch.tensor([0.1, 0.4]).double())
    assert [i.n for i in report.curve("model", "tracking_error")] == [2, 1]
    assert report.table()[0] == ["method", "distance to objects ↓", "MED10 ↓"] and report.table()[1][0][2] == "1.25"
    report.to_json(tmp_path / "r.json")
    results = json.loads((tmp_path / "r.json").read_text())["results"]["model"]
    assert results["med10"] == {"total": 1.25} and results["tracking_error"]["n"] == 2
    with pytest.raises(DataError, match="infinite"):
        Report({"model": {"tracking_error": values.nan_to_num(math.inf)}}, PROTOCOL)


def test_the_best_of_n_carries_a_warning():
    protocol = PROTOCOL | {"driven_by": "sampled, best of n"}
    assert "not what one sample scores" in Report(SCORES, protocol).to_markdown()
