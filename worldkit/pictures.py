"""The size of pictures: where a raw frame goes in a frame of the model (`Fit`), and its pixels there (`fit_pictures`).

Everything that makes frames of raw pictures goes through here: data sets of films, images and arrays, environments,
goals, and the operator of a robot's loop (`worldkit.operators`). Films are decoded at their own size first: FFmpeg,
asked to turn into RGB and scale at once, moves colours that are stored at half the size
(findings/swscale_moves_colours.sh).

* ``"pad"`` (the default of every format that has no paper's loader to follow): scaled until the whole picture fits,
  centred, the rest black. Nothing is lost, and round things stay round.
* ``"stretch"``: both sides scaled freely. Nothing is lost, and round things become oval.
* ``"crop"``: scaled until the picture covers the frame, the middle kept. What lies outside is lost.

They differ only where the frames have another shape than the model. A model of the films' own shape
(``-o obs.height=48 -o obs.width=64`` for 240 x 320) needs none of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from .errors import DataError

RESIZE = ("pad", "stretch", "crop")
Size = tuple[int, int]
"""Height and width in pixels."""


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
        shapes = f"{times(self.source)} -> {times(self.target)}"
        if self.source == self.target:
            return f"{times(self.target)}, as they are"
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


def fit_pictures(pictures: np.ndarray, size: Size, resize: str = "pad") -> np.ndarray:
    """Raw pictures at the size of a model: scaled (area average, upwards bicubic), then padded or cut.

    Args:
        pictures: uint8 ``[..., h, w, C]``.
        size: Height and width in pixels.
        resize: ``"pad"``, ``"stretch"`` or ``"crop"``.
    Returns:
        uint8 ``[..., H, W, C]``; the same array where nothing is to be done.
    Example:
        >>> fit_pictures(np.full((2, 8, 16, 3), 9, np.uint8), (8, 8))[0, :, 0, 0].tolist()
        [0, 0, 9, 9, 9, 9, 0, 0]
    """
    if tuple(pictures.shape[-3:-1]) == tuple(size):
        return pictures
    fit = Fit.of((pictures.shape[-3], pictures.shape[-2]), size, resize)
    return fit.place(_shrunk(pictures, *fit.scaled) if fit.shrinks else _enlarged(pictures, *fit.scaled))


def _shrunk(pictures: np.ndarray, height: int, width: int) -> np.ndarray:
    """Every pixel of the result is the mean of what it covers."""
    *before, tall, wide, channels = pictures.shape
    if (tall, wide) == (height, width):
        return pictures
    if tall % height == 0 and wide % width == 0:
        blocks = pictures.reshape(*before, height, tall // height, width, wide // width, channels)
        return (blocks.mean((-4, -2), dtype=np.float32) + 0.5).astype(np.uint8)
    return _scaled(pictures, _weights(tall, height), _weights(wide, width))


def _scaled(pictures: np.ndarray, down: Any, across: Any) -> np.ndarray:
    """Pictures times weights ``[H, h]`` and ``[W, w]``."""
    *before, tall, wide, channels = pictures.shape
    height, width = down.shape[0], across.shape[0]
    scaled = np.empty((*before, height, width, channels), np.uint8)
    part = max(1, _FLOATS // tall)
    for index in np.ndindex(*before):
        flat = pictures[index].reshape(tall, wide * channels)
        rows = np.concatenate([down @ flat[:, at : at + part].astype(np.float32)
                               for at in range(0, flat.shape[1], part)], axis=1)
        columns = rows.reshape(height, wide, channels).transpose(1, 0, 2).reshape(wide, height * channels)
        found = (across @ columns).reshape(width, height, channels).transpose(1, 0, 2)
        scaled[index] = (found + 0.5).clip(0, 255)
    return scaled


_FLOATS = 2**22
"""Numbers of a picture that are floats at once: a large one would take four times its memory, a film far more."""


@lru_cache(maxsize=64)
def _weights(source: int, target: int) -> Any:
    """Sparse ``[target, source]``: the share that each old pixel has in each new one."""
    from scipy.sparse import csr_array

    edges = np.linspace(0, source, target + 1)
    rows, columns, shares = [], [], []
    for row, (low, high) in enumerate(zip(edges[:-1], edges[1:], strict=True)):
        inside = np.arange(int(low), min(source, int(np.ceil(high))))
        share = np.minimum(inside + 1, high) - np.maximum(inside, low)
        rows += [row] * len(inside)
        columns += inside.tolist()
        shares += (share / (high - low)).tolist()
    return csr_array((np.asarray(shares, np.float32), (rows, columns)), shape=(target, source))


def _enlarged(pictures: np.ndarray, height: int, width: int) -> np.ndarray:
    """Bicubic, as PyTorch has it."""
    return _scaled(pictures, _cubic(pictures.shape[-3], height), _cubic(pictures.shape[-2], width))


@lru_cache(maxsize=64)
def _cubic(source: int, target: int) -> np.ndarray:
    """``[target, source]``: what each old pixel counts for a new one, with cubic weights of four (-0.75)."""
    found = np.zeros((target, source))
    for row, place in enumerate((np.arange(target) + 0.5) * source / target - 0.5):
        first = int(np.floor(place)) - 1
        for column in range(first, first + 4):
            x = abs(place - column)
            near = (1.25 * x - 2.25) * x * x + 1
            found[row, min(max(column, 0), source - 1)] += near if x <= 1 else ((-0.75 * x + 3.75) * x - 6) * x + 3
    return found.astype(np.float32)


def times(size: Size) -> str:
    """``"240x320"``."""
    return f"{size[0]}x{size[1]}"


_LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601, as the Arcade Learning Environment has it


def grey(pictures: np.ndarray) -> np.ndarray:
    """Colours ``[..., 3]`` as brightness ``[..., 1]``, uint8.

    Example:
        >>> grey(np.full((1, 1, 3), 200, np.uint8)).tolist()
        [[[200]]]
    """
    return (pictures @ _LUMA + 0.5).astype(np.uint8)[..., None]
