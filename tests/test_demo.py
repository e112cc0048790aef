"""The demo as one types it: what it says while it works, and the page it writes."""

import re
from dataclasses import dataclass, field

import pytest
import torch

import worldkit as wk
from worldkit.cli import main
from worldkit.cli.demo import looks, run, words
from worldkit.cli.demo.moved import Moved, move_one
from worldkit.metrics import Report
from worldkit.training import TrainResult

PROTOCOL = dict(context_frames=5, horizon=5, split="test", resolution="32x32", decoding="deterministic", seed=0,
                driven_by="deterministic prior")


@pytest.mark.slow
@pytest.mark.parametrize("seconds, told", [
    (12, r"\n +\d+ s, step \d+: predicts at"), (2, "no time for a look in between")])
def test_the_demo_tells_what_it_does_and_its_page_fits(seconds, told, tmp_path, capsys, layout):
    assert main(["demo", "--seconds", str(seconds), "--out", str(tmp_path / "out")]) == 0
    shown = capsys.readouterr().out
    order = ["1/3 training", "open this in a browser, it reloads itself: file://", "training: step", "2/3 predicting",
             "3/3 drawing the report", "Type next:", "open this in a browser: "]
    assert sorted(order, key=shown.index) == order and re.search(told, shown)
    assert "What it has not learned:" in shown and "teach nothing" in shown or seconds > 10
    page = (tmp_path / "out" / "report.html").read_text("utf-8")
    assert 'http-equiv="refresh"' not in page and "Finished: " in page
    assert page.index("What happened") < page.index("What it has not learned") < page.index("<h2>Numbers")
    layout(tmp_path / "out" / "report.html")


@pytest.mark.parametrize("place", ["file", "file/below", "folder"])
def test_a_place_that_cannot_be_written_is_named_before_anything_begins(place, tmp_path, capsys, monkeypatch):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder/report.html").mkdir(parents=True)
    monkeypatch.setattr(run, "make_trainer", lambda *a, **k: pytest.fail("it began"))
    assert main(["demo", "--out", str(tmp_path / place)]) == 2
    error = capsys.readouterr().err
    assert "cannot be written" in error and place in error and "Name another place" in error
    assert "Traceback" not in error and (tmp_path / "file").read_text() == "mine"


def test_a_run_folder_of_another_version_says_what_to_type(tmp_path, capsys, monkeypatch):
    def refuse(*args, **options):
        raise wk.TrainingError("run folder x belongs to another model configuration: give another folder (--run)")

    monkeypatch.setattr(run, "make_trainer", refuse)
    assert main(["demo", "--out", str(tmp_path)]) == 2
    assert "give another folder (--out)" in capsys.readouterr().err


# -- the stage: a report that is there from the start, gets better, and ends


@pytest.fixture
def stage(tmp_path, monkeypatch):
    """A stage on a few episodes, and a model with weights."""
    opened = run.open_clips
    monkeypatch.setattr(run, "open_clips", lambda *a, **k: opened(*a, **{**k, "num_episodes": 2}))
    monkeypatch.setattr(looks, "CLIPS", 2)
    return run.Stage(tmp_path / "new/report.html", 25), wk.create_model("lpwm-balls-mini", pretrained=True)


@dataclass
class Run:
    """As much of a trainer as a look needs."""

    model: object
    progress: object = field(default_factory=lambda: type("Progress", (), {"seconds": 0.0, "step": 0})())
    device: str = "cpu"

    def looking(self):
        import contextlib

        return contextlib.nullcontext(self.model)


class Bar:
    def __init__(self):
        self.said, self.meter = [], self

    def say(self, text):
        self.said.append(str(text))

    def paused(self, what):
        import contextlib

        return contextlib.nullcontext()


def test_the_report_is_there_from_the_start_gets_better_and_ends(stage, capsys, monkeypatch, layout):
    stage, model = stage
    stage.write("Making the data.")
    assert 'http-equiv="refresh" content="5"' in stage.path.read_text("utf-8")
    look, bar, trainer = stage.begin(model), Bar(), Run(model)
    assert f"it reloads itself: {stage.path.as_uri()}" in capsys.readouterr().out
    first = stage.path.read_text("utf-8")
    assert first.count("data:image/gif") == 1 and "will be predicted" in first
    for seconds in (1.0, 4.0, 5.0, 24.0):  # the look after 3 s; those after 10 and 20 s are one
        trainer.progress.seconds, trainer.progress.step = seconds, int(seconds)
        look(trainer, bar)
    assert [entry.seconds for entry in stage.looks] == [4.0, 24.0] and look.spent > 0
    assert len(bar.said) == 2 and re.fullmatch(r" +24 s, step 24: predicts at \d+\.\d dB \(copying .*\)", bar.said[1])
    middle = stage.path.read_text("utf-8")
    assert middle.count("data:image/gif") == 4 and 'http-equiv="refresh"' in middle
    assert "Training: 24 of 25 s" in middle and "How the prediction gets better" in middle
    for caption in ("What happened", "What the model predicts", "What it found", "What if one thing lay elsewhere?"):
        assert f"<figcaption>{caption}" in middle

    monkeypatch.setattr(run, "clips_for", lambda seconds: 3)
    result = TrainResult(stage.path.parent / "run", 24, 25.0, True, [{"step": 1, "loss": 2.0, "psnr": 9.0}])
    stage.finish(model, result, look, seed=0, started=0.0)
    last, shown = stage.path.read_text("utf-8"), " ".join(capsys.readouterr().out.split())
    assert 'http-equiv="refresh"' not in last and "What longer training reaches" in last
    assert last.index("What the model predicts") < last.index("What it learned") < last.index("<h2>Numbers")
    for text in ("predicting 3 test clips", "of 3 clips it never saw", "What it learned: - to see", "25 s of training"):
        assert text in shown
    commands = re.search(r"Type next: (.*) Took", shown).group(1)
    assert len(re.findall("worldkit (?:eval|demo|train) ", commands)) == 3
    layout(stage.path)


def test_later_looks_take_a_tenth_of_the_time_at_most(monkeypatch, stage):
    stage, model = stage
    clock = iter(range(0, 1000, 7))  # every look takes 7 s
    monkeypatch.setattr(looks.time, "perf_counter", lambda: next(clock))
    monkeypatch.setattr(looks, "scored", lambda *a, **k: report([12.0] * 5, [11.0] * 5, [10.0] * 5))
    stage.model = model
    pictures = looks.look_at(model, stage.open("test"), 0)
    monkeypatch.setattr(looks, "look_at", lambda *a, **k: pictures)
    look = looks.Looks(None, None, 0, None, seconds=240, found=lambda found: None)
    trainer, bar = Run(model), Bar()
    for seconds in range(0, 240):
        trainer.progress.seconds = float(seconds)
        look(trainer, bar)
    assert [entry.seconds for entry in look.looks] == [3.0, 10.0, 20.0, 40.0, 130.0] and look.spent == 35


def test_a_demo_that_breaks_off_leaves_a_page_that_stands_still(tmp_path, monkeypatch):
    def fail(*args, **options):
        raise wk.TrainingError("the loss became nan")

    monkeypatch.setattr(run, "make_trainer", fail)
    with pytest.raises(wk.TrainingError, match="became nan"):
        run.demo(out=tmp_path, seconds=5)
    page = (tmp_path / "report.html").read_text("utf-8")
    assert "broke off" in page and 'http-equiv="refresh"' not in page


# -- words


def report(model, copying, mean):
    scores = {"model": model, "copy last frame": copying, "mean training frame": mean}
    noise = torch.linspace(-0.1, 0.1, 8)[:, None]
    rows = {row: {"psnr": torch.tensor([values]) + noise * (i + 1), "ssim": 0.5 + i * noise.expand(-1, len(values))}
            for i, (row, values) in enumerate(scores.items())}
    return Report(rows, PROTOCOL | {"horizon": len(model)})


def redrawn(psnr, fg_ari):
    rows = {"model": {"psnr": torch.full((8, 5), psnr), "fg_ari": torch.full((8, 5), fg_ari).double()},
            "mean training frame": {"psnr": torch.full((8, 5), 12.0)}}
    return Report(rows, PROTOCOL)


def test_what_was_learned_and_what_not():
    edit = Moved(torch.zeros(1), [0.1, 0.12])
    good = words.verdict(report([18.0] * 5, [13.0] * 5, [12.0] * 5), redrawn(30.0, 0.95), edit)
    assert "to see: frames it is shown are drawn again at 30.0 dB (the mean frame: 12.0)" in good.learned
    assert any(re.fullmatch(r"to predict better than a copy of the last given frame: over 5 frames it is "
                            r"5.00 ± 0.06 dB closer to the truth", text) for text in good.learned)
    assert any("moving one thing in the given frames changes 10 % to 12 % of what" in text for text in good.learned)
    assert [name for name, _ in good.parts()][0] == "What it learned"

    bad = words.verdict(report([13.0, 12.5, 11.0], [12.0] * 3, [12.4] * 3), redrawn(13.0, 0.1), None)
    assert not any(text.startswith(("to see", "to tell")) for text in bad.learned)
    assert any("from frame 3 on, one of the two is as close" in text for text in bad.not_learned)
    assert any(re.search(r"0.23 ± 0.\d\d dB farther from the truth$", text) for text in bad.not_learned)
    assert any("nothing that could be moved" in text for text in bad.not_learned)


def test_a_difference_that_may_be_chance_is_called_so():
    found = words.verdict(report([12.02] * 5, [12.0] * 5, [9.0] * 5), redrawn(30.0, 0.9), None)
    assert any("closer to the truth, which may be chance" in text for text in found.not_learned)


# -- what if


@torch.no_grad()
def test_the_demo_shows_what_it_moved():
    """The ball that is moved is gone from one place and there at another, by far more than a few pixels."""
    model = wk.create_model("lpwm-balls-mini", pretrained=True)
    clips = wk.data.open_dataset("balls-32", split="test", num_frames=10, height=32, width=32, num_episodes=2)
    for index in (0, 7):
        video = clips[index]["video"][None]
        edit = move_one(model, video, context_frames=5, cell=32)
        assert edit.row.shape == (10, 3, 42, 42) and edit.row.dtype == torch.uint8
        assert edit.visible and len(edit.changed) == 5 and min(edit.changed) > 0.05  # a ball covers 5 % of the picture


def test_what_is_black_is_not_moved():
    model = wk.create_model("lpwm-balls-mini", pretrained=True)
    nothing = torch.zeros(1, 10, 3, 32, 32)
    try:
        edit = move_one(model, nothing, context_frames=5, cell=32)
    except wk.WorldkitError as error:
        assert "visible" in str(error)
    else:
        assert not edit.visible


def test_the_demo_computes_with_one_thread_unless_told_otherwise(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    torch.set_num_threads(2)
    with run.one_thread():
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 2
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    with run.one_thread():
        assert torch.get_num_threads() == 2
