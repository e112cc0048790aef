"""Pictures of another size, by area: every pixel of the result is the mean of what it covers."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np


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


def resize(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    """A picture at another size; the whole of it, so things stretch where the shape differs.

    Args:
        picture: uint8 ``[h, w, C]``.
        height, width: In pixels.
    Returns:
        uint8 ``[H, W, C]``, a new array.
    Example:
        >>> resize(np.full((4, 6, 3), 9, np.uint8), 2, 2)[0, 0].tolist()
        [9, 9, 9]
    """
    if picture.shape[:2] == (height, width):
        return np.array(picture)
    tall, wide, channels = picture.shape
    if tall % height == 0 and wide % width == 0:
        blocks = picture.reshape(height, tall // height, width, wide // width, channels)
        return (blocks.mean((1, 3), dtype=np.float32) + 0.5).astype(np.uint8)
    rows = _weights(tall, height) @ picture.reshape(tall, wide * channels).astype(np.float32)
    columns = rows.reshape(height, wide, channels).transpose(1, 0, 2).reshape(wide, height * channels)
    scaled = (_weights(wide, width) @ columns).reshape(width, height, channels).transpose(1, 0, 2)
    return np.ascontiguousarray((scaled + 0.5).clip(0, 255).astype(np.uint8))
