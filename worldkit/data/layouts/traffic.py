"""Traffic: one ``.npy`` file of frames, uint8 ``[N, H, W, 3]``, one long recording.

As upstream: split 80/10/10 in time; training windows start anywhere, ``val`` and ``test`` are episodes of 50 frames one
behind the other. Frames are mapped into memory, not read.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ...errors import DataError
from ..base import EpisodeSource
from ..entries import DAMAGED
from ..fit import Fitting, check_resize, fit_video
from ..splits import MissingSplitError


class TrafficSource(EpisodeSource):
    """One recording in training, else episodes of equal length.

    Args:
        path: The file.
        split: ``"train"``, ``"val"`` or ``"test"``.
        size: Height and width; ``None``: the frames'.
        episode_length: Frames per episode of ``val`` and ``test``.
        resize: See `worldkit.data.fit`.
    Raises:
        DataError: if the file cannot be read, or holds anything but frames.
    """

    def __init__(self, path: Path, *, split: str, size: tuple[int, int] | None, episode_length: int, resize: str):
        self._path, self._split, self._resize = path, split, resize
        self._maps: np.ndarray | None = None
        shape = self._frames().shape
        self._maps = None  # a file map would be copied into the workers
        self._size = size or shape[1:3]
        self.fitting = Fitting((shape[1:3],), self._size, resize)
        most, tenth = int(0.8 * shape[0]), int(0.1 * shape[0])
        first, last = {"train": (0, most), "val": (most, most + tenth), "test": (most + tenth, shape[0])}[split]
        if split == "train":
            self._spans = [(first, last)] if last else []
        else:
            starts = range(first, last - episode_length + 1, episode_length)
            self._spans = [(start, start + episode_length) for start in starts]
        if not self._spans:
            raise MissingSplitError(
                f"{path}: split '{split}' has {last - first} of the {shape[0]} frames, which make no episode of "
                f"{episode_length}; use episode_length={max(1, last - first)} or less"
            )

    def _frames(self) -> np.ndarray:
        if self._maps is None:
            try:
                frames = np.load(self._path, mmap_mode="r", allow_pickle=False)
            except DAMAGED as error:
                raise DataError(f"{self._path} cannot be read as .npy: it is missing or damaged ({error})") from error
            if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or 0 in frames.shape:
                got = f"{frames.dtype} {list(frames.shape)}"
                raise DataError(f"{self._path} must hold frames, uint8 [N, H, W, 3], got {got}")
            self._maps = frames
        return self._maps

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_maps": None}

    @property
    def num_episodes(self) -> int:
        return len(self._spans)

    def length(self, episode: int) -> int:
        first, last = self._spans[episode]
        return last - first

    def read(self, episode: int, start: int, stop: int) -> dict[str, Any]:
        first = self._spans[episode][0]
        frames = np.moveaxis(np.array(self._frames()[first + start : first + stop]), -1, 1)
        return {"video": fit_video(frames, self._size, self._resize)}

    @property
    def summary(self) -> dict[str, Any]:
        facts = {"name": self._path.name, "kind": "traffic", "split": self._split, "split_by": "time"}
        return {**facts, "resolution": list(self._size), "synthetic": False}


def is_traffic(target: str) -> bool:
    """Whether a target is an ``.npy`` file by name."""
    return Path(target).suffix == ".npy"


def open_traffic(
    target: str,
    *,
    split: str,
    height: int | None = None,
    width: int | None = None,
    episode_length: int = 50,
    resize: str = "crop",
) -> TrafficSource:
    """A ``.npy`` file of frames; see the module docstring.

    Args:
        target: The file.
        split: ``"train"``, ``"val"`` or ``"test"``.
        height: Default: the frames'.
        width: Default: the height given, else the frames'.
        episode_length: Frames per episode of ``val`` and ``test``.
        resize: ``"crop"`` as upstream, ``"stretch"`` or ``"pad"``.
    Raises:
        DataError: if the file is missing or damaged, or holds anything but frames.
    """
    check_resize(resize)
    size = (height, width or height) if height else None
    options = {"size": size, "episode_length": episode_length, "resize": resize}
    return TrafficSource(Path(target).expanduser(), split=split, **options)
