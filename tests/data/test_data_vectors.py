"""Columns as vectors beside the video, and data of which nobody wants the pictures."""

import numpy as np
import pytest
import torch

from worldkit.data import ArraySource, ClipDataset, collate, open_dataset
from worldkit.data.cache import cache_folder
from worldkit.errors import DataError
from worldkit.names import VectorColumn


def episode(frames=6):
    rows = np.arange(frames, dtype=np.float64)
    return {"video": np.full((frames, 3, 8, 8), 7, np.uint8), "action": rows[:, None].astype(np.float32),
            "language": "push", "state": {"arm": np.stack([rows, rows, -rows], 1).reshape(frames, 3, 1),
                                          "door": (rows % 2).astype(np.int32), "mass": rows}}


def clips(vectors, **options):
    return ClipDataset(ArraySource([episode()], name="robot"), num_frames=3, vectors=vectors, **options)


def test_columns_become_vectors():
    vectors = {"arm": VectorColumn("state.arm", 3), "gate": VectorColumn("door", classes=2), "mass": "mass",
               "done": VectorColumn("action", 1)}
    batch = collate([clips(vectors)[0], clips(vectors)[2]])
    assert {name: (x.dtype, tuple(x.shape)) for name, x in batch.vectors.items()} == {
        "arm": (torch.float32, (2, 3, 3)), "gate": (torch.int64, (2, 3)), "mass": (torch.float32, (2, 3, 1)),
        "done": (torch.float32, (2, 3, 1))}
    assert batch.vectors["arm"][1, :, 2].tolist() == [-2, -3, -4] and batch.vectors["gate"][1].tolist() == [0, 1, 0]
    assert collate([clips(None)[0]]).vectors == {}


def test_skipped_frames_are_skipped_in_vectors_too():
    skipped = clips({"mass": "mass"}, frame_skip=2, conditions={})
    assert skipped[0]["vectors"]["mass"][:, 0].tolist() == [0, 2, 4]


def test_missing_values_pass_and_nan_does_not():
    source = episode()
    source["state"]["mass"][1] = -np.inf
    found = ClipDataset(ArraySource([source]), num_frames=3, vectors={"mass": "mass"})[0]["vectors"]["mass"]
    assert found[1] == -torch.inf
    source["state"]["mass"][4] = np.nan
    with pytest.raises(DataError, match="vector 'mass', is not finite at frame 2 of a clip"):
        ClipDataset(ArraySource([source]), num_frames=3, vectors={"mass": "mass"})[2]


@pytest.mark.parametrize("vectors, told", [
    ({"proprio": "proprio"}, "no column 'proprio' .*it has: action, arm, door, mass. .*obs.columns.proprio=COLUMN"),
    ({"words": "language"}, "no column 'language'"),
    ({"arm": VectorColumn("arm", 4)}, "has 3 numbers, and the model reads 4: -o obs.vectors.arm=3"),
    ({"arm": VectorColumn("arm", classes=2)}, "one class from 0 to 1"),
    ({"door": VectorColumn("mass", classes=3)}, None),
])
def test_errors(vectors, told):
    if told is None:
        with pytest.raises(DataError, match="from 0 to 2 per frame"):
            clips(vectors)[3]
        return
    with pytest.raises(DataError, match=told):
        clips(vectors)


def test_pictures_that_nobody_wants_are_not_decoded(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLDKIT_CACHE", str(tmp_path / "cache"))
    np.savez(tmp_path / "a.npz", video=np.zeros((6, 8, 8, 3), np.uint8), arm=np.ones((6, 2), np.float32))
    found = open_dataset(tmp_path / "a.npz", split="all", num_frames=4, height=0, width=0, vectors={"arm": "arm"})
    assert found[0]["video"].shape == (4, 3, 0, 0) and found[0]["vectors"]["arm"].shape == (4, 2)
    assert not cache_folder().exists() and found.summary["resolution"] == [0, 0]
    with pytest.raises(DataError, match="must both be pixels, or both 0"):
        open_dataset(tmp_path / "a.npz", num_frames=4, height=0, width=8)


def test_numbers_alone_on_disk(tmp_path):
    np.savez(tmp_path / "a.npz", video=np.zeros((6, 0, 0, 3), np.uint8), arm=np.ones((6, 2), np.float32))
    found = open_dataset(tmp_path / "a.npz", split="all", num_frames=4, height=0, vectors={"arm": "arm"})
    assert found[1]["video"].shape == (4, 3, 0, 0) and len(found) == 3
    with pytest.raises(DataError, match="holds no pictures, but numbers alone.*obs.height=0"):
        open_dataset(tmp_path / "a.npz", split="all", num_frames=4, height=8)
