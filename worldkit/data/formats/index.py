"""stable-worldmodel's columns: what each means, and where the episodes lie that are stored one behind the other.

``ep_offset`` has the first row of each episode, ``ep_len`` its length.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ...errors import DataError
from ..recording import ACTIONS

INDEX = ("ep_len", "ep_offset")
GOALS = ("goal_image", "goal")
TEXTS = ("language", "instruction", "task")


def role_of(name: str, dtype: np.dtype, ndim: int) -> str | None:
    """The flat name (`worldkit.data.recording`) of the entry a column becomes; None if it is not read.

    Args:
        name: Of the column; the actions of a data set may be under ``action`` or ``actions``.
        dtype: Of the column.
        ndim: Axes, with that of the rows.
    Example:
        >>> role_of("actions", np.dtype("f4"), 2), role_of("pose", np.dtype("f4"), 2), role_of("note", np.dtype("O"), 1)
        ('action', 'state.pose', None)
    """
    if name in ACTIONS:
        return "action"
    if dtype.kind in "OSU":
        return "language" if name in TEXTS else None
    if name in GOALS and ndim in (4, 5) and dtype == np.uint8:
        return "goal_image"
    if name == "done_mask" or name.startswith(("masks.", "state.")):
        return name
    return f"state.{name}" if dtype.kind in "fiub" and ndim < 4 else None


def as_text(value: Any) -> str:
    """A cell of a column of text."""
    return value.decode() if isinstance(value, bytes) else str(value)


def index_of(where: str, lengths: Any, offsets: Any) -> tuple[list[int], list[int]]:
    """Lengths and first rows of all episodes, as plain numbers.

    Raises:
        DataError: if they are not whole numbers ``[E]``, as many of the one as of the other; begins with ``where``.
    """
    lengths, offsets = np.asarray(lengths), np.asarray(offsets)
    if lengths.ndim != 1 or lengths.shape != offsets.shape or {lengths.dtype.kind, offsets.dtype.kind} - {*"iu"}:
        found = f"ep_len is {lengths.dtype} {list(lengths.shape)}, ep_offset is {offsets.dtype} {list(offsets.shape)}"
        raise DataError(f"{where}: ep_len and ep_offset must be whole numbers [E], one per episode, but {found}")
    return lengths.tolist(), offsets.tolist()


def overlaps(lengths: Sequence[int], offsets: Sequence[int]) -> Iterator[str]:
    """What episodes share: the same frames would be in two of them, and, in the end, in two splits.

    Example:
        >>> list(overlaps([4, 4], [0, 3]))
        ['episodes 0 and 1 share rows 3..3 (ep_offset, ep_len)']
    """
    spans = sorted((o, o + length, i) for i, (o, length) in enumerate(zip(offsets, lengths, strict=True)))
    end, last = (spans[0][1], spans[0][2]) if spans else (0, 0)
    for first, stop, i in spans[1:]:
        if first < min(end, stop):
            one, other = sorted((last, i))
            yield f"episodes {one} and {other} share rows {first}..{min(end, stop) - 1} (ep_offset, ep_len)"
        if stop > end:
            end, last = stop, i


def check_index(where: str, lengths: Sequence[int], offsets: Sequence[int]) -> None:
    """Raise DataError if two episodes share rows; begins with ``where``."""
    for shared in overlaps(lengths, offsets):
        raise DataError(f"{where}: {shared}: correct the index, or leave one of them out")
