"""Bar, step and ETA at every width of a terminal, and plain lines where output is a file."""

import io
import re
import time
from types import SimpleNamespace

import pytest
from rich.console import Console

from worldkit.progress import Meter, duration, track
from worldkit.training import TrainConfig, Trainer
from worldkit.training.progress import ProgressBar

TERMS = {"loss": 53.8, "psnr": 21.5, "reconstruction": 3100.0, "kl": 102.0, "kl_dynamics": 1140.0, "beta_a": 0.29}


def training(seconds, **options):
    bar = ProgressBar(100, 1500, seconds, spent=10.0, **options)
    bar.meter._started -= 60
    bar.update(SimpleNamespace(step=240, seconds=40.0), TERMS)
    return bar


@pytest.mark.parametrize("width", [40, 80, 200])
@pytest.mark.parametrize("seconds", [None, 240.0], ids=["by step", "by time"])
def test_bar_step_and_eta_at_every_width(width, seconds):
    line = training(seconds).meter.line(width)
    assert len(line) <= width
    assert re.search("━{6,24} ", line) and re.search(r"step 240(/1500)?\b", line), line
    assert "ETA 9 min" in line if seconds is None else "ETA 7 min" in line  # 140 steps a minute; 30 s a minute
    if width >= 80:
        assert line.startswith("training ━") and "loss 53.8" in line and ("40/240 s" in line) == (seconds is not None)
    if width == 200:
        assert line.endswith("loss 53.8 psnr 21.5 rec 3.1e+03 kl 102 kl_dyn 1.14e+03 a 0.29")
        assert ("after 60 s" in line) == (seconds is None)


def test_the_narrowest_terminals_and_the_largest_numbers():
    meter = Meter("training", total=1_000_000)
    meter.update(999_999)
    for width in range(1, 60):
        assert len(meter.line(width)) <= width
    assert "step 999999/1000000" in meter.line(40) and "ETA" in meter.line(40)
    assert meter.line(60, ascii_only=True).isascii()
    assert Meter("reading").line(40) == "reading ━━━━━━━━━ step 0 after 0 s ETA ?"


@pytest.mark.parametrize("width", [40, 80, 200])
def test_the_terminal_shows_one_line(width):
    """What rich writes to a terminal of that width: no line is longer, and the last state stays."""
    shown = io.StringIO()
    console = Console(file=shown, force_terminal=True, width=width, color_system=None, legacy_windows=False,
                      _environ={"TERM": "xterm"})
    with training(None, console=console) as bar:
        bar.say("a note")
        bar.update(SimpleNamespace(step=1500, seconds=1.0), TERMS)
    lines = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]|\r", "\n", shown.getvalue()).splitlines()
    assert max(map(len, lines)) <= width and "note a note" in shown.getvalue()
    assert "step 1500/1500" in [line for line in lines if line.strip()][-1]


def test_a_file_gets_plain_lines(tmp_path):
    with open(tmp_path / "log.txt", "w") as file:
        with training(240.0, console=Console(file=file), every=0.2) as bar:
            bar.meter._started -= 60
            time.sleep(0.5)
            with bar.paused("evaluating"):
                time.sleep(0.3)
    lines = (tmp_path / "log.txt").read_text().splitlines()
    assert 3 <= len(lines) <= 5 and "\x1b" not in "".join(lines)
    assert lines[0] == ("training: step 240, 40/240 s (17 %), after 60 s, ETA 7 min, loss 53.8, psnr 21.5, "
                        "rec 3.1e+03, kl 102, kl_dyn 1.14e+03, a 0.29")
    assert any(line.startswith("evaluating: step 240") for line in lines[1:])
    assert lines[-1].startswith("training: step 240, 40/240 s (17 %), after 61 s, loss") and "ETA" not in lines[-1]


def test_lines_come_while_nothing_moves():
    """A first step that takes minutes is no silence."""
    shown = io.StringIO()
    with Meter("training", total=9, console=Console(file=shown), every=0.1):
        time.sleep(0.35)
    assert shown.getvalue().splitlines()[0] == "training: step 0/9 (0 %), after 0 s, ETA ?"


def test_the_eta_counts_down_while_a_step_takes_its_time():
    meter = Meter("training", total=10, enabled=False)
    meter._started -= 20
    meter.update(5)
    assert meter.seconds_left == pytest.approx(20, abs=0.1)
    for passed, left in ((5, 15), (30, 0)):
        meter._started, meter._moved = meter._started - passed, meter._moved - passed
        assert meter.seconds_left == pytest.approx(left, abs=0.1)
        meter._started, meter._moved = meter._started + passed, meter._moved + passed


def test_pauses_do_not_count():
    meter = Meter("training", total=100, enabled=False)
    meter._started -= 10
    meter.update(50)
    assert meter.seconds_left == pytest.approx(10, abs=0.1)
    with meter.paused("evaluating"):
        meter._idle_since -= 1000
        meter._started, meter._moved = meter._started - 1000, meter._moved - 1000
        assert "evaluating" in meter.line(80) and meter.seconds_left == pytest.approx(10, abs=0.1)
    assert meter.seconds_left == pytest.approx(10, abs=0.1) and "training" in meter.line(80)


def test_nothing_is_shown_if_not_asked():
    shown = io.StringIO()
    with training(None, enabled=False, console=Console(file=shown), every=0.01) as bar:
        bar.say("nothing")
        time.sleep(0.05)
    assert shown.getvalue() == ""


def test_track_is_silent_for_what_is_quick(capsys):
    meter = Meter("reading", total=9, noun="")
    assert " 0/9 " in meter.line(60) and "step" not in meter.line(60) + meter.plain()
    assert list(track(range(3), "reading")) == [0, 1, 2] and list(track(iter("ab"), "reading", total=2)) == ["a", "b"]
    for item in track(range(5), "reading"):
        if item == 2:
            break
    assert capsys.readouterr() == ("", "")


def test_a_training_whose_output_is_a_file(tiny_model, balls, tmp_path, capsys):
    config = TrainConfig(batch_size=2, steps=3, eval_clips=2, num_workers=0)
    Trainer(tiny_model(), balls(4), balls(4, "val"), config, run=tmp_path).fit()
    shown = capsys.readouterr().out
    assert "\x1b" not in shown and re.search(r"^training: step 3/3 \(100 %\), after \d+ s, loss", shown, re.M), shown


def test_work_inside_work_keeps_quiet():
    outer, inner = io.StringIO(), io.StringIO()
    with Meter("training", total=2, console=Console(file=outer), every=0.1):
        with Meter("scoring", total=2, console=Console(file=inner), every=0.05):
            time.sleep(0.25)
    assert inner.getvalue() == "" and outer.getvalue().startswith("training")
    with Meter("scoring", total=2, console=Console(file=inner)):
        pass
    assert inner.getvalue().startswith("scoring")


def test_a_loop_that_was_left_makes_room():
    """Ctrl-C or an error in the loop, whose traceback is kept: the meter is gone, and the next one is shown."""
    with pytest.raises(KeyboardInterrupt) as kept:
        for _ in track(range(3), "reading"):
            assert Meter._shown.what == "reading"
            raise KeyboardInterrupt
    assert Meter._shown is None and kept.value is not None


def test_durations():
    assert [duration(s) for s in (0, 89, 95, 5399, 5400, 90_000, 200_000)] == [
        "0 s", "89 s", "2 min", "90 min", "1.5 h", "25.0 h", "2.3 d"]
