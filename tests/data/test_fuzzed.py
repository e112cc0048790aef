"""What `benchmarks/fuzz.py` found in readers of data: damaged files that ended in a traceback."""

import zipfile

import h5py
import numpy as np
import pyarrow.parquet
import pytest

from worldkit.data import ArraySource, open_dataset, write_dataset
from worldkit.errors import DataError


def test_a_header_that_is_no_python(tmp_path):
    """NumPy reads it with the tokeniser, which has an error of its own."""
    frames = np.zeros((20, 8, 8, 3), np.uint8)
    np.save(tmp_path / "a.npy", frames)
    data = (tmp_path / "a.npy").read_bytes()
    (tmp_path / "a.npy").write_bytes(data.replace(b"}", b"(", 1))
    with pytest.raises(DataError, match="a.npy cannot be read as .npy"):
        open_dataset(tmp_path / "a.npy", num_frames=2, split="train")


@pytest.mark.parametrize("shape", [(12, 0, 8, 3), (12, 8, 0, 3), (0, 8, 8, 3)])
def test_frames_without_pixels(shape, tmp_path):
    np.save(tmp_path / "a.npy", np.zeros(shape, np.uint8))
    with pytest.raises(DataError, match=r"a.npy must hold frames, uint8 \[N, H, W, 3\], got uint8"):
        open_dataset(tmp_path / "a.npy", num_frames=2, split="all", height=8, width=8)


def test_columns_without_pixels(tmp_path):
    path = write_dataset(ArraySource([{"video": np.zeros((4, 3, 8, 8), np.uint8)}] * 2), tmp_path / "a.hdf5", "columns")
    with h5py.File(path, "a") as file:
        del file["pixels"]
        file["pixels"] = np.zeros((8, 0, 8, 3), np.uint8)
    with pytest.raises(DataError, match="a.hdf5 has no camera"):
        open_dataset(path, num_frames=2, split="all", height=8, width=8)


def test_groups_that_are_damaged(tmp_path):
    path = write_dataset(ArraySource([{"video": np.zeros((4, 3, 8, 8), np.uint8)}] * 2), tmp_path / "a.hdf5", "columns")
    data = path.read_bytes()
    assert b"SNOD" in data
    path.write_bytes(data.replace(b"SNOD", b"SNOX"))
    with pytest.raises(DataError, match="a.hdf5 .*damaged"):
        open_dataset(path, num_frames=2, split="all")


@pytest.mark.parametrize(("name", "content", "said"), [
    ("video", b"", "a.npz cannot be read as .npz: .*video.npy"), ("notes.txt", b"some", "'notes.txt' is no array")])
def test_what_an_npz_file_holds_besides_arrays(name, content, said, tmp_path):
    """NumPy takes a name without ``.npy`` for an array's, and gives the bytes of what is none."""
    if name != "video":
        np.savez(tmp_path / "a.npz", video=np.zeros((4, 8, 8, 3), np.uint8))
    with zipfile.ZipFile(tmp_path / "a.npz", "a") as archive:
        archive.writestr(name, content)
    with pytest.raises(DataError, match=said):
        open_dataset(tmp_path / "a.npz", num_frames=2, split="all")[0]


@pytest.mark.parametrize(("lossless", "old", "new", "said"), [
    (False, b"timestamp", b"\xbfimestamp", "file-000.parquet cannot be read as parquet"),
    (True, b"episode_index", b"\xbfpisode_index", "file-000.parquet cannot be read as parquet")])
def test_a_parquet_file_whose_columns_have_damaged_names(lossless, old, new, said, tmp_path):
    source = ArraySource([{"video": np.zeros((4, 3, 8, 8), np.uint8), "action": np.zeros((4, 2), np.float32)}] * 2)
    path = write_dataset(source, tmp_path / "set", "lerobot", lossless=lossless)
    file, = path.glob("data/**/*.parquet")
    file.write_bytes(file.read_bytes().replace(old, new))
    with pytest.raises(DataError, match=said):
        open_dataset(path, num_frames=2, split="all")[0]


def test_pictures_are_read_before_their_statistics_are_asked(tmp_path, monkeypatch):
    """pyarrow 26 ends Python where statistics of a column are damaged, and has an error for who reads it."""
    source = ArraySource([{"video": np.zeros((4, 3, 8, 8), np.uint8)}] * 2)
    path = write_dataset(source, tmp_path / "set", "lerobot", lossless=True)
    asked = []

    def read(file, batch_size, groups, columns):
        asked.append((groups, columns))
        raise OSError("histogram size mismatch")

    monkeypatch.setattr(pyarrow.parquet.ParquetFile, "iter_batches", read)
    with pytest.raises(DataError, match="file-000.parquet cannot be read as parquet.*histogram size mismatch"):
        open_dataset(path, num_frames=2, split="all")[0]
    assert asked == [([0], ["observation.images.front"])]
