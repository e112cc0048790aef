"""What becomes of the pixels of a data set, in words; how single pictures get their size: `worldkit.pictures`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from ..pictures import RESIZE, Fit, Size, check_resize, fit_pictures, times

__all__ = ["RESIZE", "Fit", "Fitting", "Size", "check_resize", "fit_video", "some"]
T = TypeVar("T")
_SOME = 8


def fit_video(video: np.ndarray, size: Size, resize: str) -> np.ndarray:
    """``[T, C, H, W]`` uint8 at another size; see `worldkit.pictures.fit_pictures`.

    Example:
        >>> fit_video(np.full((2, 3, 8, 16), 9, np.uint8), (8, 8), "pad")[0, 0, :, 0].tolist()
        [0, 0, 9, 9, 9, 9, 0, 0]
    """
    return np.ascontiguousarray(np.moveaxis(fit_pictures(np.moveaxis(video, -3, -1), size, resize), -1, -3))


@dataclass(frozen=True)
class Fitting:
    """What happens to the pixels of a data set; ``str()`` says it in words.

    Attributes:
        sources: Sizes of the pictures, of every episode and camera, or of `some`.
        target: Size of the frames.
        resize: How they get it.
        besides: What else becomes of them, in words.
    Example:
        >>> str(Fitting([(240, 320)] * 3 + [(64, 64)], (64, 64), "pad"))
        '240x320 -> 64x64: the whole picture, padded with black, which is 25% of the frame (1 of 4: 64x64, as they are)'
    """

    sources: Sequence[Size]
    target: Size
    resize: str
    besides: str = ""

    @property
    def matters(self) -> bool:
        """Whether another way of resizing would give other frames."""
        return any(Fit.of(size, self.target, "crop") != Fit.of(size, self.target, "pad") for size in set(self.sources))

    def nearer(self, multiple: int = 16) -> Fit | None:
        """A frame nearer to the shape of most pictures, None if there is none: as long, the other side of whole steps.

        Args:
            multiple: Of which the other side is to be, so that a model can divide it.
        Example:
            >>> str(Fitting([(272, 640)], (64, 64), "pad").nearer())
            '272x640 -> 32x64: the whole picture, padded with black, which is 16% of the frame'
        """
        if not self.sources:
            return None
        (height, width), _ = Counter(tuple(size) for size in self.sources).most_common(1)[0]
        longer, share = max(self.target), min(height, width) / max(height, width)
        other = min(longer, max(multiple, round(longer * share / multiple) * multiple))
        frame = Fit.of((height, width), (other, longer) if height < width else (longer, other), "pad")
        return frame if frame.empty < Fit.of((height, width), self.target, "pad").empty else None

    def __str__(self) -> str:
        return "; ".join(filter(None, (self._resized(), self.besides)))

    def _resized(self) -> str:
        counts = Counter(tuple(size) for size in self.sources)
        if not counts:
            return times(self.target)
        (usual, _), *others = counts.most_common()
        text = str(Fit.of(usual, self.target, self.resize))
        told = [f"{count} of {counts.total()}: {Fit.of(size, self.target, self.resize)}" for size, count in others]
        more = [] if len(told) <= 3 else ["..."]
        return f"{text} ({'; '.join(told[:3] + more)})" if told else text


def some(things: Sequence[T]) -> list[T]:
    """A few of them, evenly spaced: what is looked at where all would take long.

    Example:
        >>> some(range(100))
        [0, 14, 28, 42, 56, 70, 84, 99]
    """
    count = min(len(things), _SOME)
    return [things[i * (len(things) - 1) // max(count - 1, 1)] for i in range(count)]
