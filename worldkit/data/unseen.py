"""Episodes without their pictures, for models that see vectors alone: nothing is decoded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .base import EpisodeSource


class UnseenSource(EpisodeSource):
    """The episodes of a source with empty video, ``[T, 3, 0, 0]``.

    Args:
        source: Where everything else comes from.
    """

    def __init__(self, source: EpisodeSource):
        self._source, self.skipped = source, source.skipped

    @property
    def num_episodes(self) -> int:
        return self._source.num_episodes

    def length(self, episode: int) -> int:
        return self._source.length(episode)

    def episode_name(self, episode: int) -> str:
        return self._source.episode_name(episode)

    def last_start(self, episode: int, span: int) -> int:
        return self._source.last_start(episode, span)

    def read(self, episode: int, start: int, stop: int) -> dict[str, Any]:
        return {"video": np.zeros((stop - start, 3, 0, 0), np.uint8), **self.read_besides(episode, start, stop)}

    def read_besides(self, episode: int, start: int, stop: int) -> dict[str, Any]:
        return self._source.read_besides(episode, start, stop)

    def read_entry(self, episode: int, name: str) -> Any:
        return super().read_entry(episode, name) if name == "video" else self._source.read_entry(episode, name)

    @property
    def summary(self) -> dict[str, Any]:
        return {**self._source.summary, "resolution": [0, 0]}


def without_pictures(opener: Callable[..., EpisodeSource]) -> Callable[..., EpisodeSource]:
    """The opener of a format, of whose episodes nobody wants to see the pictures."""
    return lambda target, **options: UnseenSource(opener(target, **options))
