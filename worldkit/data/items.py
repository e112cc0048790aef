"""What a source gives, looked at before it goes on: sources of plugins come this way, too."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..errors import DataError

_GROUPS = ("state", "masks")


def check_item(item: Any, frames: int, where: str) -> None:
    """Refuse what is no clip, see `EpisodeSource.read`.

    Args:
        item: What ``read`` gave.
        frames: Frames that were asked for.
        where: For messages.
    Raises:
        DataError: naming the entry, what it is and what it should be.
    """
    if not isinstance(item, Mapping):
        raise DataError(f"{where}: read() must give a dict of entries, got {type(item).__name__}")
    video = item.get("video")
    shape = getattr(video, "shape", ())
    if len(shape) not in (4, 5) or shape[-4] != frames:
        found = f"{type(video).__name__} {list(shape)}" if len(shape) else type(video).__name__
        raise DataError(
            f"{where}: read() must give 'video' with the {frames} frames it was asked for, uint8 [T, C, H, W] or "
            f"[V, T, C, H, W], got {found}"
        )
    for group in _GROUPS:
        if not isinstance(item.get(group, {}), Mapping):
            raise DataError(
                f"{where}: '{group}' must be a dict, name -> values [T, ...], got {type(item[group]).__name__}; for a "
                "condition, take another name"
            )


def plain_array(array: np.ndarray) -> np.ndarray | list[Any]:
    """An array that PyTorch takes, of memory that may be written to; text as a list, longer floats as float64."""
    if array.dtype.kind in "US":
        return array.tolist()
    if array.dtype.kind == "f" and array.dtype.itemsize > 8:
        return array.astype(np.float64)
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    plain = array.flags.writeable and all(stride >= 0 for stride in array.strides)
    return array if plain else array.copy()
