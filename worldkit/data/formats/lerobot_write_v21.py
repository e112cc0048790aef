"""Writes LeRobot data sets, v2.1, for programs that do not read v3.0 yet.

Source: the published layout of LeRobotDataset v2.1 (``meta/*.jsonl``, one table and one film per episode and camera).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..statistics import RunningStatistics
from .lerobot_write import CHUNK_FILES, LeRobotWriter, write_json

_EPISODE = "episode_{episode_index:06d}"


class LeRobot21Writer(LeRobotWriter):
    """Writes one data set with all its splits: a table and a film per camera for every episode.

    Arguments as for `LeRobotWriter`.
    """

    data_path = "data/chunk-{episode_chunk:03d}/" + _EPISODE + ".parquet"
    video_path = "videos/chunk-{episode_chunk:03d}/{video_key}/" + _EPISODE + ".mp4"
    megabytes = (0, 0)  # a file holds one episode

    def __init__(self, path: Path, *, plan: Any, lossless: bool = False, robot_type: str | None = None):
        super().__init__(path, plan=plan, lossless=lossless, robot_type=robot_type)
        self._per_episode: list[dict[str, RunningStatistics]] = []

    def write(self, episode: Mapping[str, Any]) -> None:
        """Add an episode, entries as `EpisodeSource.read` gives them."""
        self._per_episode.append({name: RunningStatistics() for name in self._statistics})
        super().write(episode)

    def _count(self, name: str, values: np.ndarray) -> None:
        self._per_episode[-1][name].update(values)

    def close(self) -> None:
        """Write ``meta``; ``info.json``, by which the folder is recognised, comes last."""
        self._close_files()
        meta = self._root / "meta"
        meta.mkdir(parents=True)
        kept = ("episode_index", "tasks", "length")
        _write_lines(meta / "episodes.jsonl", [{name: row[name] for name in kept} for row in self._episodes])
        _write_lines(meta / "tasks.jsonl", [{"task_index": i, "task": task} for task, i in self._tasks.items()])
        _write_lines(meta / "episodes_stats.jsonl", [
            {"episode_index": i, "stats": {name: self._summary(name, seen) for name, seen in found.items()}}
            for i, found in enumerate(self._per_episode)
        ])
        films = len(self._episodes) * len(self._videos)
        counts = {"total_videos": films, "total_chunks": -(-len(self._episodes) // CHUNK_FILES)}
        write_json(meta / "info.json", self._info("v2.1") | counts)


def _write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
