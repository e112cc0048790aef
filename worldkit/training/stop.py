"""What SIGTERM and Ctrl-C mean to a run."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def graceful_stop(stop: Callable[[], None]) -> Iterator[None]:
    """Call ``stop`` on SIGTERM or Ctrl-C, however often they come; only a second Ctrl-C leaves at once.

    SIGTERM may well come twice: from whoever signals a whole process group, and from ``torchrun``, which passes it on.
    """
    interrupts = 0

    def handle(number: int, frame: Any) -> None:
        nonlocal interrupts
        interrupts += number == signal.SIGINT
        if interrupts > 1:
            raise KeyboardInterrupt
        stop()

    previous: dict[int, Callable | int | None] = {}
    try:
        for number in (signal.SIGTERM, signal.SIGINT):
            previous[number] = signal.signal(number, handle)
    except ValueError:
        pass  # not in the main thread: no handlers
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
