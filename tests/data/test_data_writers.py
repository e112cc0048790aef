"""`write_dataset`: every format, interruptions, refusals; sidecars of clips; statistics of actions."""

import errno
import signal
import subprocess
import sys

import numpy as np
import pytest

from worldkit.data import (
    ActionStatistics,
    ArraySource,
    EpisodeSource,
    action_statistics,
    collate,
    list_writers,
    open_dataset,
    register_writer,
    write_dataset,
)
from worldkit.data import writers as writers_module
from worldkit.errors import DataError, DuplicateComponentError

for module in ("av", "h5py", "pyarrow", "PIL.Image"):
    pytest.importorskip(module)

FORMATS = {  # name -> options, file suffix, smallest PSNR; None: bit for bit
    "npz": ({}, "", None),
    "columns": ({}, ".hdf5", None),
    "hdf5": ({}, ".hdf5", None),
    "frames": ({}, "", None),
    "video": ({"lossless": True}, "", None),
    "video-h264": ({}, "", 36),
    "lerobot": ({"lossless": True}, "", None),
    "lerobot-h264": ({}, "", 36),
}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLDKIT_CACHE", str(tmp_path / "cache"))


def recorded(lengths, seed=0, size=(16, 16), **extra):
    """Smooth moving pictures in colour, with actions and an instruction."""
    rng, made = np.random.default_rng(seed), []
    y, x = np.mgrid[: size[0], : size[1]] / 4
    for e, n in enumerate(lengths):
        waves = [127 + 100 * np.sin(x + 0.3 * t + e + np.arange(3)[:, None, None] / 4) * np.cos(y) for t in range(n)]
        made.append(
            {
                "video": np.stack(waves).astype(np.uint8),
                "action": rng.normal(size=(n, 2)).astype(np.float32),
                "language": f"task {e}",
                **{name: make(n) for name, make in extra.items()},
            }
        )
    return ArraySource(made)


def everything(source):
    return [source.read(i, 0, source.length(i)) for i in range(source.num_episodes)]


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_reads_back(tmp_path, name):
    options, _, least = FORMATS[name]
    splits = {"train": recorded((5, 7, 6)), "test": recorded((4,), seed=1)}
    done = []
    progress = lambda *count: done.append(count)  # noqa: E731
    path = write_dataset(splits, tmp_path / "set", name.partition("-")[0], progress=progress, **options)
    assert path == tmp_path / "set" and done == [(i + 1, 4) for i in range(4)]
    for split, source in splits.items():
        dataset = open_dataset(path, split=split, num_frames=2, height=16)
        for before, after in zip(everything(source), everything(dataset.source), strict=True):
            frames = before["video"].numpy()
            if least is None:
                assert (after["video"] == frames).all()
            else:
                assert 10 * np.log10(255**2 / ((after["video"] - frames.astype(float)) ** 2).mean()) > least
            assert (after["action"] == before["action"].numpy()).all() and after["action"].dtype == np.float32
            assert after["language"] == before["language"]
        batch = collate([dataset[0], dataset[1]])
        assert set(batch.conditions) == {"action", "language"} and batch.video.shape == (2, 2, 3, 16, 16)
    assert {p.name for p in tmp_path.iterdir()} <= {"cache", "set"}  # nothing temporary is left


def test_balls_keep_their_layout(tmp_path):
    balls = open_dataset("balls-16", num_frames=4, num_episodes=3, episode_length=8).source
    path = write_dataset(balls, tmp_path / "balls.hdf5", "hdf5")
    whole = write_dataset({"train": balls}, tmp_path / "set", "hdf5")
    assert open_dataset(path, num_frames=8).summary["kind"] == "hdf5"
    read = open_dataset(whole, num_frames=8).source
    for before, after in zip(everything(balls), everything(read), strict=True):
        assert (before["video"] == after["video"]).all()
        for key, value in before["state"].items():
            assert np.abs(np.asarray(after["state"][key], float) - value).max() <= 1e-6, key
    columns = write_dataset({"train": balls}, tmp_path / "columns", "columns")
    read = open_dataset(columns, num_frames=8)
    assert read.summary["kind"] == "columns"
    assert (everything(read.source)[1]["state"]["position"] == everything(balls)[1]["state"]["position"]).all()
    varied = write_dataset({"train": recorded((3, 4))}, tmp_path / "varied", "hdf5")  # no positions, other lengths
    assert open_dataset(varied, num_frames=2).summary["kind"] == "columns"


def test_from_any_format_to_any_other(tmp_path):
    first = {"train": recorded((5, 7)), "val": recorded((4,), seed=1)}
    path = write_dataset(first, tmp_path / "0", "npz")
    for i, name in enumerate(("lerobot", "columns", "frames", "video", "npz")):
        options = {"lossless": True} if name in ("lerobot", "video") else {}
        sources = {split: open_dataset(path, split=split, num_frames=2, height=16).source for split in first}
        path = write_dataset(sources, tmp_path / f"{i + 1}", name, **options)
    last = open_dataset(path, num_frames=2).source
    for before, after in zip(everything(first["train"]), everything(last), strict=True):
        assert (before["video"].numpy() == after["video"]).all() and (before["action"].numpy() == after["action"]).all()
        assert before["language"] == after["language"]


def test_sidecars_follow_the_cuts(tmp_path):
    source = recorded((20,), state=lambda n: {"x": np.arange(n)}, done_mask=lambda n: np.ones(n, np.float32))
    path = write_dataset(source, tmp_path / "clips", "video")
    val = open_dataset(path, split="val", num_frames=2).source  # one clip: cut in time
    assert val.read(0, 0, 2)["state"]["x"].tolist() == [16, 17]
    short = open_dataset(path, num_frames=2, max_frames=10).source
    assert short.length(0) == 8 and short.read(0, 0, 8)["action"].shape == (8, 2)
    sidecar = path / "episode_000000.npz"
    np.savez(sidecar, action=np.zeros((19, 2), np.float32))
    with pytest.raises(DataError, match="episode_000000.npz: 'action' has 19 steps, the video has 20 frames"):
        open_dataset(path, num_frames=2)
    sidecar.unlink()
    assert set(open_dataset(path, num_frames=2)[0]) == {"video", "episode", "start"}


KILLED = """
import sys, time
import numpy as np
from worldkit.data import ArraySource, write_dataset

def progress(done, total):
    if done == 3:
        print("half", flush=True)
        time.sleep(60)

video = np.zeros((12, 3, 16, 16), np.uint8)
source = ArraySource([{"video": video, "action": np.zeros((12, 2), np.float32)}] * 5)
write_dataset({"train": source}, sys.argv[1], sys.argv[2], overwrite=True, progress=progress)
"""


@pytest.mark.parametrize(("name", "replaces"), [("lerobot", True), ("columns", False)])
def test_killed_in_the_middle(tmp_path, name, replaces):
    target = tmp_path / "data" / "set"
    old = {"train": recorded((4,), seed=3), "test": recorded((3,), seed=4)}
    if replaces:
        write_dataset(old, target, name)
    child = subprocess.Popen([sys.executable, "-c", KILLED, target, name], stdout=subprocess.PIPE, text=True)
    assert child.stdout.readline() == "half\n"
    child.send_signal(signal.SIGKILL)
    child.wait()
    left = [p for p in target.parent.iterdir() if p != target]
    assert left and all(p.name.startswith(".set.partial-") for p in left)
    for path in [*left, *(p for folder in left for p in folder.rglob("*"))]:
        with pytest.raises(DataError, match="interrupted conversion left: delete it"):
            open_dataset(path, num_frames=1)
    if replaces:  # still the old one
        found = open_dataset(target, num_frames=4).source
        assert (found.read(0, 0, 4)["action"] == old["train"].read(0, 0, 4)["action"].numpy()).all()
    else:
        assert not target.exists()
        with pytest.raises(DataError):  # the folder around it is not taken for data, either
            open_dataset(target.parent, num_frames=1)
    write_dataset(old, target, name, overwrite=replaces)
    assert open_dataset(target, num_frames=4).summary["episodes"] == 1


class Breaks(EpisodeSource):
    """A source whose second episode cannot be read."""

    num_episodes = 2
    summary = {"name": "breaks"}

    def length(self, episode):
        return 3

    def read(self, episode, start, stop):
        if episode:
            raise DataError("b.mp4: frame 7 is damaged")
        return {"video": np.zeros((stop - start, 3, 8, 8), np.uint8)}


@pytest.mark.parametrize("name", list_writers())
def test_an_error_leaves_nothing_and_keeps_the_old(tmp_path, name):
    suffix = ".hdf5" if name in ("hdf5", "columns") else ""
    target = tmp_path / f"set{suffix}"
    with pytest.raises(DataError, match="frame 7"):
        write_dataset(Breaks(), target, name)
    assert not list(tmp_path.iterdir())
    write_dataset(recorded((4,)), target, name)
    modified = target.stat().st_mtime_ns
    with pytest.raises(DataError, match="exists already: give another path, or overwrite=True"):
        write_dataset(recorded((5,)), target, name)
    with pytest.raises(DataError, match="frame 7"):
        write_dataset(Breaks(), target, name, overwrite=True)
    assert [p.name for p in tmp_path.iterdir()] == [target.name] and target.stat().st_mtime_ns == modified
    write_dataset(recorded((50,)), target, name, overwrite=True)
    assert open_dataset(target, num_frames=2).source.length(0) == 40


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"format": "nzp"}, "no writer for the data format 'nzp'. Did you mean 'npz'"),
        ({"lossles": True, "format": "video"}, "no option 'lossles'. Did you mean 'lossless'"),
        ({"source": {"valid": recorded((3,))}}, "split must be one of"),
        ({"source": {}}, "no episode to write"),
        ({"fps": 0}, "fps must be a finite number above 0"),
        ({"format": "columns"}, "is a file: give a path with .hdf5 or .h5"),
        ({"format": "video", "source": ArraySource([{"video": np.zeros((2, 3, 3, 8, 8), np.uint8)}])}, "has one view"),
        (
            {"source": ArraySource([{"video": np.zeros((2, 3, s, 8), np.uint8)} for s in (8, 6)])},
            r"episode 1 has video .*6, 8.*, the first episode .*8, 8",
        ),
        (
            {"source": ArraySource([{"video": np.zeros((2, 3, 8, 8), np.uint8), **e} for e in ({}, {"language": ""})])},
            "episode 1 has language text, the first episode not",
        ),
    ],
)
def test_what_is_refused(tmp_path, arguments, message):
    with pytest.raises(DataError, match=message):
        write_dataset(**{"source": recorded((3,)), "path": tmp_path / "set", "format": "npz", **arguments})
    assert not (tmp_path / "set").exists()


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "no space"), RuntimeError("h5")])
def test_a_writer_that_fails_leaves_nothing(tmp_path, monkeypatch, error):
    """Its files are emptied before they are closed, so that a full disk does not stop the closing as well."""
    monkeypatch.setattr(writers_module, "_writers", dict(writers_module._writers))
    sizes = []

    class Fails:
        def __init__(self, path, *, plan):
            self.path = path
            path.write_text("half")

        def write(self, episode):
            raise error

        def close(self):
            sizes.append(self.path.stat().st_size)
            raise error

    register_writer("fails", Fails, description="fails", suffixes=(".txt",))
    wanted = pytest.raises(DataError, match="a.txt: No space left on device") if error.args[0] == errno.ENOSPC else (
        pytest.raises(RuntimeError, match="h5"))
    with wanted:
        write_dataset(recorded((3,)), tmp_path / "a.txt", "fails")
    assert sizes == [0] and not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["columns", "hdf5"])
def test_a_full_disk_is_named(tmp_path, name):
    """A limit of file sizes stands in for it, until a file is emptied; in a process that HDF5 must not bring down."""
    code = f"""
import os, resource, signal, numpy as np
from worldkit.data import ArraySource, write_dataset
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
limit = lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
limit(200_000)
truncate = os.truncate
os.truncate = lambda path, size: [truncate(path, size), limit(resource.RLIM_INFINITY)]
noise = np.random.default_rng(0).integers(0, 255, (40, 3, 64, 64), np.uint8)
source = ArraySource([dict(video=noise)] * 4)
try:
    write_dataset(source, {str(tmp_path / "a.hdf5")!r}, {name!r})
except Exception as error:
    print(type(error).__name__, error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.startswith(f"DataError cannot write {tmp_path / 'a.hdf5'}: ") and not list(tmp_path.iterdir())


def test_a_target_made_in_the_meantime_is_kept(tmp_path):
    target = tmp_path / "set"

    class Slow(ArraySource):
        def read(self, *arguments):
            target.mkdir(exist_ok=True)
            return super().read(*arguments)

    with pytest.raises(DataError, match="made by someone else in the meantime"):
        write_dataset(Slow([{"video": np.zeros((2, 3, 8, 8), np.uint8)}]), target, "npz")
    assert not list(target.iterdir())


def test_the_current_folder_is_never_replaced(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for path in (tmp_path, tmp_path.parent):
        with pytest.raises(DataError, match="will not be replaced"):
            write_dataset(recorded((3,)), path, "npz", overwrite=True)


def test_a_writer_of_somebody_else(tmp_path, monkeypatch):
    monkeypatch.setattr(writers_module, "_writers", dict(writers_module._writers))

    class LengthsWriter:
        def __init__(self, path, *, plan, separator=","):
            self.path, self.plan, self.separator, self.lengths = path, plan, separator, []

        def write(self, episode):
            self.lengths.append(str(len(episode["video"])))

        def close(self):
            self.path.write_text(f"{self.plan.name} {self.plan.fps} " + self.separator.join(self.lengths))

    register_writer("lengths", LengthsWriter, description="lengths as text", suffixes=(".txt",))
    assert list_writers()["lengths"] == "lengths as text"
    path = write_dataset(recorded((3, 5)), tmp_path / "a.txt", "lengths", separator="+", fps=5)
    assert path.read_text() == "a.txt 5.0 3+5"
    with pytest.raises(DuplicateComponentError):
        register_writer("lengths", LengthsWriter, description="again")


def test_statistics_of_actions(tmp_path):
    source = recorded((5, 7, 30))
    found = action_statistics(source)
    actions = np.concatenate([item["action"][:-1] for item in everything(source)]).astype(np.float64)
    assert found.count == len(actions) == 39
    for name in ("mean", "std", "min", "max"):
        assert np.allclose(getattr(found, name), getattr(actions, name)(axis=0), rtol=1e-12), name
    again = ActionStatistics.from_dict(found.to_dict())
    assert again.to_dict() == found.to_dict()
    path = write_dataset({"train": source, "val": recorded((4,))}, tmp_path / "set", "lerobot")
    assert np.allclose(action_statistics(open_dataset(path, num_frames=2).source).std, found.std, rtol=1e-12)
    with pytest.raises(DataError, match="episode 0 has no 'torque'"):
        action_statistics(source, "torque")
    broken = ArraySource([{"video": np.zeros((3, 3, 8, 8), np.uint8), "action": np.array([[1.0], [np.inf], [0.0]])}])
    with pytest.raises(DataError, match="'action' of episode 0, frame 1, is not finite"):
        action_statistics(broken)
