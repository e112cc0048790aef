"""Episodes have names, and data can be opened whole."""

import numpy as np
import pytest

import worldkit.data.registry as registry
from worldkit.cli import main
from worldkit.data import (
    ArraySource,
    EpisodeSource,
    action_statistics,
    open_dataset,
    open_source,
    register_format,
    validate,
    write_dataset,
)
from worldkit.data.splits import split_episodes, split_time
from worldkit.errors import DataError


def episodes(count, frames=10):
    rng = np.random.default_rng(0)
    return [{"video": rng.integers(0, 255, (frames + i, 3, 16, 16), dtype=np.uint8),
             "action": rng.normal(size=(frames + i, 2)).astype(np.float32)} for i in range(count)]


def names(source):
    return [source.episode_name(i) for i in range(source.num_episodes)]


def frames(source):
    return [source.length(i) for i in range(source.num_episodes)]


def write(count, path, format, split=None):
    source = ArraySource(episodes(count))
    return write_dataset(source if split is None else {s: source for s in split}, path, format)


FORMATS = {  # how it is written -> names of the first and the second episode
    "npz": ("episode_000000.npz", "episode_000001.npz"),
    "frames": ("episode_000000", "episode_000001"),
    "hdf5": ("data.hdf5, episode 0", "data.hdf5, episode 1"),
    "lerobot": ("episode 0", "episode 1"),
}


@pytest.fixture(params=FORMATS)
def kind(request):
    pytest.importorskip("pyarrow" if request.param == "lerobot" else "h5py")
    return request.param


def place(folder, kind):
    return folder / ("data.hdf5" if kind == "hdf5" else kind)


def test_many_episodes(tmp_path, kind):
    path = str(write(5, place(tmp_path, kind), kind))
    whole = open_source(path, split="all", height=16)
    assert frames(whole) == [10, 11, 12, 13, 14] and whole.summary["split"] == "all"
    assert tuple(names(whole)[:2]) == FORMATS[kind] and len(set(names(whole))) == 5
    parts = [open_source(path, split=split, height=16) for split in ("train", "val", "test")]
    assert sorted(name for part in parts for name in names(part)) == sorted(names(whole))
    for part in parts:  # one name, one episode
        for i, name in enumerate(names(part)):
            assert part.length(i) == whole.length(names(whole).index(name))


def test_one_episode_is_not_cut(tmp_path, kind):
    path = str(write(1, place(tmp_path, kind), kind))
    whole = open_source(path, split=None, height=16)
    assert frames(whole) == [10] and names(whole) == [FORMATS[kind][0]]
    assert frames(open_source(path, split="train", height=16)) == [8]
    assert len(open_dataset(path, split="all", num_frames=10, height=16)) == 1
    with pytest.raises(DataError, match="shorter than a window.*--context and --horizon"):
        open_dataset(path, split="train", num_frames=10, height=16)


def test_parts_that_are_split_already(tmp_path, kind):
    path = str(write(2, tmp_path / kind, kind, split=("train", "test")))
    whole = open_source(path, split="all", height=16)
    assert frames(whole) == [10, 11, 10, 11] and len(set(names(whole))) == 4
    train, test = (open_source(path, split=split, height=16) for split in ("train", "test"))
    assert names(whole) == names(train) + names(test)
    assert np.array_equal(whole.read(3, 2, 5)["video"], test.read(1, 2, 5)["video"])
    assert np.array_equal(whole.read_entry(2, "action"), test.read_entry(0, "action"))
    assert whole.last_start(3, 4) == 7
    if kind != "lerobot":
        assert names(train)[0].startswith("train") and names(test)[0].startswith("test")


def test_a_pair_of_files(tmp_path):
    write(1, tmp_path / "cube.npz", "npz")
    write(1, tmp_path / "cube-val.npz", "npz")
    assert sorted(names(open_source(str(tmp_path), split="all"))) == ["cube-val.npz", "cube.npz"]
    assert names(open_source(str(tmp_path), split="val")) == ["cube-val.npz"]


def test_generated_data():
    whole = open_source("balls-32", split="all", num_episodes=2, episode_length=5)
    assert names(whole) == ["train/0", "train/1", "val/0", "val/1", "test/0", "test/1"]
    assert names(open_source("balls-32", split="val", num_episodes=2, episode_length=5)) == ["val/0", "val/1"]


class Log(EpisodeSource):
    def __init__(self, split):
        self.split = split

    num_episodes = 2
    summary = {"name": "log", "kind": "log", "resolution": [8, 8], "synthetic": True}

    def length(self, episode):
        return 6

    def read(self, episode, start, stop):
        return {"video": np.full((stop - start, 3, 8, 8), len(self.split), np.uint8)}


@pytest.fixture
def log(monkeypatch):
    monkeypatch.setattr(registry, "_formats", dict(registry._formats))
    register_format("log", matches=lambda target: target == "log", description="a log",
                    opener=lambda target, *, split, height=None, width=None: Log(split))


def test_a_plugin_that_knows_of_neither(log):
    whole = open_dataset("log", split="all", num_frames=3, mode="tile")
    assert len(whole) == 12 and whole.summary["episodes"] == 6
    assert names(whole.source) == [f"{split}/episode {i}" for split in ("train", "val", "test") for i in (0, 1)]
    assert [int(whole[i]["video"][0, 0, 0, 0]) for i in (0, 4, 8)] == [5, 3, 4]
    assert "log, split 'val', episode 1" not in str(validate("log").faults)


def test_other_splits_are_still_refused():
    with pytest.raises(DataError, match="split must be one of 'train', 'val', 'test' or 'all', got 'everything'"):
        open_source("balls-32", split="everything")


def test_where_the_splits_are_made():
    assert split_episodes(["a", "b", "c"], [1, 2, 3], "all") == [(0, 0, 1), (1, 0, 2), (2, 0, 3)]
    assert split_time(7, "all") == (0, 7)


def test_messages_say_the_name(tmp_path):
    path = str(write(5, tmp_path / "npz", "npz"))
    with pytest.raises(DataError, match=r"npz: episode_00000[0-4].npz has no 'speed'"):
        action_statistics(open_source(path, split="val"), "speed")


def test_the_command_line(tmp_path, capsys):
    path = str(write(1, tmp_path / "clip", "npz"))
    assert main(["data", "preview", path, "--split", "all", "--out", str(tmp_path / "look")]) == 0
    assert "1 episodes of split 'all'" in capsys.readouterr().out
    assert main(["data", "convert", path, str(tmp_path / "out"), "--to", "npz", "--split", "all"]) == 0
    assert frames(open_source(str(tmp_path / "out"), split="all")) == [10]
