"""How frames get the size of a model: padded, stretched or cropped, and what that costs, in words.

* ``"pad"`` (the default of every format that has no paper's loader to follow): scaled until the whole picture fits,
  centred, the rest black. Nothing is lost, and round things stay round.
* ``"stretch"``: both sides scaled freely. Nothing is lost, and round things become oval.
* ``"crop"``: scaled until the picture covers the frame, the middle kept. What lies outside is lost.

They differ only where the frames have another shape than the model. A model of the films' own shape
(``-o obs.height=48 -o obs.width=64`` for 240 x 320) needs none of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from ..errors import DataError

RESIZE = ("pad", "stretch", "crop")
Size = tuple[int, int]
"""Height and width in pixels."""
T = TypeVar("T")
_SOME = 8


def check_resize(resize: str) -> str:
    """Give back a way of resizing.

    Raises:
        DataError: for an unknown one.
    """
    if resize not in RESIZE:
        raise DataError(
            f"resize must be 'pad' (whole picture, black borders), 'stretch' (whole picture, other shape) or 'crop' "
            f"(middle of the picture), got {resize!r}"
        )
    return resize


@dataclass(frozen=True)
class Fit:
    """Where a picture goes.

    Attributes:
        source: Size of the picture.
        scaled: Size it is scaled to.
        target: Size of the frame: the centre of the scaled picture, or the scaled picture in its centre.

    Example:
        >>> Fit.of((240, 320), (64, 64), "pad").scaled, Fit.of((240, 320), (64, 64), "crop").scaled
        ((48, 64), (64, 85))
    """

    source: Size
    scaled: Size
    target: Size

    @classmethod
    def of(cls, source: Size, target: Size, resize: str) -> Fit:
        """Args: size of the picture, size of the frame, ``"pad"``, ``"stretch"`` or ``"crop"``."""
        (height, width), (tall, wide) = target, source
        if check_resize(resize) == "stretch":
            return cls(source, target, target)
        if resize == "crop":
            factor = max(height / tall, width / wide)
            return cls(source, (max(height, round(tall * factor)), max(width, round(wide * factor))), target)
        factor = min(height / tall, width / wide)
        scaled = tuple(min(side, max(1, round(a * factor))) for side, a in ((height, tall), (width, wide)))
        return cls(source, (scaled[0], scaled[1]), target)

    @property
    def shrinks(self) -> bool:
        """Whether no side grows: such pictures are averaged over areas, others are interpolated."""
        return self.scaled[0] <= self.source[0] and self.scaled[1] <= self.source[1]

    @property
    def lost(self) -> float:
        """Share of the picture that is cut off."""
        return 1 - min(1.0, self.target[0] / self.scaled[0]) * min(1.0, self.target[1] / self.scaled[1])

    @property
    def empty(self) -> float:
        """Share of the frame that is black border."""
        return 1 - min(1.0, self.scaled[0] / self.target[0]) * min(1.0, self.scaled[1] / self.target[1])

    @property
    def stretched(self) -> float:
        """How much wider things are than they were, against their height; 1: round things stay round."""
        return (self.scaled[1] / self.source[1]) / (self.scaled[0] / self.source[0])

    def place(self, frames: np.ndarray) -> np.ndarray:
        """Scaled pictures ``[..., h, w, C]`` in frames ``[..., H, W, C]``."""
        for axis, side in ((-3, self.target[0]), (-2, self.target[1])):
            spare = frames.shape[axis] - side
            if spare > 0:
                frames = frames.swapaxes(0, axis)[spare // 2 : spare // 2 + side].swapaxes(0, axis)
            elif spare < 0:
                around = [(0, 0)] * frames.ndim
                around[axis] = (-spare // 2, -spare - -spare // 2)
                frames = np.pad(frames, around)
        return frames

    def __str__(self) -> str:
        shapes = f"{_times(self.source)} -> {_times(self.target)}"
        if self.source == self.target:
            return f"{_times(self.target)}, as they are"
        if self.lost:
            across = [side for side, a, b in zip(("top and bottom", "left and right"), self.target, self.scaled,
                                                 strict=True) if a < b]
            return f"{shapes}: cropped, {self.lost:.0%} of the picture is cut off ({', '.join(across)})"
        if self.empty:
            return f"{shapes}: the whole picture, padded with black, which is {self.empty:.0%} of the frame"
        if not 0.97 < self.stretched < 1.03:
            factor, side = (self.stretched, "wide") if self.stretched > 1 else (1 / self.stretched, "tall")
            return f"{shapes}: the whole picture, stretched: things become {factor:.2f} times as {side}"
        return f"{shapes}: the whole picture, scaled"


def fit_video(video: np.ndarray, size: Size, resize: str) -> np.ndarray:
    """``[T, C, H, W]`` uint8 at another size: scaled (area average, upwards bicubic), then padded or cut.

    Example:
        >>> fit_video(np.full((2, 3, 8, 16), 9, np.uint8), (8, 8), "pad")[0, 0, :, 0].tolist()
        [0, 0, 9, 9, 9, 9, 0, 0]
    """
    if tuple(video.shape[-2:]) == size:
        return np.ascontiguousarray(video)
    import torch  # only what is scaled needs it

    fit = Fit.of((video.shape[-2], video.shape[-1]), size, resize)
    frames = torch.from_numpy(np.ascontiguousarray(video)).float()
    scaled = torch.nn.functional.interpolate(frames, size=fit.scaled, mode="area" if fit.shrinks else "bicubic")
    placed = fit.place(np.moveaxis(scaled.add(0.5).clamp(0, 255).to(torch.uint8).numpy(), -3, -1))
    return np.ascontiguousarray(np.moveaxis(placed, -1, -3))


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
            return _times(self.target)
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


def _times(size: Size) -> str:
    return f"{size[0]}x{size[1]}"
