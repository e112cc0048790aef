"""Folders with several series of images, and the order of frames that are named by time."""

import numpy as np
import pytest

from worldkit.data import open_dataset, validate
from worldkit.data.formats.clip_files import find_clips
from worldkit.data.formats.image_series import find_series, seconds, time_order
from worldkit.errors import DataError

image = pytest.importorskip("PIL.Image")


def save(folder, names, value=0):
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names):
        image.fromarray(np.full((8, 8, 3), value + 10 * number, np.uint8)).save(folder / name)


def several(*patterns, frames=3):
    return [pattern.format(t) for pattern in patterns for t in range(frames)]


@pytest.mark.parametrize("patterns, labels", [
    (("rgba_{:05d}.png", "normal_{:05d}.png", "segmentation_{:05d}.png"), ["normal", "rgba", "segmentation"]),  # Kubric
    (("frame-{:06d}.color.png", "frame-{:06d}.depth.png"), ["color", "depth"]),  # 7-Scenes
    (("{}-color.jpg", "{}-depth.png"), ["color", "depth"]),
    (("left_{}.png", "right_{}.png"), ["left", "right"]),
    (("frame{:06d}.jpg", "depth{:06d}.png"), ["depth", "frame"]),  # Replica
    (("{}.jpg", "{}.png"), ["jpg", "png"]),
    (("{:04d}.png", "{:04d}_mask.png"), ["mask", "plain"]),
    (("cam0_{:04d}.png", "cam1_{:04d}.png"), ["cam0", "cam1"]),
    (("forward_flow_{:05d}.png", "rgba_{:05d}.png"), ["forward-flow", "rgba"]),
])
def test_series_are_told_apart(patterns, labels):
    assert [(s.label, len(s.names)) for s in find_series(several(*patterns))] == [(label, 3) for label in labels]


@pytest.mark.parametrize("names", [
    several("frame{}.png"),
    several("view_{:04d}.png"),
    ["apple.png", "pear.png", "plum.png"],
    ["a3f9.png", "0b27.png", "77aa.png", "c0de.png"],
    [f"2024-01-05_10-22-{s}.png" for s in range(12)],
    [f"{s}.{f:02d}.png" for s in range(3) for f in range(20)],
    ["0.png", "0.5.png", "1.png", "1.5.png"],
    ["-2.png", "-1.png", "0.png", "1.png"],
])
def test_one_series_stays_one(names):
    assert len(find_series(names)) == 1


@pytest.mark.parametrize("check", [lambda path: open_dataset(path, num_frames=2), lambda path: validate(str(path))])
def test_several_series_are_refused_with_their_counts(tmp_path, check):
    for scene in range(3):
        save(tmp_path / f"scene_{scene}", several("rgba_{}.png", "depth_{}.png", frames=4))
    with pytest.raises(DataError, match=r"scene_0 holds several series of images: depth \(4\), rgba \(4\).*=rgba"):
        check(tmp_path)


def test_a_lone_picture_beside_a_series_is_named(tmp_path):
    save(tmp_path, [*several("frame_{}.png", frames=9), "thumbnail.png"])
    with pytest.raises(DataError, match=r"frame \(9\), thumbnail \(1\)"):
        find_clips(tmp_path)


def test_one_series_is_chosen_or_several_become_cameras(tmp_path):
    for scene in range(3):
        save(tmp_path / f"scene_{scene}", several("left_{}.png", frames=4), value=0)
        save(tmp_path / f"scene_{scene}", several("right_{}.png", frames=4), value=100)
    video = open_dataset(tmp_path, num_frames=4, height=8, series="right")[0]["video"]
    assert video[:, 0, 0, 0].tolist() == [100, 110, 120, 130]
    cameras = open_dataset(tmp_path, num_frames=4, height=8, series="right,left")[0]["video"]
    assert cameras.shape == (2, 4, 3, 8, 8)
    assert cameras[:, 0, 0, 0, 0].tolist() == [100, 0]
    assert len(open_dataset(tmp_path, num_frames=8, height=8, series="all")) == 1
    found = validate(str(tmp_path), series="left")
    assert (found.frames, found.faults) == (12, [])
    with pytest.raises(DataError, match="no series 'rigt'. Did you mean 'right'"):
        validate(str(tmp_path), series="rigt")


def test_series_in_folders_of_one_scene(tmp_path):
    for scene in range(3):
        save(tmp_path / f"scene_{scene}" / "rgb", several("{:04d}.png", frames=4))
        save(tmp_path / f"scene_{scene}" / "depth", several("{:04d}.png", frames=4), value=100)
    with pytest.raises(DataError, match=r"scene_0 holds several series of images: depth \(4\), rgb \(4\).*series=rgb "):
        find_clips(tmp_path)
    assert [clip.name for clip in find_clips(tmp_path, "rgb")] == ["scene_0", "scene_1", "scene_2"]
    cameras = open_dataset(tmp_path, num_frames=4, height=8, series="rgb,depth")[0]["video"]
    assert cameras[:, 0, 0, 0, 0].tolist() == [0, 100]
    assert len(find_clips(tmp_path, "all")) == 6
    for name, value in (("CameraRGB0", 0), ("CameraDepth0", 100)):
        save(tmp_path / "carla" / name, several("{}.png"), value=value)
    assert find_clips(tmp_path / "carla", "camerargb0")[0].files[0].parent.name == "CameraRGB0"
    for name in ("left", "right", "normal"):  # three clips
        save(tmp_path / "classes" / name, several("{}.png"))
    assert len(find_clips(tmp_path / "classes")) == 3
    save(tmp_path / "more" / "rgb", several("{:04d}.png"))
    assert len(find_clips(tmp_path / "more")) == len(find_clips(tmp_path / "more", "rgb")) == 1  # no series beside it


def test_a_label_may_be_written_as_the_files_are(tmp_path):
    save(tmp_path, [*several("forward_flow_{}.png"), *several("rgba_{}.png")])
    for label in ("forward_flow", "forward-flow", "Forward_Flow", "flow"):
        assert find_clips(tmp_path, label)[0].files[0].name == "forward_flow_0.png"


def test_two_clocks_need_not_agree(tmp_path):
    save(tmp_path, [f"left_{t}.png" for t in (100, 233, 366)] + [f"right_{t}.png" for t in (101, 233, 367)])
    assert len(find_clips(tmp_path, "left,right")[0].views) == 2


def test_cameras_must_fit(tmp_path):
    save(tmp_path / "a", [*several("left_{}.png", frames=4), *several("right_{}.png", frames=3)])
    with pytest.raises(DataError, match="left_3.png has no counterpart in the series right"):
        find_clips(tmp_path, "left,right")


def test_frames_named_by_seconds_are_in_order_of_time(tmp_path):
    times = 1560000083.9491622 + np.arange(40) / 30
    names = [f"{round(float(t), 7)!r}.png" for t in times]  # as ROS writes them: without zeros at the end
    assert len({len(name) for name in names}) > 1
    assert time_order(np.random.default_rng(0).permutation(names).tolist()) == names
    save(tmp_path / "bag", names[:20])
    video = open_dataset(tmp_path / "bag", num_frames=16, height=8)[0]["video"]
    assert (np.diff(video[:, 0, 0, 0].int().numpy()) > 0).all()


@pytest.mark.parametrize("names", [
    [f"shot1.{n}.png" for n in range(1, 25)],
    [f"shot1.{n:03d}.png" for n in range(990, 1010)],
    [f"{s}.{f}.png" for s in range(3) for f in range(11)],
    [f"1.2.{n}.png" for n in range(12)],
    [f"{s}.{ns}.png" for s in (10, 11) for ns in (16111, 90071000, 333333300, 666000010)],
    ["frame9.png", "frame10.png"],
])
def test_counters_behind_a_point_are_no_seconds(names):
    assert time_order(names[::-1]) == names


def test_seconds_are_read():
    assert seconds(["t_0", "t_0.5", "t_1"]) is not None
    assert time_order(["t_10.25s.png", "t_9.5s.png", "t_9.25s.png"]) == ["t_9.25s.png", "t_9.5s.png", "t_10.25s.png"]
    assert seconds(["0", "1"]) is None
    assert seconds(["a_0.5", "b_0.75"]) is None
