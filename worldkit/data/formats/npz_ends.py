"""Where the episodes of a file end whose rows hold many, one behind the other.

Flags say so, one per row: ``terminals`` and ``timeouts`` (D4RL, OGBench), ``terminated``, ``truncated``, ``dones`` and
the like (Gymnasium and its recorders), ``is_first`` and ``is_last`` (RLDS, Dreamer); or a number per row
(``episode_index``), or one per episode (``episode_ends``, as Diffusion Policy has it).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np

from ...errors import DataError
from ..entries import ends_many

_ROWS = ("terminals", "timeouts")
_LASTS = ("terminated", "truncated", "terminations", "truncations", "dones", "is_last", "is_terminal")
_NUMBERS = ("episode_index", "episode_id", "episode_ids")
_STOPS = "episode_ends"
_NAMES = (*_ROWS, *_LASTS, "done", "is_first", *_NUMBERS, _STOPS)


def ending(names: Collection[str]) -> list[str]:
    """Those of the names that may tell where episodes end."""
    return [name for name in _NAMES if name in names]


def find_stops(arrays: Mapping[str, np.ndarray], length: int, where: str) -> list[int]:
    """One past the last row of each episode; the last is the length.

    Args:
        arrays: What `ending` named. Every 1 of ``terminals`` and ``timeouts`` ends an episode. Another flag that stays
            1 (padding behind the end) ends nothing, nor does a single ``done``, behind which frames are padding.
        length: Rows.
        where: For messages.
    Raises:
        DataError: if a flag is no number per row.
    Example:
        >>> find_stops({"dones": np.array([0, 1, 0, 0])}, 4, "a.npz"), find_stops({"dones": np.array([0, 1, 1])}, 3, "")
        ([2, 4], [3])
    """
    last = np.zeros(length, bool)
    last[-1:] = True
    for name, array in arrays.items():
        if name == _STOPS:
            if array.dtype.kind in "iu" and array.ndim == 1 and array.size and array[-1] == length and array[0] > 0:
                last[array[np.diff(array, prepend=0) > 0] - 1] = True
            continue
        if array.size != length or array.dtype.kind not in "fiub":
            if name in _ROWS:
                raise DataError(
                    f"{where}: '{name}' must hold one number per row, 1 at the last one of an episode: the video "
                    f"has {length} frames, it is {array.dtype} {list(array.shape)}"
                )
            continue
        values = array.reshape(-1)
        if name in _NUMBERS:
            last[:-1] |= values[1:] != values[:-1]
        elif name == "is_first":
            last[:-1] |= values[1:] != 0
        elif name in _ROWS:
            last |= values != 0
        elif name == "done":
            last |= (values != 0) & ends_many(values)
        else:
            last |= (values != 0) & ((values[:-1] != 0) & (values[1:] == 0)).any()
    return (np.flatnonzero(last) + 1).tolist()
