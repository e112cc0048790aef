"""Checkpoints that a training drops: somebody looks for the newest one meanwhile; an earlier drop was cut short."""

import warnings
from pathlib import Path

import pytest

from worldkit.errors import CheckpointError
from worldkit.training import checkpoint


def test_what_was_dropped_meanwhile_is_not_damage(tmp_path, monkeypatch):
    older, newer = (tmp_path / "checkpoints" / name for name in ("step-00000002", "step-00000004"))
    older.mkdir(parents=True)

    def load(path, **_):
        if path.parent == older:
            newer.mkdir()
            checkpoint._remove([older])
            raise FileNotFoundError(path)
        return {}

    monkeypatch.setattr(checkpoint.torch, "load", load)
    monkeypatch.setattr(checkpoint, "read_weights", lambda path: {})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert checkpoint.latest_checkpoint(tmp_path) == newer
    assert [folder.name for folder in (tmp_path / "checkpoints").iterdir()] == [newer.name]


def test_what_is_left_of_an_earlier_drop_is_not_in_the_way(tmp_path):
    folders = [tmp_path / "checkpoints" / f"step-0000000{step}" for step in (2, 4)]
    for folder in [*folders, folders[0].with_name(".step-00000002.dropped.partial")]:
        folder.mkdir(parents=True)
        (folder / "state.pt").write_bytes(b"some")
    checkpoint.prune(tmp_path, 4, keep=1)
    assert [folder.name for folder in (tmp_path / "checkpoints").iterdir()] == ["step-00000004"]


def test_a_damaged_state_says_what_to_do(tiny_model, tmp_path):
    """PyTorch reads a file whose numbers have changed: its checksums are not looked at."""
    model = tiny_model()
    state = {"rng": checkpoint.random_state(), "progress": {"step": 1}}
    for damaged in ({**state, "rng": {**state["rng"], "cpu": state["rng"]["cpu"][1:]}}, {"progress": {"step": 1}}):
        folder = checkpoint.save_checkpoint(tmp_path, model, damaged, keep=1, facts={})
        with pytest.raises(CheckpointError, match=r"state.pt: .*Delete .*step-00000001 to go on from an older"):
            checkpoint.load_checkpoint(folder, model)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_log_that_cannot_be_written_is_named(tmp_path):
    log = checkpoint.RunLog(tmp_path / "log.jsonl", step=0)
    log.path.unlink()
    log.path.symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left on device: '.*log.jsonl'"):
        log.write({"step": 1})
