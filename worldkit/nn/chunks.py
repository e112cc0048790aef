"""How much of a batch is worked on at a time, so that temporaries stay small."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

_whole = False


def at_a_time(limit: int, each: float) -> int:
    """How many rows of ``each`` bytes stay within ``limit`` bytes; at least one.

    Example:
        >>> at_a_time(2**20, 3000), at_a_time(100, 3000)
        (349, 1)
    """
    return sys.maxsize if _whole else max(1, int(limit // max(each, 1)))


def pieces(count: int, step: int) -> list[slice]:
    """Slices of ``step`` rows that cover ``count``.

    Example:
        >>> pieces(5, 2)
        [slice(0, 2, None), slice(2, 4, None), slice(4, 6, None)]
        >>> with undivided():
        ...     pieces(5, 2)
        [slice(None, None, None)]
    """
    return [slice(None)] if _whole else [slice(i, i + step) for i in range(0, count, step)]


@contextmanager
def undivided() -> Iterator[None]:
    """Meanwhile everything is one chunk: for tensors without memory, where only the number of operations counts, and
    for exporters, to which the number of rows is not known.

    Example:
        >>> with undivided():
        ...     at_a_time(100, 3000) > 10**9
        True
    """
    global _whole
    before, _whole = _whole, True
    try:
        yield
    finally:
        _whole = before
