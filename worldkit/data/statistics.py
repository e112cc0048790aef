"""Statistics of actions (and of any other numbers of a data set), in one pass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import DataError
from ..names import NOT_CONDITIONS
from ..progress import track
from .base import EpisodeSource


class RunningStatistics:
    """Mean, standard deviation, minimum and maximum per dimension, over values that come in blocks.

    Blocks are merged in float64 by the formulas of Chan et al. (1979), so the order and size of the blocks do not
    matter beyond rounding.

    Example:
        >>> running = RunningStatistics()
        >>> running.update(np.array([[1.0], [2.0]])); running.update(np.array([[6.0]]))
        >>> running.count, running.mean.tolist(), running.max.tolist()
        (3, [3.0], [6.0])
    """

    def __init__(self) -> None:
        self.count = 0
        self.mean = self.min = self.max = self._squares = np.zeros(0)

    def update(self, values: np.ndarray) -> None:
        """Add ``[n, D]``."""
        values = np.asarray(values, np.float64)
        if not len(values):
            return
        count, mean = len(values), values.mean(0)
        squares = ((values - mean) ** 2).sum(0)
        low, high = values.min(0), values.max(0)
        if self.count:
            total, apart = self.count + count, mean - self.mean
            squares = self._squares + squares + apart**2 * self.count * count / total
            mean = self.mean + apart * count / total
            low, high, count = np.minimum(self.min, low), np.maximum(self.max, high), total
        self.count, self.mean, self._squares, self.min, self.max = count, mean, squares, low, high

    @property
    def std(self) -> np.ndarray:
        """Standard deviation (of the population) ``[D]``."""
        return np.sqrt(self._squares / max(self.count, 1))


@dataclass(frozen=True)
class ActionStatistics:
    """Statistics per action dimension, float64 ``[A]`` each.

    Attributes:
        mean, std, min, max: One number per dimension; ``std`` is that of the population.
        count: Actions seen.
    """

    mean: np.ndarray
    std: np.ndarray
    min: np.ndarray
    max: np.ndarray
    count: int

    def to_dict(self) -> dict[str, Any]:
        """Lists and numbers, for JSON."""
        arrays = {name: getattr(self, name).tolist() for name in ("mean", "std", "min", "max")}
        return {**arrays, "count": self.count}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ActionStatistics:
        """The inverse of `to_dict`."""
        arrays = {name: np.asarray(values[name], np.float64) for name in ("mean", "std", "min", "max")}
        return cls(**arrays, count=int(values["count"]))


def read_column(source: EpisodeSource, episode: int, name: str) -> np.ndarray:
    """An entry of a whole episode, or a column of its state; sources that can, do it without reading frames.

    Raises:
        DataError: if there is neither.
    """
    short = name.removeprefix("state.")
    found = None if name == "state" else source.read_entry(episode, name)
    if found is None:
        found = source.read_entry(episode, f"state.{short}")
    if found is None:
        first = source.read(episode, 0, 1)
        columns = first.get("state", {})
        if short not in columns:
            has = ", ".join([*(n for n in first if n not in ("state", *NOT_CONDITIONS)), *columns]) or "nothing"
            where = f"{source.summary.get('name', 'data')}: {source.episode_name(episode)}"
            raise DataError(f"{where} has no '{name}'; besides the video it has: {has}")
        found = source.read(episode, 0, source.length(episode))["state"][short]
    return np.asarray(found)


def action_statistics(source: EpisodeSource, name: str = "action") -> ActionStatistics:
    """Mean, standard deviation, minimum and maximum of the actions of all episodes.

    The last action of an episode leads to no frame and is left out. Formats on disk read no frame for this.

    Args:
        source: The episodes; of a data set, ``dataset.source``.
        name: The entry, or the column of the state, ``[T, A]`` or ``[T]`` per episode.
    Raises:
        DataError: if there is no such entry, or a value is not finite; names the episode and the frame.
    Example:
        >>> from worldkit.data import ArraySource
        >>> actions = np.array([[0.0], [4.0], [9.0]], np.float32)
        >>> found = action_statistics(ArraySource([{"video": np.zeros((3, 3, 8, 8), np.uint8), "action": actions}]))
        >>> found.mean.tolist(), found.std.tolist(), found.count
        ([2.0], [2.0], 2)
    """
    running = RunningStatistics()
    for episode in track(range(source.num_episodes), "Statistics of actions"):
        values = read_column(source, episode, name).astype(np.float64)
        values = values.reshape(len(values), -1)[:-1]
        bad = np.flatnonzero(~np.isfinite(values).all(1))
        if len(bad):
            raise DataError(
                f"{source.summary.get('name', 'data')}: '{name}' of {source.episode_name(episode)}, frame {bad[0]}, is "
                "not finite"
            )
        running.update(values)
    if not running.count:
        raise DataError(f"{source.summary.get('name', 'data')}: no '{name}' to take statistics of")
    return ActionStatistics(running.mean, running.std, running.min, running.max, running.count)
