"""What `benchmarks/fuzz.py` found in readers of data: damaged files that ended in a traceback."""

import pickle
import zipfile

import h5py
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch

from worldkit.data import ArraySource, film, open_dataset, write_dataset, write_video
from worldkit.data.layouts import files
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


def test_a_column_of_structures_where_lists_should_be(tmp_path):
    source = ArraySource([{"video": np.zeros((4, 3, 8, 8), np.uint8), "action": np.zeros((4, 2), np.float32)}] * 2)
    path = write_dataset(source, tmp_path / "set", "lerobot", lossless=True)
    file, = path.glob("data/**/*.parquet")
    table = pyarrow.parquet.read_table(file)
    at, kind = table.schema.get_field_index("action"), pyarrow.struct([("list", pyarrow.list_(pyarrow.float32()))])
    rows = pyarrow.array([{"list": [0.0, 0.0]}] * len(table), kind)
    pyarrow.parquet.write_table(table.set_column(at, "action", rows), file)
    with pytest.raises(DataError, match=r"column 'action' should hold float32 .* but has .* of object"):
        open_dataset(path, num_frames=2, split="all")[0]


def columns(path):
    item = {"video": np.zeros((4, 3, 8, 8), np.uint8), "state": {"pose": np.full((4, 2), 0.5)}}
    return write_dataset(ArraySource([item] * 2), path, "columns")


def test_columns_of_kinds_that_numpy_or_torch_have_not(tmp_path):
    path = columns(tmp_path / "a.hdf5")
    with h5py.File(path, "a") as file:
        name = next(name for name in file if "pose" in name)
        del file[name]
        file[name] = np.full((8, 2), 0.25, np.longdouble)
    state, = open_dataset(path, num_frames=2, split="all", height=8, width=8)[0]["state"].values()
    assert state.dtype == torch.float64 and (state == 0.25).all()
    with h5py.File(path, "a") as file:
        h5py.h5d.create(file.id, b"when", h5py.h5t.UNIX_D32LE, h5py.h5s.create_simple((8,)))
    with pytest.raises(DataError, match="'when' holds values of a type that NumPy does not have"):
        open_dataset(path, num_frames=2, split="all", height=8, width=8)


def test_a_file_that_is_one_of_several(tmp_path):
    """HDF5 takes as much memory for what such a file says of the others as a damaged one says."""
    path = columns(tmp_path / "a.hdf5")
    data = bytearray(path.read_bytes())
    assert data[8] == 0 and data[48:56] == b"\xff" * 8
    data[48:56] = (96).to_bytes(8, "little")
    path.write_bytes(data)
    with pytest.raises(DataError, match="a.hdf5 cannot be read as HDF5: .*one part of a file"):
        open_dataset(path, num_frames=2, split="all", height=8, width=8)


def test_pictures_of_sizes_that_no_memory_holds(tmp_path):
    """The size is believed before the first pixel is there."""
    write_video(tmp_path / "a.gif", np.zeros((4, 8, 8, 3), np.uint8))
    data = bytearray((tmp_path / "a.gif").read_bytes())
    data[6:10] = (20_000).to_bytes(2, "little") + (7_000).to_bytes(2, "little")
    (tmp_path / "a.gif").write_bytes(data)
    with pytest.raises(DataError, match="7000 x 20000 are more than the 67108864 pixels"):
        open_dataset(tmp_path / "a.gif", num_frames=2, split="all", height=8, width=8)[0]
    path = write_dataset(ArraySource([{"video": np.zeros((4, 3, 8, 8), np.uint8)}] * 2), tmp_path / "set", "frames")
    for file in path.rglob("*.png"):
        picture = bytearray(file.read_bytes())
        picture[16:24] = (9_000).to_bytes(4, "big") * 2
        picture[29:33] = zipfile.crc32(picture[12:29]).to_bytes(4, "big")
        file.write_bytes(picture)
    with pytest.raises(DataError, match="9000 x 9000 are more than the 67108864 pixels"):
        open_dataset(path, num_frames=2, split="all", height=8, width=8)[0]


@pytest.mark.parametrize("value", [
    np.array([object()]), np.zeros(2, "i4,f4"), np.array([[1, 2], [3]], object)], ids=["objects", "rows", "lists"])
def test_arrays_of_what_is_no_number(value, tmp_path):
    value = np.array([None] * len(value), value.dtype) if value.dtype == object else value
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(value))
    torch.save({"a": value}, tmp_path / "a.pt")
    for read, name in ((files.load_pickle, "a.pkl"), (files.load_pt, "a.pt")):
        with pytest.raises(DataError, match="never loaded"):
            read(tmp_path / name)


def test_a_pickle_takes_no_more_memory_than_it_has_bytes(tmp_path):
    """An array is as large as what is held of it, and no length is believed."""
    held = pickle.dumps(np.arange(4.0), 2)
    assert held.count(b"K\x04\x85") == 1  # its shape
    for damaged, said in ((held.replace(b"K\x04\x85", b"K\x05\x85"), r"32 bytes for an array \[5\] of float64"),
                          (held[:2] + b"r\xff\xff\xff\x7f" + held[2:], "LONG_BINPUT 2147483647"),
                          (b"\x80\x04\x95\xff\xff\xff\x7f\0\0\0\0" + held[2:], "FRAME 2147483647")):
        (tmp_path / "a.pkl").write_bytes(damaged)
        with pytest.raises(DataError, match=said):
            files.load_pickle(tmp_path / "a.pkl")


def test_a_pickle_cannot_change_what_reads_it(tmp_path):
    """A state for something that was named, as objects have them."""
    for named in (b"cnumpy\nndarray\n", b"c_codecs\nencode\n"):
        for state in (b"}X\x01\x00\x00\x00aK\x01s", b"N}X\x09\x00\x00\x00_functionK\x01s\x86"):
            (tmp_path / "a.pkl").write_bytes(b"\x80\x02" + named + state + b"b.")
            with pytest.raises(DataError, match="never loaded"):
                files.load_pickle(tmp_path / "a.pkl")
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(np.arange(3.0)))
    assert files.load_pickle(tmp_path / "a.pkl").tolist() == [0, 1, 2]


def test_byte_orders_of_pickles_stay_their_own(tmp_path):
    (tmp_path / "a.pkl").write_bytes(pickle.dumps([np.arange(3, dtype=">f4"), np.arange(3, dtype="<f4")]))
    found = files.load_pickle(tmp_path / "a.pkl")
    assert [x.tolist() for x in found] == [[0, 1, 2]] * 2
    assert np.dtype("f4").isnative


def test_one_number_where_a_row_of_them_should_be(tmp_path):
    folder = tmp_path / "set" / "train" / "0"
    write_dataset(ArraySource([{"video": np.zeros((4, 3, 8, 8), np.uint8)}] * 2), tmp_path / "frames", "frames")
    folder.mkdir(parents=True)
    for step, file in enumerate(sorted((tmp_path / "frames").rglob("*.png"))[:4]):
        file.rename(folder / f"{step}.png")
    for name in ("actions", "rewards", "dones"):
        (folder / f"{name}.pkl").write_bytes(pickle.dumps(np.float32(1)))
    with pytest.raises(DataError, match="'action' is one number, but there are 4 frames"):
        open_dataset(tmp_path / "set", num_frames=2, split="train", height=8, width=8)[0]


def test_episodes_at_times_that_no_film_has(tmp_path):
    source = ArraySource([{"video": np.zeros((4, 3, 16, 16), np.uint8), "action": np.zeros((4, 2), np.float32)}] * 2)
    path = write_dataset(source, tmp_path / "set", "lerobot")
    file, = path.glob("meta/episodes/**/*.parquet")
    table = pyarrow.parquet.read_table(file)
    name, = (name for name in table.column_names if name.endswith("from_timestamp"))
    far = pyarrow.array([1e30] * len(table), pyarrow.float64())
    pyarrow.parquet.write_table(table.set_column(table.column_names.index(name), name, far), file)
    with pytest.raises(DataError, match="mp4 cannot be read as a video, frame 0 of the episode"):
        open_dataset(path, num_frames=2, split="all")[0]


def test_a_film_coded_in_a_way_that_nobody_knows(tmp_path):
    write_video(tmp_path / "a.mp4", np.zeros((4, 16, 16, 3), np.uint8))
    data = (tmp_path / "a.mp4").read_bytes()
    assert data.count(b"avc1") >= 1
    (tmp_path / "a.mp4").write_bytes(data.replace(b"avc1", b"zzzz"))
    with pytest.raises(DataError, match="a.mp4 is coded in a way that this FFmpeg cannot decode"):
        open_dataset(tmp_path / "a.mp4", num_frames=2, split="all", height=16, width=16)[0]


def test_a_parquet_column_that_is_said_to_hold_two_kinds(tmp_path, monkeypatch):
    """pyarrow 26 ends Python when it is asked for statistics of one."""
    source = ArraySource([{"video": np.zeros((4, 3, 8, 8), np.uint8)}] * 2)
    path = write_dataset(source, tmp_path / "set", "lerobot", lossless=True)

    class Column:
        physical_type = "BOOLEAN"

        @property
        def statistics(self):
            raise AssertionError("asked for")

    class Group:
        column = staticmethod(lambda i: Column())

        def __init__(self, true):
            self.num_rows = true.num_rows

    class Metadata:
        def __init__(self, file):
            true = whole.fget(file)
            self.num_row_groups, self.num_rows, self.schema = true.num_row_groups, true.num_rows, true.schema
            self.row_group = lambda index: Group(true.row_group(index))

    whole = pyarrow.parquet.ParquetFile.metadata
    monkeypatch.setattr(pyarrow.parquet.ParquetFile, "metadata", property(Metadata))
    with pytest.raises(DataError, match="is truncated or damaged .*is said to hold BOOLEAN and BYTE_ARRAY"):
        open_dataset(path, num_frames=2, split="all")[0]


@pytest.mark.parametrize("width", [2**28, 2**60])
def test_columns_wider_than_any_memory(width, tmp_path):
    path = columns(tmp_path / "a.hdf5")
    with h5py.File(path, "a") as file:
        file.create_dataset("wide", (8, width), np.float64, chunks=(1, 1024))
    with pytest.raises(DataError, match="column 'wide' would take .* GB, more than .*a.hdf5 can hold"):
        open_dataset(path, num_frames=3, split="all", height=8, width=8)[0]


def test_a_pt_file_of_the_old_layout_that_breaks_off(tmp_path):
    torch.save({"actions": torch.zeros(7)}, tmp_path / "a.pt", _use_new_zipfile_serialization=False)
    data = (tmp_path / "a.pt").read_bytes()
    for length in range(0, len(data), 7):
        (tmp_path / "a.pt").write_bytes(data[:length])
        with pytest.raises(DataError, match="a.pt cannot be read"):
            files.load_pt(tmp_path / "a.pt")


@pytest.mark.parametrize(("rows", "total", "said"), [
    (10**11, 2, r"2 rows are said to lie in groups of \[100000000000\]"), (1, 2, r"groups of \[1\]"),
    (10**11, 10**11, r"100000000000 rows are said to be of \d+ bytes")])
def test_parquet_groups_of_more_rows_than_they_hold(rows, total, said, monkeypatch, tmp_path):
    """pyarrow takes memory for as many as are said."""
    source = ArraySource([{"video": np.zeros((4, 3, 8, 8), np.uint8)}] * 2)
    path = write_dataset(source, tmp_path / "set", "lerobot", lossless=True)

    class Group:
        num_rows = rows

    class Metadata:
        num_rows, num_row_groups, row_group = total, 1, staticmethod(lambda index: Group())

    monkeypatch.setattr(pyarrow.parquet.ParquetFile, "metadata", Metadata())
    with pytest.raises(DataError, match=f"cannot be read as parquet: it is truncated or damaged .*{said}"):
        open_dataset(path, num_frames=2, split="all")[0]


def test_a_column_that_is_not_there_beside_pictures_that_lack(tmp_path):
    source = ArraySource([{"video": np.zeros((4, 3, 8, 8), np.uint8)}] * 2)
    path = write_dataset(source, tmp_path / "set", "lerobot", lossless=True)
    file, = path.glob("data/**/*.parquet")
    table = pyarrow.parquet.read_table(file)
    at = table.column_names.index("observation.images.front")
    none = pyarrow.array([None] * len(table), table.schema.field(at).type)
    table = table.set_column(at, "observation.images.front", none).drop_columns(["episode_index"])
    pyarrow.parquet.write_table(table, file)
    with pytest.raises(DataError, match="file-000.parquet cannot be read as parquet: .*episode_index"):
        open_dataset(path, num_frames=2, split="all")[0]


def test_frames_that_are_larger_than_the_film_says(tmp_path, monkeypatch):
    """The container's size is looked at first; the decoder has the limit, too."""
    write_video(tmp_path / "a.mp4", np.zeros((4, 32, 32, 3), np.uint8))
    monkeypatch.setattr(film, "check_size", lambda height, width: None)
    monkeypatch.setattr(film, "LARGEST", 500)
    with pytest.raises(DataError, match="frame 0 could not be decoded"):
        open_dataset(tmp_path / "a.mp4", num_frames=2, split="all", height=16, width=16)[0]
