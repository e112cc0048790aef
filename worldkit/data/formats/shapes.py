"""Shapes: still images of a few coloured circles, ellipses, rectangles and triangles on a cyan ground.

After the ``shapes`` data set of DDLP and LPWM (2 to 5 shapes of 11 to 13 pixels at 64 pixels, colours of 0 to 200,
ground ``(0, 255, 255)``), which draws with scikit-image and is not seeded. This is our own generator: image ``i`` of a
split is always the same. Shapes keep clear of one another; a shape that finds no room in 100 attempts is left out, but
two always fit. Edges are not smoothed.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ...errors import DataError
from ..splits import SPLITS, check_split

BACKGROUND = (0, 255, 255)
_KINDS = ("circle", "rectangle", "triangle", "ellipse")
_BRIGHTEST = 200  # the ground has 255 of green and blue: no shape is invisible


def _inside(kind: str, height: float, width: float, center: np.ndarray, size: int) -> np.ndarray:
    """Pixels of one shape, bool ``[S, S]``; ``center`` is ``(y, x)``, all in pixels."""
    y, x = np.ogrid[:size, :size]
    y, x = (y + 0.5 - center[0]) / (height / 2), (x + 0.5 - center[1]) / (width / 2)  # the bounding box is [-1, 1]^2
    if kind in ("circle", "ellipse"):
        return y**2 + x**2 <= 1
    if kind == "rectangle":
        return (abs(y) <= 1) & (abs(x) <= 1)
    return (abs(y) <= 1) & (abs(x) <= (y + 1) / 2)  # apex up


def draw_shapes(rng: np.random.Generator, image_size: int = 64) -> np.ndarray:
    """One random image.

    Args:
        rng: Source of randomness; moves on.
        image_size: Side in pixels; shapes scale with it (11 to 13 pixels at 64).
    Returns:
        uint8 ``[3, S, S]``, RGB.
    Example:
        >>> draw_shapes(np.random.default_rng(0)).shape
        (3, 64, 64)
    """
    image = np.empty((3, image_size, image_size), dtype=np.uint8)
    image[:] = np.array(BACKGROUND, dtype=np.uint8)[:, None, None]
    scale = image_size / 64
    taken: list[np.ndarray] = []  # y, x, half diagonal
    for _ in range(rng.integers(2, 6)):
        kind = _KINDS[rng.integers(len(_KINDS))]
        height, width = rng.integers(11, 14, size=2) * scale
        if kind == "circle":
            width = height
        color = rng.integers(0, _BRIGHTEST + 1, size=3)
        for _ in range(100):
            center = rng.uniform((height / 2, width / 2), (image_size - height / 2, image_size - width / 2))
            apart = [max(abs(c[0] - center[0]), abs(c[1] - center[1])) >= 13 * scale + 1 for c in taken]
            if all(apart):
                taken.append(center)
                image[:, _inside(kind, height, width, center, image_size)] = color[:, None].astype(np.uint8)
                break
    return image


def iter_shapes(split: str = "train", *, num_images: int, image_size: int = 64) -> Iterator[np.ndarray]:
    """The images of `generate_shapes` in blocks of at most 256."""
    check_split(split)
    if num_images < 1 or image_size < 16:
        raise DataError(f"shapes: need at least 1 image of at least 16 pixels, got {num_images} of {image_size}")
    for start in range(0, num_images, 256):
        rows = range(start, min(start + 256, num_images))
        yield np.stack([draw_shapes(np.random.default_rng([SPLITS.index(split), i]), image_size) for i in rows])


def generate_shapes(split: str = "train", *, num_images: int, image_size: int = 64) -> np.ndarray:
    """The first images of a split, uint8 ``[num_images, 3, S, S]``, RGB; more images start with the same ones.

    Raises:
        DataError: for an unknown split, no image, or images below 16 pixels.
    Example:
        >>> generate_shapes("val", num_images=2).shape
        (2, 3, 64, 64)
    """
    return np.concatenate(list(iter_shapes(split, num_images=num_images, image_size=image_size)))
