"""Treat denormal numbers as zero while training on a CPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


def flushing() -> bool:
    """Whether this thread treats numbers below 1.2e-38 as zero."""
    return (torch.full((1,), 1e-39) * 1.0).item() == 0.0


@contextmanager
def flush_denormals() -> Iterator[None]:
    """Numbers below 1.2e-38 count as zero inside, where the processor can do that.

    They are worth nothing, but an Intel CPU takes a hundred times longer over each, and the gradients of a model that
    has learned something are full of them: a training step of `lpwm-balls-mini` with a GRU took 0.9 instead of 2.2 CPU
    seconds after 140 steps (2.5 GHz Xeon, one thread, batch 16); an untrained model takes 1.0 either way.
    """
    before = flushing()
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(before)
