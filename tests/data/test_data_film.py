"""Colours of films, every PyAV that is admitted, and formats that keep the number of frames."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import worldkit
from worldkit.data import ArraySource, open_dataset, open_splits, write_dataset
from worldkit.data import film as film_module
from worldkit.data.decode import decode_video
from worldkit.errors import DataError

av = pytest.importorskip("av")
pytest.importorskip("PIL.Image")

COLORS = np.array([(255, 0, 0), (0, 255, 0), (0, 0, 255), (200, 100, 50)], np.uint8)
MATRICES = {"bt709": (0.2126, 0.0722), "bt2020nc": (0.2627, 0.0593), "smpte170m": (0.299, 0.114), "": (0.299, 0.114)}
OLDEST, LEROBOT, NEWEST = "15.0.0", "15.1.0", "18.1.0"
"""PyAV: the floor of pyproject.toml, the newest that LeRobot takes, and the newest that there was."""


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLDKIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def stored(color, matrix, full):
    """A colour as a film holds it (ITU-R BT.601, 709 and 2020): luma and two colour differences of 8 bits."""
    r, g, b = color / 255
    red, blue = MATRICES[matrix]
    luma = red * r + (1 - red - blue) * g + blue * b
    cb, cr = (b - luma) / (2 - 2 * blue), (r - luma) / (2 - 2 * red)
    values = (255 * luma, 128 + 255 * cb, 128 + 255 * cr) if full else (16 + 219 * luma, 128 + 224 * cb, 128 + 224 * cr)
    return np.clip(np.round(values), 0, 255).astype(np.uint8)


def tagged(path, matrix, full, tag=None):
    """A film of four colours, lossless, that says which matrix and range it was written with."""
    planes = np.repeat(np.stack([stored(c, matrix, full) for c in COLORS], 1), 16, 1)[:, None].repeat(32, 1)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.height, stream.width, stream.pix_fmt = 32, 64, "yuv444p"
        said = {"colorspace": tag or matrix} if tag or matrix else {}
        stream.options = {"crf": "0", **said, **({"color_range": "pc"} if full else {})}
        for _ in range(2):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(planes), format="yuv444p")))
        container.mux(stream.encode())
    return path


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("matrix", MATRICES)
def test_colours_are_what_the_film_says(tmp_path, matrix, full):
    path = tagged(tmp_path / "a.mp4", matrix, full)
    for height, width in ((32, 64), (16, 32), (64, 128)):
        frame = next(decode_video(path, height, width))
        seen = frame[height // 2, width // 8 :: width // 4].astype(int)
        assert np.abs(seen - COLORS).max() <= 2


def test_constant_luminance_is_taken_for_its_sibling(tmp_path):
    """FFmpeg undoes neither; as players do."""
    plain, constant = (
        next(decode_video(tagged(tmp_path / f"{tag}.mp4", "bt2020nc", False, tag=tag), 32, 64))
        for tag in ("bt2020nc", "bt2020c")
    )
    assert np.array_equal(plain, constant)


def test_a_matrix_that_cannot_be_undone_is_refused(tmp_path):
    with pytest.raises(DataError, match="a.mp4: its colour matrix, number 8 of H.273"):
        next(decode_video(tagged(tmp_path / "a.mp4", "bt709", False, tag="ycgco"), 32, 64))


def test_a_cache_entry_depends_on_what_decodes(tmp_path, cache, monkeypatch):
    tagged(tmp_path / "a.mp4", "bt709", False)
    for version in ("1", "1", "2"):
        monkeypatch.setattr(film_module.metadata, "version", lambda _, version=version: version)
        open_dataset(tmp_path / "a.mp4", num_frames=1)
    assert len(list(cache.iterdir())) == 2


WRITERS = {
    "gif": ("video", {"kind": "gif"}), "mp4": ("video", {}), "webm": ("video", {"kind": "webm"}),
    "mkv": ("video", {"lossless": True}), "frames": ("frames", {}), "npz": ("npz", {}), "hdf5": ("hdf5", {}),
    "columns": ("columns", {}), "lerobot": ("lerobot", {}), "lerobot-png": ("lerobot", {"lossless": True}),
}


@pytest.mark.parametrize("name", WRITERS)
def test_frames_that_repeat_are_kept(tmp_path, name):
    """T frames stay T frames, in their order: none, some and all of them equal to their neighbours."""
    pytest.importorskip("h5py")
    pytest.importorskip("pyarrow")
    grey = [[40, 40, 40, 120, 120, 200, 40, 40], [90] * 8, [10, 50, 90, 130, 170, 210, 250, 250]]
    videos = [np.array(levels, np.uint8)[:, None, None, None] * np.ones((1, 3, 16, 16), np.uint8) for levels in grey]
    source = ArraySource([{"video": video, "action": np.eye(8, dtype=np.float32)} for video in videos])
    format, options = WRITERS[name]
    written = write_dataset({"train": source, "val": source}, tmp_path / "out", format, fps=10, **options)
    read = open_splits(str(written), height=16)[0]["train"]
    assert [read.length(i) for i in range(3)] == [8, 8, 8]
    for i, levels in enumerate(grey):
        item = read.read(i, 0, 8)
        assert np.abs(np.asarray(item["video"], float).mean((1, 2, 3)) - levels).max() <= 3
        assert np.array_equal(np.asarray(item["action"]), np.eye(8, dtype=np.float32))


@pytest.mark.slow
@pytest.mark.parametrize("version", [OLDEST, LEROBOT, NEWEST])
def test_videos_with_other_releases_of_pyav(tmp_path, version):
    """The tests of videos pass with the oldest release that pyproject.toml admits and with the newest."""
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(tmp_path / "other")]
    if subprocess.run([*pip, f"av=={version}"], capture_output=True).returncode:
        pytest.skip(f"av {version} cannot be installed here")
    root = Path(worldkit.__file__).parents[1]
    paths = [str(tmp_path / "other"), str(root), os.environ.get("PYTHONPATH", "")]
    told = subprocess.run([sys.executable, "-c", "import av; print(av.__version__)"], capture_output=True, text=True,
                          env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)})
    assert told.stdout.strip() == version
    here = Path(__file__).parent
    files = [here / f"test_data_{name}.py" for name in ("film", "video", "late_start", "glance")]
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *map(str, files)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    run = subprocess.run(command, env=environment, cwd=root, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout[-3000:]


def test_the_floor_is_the_oldest_release_that_is_tested():
    project = (Path(worldkit.__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8")
    assert f'"av>={OLDEST.split(".")[0]}"' in project
