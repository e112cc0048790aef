"""Looking at films and images: facts and single frames, nothing decoded into the cache; films of different speed."""

import json
from fractions import Fraction

import numpy as np
import pytest

from worldkit.cli import main
from worldkit.cli.preview import animation, contact_sheet
from worldkit.data import ArraySource, describe, open_splits, validate, write_dataset, write_video
from worldkit.data.decode import decode_video, video_size
from worldkit.data.glance import frames_between, look
from worldkit.viz import PALETTE

av = pytest.importorskip("av")
image = pytest.importorskip("PIL.Image")
CODECS = {".mp4": "libx264", ".mkv": "libx264", ".webm": "libvpx-vp9", ".avi": "mpeg4", ".ts": "libx264",
          ".flv": "flv1"}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLDKIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def film(path, frames=40, rate=25, size=(32, 48), **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(0).integers(0, 255, (*size, 3), dtype=np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(CODECS[path.suffix], rate=rate)
        stream.height, stream.width, stream.pix_fmt, stream.options = *size, "yuv420p", options
        for t in range(frames):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.roll(noise, 3 * t, 1), format="rgb24")))
        container.mux(stream.encode())
    return path


@pytest.mark.parametrize("suffix", [*CODECS, ".gif"])
def test_facts_and_frames_are_those_of_decoding(tmp_path, suffix):
    path = tmp_path / f"film{suffix}"
    if suffix == ".gif":
        write_video(path, np.random.default_rng(0).integers(0, 255, (80, 32, 48, 3), dtype=np.uint8), fps=20)
    else:
        film(path, 80, g="12")
    every = list(decode_video(path, 32, 48))
    found = look(path)
    assert (found.frames, found.rate, found.size) == (len(every), 20 if suffix == ".gif" else 25, video_size(path))
    for start, stop in ((0, 3), (7, 9), (70, 75), (79, 80)):
        assert np.array_equal(list(frames_between(path, start, stop, 32, 48)), every[start:stop])


def test_a_trimmed_film_counts_what_is_shown(tmp_path):
    whole = film(tmp_path / "whole.mp4", 40, g="20", bf="0")
    with av.open(str(whole)) as source, av.open(str(tmp_path / "cut.mp4"), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.pts is not None:
                packet.pts -= 10 * packet.duration
                packet.dts -= 10 * packet.duration
                packet.stream = stream
                target.mux(packet)
    assert look(tmp_path / "cut.mp4").frames == len(list(decode_video(tmp_path / "cut.mp4", 32, 48))) == 30


def test_a_rate_that_is_the_clock_of_the_container_is_measured(tmp_path):
    """Matroska made of packets without a duration states 1000 frames per second, its clock."""
    with av.open(str(film(tmp_path / "whole.mkv", 60, rate=30))) as source, av.open(
        str(tmp_path / "copy.mkv"), "w"
    ) as target:
        stream = target.add_stream("libx264", rate=1000)
        stream.height, stream.width, stream.pix_fmt = 32, 48, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for number, frame in enumerate(source.decode(video=0)):
            frame.pts, frame.time_base = round(1000 * number / 30), Fraction(1, 1000)
            target.mux(stream.encode(frame))
        target.mux(stream.encode())
    with av.open(str(tmp_path / "copy.mkv")) as container:
        assert container.streams.video[0].average_rate == 1000
    assert look(tmp_path / "copy.mkv").rate == 30


def mixed(folder):
    for i in range(4):
        film(folder / f"a{i}.mp4", 20 + i, rate=30)
    film(folder / "b.mp4", 20, rate=24, size=(64, 64))
    return folder


def test_sizes_and_rates_are_shown(tmp_path, cache, capsys):
    about = describe(str(mixed(tmp_path / "films")))["splits"]
    counts = {name: {} for name in ("frame_sizes", "frame_rates")}
    for name, total in counts.items():
        for split in about.values():
            for value, clips in split[name].items():
                total[value] = total.get(value, 0) + clips
    assert counts == {"frame_sizes": {"32x48": 4, "64x64": 1}, "frame_rates": {"30": 4, "24": 1}}
    assert sum(split["frames"] for split in about.values()) == 20 + 21 + 22 + 23 + 20
    assert main(["data", "inspect", str(tmp_path / "films")]) == 0
    shown = capsys.readouterr().out
    assert "frames per second" in shown and "24" in shown and "64x64" in shown
    assert not cache.exists()


def test_films_of_different_speed_are_told_once(tmp_path):
    warnings = [str(warning) for warning in validate(str(mixed(tmp_path / "films"))).warnings]
    assert [w for w in warnings if "per second" in w] == [
        f"{tmp_path / 'films'}: the clips differ in frames per second: 30 (4, first a0.mp4), 24 (1, first b.mp4)"]
    for i, rate in enumerate((30, 30, 29.97)):
        film(tmp_path / "alike" / f"{i}.mp4", 5, rate=Fraction(rate).limit_denominator(1001))
    assert not any("per second" in str(warning) for warning in validate(str(tmp_path / "alike")).warnings)


def test_looking_fills_no_cache(tmp_path, cache, monkeypatch):
    monkeypatch.chdir(tmp_path)
    mixed(tmp_path / "films")
    for number in range(3):
        (tmp_path / "images" / f"{number}").mkdir(parents=True)
        for t in range(4):
            image.fromarray(np.full((8, 8, 3), 40 * t, np.uint8)).save(tmp_path / "images" / f"{number}" / f"{t}.png")
    for data in ("films", "images"):
        for action in ("inspect", "validate", "preview"):
            assert main(["data", action, data]) == 0
    assert not cache.exists()


def swm(root):
    (root / "pixels").mkdir(parents=True)
    tables = {"ep_len": np.array([4, 4, 4]), "ep_offset": np.array([0, 4, 8]), "action": np.ones((12, 2), np.float32)}
    for name, values in tables.items():
        np.savez(root / f"{name}.npz", values)
    for e in range(3):
        write_video(root / "pixels" / f"ep_{e}.mp4", np.full((4, 16, 16, 3), 60 * e, np.uint8))


def mario(root):
    for split in ("train", "val"):
        for clip in range(2):
            (root / split / f"{clip}").mkdir(parents=True)
            for t in range(100):
                image.fromarray(np.full((8, 8, 3), t, np.uint8)).save(root / split / f"{clip}" / f"{t}.png")


@pytest.mark.parametrize("kind", ["npz", "frames", "columns", "hdf5", "lerobot", "lerobot-v2.1", "swm", "mario"])
def test_no_format_is_unpacked_by_a_look(tmp_path, cache, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    if kind in ("swm", "mario"):
        {"swm": swm, "mario": mario}[kind](tmp_path / "set")
    else:
        rng = np.random.default_rng(0)
        episodes = [{"video": rng.integers(0, 255, (6, 3, 16, 16), dtype=np.uint8),
                     "action": rng.normal(size=(6, 2)).astype(np.float32)} for _ in range(4)]
        write_dataset({"train": ArraySource(episodes[:3]), "val": ArraySource(episodes[3:])}, "set", kind)
    for action in ("inspect", "validate", "preview"):
        assert main(["data", action, "set", *(["--format", "mario"] if kind == "mario" else [])]) == 0
    assert not cache.exists()
    peeked, _ = open_splits("set", peek=True, format="mario" if kind == "mario" else None)
    for split, source in open_splits("set", format="mario" if kind == "mario" else None)[0].items():
        last = source.length(0)
        for name, values in source.read(0, 1, last).items():
            assert np.array_equal(peeked[split].read(0, 1, last)[name], values)


def test_a_look_reads_what_opening_reads(tmp_path):
    mixed(tmp_path / "films")
    peeked, _ = open_splits(str(tmp_path / "films"), height=16, max_frames=18, peek=True)
    opened, _ = open_splits(str(tmp_path / "films"), height=16, max_frames=18)
    for split, source in opened.items():
        assert [source.length(i) for i in range(source.num_episodes)] == [18] * source.num_episodes
        assert np.array_equal(peeked[split].read(0, 5, 9)["video"], source.read(0, 5, 9)["video"])
        assert peeked[split].summary["resolution"] == source.summary["resolution"]


def test_a_preview_names_files_and_draws_actions(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for i in range(3):
        film(tmp_path / "films" / f"push_{i}.mp4", 12)
    assert main(["data", "preview", "films", "--json", "--out", "without"]) == 0
    assert json.loads(capsys.readouterr().out)["names"] == ["push_0.mp4"]
    for i in range(3):
        np.savez(tmp_path / "films" / f"push_{i}.npz", action=np.sin(np.arange(24, dtype=np.float32)).reshape(12, 2))
    assert main(["data", "preview", "films", "--out", "with"]) == 0
    plain, drawn = (np.array(image.open(f"{name}.png")) for name in ("without", "with"))
    assert drawn.shape[0] > plain.shape[0] + 60
    for color in PALETTE[:2]:
        assert (drawn[len(plain):] == color).all(-1).sum() > 100
        assert not (plain[:20] == color).all(-1).any()


def test_large_frames_are_shown_small(tmp_path):
    episode = {"video": np.zeros((2, 3, 3, 480, 640), np.uint8), "action": np.full((3, 1), np.nan, np.float32)}
    source = ArraySource([episode, episode])
    assert contact_sheet(source, [0, 1], 3).shape[-1] < 500
    assert animation(source, [0, 1]).shape[-2] < 400
    assert source.episode_name(1) == "episode 1"
