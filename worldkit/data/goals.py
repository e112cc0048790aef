"""`GoalSource`: every window is told a frame of its own future as its goal (hindsight goals).

Undirected play becomes data of reaching goals this way: whatever was reached was, afterwards, the goal.
"""

from __future__ import annotations

from typing import Any

from ..errors import DataError
from .base import EpisodeSource
from .layouts.source import random_frame


class GoalSource(EpisodeSource):
    """Episodes of another source, with a ``"goal_image"`` for every window.

    The goal is a frame at most ``reach`` behind the window's last one, the same one in every epoch; of a window at the
    end of its episode it is the last frame. A goal that the data have is replaced.

    Args:
        source: Where the episodes come from.
        reach: Frames that a goal may lie ahead, at least 1.
        seed: Another seed, other goals.
    Raises:
        DataError: for a reach below 1.
    Example:
        >>> import numpy as np
        >>> from worldkit.data import ArraySource
        >>> plain = ArraySource([{"video": np.arange(9, dtype=np.uint8).reshape(9, 1, 1, 1)}])
        >>> GoalSource(plain, reach=2).read(0, 0, 3)["goal_image"].item() in (3, 4)
        True
    """

    def __init__(self, source: EpisodeSource, reach: int, *, seed: int = 0):
        if not isinstance(reach, int) or isinstance(reach, bool) or reach < 1:
            raise DataError(f"goals says how many frames ahead a goal may lie, at least 1, got {reach!r}")
        self._source, self._reach, self._seed = source, reach, seed
        self.skipped, self.fitting = source.skipped, source.fitting

    @property
    def num_episodes(self) -> int:
        return self._source.num_episodes

    def length(self, episode: int) -> int:
        return self._source.length(episode)

    def episode_name(self, episode: int) -> str:
        return self._source.episode_name(episode)

    def last_start(self, episode: int, span: int) -> int:
        return self._source.last_start(episode, span)

    def goal_frame(self, episode: int, start: int, stop: int) -> int:
        """Number of the frame that is the goal of the window ``start .. stop - 1``."""
        last = self.length(episode) - 1
        if stop > last:
            return last
        return random_frame(self._seed, episode, start, stop, min(stop + self._reach - 1, last))

    def read(self, episode: int, start: int, stop: int) -> dict[str, Any]:
        goal = self.goal_frame(episode, start, stop)
        seen = self._source.read(episode, goal, goal + 1)["video"]
        return {**self._source.read(episode, start, stop), "goal_image": seen[..., 0, :, :, :]}

    def read_entry(self, episode: int, name: str) -> Any:
        if name == "goal_image":
            return self.read(episode, 0, self.length(episode))[name]
        return self._source.read_entry(episode, name)

    @property
    def summary(self) -> dict[str, Any]:
        return {**self._source.summary, "goals": self._reach}
