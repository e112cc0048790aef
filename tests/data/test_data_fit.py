"""How pictures become frames: nothing is lost by default, and what happens is told everywhere."""

import json

import numpy as np
import pytest

from worldkit.cli import main
from worldkit.data import describe, open_dataset, open_splits, write_dataset, write_video
from worldkit.data.clips import ArraySource
from worldkit.data.fit import RESIZE, Fit, Fitting, fit_video

pytest.importorskip("av")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLDKIT_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("source", [(240, 320), (272, 640), (64, 64), (31, 47), (5, 200), (20, 30), (128, 64)])
@pytest.mark.parametrize("target", [(64, 64), (48, 64), (33, 20)])
def test_what_is_lost_is_what_is_told(source, target):
    """Shares counted in pixels: a picture of ones with a frame of its own around it."""
    for resize in RESIZE:
        fit = Fit.of(source, target, resize)
        frame = fit.place(np.ones((*fit.scaled, 1), np.uint8))
        assert frame.shape == (*target, 1)
        assert fit.empty == pytest.approx(1 - frame.mean())
        assert fit.lost == pytest.approx(1 - frame.sum() / np.prod(fit.scaled))
        assert (fit.lost == 0) or resize == "crop"
        assert (fit.empty == 0) or resize == "pad"
        video = np.full((2, 3, *source), 200, np.uint8)
        assert np.array_equal(fit_video(video, target, resize)[0, :, :, :, None][0] > 100, frame > 0)
    for resize in ("pad", "crop"):
        scaled, (height, width) = Fit.of(source, target, resize).scaled, source
        assert abs(scaled[0] - height * scaled[1] / width) <= 0.5 + 0.5 * max(height / width, 1), "round stays round"


def test_words():
    assert str(Fit.of((240, 320), (64, 64), "crop")) == (
        "240x320 -> 64x64: cropped, 25% of the picture is cut off (left and right)")
    assert str(Fit.of((240, 320), (64, 64), "pad")) == (
        "240x320 -> 64x64: the whole picture, padded with black, which is 25% of the frame")
    assert str(Fit.of((240, 320), (64, 64), "stretch")) == (
        "240x320 -> 64x64: the whole picture, stretched: things become 1.33 times as tall")
    assert str(Fit.of((240, 320), (48, 64), "pad")) == "240x320 -> 48x64: the whole picture, scaled"
    assert str(Fitting([(9, 9)], (9, 9), "pad")) == "9x9, as they are"
    assert not Fitting([(240, 320)], (48, 64), "pad").matters and Fitting([(240, 320)], (64, 64), "pad").matters


def pusher(path, height=240, width=320, count=60):
    """A red thing that goes from the left edge to the right one."""
    frames = np.full((count, height, width, 3), 30, np.uint8)
    for t, x in enumerate(np.linspace(20, width - 20, count).astype(int)):
        frames[t, height // 2 - 12 : height // 2 + 12, x - 12 : x + 12] = (220, 20, 20)
    return write_video(path, frames)


def red(frames):
    """Which frames show something red."""
    pixels = np.asarray(frames).astype(int)
    return ((pixels[:, 0] > 120) & (pixels[:, 1] < 80)).any((1, 2))


def test_nothing_leaves_the_picture_by_default(tmp_path):
    path = pusher(tmp_path / "pusher.mp4")
    whole = open_splits(str(path))[0]["train"]
    assert red(whole.read(0, 0, 48)["video"]).all()
    assert red(open_splits(str(path), resize="stretch")[0]["train"].read(0, 0, 48)["video"]).all()
    assert not red(open_splits(str(path), resize="crop")[0]["train"].read(0, 0, 48)["video"]).all()
    exact = open_dataset(path, num_frames=48, height=48, width=64)[0]["video"]
    assert red(exact).all() and exact[:, :, :2].min() > 15, "no border"


FORMATS = {"video": {}, "frames": {}, "npz": {}, "columns": {}, "lerobot": {}, "hdf5": {}}


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_takes_the_option_and_tells(tmp_path, name):
    pytest.importorskip("h5py")
    pytest.importorskip("pyarrow")
    video = np.full((6, 3, 12, 16), 200, np.uint8)
    source = ArraySource([{"video": video, "state": {"position": np.zeros((6, 1, 2), np.float32)}}] * 3)
    written = write_dataset({"train": source, "val": source}, tmp_path / "out", name, fps=10)
    seen = {}
    for resize in (None, *RESIZE):
        options = {} if resize is None else {"resize": resize}
        train = open_splits(str(written), height=8, **options)[0]["train"]
        seen[resize] = np.asarray(train.read(0, 0, 1)["video"])[0]
        words = "padded" if resize in (None, "pad") else {"crop": "cropped", "stretch": "stretched"}[resize]
        assert words in str(train.fitting) and train.fitting.matters
        assert describe(str(written), **options)["splits"]["train"]["pixels"] is not None
    assert np.array_equal(seen[None], seen["pad"])
    assert seen["pad"][:, 0].max() == 0 and seen["pad"][:, 4].min() > 190
    assert min(seen["crop"].min(), seen["stretch"].min()) > 190
    with pytest.raises(Exception, match="resize must be 'pad'"):
        open_splits(str(written), height=8, resize="fit")


def test_positions_follow_the_picture(tmp_path):
    """Known positions of the Balls layout are those in the frame, whatever happened to the picture."""
    h5py = pytest.importorskip("h5py")
    images = np.zeros((3, 4, 32, 64, 3), np.uint8)
    images[:, :, 6:10, 14:18] = 255  # centre at y 8, x 16
    with h5py.File(tmp_path / "train.hdf5", "w") as file:
        file["imgs"] = images
        file["positions"] = np.full((3, 4, 1, 2), (16.0, 8.0))
        file["velocities"] = np.full((3, 4, 1, 2), (2.0, 1.0))
    for resize in RESIZE:
        item = open_dataset(tmp_path, num_frames=2, height=64, width=64, resize=resize)[0]
        bright = np.argwhere(item["video"][0, 0].numpy() > 128)
        position = item["state"]["position"][0, 0].numpy()
        if resize != "crop":
            assert np.allclose((bright.mean(0) + 0.5) / 32 - 1, position, atol=0.02)
        expected = {"pad": (0.5, 1), "stretch": (1, 1), "crop": (1, 2)}[resize]
        assert np.allclose(position, np.array([-0.5, -0.5]) * expected)
        assert np.allclose(item["state"]["velocity"][0, 0], np.array([1 / 16, 2 / 32]) * expected)


def test_it_is_told_by_the_commands(tmp_path, capsys, monkeypatch):
    path = pusher(tmp_path / "pusher.mp4", 48, 64)
    monkeypatch.chdir(tmp_path)
    told = "48x64 -> 64x64: the whole picture, padded with black, which is 25% of the frame"
    assert main(["data", "inspect", str(path)]) in (0, None)
    out = capsys.readouterr().out
    assert told in out and "1 episode(s) are too few for splits of their own, which takes 3: each is cut in time" in out
    assert main(["data", "convert", str(path), "small", "--to", "npz", "--size", "64"]) in (0, None)
    assert told in capsys.readouterr().out
    assert main(["data", "preview", str(path)]) in (0, None)
    assert told in capsys.readouterr().out
    assert main(["data", "preview", str(path), "--json", "-o", "resize=crop"]) in (0, None)
    assert json.loads(capsys.readouterr().out)["pixels"].startswith("48x64 -> 64x64: cropped, 25% of the picture")


def test_large_pictures_are_shrunk_part_by_part(monkeypatch):
    """To the same numbers: one of 2^26 pixels as floats would take 800 MB."""
    pictures = np.random.default_rng(0).integers(0, 256, (2, 3, 101, 77), dtype=np.uint8)
    whole = fit_video(pictures, (16, 16), "pad")
    for floats in (1, 1000, 20_000):
        monkeypatch.setattr("worldkit.pictures._FLOATS", floats)
        assert np.array_equal(fit_video(pictures, (16, 16), "pad"), whole)
