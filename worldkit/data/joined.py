"""`JoinedSource`: the splits of a data set, one behind the other, as one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from .base import EpisodeSource
from .splits import ALL


class JoinedSource(EpisodeSource):
    """Episodes of several sources.

    Args:
        parts: Split -> source; at least one.
    """

    def __init__(self, parts: Mapping[str, EpisodeSource]):
        self._parts = dict(parts)
        self._ends = np.cumsum([source.num_episodes for source in self._parts.values()])
        self.skipped = sum(source.skipped for source in self._parts.values())
        names = [source.episode_name(i) for source in self._parts.values() for i in range(source.num_episodes)]
        self._doubled = len(set(names)) < len(names)

    def _find(self, episode: int) -> tuple[str, EpisodeSource, int]:
        """Split and source of an episode, and its number there."""
        part = int(np.searchsorted(self._ends, episode, side="right"))
        split, source = list(self._parts.items())[part]
        return split, source, episode - int(self._ends[part]) + source.num_episodes

    @property
    def num_episodes(self) -> int:
        return int(self._ends[-1])

    def length(self, episode: int) -> int:
        _, source, number = self._find(episode)
        return source.length(number)

    def episode_name(self, episode: int) -> str:
        split, source, number = self._find(episode)
        return f"{split}/{source.episode_name(number)}" if self._doubled else source.episode_name(number)

    def read(self, episode: int, start: int, stop: int) -> dict[str, Any]:
        _, source, number = self._find(episode)
        return source.read(number, start, stop)

    def last_start(self, episode: int, span: int) -> int:
        _, source, number = self._find(episode)
        return source.last_start(number, span)

    def read_entry(self, episode: int, name: str) -> Any:
        _, source, number = self._find(episode)
        return source.read_entry(number, name)

    @property
    def summary(self) -> dict[str, Any]:
        return {**next(iter(self._parts.values())).summary, "split": ALL}
