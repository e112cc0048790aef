"""Clips per second of every data format, beside a plain loop over the same files; one JSON line per measurement.

    python benchmarks/data.py
    python benchmarks/data.py --formats mp4-gop8 lerobot --workers 0 2 4 --seconds 10

The same generated Balls episodes (64 pixels) are written in every format. Three readers see the same clips in the same
random order and stack them into uint8 batches:

* ``plain``: what one writes first: open the file, seek, decode the frames of the clip, close;
* ``cold``: `make_loader` with an empty cache; opening, which decodes, is part of the time;
* ``warm``: `make_loader` once the cache is there.

HDF5 is read without a cache, so its ``cold`` is missing. Time is wall time; start of workers and their first batch do
not count for ``warm``.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch

from worldkit.data import ArraySource, generate_balls, make_loader, open_dataset, write_dataset

FPS = 10


def write_mp4(folder: Path, episodes: np.ndarray) -> None:
    """H.264 as PyAV writes it by default: a key frame at least every 250 frames, here only the first."""
    import av

    folder.mkdir(parents=True)
    for number, episode in enumerate(episodes):
        with av.open(str(folder / f"{number:06d}.mp4"), "w") as container:
            stream = container.add_stream("libx264", rate=Fraction(FPS))
            stream.height, stream.width, stream.pix_fmt = *episode.shape[-2:], "yuv420p"
            for frame in episode:
                picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(np.moveaxis(frame, 0, -1)), format="rgb24")
                container.mux(stream.encode(picture))
            container.mux(stream.encode())


def write_set(name: str, path: Path, episodes: np.ndarray) -> None:
    """One data set, all of it as split ``train``."""
    source = ArraySource([{"video": episode} for episode in episodes])
    if name == "mp4-default":
        return write_mp4(path / "train", episodes)
    writer = {"hdf5": "hdf5", "npz": "npz", "mp4-gop8": "video", "frames": "frames", "lerobot": "lerobot"}[name]
    write_dataset({"train": source}, path, writer, fps=FPS)


def plain_hdf5(path: Path, length: int) -> Callable[[int, int, int], np.ndarray]:
    import h5py

    def read(episode: int, start: int, stop: int) -> np.ndarray:
        with h5py.File(path / "train.hdf5", "r") as file:
            if "imgs" in file:
                return file["imgs"][episode, start:stop]
            return file["pixels"][episode * length + start : episode * length + stop]

    return read


def plain_npz(path: Path, length: int) -> Callable[[int, int, int], np.ndarray]:
    files = sorted((path / "train").glob("*.npz"))
    return lambda episode, start, stop: np.moveaxis(np.load(files[episode])["video"][start:stop], 1, -1)


def plain_frames(path: Path, length: int) -> Callable[[int, int, int], np.ndarray]:
    from PIL import Image

    folders = [sorted(folder.glob("*.png")) for folder in sorted((path / "train").iterdir())]
    return lambda episode, start, stop: np.stack([np.asarray(Image.open(f)) for f in folders[episode][start:stop]])


def decode(file: Path, begin: float, count: int) -> np.ndarray:
    """``count`` frames from a time on."""
    import av

    frames: list[np.ndarray] = []
    with av.open(str(file)) as container:
        stream = container.streams.video[0]
        container.seek(int(begin / stream.time_base), stream=stream)
        for frame in container.decode(stream):
            if frame.time >= begin - 1e-4:
                frames.append(frame.to_ndarray(format="rgb24"))
            if len(frames) == count:
                return np.stack(frames)
    raise RuntimeError(f"{file} ends early")


def plain_mp4(path: Path, length: int) -> Callable[[int, int, int], np.ndarray]:
    files = sorted((path / "train").glob("*.mp4"))
    return lambda episode, start, stop: decode(files[episode], start / FPS, stop - start)


def plain_lerobot(path: Path, length: int) -> Callable[[int, int, int], np.ndarray]:
    file = next(path.glob("videos/**/*.mp4"))
    return lambda episode, start, stop: decode(file, (episode * length + start) / FPS, stop - start)


PLAIN = {
    "hdf5": plain_hdf5, "npz": plain_npz, "frames": plain_frames, "mp4-default": plain_mp4, "mp4-gop8": plain_mp4,
    "lerobot": plain_lerobot,
}


def time_batches(batches: Iterator[int], seconds: float, started: float) -> dict[str, float]:
    """Clips per second until time is up; ``batches`` yields the size of each batch when it is there."""
    clips = 0
    for size in batches:
        clips += size
        if time.perf_counter() - started > seconds:
            break
    passed = time.perf_counter() - started
    return {"clips_per_s": round(clips / passed, 1), "clips": clips, "seconds": round(passed, 2)}


def run_plain(name: str, path: Path, options: argparse.Namespace) -> dict[str, float]:
    read, order = PLAIN[name](path, options.length), random.Random(0)

    def batches() -> Iterator[int]:
        while True:
            clips = []
            for _ in range(options.batch):
                start = order.randrange(options.length - options.clip + 1)
                frames = read(order.randrange(options.episodes), start, start + options.clip)
                clips.append(torch.from_numpy(np.ascontiguousarray(np.moveaxis(frames, -1, 1))))
            yield len(torch.stack(clips))

    return time_batches(batches(), options.seconds, time.perf_counter())


def run_ours(path: Path, options: argparse.Namespace, workers: int, cold: bool) -> dict[str, float]:
    started = time.perf_counter()
    data = open_dataset(path, num_frames=options.clip, height=64, width=64)
    loader = make_loader(data, options.batch, num_workers=workers, drop_last=True)

    def batches() -> Iterator[int]:
        while True:  # the workers persist from epoch to epoch
            for batch in loader:
                yield batch.batch_size

    stream = batches()
    if not cold:
        next(stream)
        started = time.perf_counter()
    return time_batches(stream, 0 if cold else options.seconds, started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--formats", nargs="+", default=list(PLAIN), choices=list(PLAIN))
    parser.add_argument("--workers", nargs="+", type=int, default=[0, 2])
    parser.add_argument("--episodes", type=int, default=20)
    parser.add_argument("--length", type=int, default=100, help="frames per episode")
    parser.add_argument("--clip", type=int, default=16, help="frames per clip")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=5, help="time of each measurement")
    options = parser.parse_args()
    torch.set_num_threads(1)
    episodes = generate_balls("train", num_episodes=options.episodes, num_frames=options.length).video
    with tempfile.TemporaryDirectory() as folder:
        os.environ["WORLDKIT_CACHE"] = str(Path(folder) / "cache")
        for name in options.formats:
            path = Path(folder) / name
            write_set(name, path, episodes)
            size = round(sum(file.stat().st_size for file in path.rglob("*") if file.is_file()) / 1e6, 2)
            facts = {"format": name, "megabytes": size, "clip": options.clip, "batch": options.batch}
            show({**facts, "reader": "plain", "workers": 0, **run_plain(name, path, options)})
            if name != "hdf5":
                result = run_ours(path, options, 0, cold=True)
                show({**facts, "reader": "cold", "workers": 0, "first_batch_s": result["seconds"]})
            for workers in options.workers:
                show({**facts, "reader": "warm", "workers": workers, **run_ours(path, options, workers, cold=False)})
            shutil.rmtree(path)


def show(line: dict[str, object]) -> None:
    print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
