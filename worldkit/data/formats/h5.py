"""HDF5: `H5File` in every process of a data loader, what both layouts need of its datasets, and `NewFile` to write."""

from __future__ import annotations

import contextlib
import importlib
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import DataError, require_extra
from ..paths import inside

DAMAGED = (OSError, RuntimeError, KeyError, ValueError, TypeError, MemoryError, OverflowError)
"""What HDF5 raises where a file is not what it says."""
_DENSEST = 1100
"""Bytes that a byte of a file can hold: a little more than gzip makes of zeros."""


class H5File:
    """Opened at the first use and once in every process: a handle must not cross a fork, nor be pickled.

    Args:
        path: The file.
        check: Called with path and file after opening; raises if the content is not as expected.
    """

    def __init__(self, path: Path, check: Callable[[Path, Any], object]):
        self.path, self._check = path, check
        self._file, self._pid = None, None

    def open(self) -> Any:
        """The ``h5py.File`` of this process.

        Raises:
            DataError: if it cannot be read.
            MissingExtraError: without h5py.
        """
        if self._pid != os.getpid():
            with contextlib.suppress(ImportError):
                importlib.import_module("hdf5plugin")  # files may be compressed with its filters
            try:
                self._file = open_h5(self.path)
            except OSError as error:
                raise DataError(
                    f"{self.path} cannot be read as HDF5: it is missing, truncated or of another format ({error})"
                ) from error
            try:
                check_links(self.path, self._file)
                self._check(self.path, self._file)
            except DataError:
                self.close()
                raise
            except DAMAGED as error:
                self.close()
                raise DataError(f"{self.path} is damaged: {str(error) or type(error).__name__}. Get it again, or write "
                                "it again") from error
            self._pid = os.getpid()
        return self._file

    def close(self) -> None:
        """Close it until the next use, before a fork."""
        if self._file is not None:
            self._file.close()
        self._file, self._pid = None, None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_file": None, "_pid": None}


def open_h5(path: Path) -> Any:
    """An ``h5py.File`` to read.

    Raises:
        OSError: it is none, or one that asks for a driver, as parts of a file do that is spread over several: HDF5
            would take as much memory as it says its driver needs, up to 4 GB.
        MissingExtraError: without h5py.
    """
    h5py = require_extra("h5py", "data", f"reading {path.name}")
    with open(path, "rb") as file:
        head = file.read(64)
    at = {0: 48, 1: 52}.get(head[8]) if head.startswith(b"\x89HDF") and len(head) == 64 else None
    if at is not None and head[13] == 8 and head[at : at + 8] != b"\xff" * 8:
        raise OSError("it is one part of a file that is spread over several, or damaged")
    return h5py.File(path, "r")


def check_links(path: Path, file: Any) -> None:
    """Check that everything at the top of an open file is there, and lies in files of the same folder.

    An HDF5 file may take a dataset from another file (an external link), put one together from several files (a virtual
    dataset), or name raw files as the storage of one.

    Raises:
        DataError: for a file outside the folder, raw files anywhere (their place depends on the current folder), or a
            link that leads nowhere.
    """
    external = importlib.import_module("h5py").ExternalLink
    for name in file:
        where = Path(f"{path}: '{name}'")
        link = file.get(name, getlink=True)
        if isinstance(link, external):
            inside(path.parent, link.filename, where)
        data = file.get(name)
        if data is None:
            raise DataError(f"{where} is a link that leads nowhere")
        _check_stored(path, data, where, set())


def _check_stored(path: Path, data: Any, where: Path, seen: set[tuple[str, str]]) -> None:
    """Check the files in which a dataset, or the sources of a virtual one, are stored; ``seen`` were checked."""
    name = Path(data.file.filename)
    if (str(name), data.name) in seen:
        return
    seen.add((str(name), data.name))
    if not name.samefile(path):
        inside(path.parent, os.path.relpath(name.absolute(), path.parent.absolute()), where)
    if not hasattr(data, "shape"):
        return
    try:
        _ = data.dtype
    except (TypeError, ValueError) as error:
        raise DataError(f"{where} holds values of a type that NumPy does not have ({error}): write it as numbers, or "
                        "leave it out") from error
    if data.external:
        raise DataError(f"{where} is stored in the raw file {data.external[0][0]!r}: it is not read. Use h5repack")
    for source in data.virtual_sources() if data.is_virtual else ():
        if source.file_name == ".":
            _check_stored(path, data.file[source.dset_name], where, seen)
            continue
        part = inside(path.parent, source.file_name, where)
        if not part.is_file():
            raise DataError(f"{where} is put together from files, of which {part} does not exist")
        with open_h5(part) as opened:
            _check_stored(path, opened[source.dset_name], where, seen)


def datasets(file: Any) -> dict[str, Any]:
    """The datasets at the top of an open file by name; groups are left out."""
    return {name: data for name, data in file.items() if hasattr(data, "shape")}


def read_rows(data: Any, rows: slice, where: str) -> np.ndarray:
    """Some rows of a dataset.

    Raises:
        DataError: if they are damaged, would take far more memory than the file can hold, or are compressed with a
            filter that is not there; begins with ``where``.
    """
    these = f"{where}: rows {rows.start}..{rows.stop - 1} of column '{data.name[1:]}'"
    size, file = (rows.stop - rows.start) * math.prod(data.shape[1:]) * data.dtype.itemsize, data.file.filename
    if not data.is_virtual and size > 2**28 + _DENSEST * os.path.getsize(file):
        raise DataError(f"{these} would take {size / 2**30:,.1f} GB, more than {file} can hold: it is damaged")
    try:
        return data[rows]
    except DAMAGED as error:
        raise DataError(f"{these} cannot be read: {error}. If it is compressed with a plugin's filter: "
                        "pip install hdf5plugin") from error


class NewFile:
    """An HDF5 file that is written. An error of the disk is kept for `flush` and `close` to raise.

    HDF5 itself never sees one: 2.0 crashes the process if a write fails while a file is closed, or flushed again.

    Args:
        path: The file.
    Attributes:
        file: The ``h5py.File``.
    Raises:
        OSError: it cannot be made.
        MissingExtraError: without h5py.
    """

    def __init__(self, path: Path):
        h5py = require_extra("h5py", "data", "writing HDF5")
        self._disk = _Disk(path)
        self.file = h5py.File(self._disk, "w")

    def flush(self) -> None:
        """Write all so far. Raises the first error of the disk, an OSError."""
        self.file.flush()
        self._disk.check()

    def close(self) -> None:
        """Complete the file. Raises the first error of the disk, an OSError."""
        self.file.close()
        self._disk.close()


class _Disk:
    """The file beneath: after an error all is taken for written."""

    def __init__(self, path: Path):
        self._file, self._error = open(path, "w+b", buffering=0), None

    def _try(self, do: Callable[[], Any]) -> None:
        if self._error is None:
            try:
                do()
            except OSError as error:
                self._error = error

    def check(self) -> None:
        if self._error is not None:
            raise self._error

    def write(self, data: Any) -> int:
        def write_all() -> None:
            left = memoryview(data).cast("B")
            while left:
                left = left[self._file.write(left):]

        self._try(write_all)
        return len(data)

    def truncate(self, size: int) -> int:
        self._try(lambda: self._file.truncate(size))
        return size

    def flush(self) -> None:
        pass  # there is no buffer

    def read(self, size: int = -1) -> bytes:
        return self._file.read(size)

    def readinto(self, buffer: Any) -> int:
        return self._file.readinto(buffer)

    def seek(self, *where: int) -> int:
        return self._file.seek(*where)

    def tell(self) -> int:
        return self._file.tell()

    def close(self) -> None:
        self._try(lambda: os.fsync(self._file.fileno()))
        self._file.close()
        self.check()
