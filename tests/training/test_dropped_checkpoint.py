"""Checkpoints that a training drops: somebody looks for the newest one meanwhile; an earlier drop was cut short."""

import struct
import warnings
from pathlib import Path

import pytest
import torch

from worldkit.errors import CheckpointError
from worldkit.training import checkpoint


def test_what_was_dropped_meanwhile_is_not_damage(tmp_path, monkeypatch):
    older, newer = (tmp_path / "checkpoints" / name for name in ("step-00000002", "step-00000004"))
    older.mkdir(parents=True)

    def read(folder):
        if folder == older:
            newer.mkdir()
            checkpoint._remove([older])
            raise FileNotFoundError(folder)
        return {}

    monkeypatch.setattr(checkpoint, "read_state", read)
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


def test_a_state_that_says_nothing_useful(tiny_model, tmp_path):
    model = tiny_model()
    state = {"rng": checkpoint.random_state(), "progress": {"step": 1}}
    for damaged in ({**state, "rng": {**state["rng"], "cpu": state["rng"]["cpu"][1:]}}, {"progress": {"step": 1}}):
        folder = checkpoint.save_checkpoint(tmp_path, model, damaged, keep=1, facts={})
        with pytest.raises(CheckpointError, match=r"state.pt: .*Delete .*step-00000001 to go on from an older"):
            checkpoint.load_checkpoint(folder, model)


@pytest.mark.parametrize("name", ["state.pt", "model.safetensors"])
def test_one_changed_bit_of_a_number_is_noticed(tiny_model, tmp_path, name):
    """PyTorch and safetensors read such a file without a word; the run goes on from the checkpoint before."""
    model = tiny_model()
    for step in (1, 2):
        state = {"rng": checkpoint.random_state(), "progress": {"step": step}, "numbers": torch.full((256,), 0.25)}
        newest = checkpoint.save_checkpoint(tmp_path, model, state, keep=2, facts={})
    assert checkpoint.latest_checkpoint(tmp_path) == newest
    assert set(checkpoint.load_checkpoint(newest, model)) == {"rng", "progress", "numbers"}
    data = bytearray((newest / name).read_bytes())
    at = data.index(struct.pack("<f", 0.25) * 200) if name == "state.pt" else len(data) - 3
    data[at + 2] ^= 1
    (newest / name).write_bytes(data)
    with pytest.warns(UserWarning, match=rf"{name} has changed since it was written"):
        assert checkpoint.latest_checkpoint(tmp_path).name == "step-00000001"
    with pytest.raises(CheckpointError, match=r"has changed since .*Delete .*step-00000002 to go on from an older"):
        checkpoint.load_checkpoint(newest, model)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_log_that_cannot_be_written_is_named(tmp_path):
    log = checkpoint.RunLog(tmp_path / "log.jsonl", step=0)
    log.path.unlink()
    log.path.symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left on device: '.*log.jsonl'"):
        log.write({"step": 1})
