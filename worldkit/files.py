"""Files and folders as the user asked for them: whole or not there at all, and with the mode that the umask says.

Python's temporary folders, and the files that safetensors writes, are for their owner alone. Whatever leaves a process
goes through here, so that others on the machine can read what they may.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import tempfile
import uuid
from collections.abc import Callable
from pathlib import Path

_FILE, _FOLDER = 0o666, 0o777


def umask() -> int:
    """The umask of this process."""
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
        found = re.search(r"^Umask:\s*([0-7]+)$", status, re.MULTILINE)
    except OSError:
        found = None
    if found is not None:
        return int(found[1], 8)
    mask = os.umask(0)  # elsewhere the one way to ask for it
    os.umask(mask)
    return mask


def open_to_others(path: Path) -> None:
    """Give a file, or a folder with all it holds, the mode that the umask asks for."""
    mask = umask()
    with contextlib.suppress(PermissionError):  # a file system without modes
        if not path.is_dir():
            path.chmod(_FILE & ~mask)
            return
        for root, _, names in os.walk(path):
            os.chmod(root, _FOLDER & ~mask)
            for name in names:
                os.chmod(os.path.join(root, name), _FILE & ~mask)


def new_folder(parent: Path, prefix: str, suffix: str = "") -> Path:
    """A new, empty folder of a name nobody has, with the mode that the umask asks for."""
    folder = parent / f"{prefix}{uuid.uuid4().hex[:12]}{suffix}"
    folder.mkdir()
    return folder


def check_writable(folder: Path) -> None:
    """Try whether a folder can be made, or, if it is there, written into. Nothing is left behind.

    Raises:
        OSError: it cannot; with the file name that is in the way.
    """
    place = folder.absolute()
    while not place.exists() and not place.is_symlink():
        place = place.parent
    if not place.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, "it is no folder", str(place))
    try:
        os.rmdir(tempfile.mkdtemp(prefix=".worldkit-", dir=place))
    except OSError as error:
        raise type(error)(error.errno, f"nothing can be written there ({error.strerror})", str(place)) from error


def reason(error: Exception) -> str:
    """Why a file could not be read or written, in a line: ``/proc/x: Permission denied``.

    Example:
        >>> reason(NotADirectoryError(20, "Not a directory", "notes.txt"))
        'notes.txt: Not a directory'
    """
    if not isinstance(error, OSError) or error.strerror is None:
        return (str(error) or type(error).__name__).splitlines()[0]
    return error.strerror if error.filename is None else f"{error.filename}: {error.strerror}"


def write_atomically(path: str | os.PathLike[str], write: Callable[[Path], object]) -> None:
    """Let ``write`` fill a temporary file beside ``path``, then rename it: no reader ever sees half a file."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.tmp{path.suffix}")
    try:
        write(temporary)
        open_to_others(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
