"""A cell in a process of its own: its memory is its own, and a crash costs a row, not the table.

The parent holds the other end of the child's standard input. When it closes, because the parent stops or was killed,
the child ends as after SIGTERM: it finishes its step and writes a checkpoint. So no orphan keeps on training.
"""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..errors import TrainingError
from ..files import no_room
from .cell import CELL_FILE, RESULT_FILE, Doing, failure, read_json, run_cell, write_json

STOPPED = 75  # exit status: stopped by a signal, with a checkpoint
FULL = 74  # exit status: no room on the disk
GRACE = 120.0


def run_isolated(folder: Path, *, lock: int | None, watch: Callable[[], Any],
                 module: str = "worldkit.ablation") -> dict[str, Any]:
    """Run a cell in a child process.

    Args:
        folder: The cell.
        lock: File descriptor of the folder's lock, shared with the child.
        watch: Called a few times per second.
        module: What does it: ``python -m MODULE FOLDER``, which calls `main`.
    Returns:
        The cell's result; a child that died is a failure.
    Raises:
        TrainingError: if the child was stopped by a signal from outside.
        OSError: if there was no room on the disk.
    """
    with open(folder / "output.log", "ab") as log:
        child = subprocess.Popen(
            [sys.executable, "-P", "-m", module, str(folder)], stdin=subprocess.PIPE, stdout=log,
            stderr=subprocess.STDOUT, env=_environment(), start_new_session=True,
            pass_fds=() if lock is None else (lock,),
        )
    try:
        while True:
            try:
                child.wait(0.25)
                break
            except subprocess.TimeoutExpired:
                watch()
    except BaseException:
        _stop(child)
        raise
    finally:
        child.stdin.close()  # type: ignore[union-attr]
    result = read_json(folder / RESULT_FILE)
    if result is None and child.returncode in (STOPPED, -signal.SIGTERM, -signal.SIGINT):
        raise TrainingError(f"the process of {folder} was stopped; the same command goes on where it was")
    if result is None and child.returncode == FULL:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))
    if result is None:
        result = failure(_cause_of_death(child.returncode, folder / "output.log"), "training or evaluation")
        write_json(folder / RESULT_FILE, result)
    return result


def _environment() -> dict[str, str]:
    """The child sees the modules the parent sees, and waits without spinning."""
    paths = os.pathsep.join(dict.fromkeys(os.path.abspath(p or os.getcwd()) for p in sys.path))
    return {"OMP_WAIT_POLICY": "PASSIVE", **os.environ, "PYTHONPATH": paths}


def _stop(child: subprocess.Popen[bytes]) -> None:
    """Let the child write a checkpoint; whoever is impatient ends it at once."""
    child.stdin.close()  # type: ignore[union-attr]
    try:
        child.wait(GRACE)
    except BaseException:
        child.kill()
        child.wait()
        raise


def _cause_of_death(status: int, log: Path) -> str:
    if status < 0:
        name = signal.Signals(-status).name
        guess = " (most often: out of memory)" if name == "SIGKILL" else ""
        return f"the process was ended by {name}{guess}; what it printed: {log}"
    return f"the process ended with status {status} and no result; what it printed: {log}"


def main(folder: str, does: Doing | None = None) -> int:
    """What the child does, as for `run_cell`; returns its exit status."""
    import torch

    threading.Thread(target=_follow_parent, daemon=True).start()
    path = Path(folder)
    torch.set_num_threads(read_json(path / CELL_FILE)["threads"])
    try:
        return STOPPED if run_cell(path, isolated=True, does=does) is None else 0
    except Exception as error:
        if not no_room(error):
            raise
        return FULL


def _follow_parent() -> None:
    try:
        while os.read(0, 1024):
            pass
    except OSError:
        pass
    os.kill(os.getpid(), signal.SIGTERM)
