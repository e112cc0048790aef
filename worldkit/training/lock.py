"""One command at a time works in a folder; what a killed command left running counts, too."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import TrainingError
from ..files import naming

LOCK_FILE = ".lock"


@contextmanager
def locked(folder: Path, *, command: str, instead: str, patience: float = 60.0) -> Iterator[int | None]:
    """Hold the lock of a folder; yields its file descriptor, None where the file system has no locks.

    The lock belongs to every process that has the descriptor: a child that was given it and outlives a killed parent
    keeps it until it ends. The next command waits that long.

    Args:
        folder: An existing folder.
        command: Who works there, for the error's text.
        instead: Option that names another folder.
        patience: Seconds to wait for the lock.
    Raises:
        TrainingError: if another command, named with its process, still works there after ``patience`` seconds.
        OSError: the lock cannot be written.
    Example::

        with locked(Path("runs/first"), command="worldkit train", instead="--run"):
            ...
    """
    try:
        import fcntl
    except ImportError:  # Windows
        yield None
        return
    with open(folder / LOCK_FILE, "a+", encoding="utf-8") as file:  # "a+": the holder's name stays readable
        until = time.monotonic() + patience
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= until:
                    file.seek(0)
                    raise TrainingError(
                        f"another {command} ({file.read().strip() or 'just starting'}) is at work in {folder}; wait "
                        f"for it, end it, or give another {instead}"
                    ) from None
                time.sleep(0.2)
            except OSError:  # some network file systems
                yield None
                return
        try:
            with naming(folder / LOCK_FILE):
                file.truncate(0)
                os.write(file.fileno(), f"process {os.getpid()} on {platform.node()}\n".encode())  # never flushed late
            yield file.fileno()
        finally:  # at once, even if a worker of a data loader still has the descriptor
            fcntl.flock(file, fcntl.LOCK_UN)
