"""stable-worldmodel's folders of images and of videos, laid out by hand as its writers do; its Lance tables."""

import pickle

import numpy as np
import pytest

from worldkit.data import list_formats, make_loader, open_dataset, validate, write_dataset, write_video
from worldkit.data.formats.swm import open_swm
from worldkit.data.registry import find_format
from worldkit.errors import DataError

pytest.importorskip("av")
image = pytest.importorskip("PIL.Image")

LENGTHS = (5, 7, 6, 4)
ROWS = sum(LENGTHS)
STARTS = np.concatenate([[0], np.cumsum(LENGTHS)[:-1]])


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLDKIT_CACHE", str(tmp_path / "cache"))


def level(episode, step):
    return 20 + 50 * episode + 5 * step


def by_hand(root, video=False, cameras=("pixels", "goal"), **columns):
    root.mkdir()
    action = np.arange(ROWS * 2, dtype=np.float32).reshape(ROWS, 2)
    action[STARTS + np.array(LENGTHS) - 1] = np.nan
    reward = np.ones(ROWS)
    reward[STARTS] = np.nan
    tables = {"action": action, "reward": reward, "proprio": np.arange(ROWS * 3.0).reshape(ROWS, 3), **columns}
    tables |= {"ep_len": np.array(LENGTHS, np.int32), "ep_offset": STARTS.astype(np.int64)}
    for name, values in tables.items():
        np.savez(root / f"{name}.npz", values)
    for camera in cameras:
        (root / camera).mkdir()
        for e, n in enumerate(LENGTHS):
            size = (16, 32, 3) if camera == "pixels" else (16, 16, 3)
            frames = np.stack([np.full(size, level(e, t), np.uint8) for t in range(n)])
            if video:
                write_video(root / camera / f"ep_{e}.mp4", frames)
            for t, frame in enumerate([] if video else frames):
                image.fromarray(frame).save(root / camera / f"ep_{e}_step_{t}.jpeg")
    return root


@pytest.mark.parametrize("video", [False, True])
def test_laid_out_by_hand(tmp_path, video):
    tasks = np.array([f"task {e}" for e, n in enumerate(LENGTHS) for _ in range(n)])
    root = by_hand(tmp_path / "pusht", video, task=tasks)
    assert find_format(str(root)).name == "swm"
    found = []
    for split in ("train", "val", "test"):
        source = open_swm(str(root), split=split)
        assert source.summary["cameras"] == ["pixels"] and source.summary["resolution"] == [16, 32]
        for i in range(source.num_episodes):
            item = source.read(i, 1, source.length(i))
            e = int(item["language"][-1])
            levels = [level(e, t) for t in range(1, LENGTHS[e])]
            assert item["video"].shape == (LENGTHS[e] - 1, 3, 16, 32)
            assert np.abs(item["video"].mean((1, 2, 3)) - levels).max() < 3
            assert abs(int(item["goal_image"].max()) - level(e, 1)) < 3  # a square one, padded
            first = STARTS[e] + 1
            assert item["action"][:-1, 0].tolist() == [2 * r for r in range(first, first + LENGTHS[e] - 2)]
            assert (item["action"][-1] == 0).all() and item["state"]["proprio"][0, 0] == 3 * first
            found.append(e)
    assert sorted(found) == [0, 1, 2, 3]
    assert not validate(root).faults


def test_it_reaches_a_batch_and_another_format(tmp_path):
    root = by_hand(tmp_path / "pusht")
    dataset = open_dataset(root, num_frames=3, height=8)
    batch = next(iter(make_loader(dataset, 2, num_workers=1)))
    assert batch.video.shape == (2, 3, 3, 8, 8) and set(batch.conditions) == {"action", "goal_image"}
    assert len(pickle.dumps(dataset)) < 20_000
    written = write_dataset(open_swm(str(root), split="train"), tmp_path / "train.h5", "columns")
    assert (open_dataset(written, num_frames=3)[0]["action"] == open_dataset(root, num_frames=3)[0]["action"]).all()


def remove(name):
    return lambda root: (root / name).unlink()


def table(name, values):
    return lambda root: np.savez(root / f"{name}.npz", values)


def linked(root):
    (root / "pixels/ep_1_step_2.jpeg").rename(root.parent / "elsewhere.jpeg")
    (root / "pixels/ep_1_step_2.jpeg").symlink_to(root.parent / "elsewhere.jpeg")


@pytest.mark.parametrize(("fault", "message"), [
    (remove("pixels/ep_0_step_0.jpeg"), "pixels holds neither ep_0.mp4 nor ep_0_step_0.jpeg: episode 0 is missing"),
    (remove("pixels/ep_1_step_2.jpeg"), "ep_1_step_2.jpeg does not exist: frame 2 of episode 1"),
    (linked, "link out of the data set"),
    (table("proprio", np.zeros((9, 2))), r"tells of episodes from row 0 to 21, proprio.npz is \[9, 2\]"),
    (table("ep_len", np.array([5, 8, 6, 4])), "episodes 1 and 2 share rows 12..12"),
    (table("ep_len", np.array([5, 7, 6, 0])), "ep_len has an episode without frames"),
    (table("ep_len", np.zeros(4)), "must be whole numbers"),
    (table("note", np.array([{}], object)), "note.npz cannot be read.*never loaded"),
    (table("action", np.array(["up"] * ROWS)), "actions must be numbers"),
    (lambda root: (root / "proprio.npz").write_bytes(b"x"), "proprio.npz cannot be read"),
])
def test_faults_are_named(tmp_path, fault, message):
    root = by_hand(tmp_path / "set")
    fault(root)
    with pytest.raises(DataError, match=message):
        for split in ("train", "val", "test"):
            source = open_swm(str(root), split=split)
            [source.read(i, 0, source.length(i)) for i in range(source.num_episodes)]


def test_a_video_of_another_length_is_refused(tmp_path):
    root = by_hand(tmp_path / "set", video=True)
    np.savez(root / "ep_len.npz", np.array([5, 7, 6, 3]))
    faults = [str(fault) for fault in validate(root).faults]
    assert len(faults) >= 1 and any("ep_3.mp4 has 4 frames, but ep_len says 3" in fault for fault in faults)


@pytest.mark.parametrize("name", ["pusht.lance", "db"])
def test_lance_is_named(tmp_path, name):
    (tmp_path / "db/pusht.lance/_versions").mkdir(parents=True)
    path = tmp_path / "db" if name == "db" else tmp_path / "db/pusht.lance"
    with pytest.raises(DataError, match=r"is a Lance table.*convert\('.*', 'data.h5', dest_format='hdf5'\)"):
        open_dataset(path, num_frames=2)
    assert {"swm", "lance"} <= set(list_formats())
