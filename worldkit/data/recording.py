"""Recorded episodes: frames in the decode cache, everything else beside them. What most formats on disk open to.

Entries of an episode have flat names where they are stored: ``"action"``, ``"done_mask"``, ``"state.position"``,
``"masks.action"`` have a time axis; ``"language"``, ``"goal_image"`` and other conditions hold for the whole episode.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError
from .base import EpisodeSource
from .cache import Span, Unread, cached
from .fit import Fitting

GROUPS = ("state", "masks")
ACTIONS = ("action", "actions")  # names under which files hold them
_TIMED = ("action", "done_mask")


def actions_in(names: Iterable[str]) -> str | None:
    """The name under which a file holds its actions, of those it has; None if it has none.

    Example:
        >>> actions_in(["proprio", "actions"]), actions_in(["actions", "action"])
        ('actions', 'action')
    """
    held = set(names)
    return next((name for name in ACTIONS if name in held), None)


def flat_entries(episode: Mapping[str, Any]) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Entries of an `EpisodeSource.read` result, without the video, under flat names: with a time axis, and without.

    Example:
        >>> timed, constant = flat_entries({"video": 0, "action": [[1.0]], "state": {"x": [2]}, "language": "push"})
        >>> sorted(timed), constant
        (['action', 'state.x'], {'language': 'push'})
    """
    timed, constant = {}, {}
    for name, value in episode.items():
        if name in GROUPS:
            timed |= {f"{name}.{key}": np.asarray(array) for key, array in value.items()}
        elif name in _TIMED:
            timed[name] = np.asarray(value)
        elif name != "video":
            constant[name] = value if isinstance(value, str) else np.asarray(value)
    return timed, constant


def put(item: dict[str, Any], name: str, value: Any) -> None:
    """Put an entry of a flat name where `EpisodeSource.read` has it.

    Example:
        >>> item = {}; put(item, "state.position", 1); put(item, "action", 2); item
        {'state': {'position': 1}, 'action': 2}
    """
    group, dot, key = name.partition(".")
    if dot and group in GROUPS:
        item.setdefault(group, {})[key] = value
    else:
        item[name] = value


def as_action(values: np.ndarray, where: str, *, first: int = 0, ends: bool = True) -> np.ndarray:
    """An action column as models take it: float32 ``[T, A]``, or action numbers, int64 ``[T]``.

    The action at the last frame of an episode leads nowhere; where it is not a number it becomes 0.

    Args:
        values: The column, or some rows of it.
        where: For messages.
        first: Frame of the first row.
        ends: The last row is the last of its episode.
    Raises:
        DataError: for another dtype or shape, or an earlier action that is not a number; names the frame.
    """
    if values.ndim and values.dtype.kind in "iu" and values.size == len(values):
        return values.reshape(-1).astype(np.int64)
    if values.dtype.kind not in "fiu" or values.ndim not in (1, 2):
        kind = "text" if values.dtype.kind in "OSU" else values.dtype
        raise DataError(f"{where}: actions must be numbers [T, A], got {kind} {list(values.shape)}")
    values = values.astype(np.float32).reshape(len(values), -1)
    bad = np.flatnonzero(~np.isfinite(values).all(1))
    if len(bad) and ends and bad[0] == len(values) - 1:
        values[-1] = 0
    elif len(bad):
        raise DataError(f"{where}: the action at frame {first + bad[0]} is not finite: {values[bad[0]].tolist()}")
    return values


def check_mask(values: np.ndarray, name: str, where: str) -> None:
    """Whether an entry can be what its name says, if that is ``"done_mask"`` or begins with ``"masks."``.

    Raises:
        DataError: for a mask that is not bool, or a done mask that leaves 0 to 1.
    """
    if name.startswith("masks.") and values.dtype != bool:
        raise DataError(f"{where}: '{name}' must be bool, True where the condition is given, got {values.dtype}")
    if name == "done_mask" and not (values.dtype.kind in "fiub" and ((values >= 0) & (values <= 1)).all()):
        got = f"{values.dtype} from {values.min()} to {values.max()}" if values.dtype.kind in "fiub" else values.dtype
        raise DataError(f"{where}: 'done_mask' must be 0 to 1, 1 while the frame is inside the episode, got {got}")


@dataclass(frozen=True)
class Recording:
    """One episode.

    Attributes:
        name: For messages.
        views: Where the frames of each camera lie. One: video ``[T, C, H, W]``; several: ``[V, T, C, H, W]``.
        timed: Flat name -> array with a time axis in front, as long as the views.
        constant: Name -> condition of the whole episode.
    """

    name: str
    views: tuple[Span | Unread, ...]
    timed: Mapping[str, np.ndarray] = field(default_factory=dict)
    constant: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        lengths = {f"camera {i}": s.stop - s.start for i, s in enumerate(self.views)}
        lengths |= {entry: len(array) for entry, array in self.timed.items()}
        if len(set(lengths.values())) > 1:
            found = ", ".join(f"{entry} {length}" for entry, length in lengths.items())
            raise DataError(f"{self.name}: entries of one episode differ in length (frames): {found}")
        for entry, array in self.timed.items():
            check_mask(array, entry, self.name)

    def cut(self, start: int, stop: int) -> Recording:
        """Frames ``start .. stop - 1``."""
        views = tuple(replace(s, start=s.start + start, stop=s.start + stop) for s in self.views)
        return replace(self, views=views, timed={name: array[start:stop] for name, array in self.timed.items()})


class RecordingSource(EpisodeSource):
    """Recorded episodes.

    Args:
        recordings: One per episode.
        skipped: Clips that were left out on the way.
        fitting: How its pictures become frames.
        **summary: The source's summary; ``resolution`` is added.
    Raises:
        DataError: if episodes differ in their entries; they could not share a batch.
    """

    def __init__(
        self, recordings: Sequence[Recording], *, skipped: int = 0, fitting: Fitting | None = None, **summary: Any
    ):
        self._recordings, self.skipped, self._summary = list(recordings), skipped, summary
        self.fitting = fitting
        for recording in self._recordings[1:]:
            first = self._recordings[0]
            differ = ({*first.timed, *first.constant}) ^ ({*recording.timed, *recording.constant})
            if differ:
                raise DataError(
                    f"{summary.get('name', 'data')}: all episodes must have the same entries, but "
                    f"{', '.join(sorted(differ))} is in only one of {first.name} and {recording.name}"
                )

    @property
    def num_episodes(self) -> int:
        return len(self._recordings)

    def episode_name(self, episode: int) -> str:
        return self._recordings[episode].name

    def length(self, episode: int) -> int:
        span = self._recordings[episode].views[0]
        return span.stop - span.start

    def read(self, episode: int, start: int, stop: int) -> dict[str, Any]:
        views = [view.read(start, stop) for view in self._recordings[episode].views]
        return {"video": views[0] if len(views) == 1 else np.stack(views), **self.read_besides(episode, start, stop)}

    def read_besides(self, episode: int, start: int, stop: int) -> dict[str, Any]:
        recording, item = self._recordings[episode], {}
        for name, array in recording.timed.items():
            put(item, name, array[start:stop].copy())
        for name, value in recording.constant.items():
            item[name] = value if isinstance(value, str) else value.copy()
        return item

    def read_entry(self, episode: int, name: str) -> Any:
        if name in ("video", *GROUPS):
            return super().read_entry(episode, name)
        recording = self._recordings[episode]
        return recording.timed.get(name, recording.constant.get(name))

    @property
    def summary(self) -> dict[str, Any]:
        found = {**self._summary, "resolution": None}
        if self._recordings:
            found["resolution"] = list(self._recordings[0].views[0].size)
        return found


def cached_frames(key: str, frames: Callable[[], Iterable[np.ndarray]]) -> Path:
    """The cache entry of one clip, made from frames uint8 ``[H, W, 3]`` if it is not there."""
    return cached(key, lambda: ({"video": frame.transpose(2, 0, 1)[None]} for frame in frames()))
