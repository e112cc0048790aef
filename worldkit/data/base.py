"""`EpisodeSource`: where episodes come from. It knows nothing of windows (`worldkit.data.clips`), nor of PyTorch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from .fit import Fitting


class EpisodeSource(ABC):
    """Episodes of known lengths, read frame range by frame range.

    Attributes:
        skipped: Clips left out because they could not be decoded (``on_error="skip"``).
        fitting: How its pictures become frames; ``None`` where they are made at their size.
    """

    skipped: int = 0
    fitting: Fitting | None = None

    @property
    @abstractmethod
    def num_episodes(self) -> int:
        """Number of episodes."""

    @abstractmethod
    def length(self, episode: int) -> int:
        """Frames of one episode."""

    def episode_name(self, episode: int) -> str:
        """What an episode is called where it lies (``"train/push.mp4"``, ``"episode 17"``): its name in messages.

        It is the same in a split and in the whole data set, and no two episodes of a source share it.
        """
        return f"episode {episode}"

    @abstractmethod
    def read(self, episode: int, start: int, stop: int) -> dict[str, Any]:
        """Frames ``start .. stop - 1`` of one episode.

        Returns:
            ``"video"`` uint8 ``[T, C, H, W]`` or ``[V, T, C, H, W]``, array or tensor. Optional: ``"state"``, a dict of
            known facts ``[T, ...]`` for evaluation and conditioners that ask; ``"done_mask"`` ``[T]``; ``"masks"``, a
            dict; every other key is a condition: ``"action"`` ``[T, A]``, ``"language"`` ``[L, E]`` or a string,
            ``"goal_image"`` ``[C, H, W]``.
        """

    def read_besides(self, episode: int, start: int, stop: int) -> dict[str, Any]:
        """As `read`, without the video; sources that can, do it without reading frames."""
        return {name: value for name, value in self.read(episode, start, stop).items() if name != "video"}

    def last_start(self, episode: int, span: int) -> int:
        """Last frame at which a window of ``span`` frames may start; below 0: the episode is too short.

        A source that pads short episodes may allow windows that pass the end; its `read` then repeats the last frame.
        """
        return self.length(episode) - span

    def read_entry(self, episode: int, name: str) -> Any:
        """One entry of a whole episode, ``None`` if there is none; sources that can, do it without reading frames."""
        return self.read(episode, 0, self.length(episode)).get(name)

    @property
    @abstractmethod
    def summary(self) -> dict[str, Any]:
        """``name``, ``kind``, ``resolution`` ``[H, W]``, ``synthetic`` (bool), and what else describes the data."""


class SpannedSource(EpisodeSource):
    """Episodes that are stretches of stored ones; what files with an index of episodes open to.

    Subclasses set ``_spans``: for every episode the number of the stored one, first frame, one past the last frame
    (`worldkit.data.splits.split_episodes`).
    """

    _spans: Sequence[tuple[int, int, int]]

    @property
    def num_episodes(self) -> int:
        return len(self._spans)

    def episode_name(self, episode: int) -> str:
        return f"episode {self._spans[episode][0]}"

    def length(self, episode: int) -> int:
        _, first, last = self._spans[episode]
        return last - first
