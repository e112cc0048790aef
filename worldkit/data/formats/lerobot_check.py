"""What a LeRobot data set contradicts itself in, as a whole, for `worldkit.data.validate`."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from ...errors import DataError
from .lerobot_leaks import leaks
from .lerobot_meta import DataSetInfo, EpisodeInfo, read_columns, read_episodes, read_info, read_tasks

_RATE_OFF = 0.01  # so large a part of fps may be lost to rounded timestamps


def contradictions(root: Path) -> Iterator[DataError]:
    """Counts, splits, frame rate and tasks that disagree; what is wrong with one episode, its own reading tells.

    Raises:
        DataError: if ``meta`` has no readable ``info.json`` or table of episodes.
    """
    info = read_info(root)
    episodes = read_episodes(info)
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
