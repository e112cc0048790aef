"""Episodes of a LeRobot data set one by one, and what it contradicts itself in, for `worldkit.data.validate`."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import DataError
from ..decode import WHITE
from ..parts import Entries, Frame, Part, Problem, renamed
from .lerobot_frames import View, camera_frames, find_cameras
from .lerobot_leaks import leaks
from .lerobot_meta import DataSetInfo, EpisodeInfo, read_columns, read_episodes, read_info, read_tasks

_RATE_OFF = 0.01  # so large a part of fps may be lost to rounded timestamps


def lerobot_parts(path: Path, *, white: int = WHITE, **options: Any) -> Iterator[Part | Problem]:
    """Every episode with all of its cameras, decoded frame by frame, and what is wrong with the whole.

    Raises:
        DataError: if ``meta`` has no readable ``info.json`` or table of episodes.
    """
    info = read_info(path)
    episodes = read_episodes(info)
    cameras = find_cameras(info, episodes)
    yield from (Problem(remark, warning=True) for remark in cameras.remarks())
    yield from (Problem(str(error)) for error in _contradictions(info, episodes))
    for name in sorted(info.features.keys() - {*info.numbers()}):
        if info.features[name]["dtype"] not in ("video", "image"):
            kind = info.features[name]["dtype"]
            yield Problem(f"{info.path}: feature '{name}' is {kind}, no numbers: it is not read", warning=True)
    spans = info.splits.items() if len(info.splits) > 1 else ()
    columns = _Columns(info, episodes)
    for episode in episodes:
        split = next((name for name, (first, last) in spans if first <= episode.index < last), "")
        lacks = tuple(name for name, without in cameras.lacking.items() if episode.index in without)
        views = {name: View(size, white=white) for name, size in cameras.shapes.items() if name not in lacks}
        frames = partial(_frames, info, views, episode, columns)
        yield Part(f"{path}, episode {episode.index}", split, frames, partial(columns.entries, episode), lacks=lacks)


def _frames(info: DataSetInfo, views: Mapping[str, View], episode: EpisodeInfo, columns: _Columns) -> Iterator[Frame]:
    stamps = columns.of(episode)["timestamp"]
    read = [camera_frames(info, name, view, episode, stamps, 0, len(stamps)) for name, view in views.items()]
    yield from zip(*read, strict=True)


class _Columns:
    """The numbers of all episodes, one data file in memory at a time."""

    def __init__(self, info: DataSetInfo, episodes: Sequence[EpisodeInfo]):
        self._info, self._episodes = info, episodes
        self._file: Path | None = None
        self._held: dict[int, dict[str, np.ndarray]] = {}

    def of(self, episode: EpisodeInfo) -> dict[str, np.ndarray]:
        """Those of one episode; where another one in its file is broken, it is read alone."""
        if self._file != episode.data:
            self._file, self._held = episode.data, {}
            with contextlib.suppress(DataError):
                self._held = read_columns(self._info, [e for e in self._episodes if e.data == episode.data])
        return self._held.get(episode.index) or read_columns(self._info, [episode])[episode.index]

    def entries(self, episode: EpisodeInfo) -> Entries:
        """Those of one episode, under our names."""
        return renamed(self.of(episode)), {}


def _contradictions(info: DataSetInfo, episodes: Sequence[EpisodeInfo]) -> Iterator[DataError]:
    """Counts, splits, frame rate and tasks that disagree; what is wrong with one episode, its own reading tells."""
    frames = sum(episode.length for episode in episodes)
    stated = info.raw.get("total_frames", frames)
    if stated != frames:
        yield DataError(f"{info.path} states {stated} frames in all, but its episodes have {frames}")
    yield from leaks(info, episodes)
    yield from _rate(info, episodes[0])
    yield from _tasks(info, episodes)


def _rate(info: DataSetInfo, episode: EpisodeInfo) -> Iterator[DataError]:
    with contextlib.suppress(DataError):
        times = read_columns(info, [episode])[episode.index]["timestamp"].reshape(-1).astype(np.float64)
        seconds = times[-1] - times[0]
        rate = (len(times) - 1) / seconds if seconds > 0 else math.inf
        if len(times) > 1 and not abs(rate / info.fps - 1) < _RATE_OFF:
            given = f"the timestamps of episode {episode.index} give {rate:.4g}"
            yield DataError(f"{info.path} states {info.fps:g} frames per second, but {given}")


def _tasks(info: DataSetInfo, episodes: Sequence[EpisodeInfo]) -> Iterator[DataError]:
    try:
        tasks = read_tasks(info)
    except DataError as error:
        yield error
        return
    for path in dict.fromkeys(episode.data for episode in episodes):
        with contextlib.suppress(DataError):
            rows = read_columns(info, [episode for episode in episodes if episode.data == path])
            used = {int(number) for columns in rows.values() for number in np.unique(columns["task_index"])}
            if tasks and used - set(tasks):
                yield DataError(f"{path} has task {min(used - set(tasks))}, which meta/tasks lacks")
