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
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

_FILE, _FOLDER = 0o666, 0o777
_UNFINISHED = re.compile(r"\..+\.\d+\.tmp(\.\w+)?")  # as `write_atomically` calls its temporary files
_FULL = re.compile(r"no space left|quota exceeded|os error (28|122)\b|PytorchStreamWriter|unexpected pos", re.I)
"""What those say of a full disk whose errors have no number: safetensors, ``torch.save``, FFmpeg and HDF5."""


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


def no_torch_file(path: Path) -> str | None:
    """What a file is, in words, if its first bytes say that ``torch.save`` did not write it; None if it may have.

    Raises:
        OSError: it cannot be read.
    Example:
        >>> import tempfile
        >>> with tempfile.NamedTemporaryFile() as file:
        ...     no_torch_file(Path(file.name))
        'it is empty'
    """
    with open(path, "rb") as file:
        head = file.read(256)
    if not head:
        return "it is empty"
    if head.startswith(b"\x93NUMPY"):
        return "it is a NumPy array (.npy)"
    if head.startswith(b"PK"):
        return _no_torch_archive(path)
    if head.startswith((b"\x80", b"\x8a")) or head[8:9] == b"{":  # a pickle; safetensors, which newer torch reads
        return None
    letters = sum(byte >= 32 or byte in b"\t\n\r" for byte in head)
    return "it is a text file" if letters == len(head) and b"\x7f" not in head else "it is no file of torch.save"


def _no_torch_archive(path: Path) -> str | None:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except zipfile.BadZipFile:
        return "it is cut off or damaged: get it again"
    if any(name.endswith(".npy") for name in names):
        return "it is a NumPy archive (.npz)"
    return None if any(name.endswith("data.pkl") for name in names) else "it is a zip archive of something else"


def reason(error: Exception) -> str:
    """Why a file could not be read or written, in a line: ``/proc/x: Permission denied``.

    Example:
        >>> reason(NotADirectoryError(20, "Not a directory", "notes.txt"))
        'notes.txt: Not a directory'
    """
    if not isinstance(error, OSError) or error.strerror is None:
        return (str(error) or type(error).__name__).splitlines()[0]
    name = error.filename2 or error.filename  # of a renaming, what was to be written
    return error.strerror if name is None else f"{name}: {error.strerror}"


def no_room(error: BaseException | None) -> bool:
    """Whether an error, or one that it comes from, is that of a full disk (or of a user's share of it).

    Example:
        >>> no_room(OSError(errno.ENOSPC, "No space left")), no_room(OSError(errno.EACCES, "Permission denied"))
        (True, False)
    """
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT) or _FULL.search(str(error)):
            return True
        error = error.__cause__ or error.__context__
    return False


@contextlib.contextmanager
def naming(path: str | os.PathLike[str]) -> Iterator[None]:
    """Let every error of writing a file name it: a full disk does not, and safetensors has errors of its own.

    Raises:
        OSError: with ``path`` as its ``filename``.
    """
    from safetensors import SafetensorError

    try:
        yield
    except OSError as error:
        if error.errno is None:
            raise
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error
    except SafetensorError as error:
        found = re.search(r"os error (\d+)", str(error))
        if found is None:
            raise
        raise OSError(int(found[1]), os.strerror(int(found[1])), str(path)) from error


def write_atomically(path: str | os.PathLike[str], write: Callable[[Path], object]) -> None:
    """Let ``write`` fill a temporary file beside ``path``, then rename it: no reader ever sees half a file.

    Raises:
        OSError: it cannot be written, see `naming`; nothing is left of it, and an older file is as it was.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.tmp{path.suffix}")
    with naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            write(temporary)
            open_to_others(temporary)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def tidy_files(folder: Path) -> None:
    """Remove what killed processes left of files that `write_atomically` was writing there.

    Call it where nobody else writes, as behind a lock.
    """
    for path in folder.glob(".*.tmp*"):
        if _UNFINISHED.fullmatch(path.name):
            path.unlink(missing_ok=True)
