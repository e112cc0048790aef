"""Memory that a rollout frees is memory that its next operation takes.

glibc hands what is freed back to the system once it is more than it expects to need, and then every large operation
pays for fresh pages: a fifth of the time of `worldkit.planning.Shooting` on a CPU.
"""

from __future__ import annotations

import functools

import torch

_LARGEST = 2**25
"""The largest block that glibc learns from (``M_MMAP_THRESHOLD``, mallopt(3)), in bytes."""


@functools.cache
def keep_freed_memory() -> None:
    """Let this process keep up to 64 MiB that it has freed, from now on; without glibc nothing changes.

    glibc learns from the blocks that are freed: here one that is never written to, and so takes no memory. Who has set
    ``MALLOC_TRIM_THRESHOLD_`` or the like has decided otherwise, and that holds.

    Example:
        >>> keep_freed_memory()
    """
    torch.empty(_LARGEST - 2**13, dtype=torch.uint8)
