"""Memory that is freed stays with the process, for the next step of training or the next operation of a rollout.

glibc hands what is freed back to the system once it is more than it expects to need, and then every large operation
pays for fresh pages: a fifth of the time of `worldkit.planning.Shooting` on a CPU.
"""

from __future__ import annotations

import ctypes
import functools
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _HUGE_PAGES = -1, -3, 14  # of malloc.h and sys/mman.h
_PAGE = 1 << 21
_LARGE_PAGES_FOR = 1 << 30
_LARGEST = 1 << 25
"""The largest block that glibc takes from its heap if asked to (``M_MMAP_THRESHOLD``, mallopt(3)), in bytes."""
_DECIDED = frozenset({"GLIBC_TUNABLES", "MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_"})
_KEPT = 1 << 27
"""What `keep_freed_memory` keeps at most, in bytes: a rollout of 512 candidates frees 80 MiB at its end."""


@contextmanager
def keep_memory() -> Iterator[None]:
    """Freed memory stays with the process inside, and the first GiB of it in pages of 2 MiB; results are the same.

    A step asks for the same hundreds of buffers as the one before. glibc hands the larger ones back to the system and
    asks for them anew, zeroed and page by page of 4 KiB; besides, so many small pages are hard to look up. How much
    faster steps are without that: benchmarks/README.md. Without glibc nothing happens; the system decides whether it
    has large pages (``/sys/kernel/mm/transparent_hugepage/enabled``: "always" or "madvise"). At the end freed memory
    is handed back.

    Example:
        >>> with keep_memory():
        ...     pass
    """
    libc = _glibc()
    if libc is None:
        yield
        return
    libc.mallopt(_MMAP_THRESHOLD, 2**31 - 1)
    libc.mallopt(_TRIM_THRESHOLD, 2**31 - 1)
    block = libc.malloc(_LARGE_PAGES_FOR)  # addresses only: nothing is there before it is written to
    if block:
        start = -(-block // _PAGE) * _PAGE
        libc.madvise(start, _LARGE_PAGES_FOR - _PAGE, _HUGE_PAGES)
        libc.free(block)
    try:
        yield
    finally:
        libc.mallopt(_MMAP_THRESHOLD, _LARGEST)  # as far as glibc goes by itself
        libc.mallopt(_TRIM_THRESHOLD, 1 << 26)
        libc.malloc_trim(0)


@functools.cache
def keep_freed_memory() -> None:
    """Let this process keep up to 128 MiB that it has freed, from now on; without glibc nothing changes.

    Who has set ``GLIBC_TUNABLES``, ``MALLOC_TRIM_THRESHOLD_`` or ``MALLOC_MMAP_THRESHOLD_`` has decided otherwise, and
    that holds.

    Example:
        >>> keep_freed_memory()
    """
    libc = _glibc()
    if libc is None or not _DECIDED.isdisjoint(os.environ):
        return
    libc.mallopt(_MMAP_THRESHOLD, _LARGEST)
    libc.mallopt(_TRIM_THRESHOLD, _KEPT)


def _glibc() -> ctypes.CDLL | None:
    """The C library with the types of what is called; None where it is another than glibc."""
    if not sys.platform.startswith("linux"):
        return None
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "gnu_get_libc_version"):
        return None
    size = ctypes.c_size_t
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [size]
    libc.free.restype, libc.free.argtypes = None, [ctypes.c_void_p]
    libc.madvise.argtypes = [ctypes.c_void_p, size, ctypes.c_int]
    libc.malloc_trim.argtypes = [size]
    return libc
