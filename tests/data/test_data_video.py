"""Video files, folders, the cache, and everything that can be wrong with a file."""

import multiprocessing
import os
import pickle
import shutil
import struct
import warnings

import numpy as np
import pytest
import torch

from worldkit.data import cache as cache_module
from worldkit.data import make_loader, open_dataset, write_video
from worldkit.data.cache import cache_key, cached
from worldkit.data.decode import decode_at, decode_images, decode_video
from worldkit.data.formats.clip_files import find_clips
from worldkit.data.splits import split_clips
from worldkit.errors import DataError, WorldkitError

av = pytest.importorskip("av")
image = pytest.importorskip("PIL.Image")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    monkeypatch.setenv("WORLDKIT_CACHE", str(folder))
    return folder


def numbered(count, height=32, width=48):
    """Frames whose grey level tells their number."""
    frames = np.zeros((count, height, width, 3), np.uint8)
    frames += (np.arange(count, dtype=np.uint8) * (250 // count))[:, None, None, None]
    return frames


def textured(count, seed=0):
    noise = np.random.default_rng(seed).integers(0, 255, (48, 64, 3), dtype=np.uint8)
    return np.stack([np.roll(noise, 2 * t, axis=1) for t in range(count)])


def write(path, frames, codec="libx264", container_options=None, **options):
    with av.open(str(path), "w", options=container_options or {}) as container:
        stream = container.add_stream(codec, rate=25)
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "yuv420p"
        stream.options = options
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return path


def numbers(dataset, count):
    """Frame numbers of every clip of a dataset made of `numbered` frames."""
    step = 250 // count
    return [
        [round(v / step) for v in dataset[i]["video"].float().amax((1, 2, 3)).tolist()] for i in range(len(dataset))
    ]


@pytest.mark.parametrize(("suffix", "tolerance"), [(".mp4", 3), (".gif", 1)])
def test_write_and_read_back(tmp_path, suffix, tolerance):
    frames = numbered(12)
    path = write_video(tmp_path / "new" / f"clip{suffix}", torch.from_numpy(frames), fps=10)
    read = np.stack(list(decode_video(path, 32, 48)))
    assert read.shape == frames.shape and read.dtype == np.uint8
    assert np.abs(read.astype(int) - frames).max() <= tolerance
    assert os.listdir(path.parent) == [path.name]  # nothing temporary is left


def test_gif_palette_fits_the_film(tmp_path):
    y, x = np.mgrid[:64, :64] * 4
    ramp = np.stack([255 - x, x, y], -1).astype(np.uint8)
    frames = np.stack([np.roll(ramp, 3 * t, axis=1) for t in range(20)])
    read = np.stack(list(decode_video(write_video(tmp_path / "a.gif", frames), 64, 64)))
    mse = ((read.astype(float) - frames) ** 2).mean()
    assert 10 * np.log10(255**2 / mse) > 30  # ffmpeg's own rgb8 gives about 20


def test_mp4_takes_odd_sides_and_other_rates(tmp_path):
    path = write_video(tmp_path / "odd.mp4", numbered(5, 31, 47), fps=29.97)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert (stream.height, stream.width, stream.frames) == (32, 48, 5)
        assert float(stream.average_rate) == pytest.approx(29.97, rel=1e-3)


@pytest.mark.parametrize(
    ("name", "frames", "fps", "message"),
    [
        ("a.mov", numbered(2), 10, "suffix .mp4, .webm, .gif"),
        ("a.mp4", numbered(2).astype(np.float32), 10, "uint8"),
        ("a.mp4", numbered(2)[..., 0], 10, r"\[T, H, W, 3\]"),
        ("a.mp4", numbered(2)[:0], 10, "at least one frame"),
        ("a.mp4", numbered(2), 0, "fps"),
    ],
)
def test_write_video_says_what_is_wrong(tmp_path, name, frames, fps, message):
    with pytest.raises(DataError, match=message):
        write_video(tmp_path / name, frames, fps)
    assert not os.listdir(tmp_path) or os.listdir(tmp_path) == ["cache"]


def test_one_video_is_split_in_time_without_leaks(tmp_path):
    path = write(tmp_path / "a.mp4", numbered(50))
    found = {s: numbers(open_dataset(path, split=s, num_frames=3, height=16), 50) for s in ("train", "val", "test")}
    assert found["train"] == [[i, i + 1, i + 2] for i in range(38)]
    assert found["val"] == [[i, i + 1, i + 2] for i in range(40, 43)]
    assert found["test"] == [[i, i + 1, i + 2] for i in range(45, 48)]
    with pytest.raises(DataError, match=r"split 'val' \(by time\).*have 5 frames.*Use num_frames=5"):
        open_dataset(path, split="val", num_frames=6, height=16)


def test_second_opening_reads_the_cache(tmp_path, cache, monkeypatch):
    path = write(tmp_path / "a.mp4", numbered(20))
    first = open_dataset(path, num_frames=4, height=16, width=24)
    monkeypatch.setattr("worldkit.data.formats.video.decode_video", None)  # would fail if called
    again = open_dataset(path, num_frames=4, height=16, width=24)
    assert torch.equal(first[3]["video"], again[3]["video"]) and again[3]["video"].shape == (4, 3, 16, 24)
    assert len(list(cache.iterdir())) == 1
    monkeypatch.undo()
    monkeypatch.setenv("WORLDKIT_CACHE", str(cache))
    write(path, numbered(10))  # another content under the same name
    assert len(open_dataset(path, num_frames=4, height=16, width=24)) == 5


@pytest.mark.parametrize("suffix", [".mp4", ".avi", ".webm", ".mkv", ".gif"])
def test_truncated_video_is_found(tmp_path, suffix):
    codec = {".webm": "libvpx-vp9", ".avi": "mpeg4"}.get(suffix, "libx264")
    path = tmp_path / f"a{suffix}"
    if suffix == ".gif":
        write_video(path, textured(30))
    else:
        speed = {"cpu-used": "8", "deadline": "realtime"} if suffix == ".webm" else {}
        faststart = {"movflags": "+faststart"} if suffix == ".mp4" else None  # index first: the cut file opens
        write(path, textured(30), codec, faststart, g="4", **speed)
    assert len(list(decode_video(path, 16, 16))) == 30
    for part in (0.8, 0.4):
        cut = tmp_path / f"cut{part}{suffix}"
        cut.write_bytes(path.read_bytes()[: int(path.stat().st_size * part)])
        with pytest.raises(DataError, match=rf"cut{part}{suffix} .*frame \d+"):
            open_dataset(cut, num_frames=2, height=16)


def test_damage_in_the_middle_is_found(tmp_path, cache):
    path = write(tmp_path / "a.mp4", textured(30), g="4")
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 3000] = bytes(3000)
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"frame \d+"):
        open_dataset(path, num_frames=2, height=16)
    assert not list(cache.iterdir())  # no half of a clip is kept


@pytest.mark.parametrize("content", [b"", b"this is no video\n" * 500, os.urandom(5000)])
@pytest.mark.parametrize("name", ["a.mp4", "a.gif", "a.txt"])
def test_what_is_not_a_video(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError, match=name):
        open_dataset(path, num_frames=1)


def test_missing_and_empty(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        open_dataset(tmp_path / "missing.mp4", num_frames=1)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no video"):
        open_dataset(tmp_path / "empty", num_frames=1)


def test_folder_of_videos_is_split_by_clip_and_skips_on_request(tmp_path):
    folder = tmp_path / "films"
    folder.mkdir()
    for i in range(6):
        write(folder / f"clip{i}.mp4", np.full((6, 16, 16, 3), 40 * i, np.uint8))
    seen = {}
    for split in ("train", "val", "test"):
        dataset = open_dataset(folder, split=split, num_frames=6, height=16)
        seen[split] = [round(dataset[i]["video"].float().mean().item() / 40) for i in range(len(dataset))]
    assert sorted(sum(seen.values(), [])) == list(range(6)) and all(seen.values())
    bad = folder / f"clip{seen['train'][0]}.mp4"
    bad.write_bytes(bad.read_bytes()[:300])
    with pytest.raises(DataError, match="on_error='skip'"):
        open_dataset(folder, num_frames=6, height=16)
    with pytest.warns(RuntimeWarning, match=bad.name):
        dataset = open_dataset(folder, num_frames=6, height=16, on_error="skip")
    assert dataset.skipped == 1 and len(dataset) == len(seen["train"]) - 1
    with pytest.raises(DataError, match="on_error must be"):
        open_dataset(folder, num_frames=6, on_error="ignore")


def save_frames(folder, frames):
    folder.mkdir(parents=True)
    for number, frame in enumerate(frames):
        image.fromarray(frame).save(folder / f"frame{number}.png")


def test_folder_of_images_in_natural_order(tmp_path):
    save_frames(tmp_path / "frames", numbered(20))  # frame10 comes after frame9
    assert numbers(open_dataset(tmp_path / "frames", num_frames=16, height=16), 20) == [list(range(16))]
    assert len(open_dataset(tmp_path / "frames", num_frames=1, height=16, max_frames=10)) == 8


def test_folder_with_split_folders(tmp_path):
    for split, clips in (("train", 2), ("validation", 1)):
        for clip in range(clips):
            save_frames(tmp_path / "data" / split / f"{clip}", numbered(5))
    assert open_dataset(tmp_path / "data", num_frames=5).summary["episodes"] == 2
    assert open_dataset(tmp_path / "data", split="val", num_frames=5).summary["episodes"] == 1
    with pytest.raises(DataError, match="has train, validation, but nothing for split 'test'"):
        open_dataset(tmp_path / "data", split="test", num_frames=5)


def test_damaged_image_and_mixed_folder(tmp_path):
    save_frames(tmp_path / "frames", textured(3))
    bad = tmp_path / "frames" / "frame1.png"
    bad.write_bytes(bad.read_bytes()[:1000])
    with pytest.raises(DataError, match=r"frame1.png \(frame 1\)"):
        open_dataset(tmp_path / "frames", num_frames=1)
    write(tmp_path / "frames" / "a.mp4", numbered(3))
    with pytest.raises(DataError, match="1 video.* and 3 image"):
        open_dataset(tmp_path / "frames", num_frames=1)


def test_resize_pads_stretches_or_crops(tmp_path):
    frames = np.zeros((4, 32, 64, 3), np.uint8)
    frames[:, :, 16:48] = 200  # exactly what the centre cut keeps
    path = write(tmp_path / "a.mp4", frames)
    pad = open_dataset(path, num_frames=1, height=16)[0]["video"].float()
    assert pad[..., :4, :].max() == pad[..., 12:, :].max() == 0 and pad[..., 4:12, 5:11].min() > 190
    assert pad.mean() == pytest.approx(50, abs=4)
    assert torch.equal(pad, open_dataset(path, num_frames=1, height=16, resize="pad")[0]["video"].float())
    crop = open_dataset(path, num_frames=1, height=16, resize="crop")[0]["video"].float()
    stretch = open_dataset(path, num_frames=1, height=16, resize="stretch")[0]["video"].float()
    assert crop[..., 2:-2].min() > 190
    assert stretch.mean() == pytest.approx(100, abs=8)
    whole = open_dataset(path, num_frames=1, height=16, width=32)
    assert whole[0]["video"].float().mean() == pytest.approx(100, abs=4)
    with pytest.raises(DataError, match="resize must be 'pad' .*'stretch' .*'crop'"):
        open_dataset(path, num_frames=1, resize="fill")


def test_a_film_taken_sideways_is_turned(tmp_path):
    frames = np.zeros((3, 32, 64, 3), np.uint8)
    frames[:, :, :32] = 200  # bright on the left; after a quarter turn to the right: on top
    path = write(tmp_path / "phone.mp4", frames)
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 4 + 40  # display matrix, 16.16 and 2.30 fixed point
    data[at : at + 36] = struct.pack(">9i", 0, 1 << 16, 0, -(1 << 16), 0, 0, 32 << 16, 0, 1 << 30)
    path.write_bytes(data)
    frame = next(decode_video(path, 64, 32))
    assert frame.shape == (64, 32, 3)
    assert frame[:28].min() > 180 and frame[36:].max() < 20


def test_half_written_entry_is_never_loaded(cache):
    def breaks():
        yield {"video": np.zeros((3, 3, 4, 4), np.uint8)}
        raise RuntimeError("power cut")

    key = cache_key("a", size=4)
    with pytest.raises(RuntimeError):
        cached(key, breaks)
    assert not list(cache.iterdir())

    def whole():
        yield {"video": np.ones((3, 3, 4, 4), np.uint8)}
        yield {"video": np.ones((2, 3, 4, 4), np.uint8)}

    path = cached(key, whole) / "video.npy"
    assert np.load(path).shape == (5, 3, 4, 4)
    path.write_bytes(path.read_bytes()[:-10])  # lost by the disk: made again
    assert np.load(cached(key, whole) / "video.npy").sum() == 5 * 48


def _open_in_process(path):
    return open_dataset(path, num_frames=2, height=16)[0]["video"].sum().item()


def test_two_processes_may_fill_the_cache_at_once(tmp_path, cache):
    path = write(tmp_path / "a.mp4", textured(20))
    with multiprocessing.get_context("fork").Pool(3) as pool:
        sums = pool.map(_open_in_process, [str(path)] * 6)
        pool.close()  # workers end by themselves: ended by a signal, one that caught it waited on for ever
        pool.join()
    assert len(set(sums)) == 1
    assert len(list(cache.iterdir())) == 1


def test_unwritable_cache_says_what_to_set(tmp_path, monkeypatch):
    path = write(tmp_path / "a.mp4", numbered(4))
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("WORLDKIT_CACHE", str(tmp_path / "file"))
    for on_error in ("raise", "skip"):
        with pytest.raises(WorldkitError, match="set WORLDKIT_CACHE"):
            open_dataset(path, num_frames=1, on_error=on_error)


def test_many_clips_are_small_to_pickle_and_need_few_descriptors(tmp_path, cache):
    spans = []
    for i in range(150):
        folder = cached(f"clip{i}", lambda i=i: [{"video": np.full((2, 3, 4, 4), i, np.uint8)}])
        spans.append(cache_module.Span.whole(folder))
    source = cache_module.CacheSource(spans, name="many")
    assert [int(source.read(i, 0, 1)["video"].max()) for i in range(150)] == list(range(150))
    assert len(pickle.dumps(source)) < 100_000


def test_loader_over_a_video(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dataset = open_dataset(write(tmp_path / "a.mp4", numbered(20)), num_frames=4, height=16)
        batches = list(make_loader(dataset, 5, num_workers=1, seed=1))
    assert [len(b.video) for b in batches] == [5, 5, 3]
    assert batches[0].video.dtype == torch.uint8
    item = dataset[0]["video"]
    item.zero_()  # an item is the caller's own
    assert dataset[1]["video"].max() > 0


def test_a_trimmed_video_is_whole(tmp_path):
    """Cut without encoding again: packets before the cut stay in the file, hidden by its edit list."""
    frames = numbered(40)
    whole = write(tmp_path / "whole.mp4", frames, g="20", bf="0")
    with av.open(str(whole)) as source, av.open(str(tmp_path / "cut.mp4"), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.pts is not None:
                packet.pts -= 10 * packet.duration
                packet.dts -= 10 * packet.duration
                packet.stream = stream
                target.mux(packet)
    with av.open(str(tmp_path / "cut.mp4")) as container:
        stated = container.streams.video[0].frames
    shown = list(decode_video(tmp_path / "cut.mp4", 32, 48))
    assert (stated, len(shown)) == (40, 30)
    assert [round(f.mean() / 6) for f in shown] == list(range(10, 40))


@pytest.mark.parametrize("codec, options", [("libx264", {"x264-params": "open-gop=1:keyint=8:bframes=3:min-keyint=8"}),
                                            ("libx265", {"x265-params": "open-gop=1:keyint=8:bframes=3:log-level=0"})])
def test_any_frame_of_an_open_group_is_found(tmp_path, codec, options):
    film = write(tmp_path / "film.mp4", numbered(40, 128, 192), codec, **options)  # libx265 corrupts memory below 64
    for first in range(40):
        (frame,) = decode_at(film, [first / 25], 32, 48)
        assert round(frame.mean() / 6) == first


def test_sixteen_bits_of_grey_are_scaled(tmp_path):
    values = np.array([[0, 8000, 32768, 65535]], np.uint16)
    image.fromarray(values).save(tmp_path / "grey.png")
    (frame,) = decode_images([tmp_path / "grey.png"], 1, 4)
    assert frame[0, :, 0].tolist() == [0, 31, 128, 255]
    (frame,) = decode_images([tmp_path / "grey.png"], 1, 4, white=16000)
    assert frame[0, :, 0].tolist() == [0, 127, 255, 255]
    (tmp_path / "depth").mkdir()
    for t in range(5):
        image.fromarray(np.full((4, 4), 800 * t, np.uint16)).save(tmp_path / "depth" / f"{t}.png")
    video = open_dataset(tmp_path / "depth", num_frames=4, height=4, white=4000)[0]["video"]
    assert video[:, 0, 0, 0].tolist() == [0, 51, 102, 153]
    with pytest.raises(DataError, match="white must be a whole number from 1 to 65535"):
        open_dataset(tmp_path / "depth", num_frames=4, white=0)
    image.fromarray(values.astype(np.float32) / 65535).save(tmp_path / "float.tiff")
    with pytest.raises(DataError, match="float.tiff .*float values have no known range"):
        next(decode_images([tmp_path / "float.tiff"], 1, 4))


def test_a_link_that_leads_back_is_not_followed(tmp_path):
    (tmp_path / "films").mkdir()
    write(tmp_path / "films/a.mp4", numbered(4))
    (tmp_path / "elsewhere").mkdir()
    write(tmp_path / "elsewhere/b.mp4", numbered(4))
    (tmp_path / "films/loop").symlink_to(tmp_path / "films")
    (tmp_path / "films/more").symlink_to(tmp_path / "elsewhere")
    assert [clip.name for clip in find_clips(tmp_path / "films")] == ["a.mp4", "more/b.mp4"]


def test_names_that_are_no_text_are_split():
    names = [os.fsdecode(b"\xff%d.mp4" % i) for i in range(4)]
    assert sorted(i for part in split_clips(names).values() for i in part) == [0, 1, 2, 3]


def test_frames_per_second_are_told(tmp_path):
    write(tmp_path / "a.mp4", numbered(20))
    assert open_dataset(tmp_path / "a.mp4", num_frames=2).summary["fps"] == 25


def test_a_cache_that_was_emptied_is_named(tmp_path, cache):
    write(tmp_path / "a.mp4", numbered(20))
    data = open_dataset(tmp_path / "a.mp4", num_frames=2)
    cache_module.cached_maps.cache_clear()
    shutil.rmtree(cache)
    with pytest.raises(DataError, match="the cache was emptied"):
        data[0]
