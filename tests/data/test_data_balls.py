"""Balls-Interaction and shapes: parity with the original, determinism, the HDF5 layout."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from worldkit.data import (
    ArraySource,
    generate_balls,
    generate_shapes,
    make_loader,
    open_dataset,
    validate,
    write_balls_hdf5,
    write_dataset,
)
from worldkit.data.formats.balls import episode_seeds, render, segment, simulate
from worldkit.data.formats.hdf5 import HDF5Source
from worldkit.errors import DataError

PARITY = Path(os.environ.get("WORLDKIT_PARITY", Path(__file__).parents[3] / "shared" / "parity"))
FIXTURE = PARITY / "ddlp" / "balls_data" / "episodes.npz"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLDKIT_CACHE", str(tmp_path / "cache"))


@pytest.mark.skipif(not FIXTURE.exists(), reason="parity fixture not present")
@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_equals_the_original_bit_for_bit(split):
    original = np.load(FIXTURE)
    seeds = original[f"{split}_first_seeds"]
    assert np.array_equal(episode_seeds(split, len(seeds)), seeds)
    positions, velocities, colors = simulate(seeds[:2])
    for i in (0, 1):
        assert np.array_equal(positions[i], original[f"{split}{i}_positions"])
        assert np.array_equal(velocities[i], original[f"{split}{i}_velocities"])
        assert np.array_equal(colors[i], original[f"{split}{i}_colors0"])
        frames, seen = render(positions[i], np.repeat(colors[i][None], 100, axis=0))
        images = original[f"{split}{i}_imgs"]
        assert np.array_equal(frames[: len(images)], images)
        assert np.array_equal(seen, original[f"{split}{i}_in_camera"] > 0)


def test_physics_keeps_the_energy_and_stays_inside():
    positions, velocities, _ = simulate(episode_seeds("train", 8))
    energy = (velocities**2).sum((-1, -2))
    assert np.allclose(energy, 27)
    assert positions.min() > 7.5 and positions.max() < 56.5


def test_more_episodes_start_with_the_same_ones():
    few, more = (generate_balls("val", num_episodes=n, image_size=32, num_frames=4) for n in (2, 3))
    assert np.array_equal(few.video, more.video[:2])


@pytest.mark.parametrize("size", [64, 32, 16])
def test_segments_are_the_visible_balls(size):
    made = generate_balls("val", num_episodes=2, image_size=size, num_frames=20)
    positions, frames = made.positions.reshape(-1, 3, 2), made.video.reshape(-1, 3, size, size)
    labels = segment(positions, size)
    assert labels.dtype == np.uint8 and set(np.unique(labels)) == {0, 1, 2, 3}
    assert np.mean((frames.max(1) >= 128) != (labels > 0)) < 1e-3  # every colour has a channel at its brightest
    block = 64 / size
    pixel = (np.arange(size) + 0.5) * block
    for ball in range(3):
        x, y = positions[:, ball, 0, None, None], positions[:, ball, 1, None, None]
        far = np.hypot(pixel[None, None] - x, pixel[None, :, None] - y)
        mine = labels == ball + 1
        assert far[mine].max() < 8 + block and mine.sum() > 0.85 * 40 * np.pi * 64 / block**2


def test_the_last_drawn_ball_hides_the_others():
    labels = segment(np.array([[[30.0, 30.0], [30.0, 30.0], [36.0, 30.0]]]), 64)[0]
    assert labels[30, 36] == 3 and labels[30, 30] == 3 and labels[30, 24] == 2 and 1 not in labels


def test_segments_come_when_they_are_asked_for():
    options = {"split": "val", "num_frames": 4, "num_episodes": 1, "episode_length": 4}
    assert "segmentation" not in open_dataset("balls-32", **options)[0]["state"]
    labels = open_dataset("balls-32", segments=True, **options)[0]["state"]["segmentation"]
    assert labels.shape == (4, 32, 32) and labels.unique().tolist() == [0, 1, 2, 3]


def test_small_frames_are_block_averages():
    large = generate_balls("val", num_episodes=1, num_frames=3).video.astype(float)
    for size in (32, 16):
        small = generate_balls("val", num_episodes=1, image_size=size, num_frames=3).video
        block = 64 // size
        mean = large.reshape(1, 3, 3, size, block, size, block).mean((4, 6))
        assert small.dtype == np.uint8
        assert np.abs(small - mean).max() <= 0.5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"split": "valid"}, "split"),
        ({"image_size": 48}, "64, 32, 16"),
        ({"num_episodes": 0}, "at least 1"),
        ({"num_frames": 0}, "at least 1"),
    ],
)
def test_balls_say_what_is_wrong(arguments, message):
    with pytest.raises(DataError, match=message):
        generate_balls(**{"num_episodes": 1, **arguments})


def test_open_balls_gives_uint8_clips_and_states():
    dataset = open_dataset("balls-32", split="val", num_frames=5, num_episodes=2, episode_length=8)
    assert len(dataset) == 2 * 4
    item = dataset[5]
    assert item["video"].dtype == torch.uint8 and item["video"].shape == (5, 3, 32, 32)
    assert (item["episode"], item["start"]) == (1, 1)
    truth = generate_balls("val", num_episodes=2, image_size=32, num_frames=8)
    assert np.array_equal(item["video"], truth.video[1, 1:6])
    # (x, y) pixels -> (y, x) in [-1, 1]
    assert np.allclose(item["state"]["position"], truth.positions[1, 1:6, :, ::-1] / 32 - 1, atol=1e-6)
    batch = next(iter(make_loader(dataset, 4)))
    assert batch.video.shape == (4, 5, 3, 32, 32) and batch.video.dtype == torch.uint8
    assert not batch.conditions  # what is known for evaluation never reaches the model
    assert dataset.summary["synthetic"] is True and dataset.summary["resolution"] == [32, 32]


def test_balls_size_comes_from_one_place():
    assert open_dataset("balls", height=16, num_frames=1, num_episodes=1, split="val")[0]["video"].shape[-1] == 16
    with pytest.raises(DataError, match="several sizes were asked for: 32, 64"):
        open_dataset("balls-32", height=64, num_frames=1, num_episodes=1)


def test_hdf5_round_trip(tmp_path):
    h5py = pytest.importorskip("h5py")
    paths = write_balls_hdf5(tmp_path / "balls", splits={"train": 5, "val": 1}, num_frames=100)
    assert [path.name for path in paths] == ["train.hdf5", "val.hdf5"]
    assert sorted(p.name for p in (tmp_path / "balls").iterdir()) == ["train.hdf5", "val.hdf5", "version.txt"]
    with h5py.File(paths[0]) as file:
        shapes = {name: (data.shape, data.dtype) for name, data in file.items()}
        assert np.array_equal(file["ids"][0, 0], [1, 2, 3])
    assert shapes.pop("imgs") == ((5, 100, 64, 64, 3), np.uint8)
    for name in ("positions", "velocities"):
        assert shapes.pop(name) == ((5, 100, 3, 2), np.float64)
    assert shapes.pop("colors") == ((5, 100, 3, 3), np.float64)
    assert set(shapes) == {"sizes", "masses", "layers", "shapes", "present", "in_camera", "ids"}
    assert set(shapes.values()) == {((5, 100, 3), np.dtype(np.float64))}

    read = open_dataset(tmp_path / "balls", num_frames=7)
    made = open_dataset("balls", num_frames=7, num_episodes=5)
    assert len(read) == len(made) == 5 * 94
    for index in (0, 94, 469):
        ours, theirs = read[index], made[index]
        assert torch.equal(ours["video"], theirs["video"])
        for name in ("position", "velocity", "in_camera"):
            assert torch.equal(ours["state"][name], theirs["state"][name])
    small = open_dataset(tmp_path / "balls", num_frames=7, height=32)[0]["video"]
    assert torch.equal(small, open_dataset("balls-32", num_frames=7, num_episodes=5)[0]["video"])
    loader = make_loader(read, 64, num_workers=2, shuffle=False)
    assert torch.equal(next(iter(loader)).video[1], read[1]["video"])


def test_hdf5_errors(tmp_path):
    h5py = pytest.importorskip("h5py")
    (path,) = write_balls_hdf5(tmp_path, splits={"train": 2}, image_size=16, num_frames=20)
    with pytest.raises(DataError, match="nothing for split 'val'"):
        open_dataset(tmp_path, split="val", num_frames=1)
    with pytest.raises(DataError, match="holds split 'train'"):
        open_dataset(path, split="val", num_frames=1)
    (tmp_path / "cut.hdf5").write_bytes(path.read_bytes()[:-5000])
    with pytest.raises(DataError, match="truncated"):
        open_dataset(tmp_path / "cut.hdf5", num_frames=1)
    with h5py.File(tmp_path / "other.hdf5", "w") as file:
        file["frames"] = np.zeros(3)
    with pytest.raises(DataError, match="has no 'imgs'; it has frames"):
        HDF5Source(tmp_path / "other.hdf5")


def test_one_hdf5_file_is_split_by_episode_and_gives_actions(tmp_path):
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "robot.hdf5", "w") as file:
        file["imgs"] = np.broadcast_to(np.arange(9, dtype=np.uint8)[:, None, None, None, None], (9, 6, 8, 8, 3))
        file["actions"] = np.zeros((9, 6, 2))
    seen = []
    for split in ("train", "val", "test"):
        dataset = open_dataset(tmp_path / "robot.hdf5", split=split, num_frames=6)
        seen += [int(dataset[i]["video"].max()) for i in range(len(dataset))]
        assert dataset[0]["action"].shape == (6, 2) and dataset[0]["action"].dtype == torch.float32
    assert sorted(seen) == list(range(9))


def balls_file(path, **columns):
    h5py = pytest.importorskip("h5py")
    with h5py.File(path, "w") as file:
        for name, array in {"imgs": np.zeros((4, 6, 8, 8, 3), np.uint8), **columns}.items():
            file[name] = array
    return path


def test_hdf5_actions_are_checked(tmp_path):
    actions = np.arange(48.0).reshape(4, 6, 2)
    actions[:, 5] = np.nan  # leads nowhere
    source = HDF5Source(balls_file(tmp_path / "a.hdf5", actions=actions))
    assert source.read(1, 4, 6)["action"].tolist() == [[20, 21], [0, 0]]
    actions[1, 3] = np.nan
    source = HDF5Source(balls_file(tmp_path / "nan.hdf5", actions=actions))
    for read in (lambda: source.read(1, 2, 4), lambda: source.read_entry(1, "action")):
        with pytest.raises(DataError, match="nan.hdf5, episode 1: the action at frame 3 is not finite"):
            read()
    faults = validate(str(tmp_path / "nan.hdf5")).faults
    assert [fault.frame for fault in faults] == [3] and "'action' is not finite" in faults[0].problem
    numbers = HDF5Source(balls_file(tmp_path / "b.hdf5", actions=np.arange(24).reshape(4, 6))).read(1, 0, 3)["action"]
    assert numbers.dtype == np.int64 and numbers.tolist() == [6, 7, 8]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"imgs": np.zeros((0, 6, 8, 8, 3), np.uint8)}, r"imgs must be uint8 \[N, T, H, W, 3\], got uint8 \[0, 6"),
        ({"actions": np.zeros((4, 5, 2))}, r"actions must be \[N, T, A\].* N, T = 4, 6 .*got \[4, 5, 2\].* may be NaN"),
        ({"actions": np.zeros((1, 6, 2))}, r"got \[1, 6, 2\]"),
        ({"positions": np.zeros((4, 6, 3))}, r"positions must be \[N, T, balls, 2\]"),
    ],
)
def test_hdf5_shapes_are_checked(tmp_path, columns, message):
    path = str(balls_file(tmp_path / "a.hdf5", **columns))
    for read in (lambda: open_dataset(path, num_frames=2), lambda: validate(path)):
        with pytest.raises(DataError, match=message):
            read()


@pytest.mark.parametrize(
    ("state", "kind"),
    [
        ({"position": np.zeros((4, 3, 2), np.float32), "in_camera": np.ones((4, 3), bool)}, "hdf5"),
        ({"position": np.zeros((4, 3), np.float32)}, "columns"),
        ({"position": np.zeros((4, 3, 2))}, "columns"),
        ({"position": np.zeros((4, 3, 2), np.float32), "in_camera": np.full((4, 3), 0.3, np.float32)}, "columns"),
    ],
)
def test_only_what_the_balls_layout_gives_back_is_written_in_it(tmp_path, state, kind):
    pytest.importorskip("h5py")
    source = ArraySource([{"video": np.zeros((4, 3, 8, 8), np.uint8), "state": state}] * 3)
    found = open_dataset(write_dataset(source, tmp_path / "a.hdf5", "hdf5"), num_frames=4)
    assert found.summary["kind"] == kind
    assert all(np.array_equal(found[0]["state"][name], state[name]) for name in state)


def test_hidden_ball_gets_a_new_id_when_it_returns():
    from worldkit.data.formats.hdf5 import _ids

    seen = np.ones((1, 4, 3), dtype=bool)
    seen[0, 1, 1] = False
    assert _ids(seen)[0].tolist() == [[1, 2, 3], [1, 0, 3], [1, 4, 3], [1, 4, 3]]


def test_shapes_are_the_same_every_time():
    first, again = (generate_shapes("train", num_images=n) for n in (4, 6))
    assert np.array_equal(first, again[:4])
    assert not np.array_equal(first, generate_shapes("val", num_images=4))
    assert first.dtype == np.uint8 and first.shape == (4, 3, 64, 64)
    ground = (first == np.array([0, 255, 255], np.uint8)[:, None, None]).all(1)
    covered = 1 - ground.mean((1, 2))
    assert (covered > 0.02).all() and (covered < 0.25).all()
    many = np.concatenate([first, generate_shapes("test", num_images=40)]).transpose(1, 0, 2, 3)
    painted = many[:, ~(many == np.array([0, 255, 255], np.uint8)[:, None, None, None]).all(0)]
    assert painted.max() == 200 and painted.min() < 5  # DDLP's and LPWM's: intensities of 0 to 200


def test_open_shapes_are_still_images():
    dataset = open_dataset("shapes", num_frames=1, num_images=5)
    assert len(dataset) == 5 and dataset[4]["video"].shape == (1, 3, 64, 64)
    with pytest.raises(DataError, match="num_frames=1 or less"):
        open_dataset("shapes", num_frames=2, num_images=5)
