"""A run says how pictures became frames, goes on in the same way, and is evaluated in the same way or says so."""

import json

import numpy as np
import pytest

from worldkit.data import write_video
from worldkit.errors import TrainingError
from worldkit.metrics import Protocol
from worldkit.storage.folders import NOT_RECORDED, TRAINED_ON, provenance, resize_in_training
from worldkit.training import compare
from worldkit.training.plan import plan
from worldkit.training.recipes import make_trainer, open_clips, resize_note, train

pytest.importorskip("av")
TOLD = "24x32 -> 32x32: the whole picture, padded with black, which is 25% of the frame"


@pytest.fixture
def video(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLDKIT_CACHE", str(tmp_path / "cache"))
    frames = np.random.default_rng(0).integers(0, 255, (120, 24, 32, 3), np.uint8)
    return str(write_video(tmp_path / "a.mp4", frames))


def options(**more):
    return {"train_overrides": {"steps": 1, "batch_size": 2, **more}, "show_progress": False}


def test_a_run_says_how_pictures_became_frames(tmp_path, video):
    run = tmp_path / "run"
    lines = plan(make_trainer("lpwm-balls-mini", video, run=run, **options()))
    assert lines["pixels"] == TOLD and "cut in time" in lines["splits"]
    assert "or" not in lines, "a height of 16 would leave as much border"
    model, _ = train("lpwm-balls-mini", video, run=run, **options())
    facts = json.loads((run / "run.json").read_text())["facts"]
    assert (facts["pixels"], facts["data.resize"]) == (TOLD, "pad")
    folder = next((run / "checkpoints").iterdir())
    assert TOLD in (folder / "README.md").read_text() and provenance(folder)[TRAINED_ON] == "pad"

    protocol = Protocol("short", "", "worldkit", 2, 1, max_clips=1)
    seen = compare({"m": model}, video, protocol, facts={"m": provenance(folder)}, pictures=0)
    assert seen.notes == []
    for resize, count in (("pad", 1), ("stretch", 0)):  # papers' layouts, which stretch, always did
        facts = {TRAINED_ON: NOT_RECORDED}
        clips = open_clips(model, video, split="val", num_frames=2, resize=resize)
        notes = [note for note in [resize_note("old", facts, clips)] if note]
        assert len(notes) == count and all("trained with data.resize=crop" in note for note in notes)
    seen = compare({"m": model}, video, protocol, facts={"m": provenance(folder)}, pictures=0,
                   data_options={"resize": "crop"})
    assert "m was trained with data.resize=pad, here frames are 24x32 -> 32x32: cropped, 26%" in seen.notes[0]


def test_a_run_of_before_goes_on_as_it_began_or_not_at_all(tmp_path, video):
    """Its record says nothing of resizing: frames were cropped then."""
    run = tmp_path / "run"
    train("lpwm-balls-mini", video, run=run, data_options={"resize": "crop"}, **options())
    record = json.loads((run / "run.json").read_text())
    del record["facts"]["data.resize"], record["facts"]["pixels"]
    for fingerprint in (True, False):
        if not fingerprint:
            del record["data fingerprint"]
        (run / "run.json").write_text(json.dumps(record))
        with pytest.raises(TrainingError, match="were cropped, now 24x32 -> 32x32: .*padded.* -o data.resize=crop"):
            train("lpwm-balls-mini", video, run=run, **options(steps=2))
        assert json.loads((run / "run.json").read_text()) == record
    (run / "run.json").write_text(json.dumps(record | {"data fingerprint": "of another split"}))
    with pytest.raises(TrainingError, match="sets of few episodes are split another way"):
        train("lpwm-balls-mini", video, run=run, data_options={"resize": "crop"}, **options(steps=2))
    (run / "run.json").write_text(json.dumps(record))
    _, result = train("lpwm-balls-mini", video, run=run, data_options={"resize": "crop"}, **options(steps=2))
    assert result.step == 2


def test_old_folders_are_known():
    assert resize_in_training({"preset": "lpwm-mini", "data": "a.mp4", "synthetic data": False}) == NOT_RECORDED
    assert resize_in_training({"pixels": "32x32, as they are", "synthetic data": False}) is None
    assert resize_in_training({"data": "balls-32", "synthetic data": True}) is None
