"""What people bring: names in other letters, several pictures in a file, flags of other recorders."""

import numpy as np
import pytest

from worldkit.data import open_dataset
from worldkit.errors import DataError

image = pytest.importorskip("PIL.Image")


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("WORLDKIT_CACHE", str(tmp_path_factory.mktemp("cache")))


def frames(count, value=0):
    found = np.zeros((count, 8, 8, 3), np.uint8)
    found[..., 0], found[..., 1] = np.arange(count)[:, None, None] * 10, value
    return found


def save_images(folder, pictures):
    folder.mkdir(parents=True)
    for number, picture in enumerate(pictures):
        image.fromarray(picture).save(folder / f"{number}.png")


@pytest.mark.parametrize("names", [("Train", "Valid", "TEST"), ("training", "validation", "testing")])
def test_splits_keep_apart_in_any_spelling(tmp_path, names):
    for value, name in enumerate(names):
        for clip in range(2):
            save_images(tmp_path / "images" / name / str(clip), frames(4, value))
            (tmp_path / "npz" / name).mkdir(parents=True, exist_ok=True)
            np.savez(tmp_path / "npz" / name / f"{clip}.npz", video=frames(4, value))
    for kind in ("images", "npz"):
        for value, split in enumerate(("train", "val", "test")):
            clips = open_dataset(tmp_path / kind, split=split, num_frames=4, height=8)
            assert [int(clip["video"][0, 1, 0, 0]) for clip in clips] == [value, value]


def test_split_under_two_names_is_refused(tmp_path):
    for name in ("train", "val", "validation"):
        save_images(tmp_path / name / "0", frames(2))
    with pytest.raises(DataError, match="holds val and validation, both of split 'val'"):
        open_dataset(tmp_path, split="val", num_frames=2)


def test_hdf5_and_npz_in_capitals(tmp_path):
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "TRAIN.H5", "w") as file:
        file["imgs"] = frames(3)[None]
    (tmp_path / "single").mkdir()
    np.savez(tmp_path / "single" / "a.npz", video=frames(3))
    (tmp_path / "single" / "a.npz").rename(tmp_path / "single" / "A.NPZ")
    for path in (tmp_path / "TRAIN.H5", tmp_path, tmp_path / "single" / "A.NPZ", tmp_path / "single"):
        assert np.array_equal(open_dataset(path, num_frames=2)[0]["video"], frames(2).transpose(0, 3, 1, 2))
