"""Reading HDF5: `H5File` in every process of a data loader, and what both layouts need of its datasets."""

from __future__ import annotations

import contextlib
import importlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import DataError, require_extra


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
            h5py = require_extra("h5py", "data", f"reading {self.path.name}")
            with contextlib.suppress(ImportError):
                importlib.import_module("hdf5plugin")  # files may be compressed with its filters
            try:
                self._file = h5py.File(self.path, "r")
            except OSError as error:
                raise DataError(
                    f"{self.path} cannot be read as HDF5: it is missing, truncated or of another format ({error})"
                ) from error
            self._check(self.path, self._file)
            self._pid = os.getpid()
        return self._file

    def close(self) -> None:
        """Close it until the next use, before a fork."""
        if self._file is not None:
            self._file.close()
        self._file, self._pid = None, None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_file": None, "_pid": None}


def datasets(file: Any) -> dict[str, Any]:
    """The datasets at the top of an open file by name; groups are left out."""
    return {name: data for name, data in file.items() if hasattr(data, "shape")}


def read_rows(data: Any, rows: slice, where: str) -> np.ndarray:
    """Some rows of a dataset.

    Raises:
        DataError: if they are damaged, or compressed with a filter that is not there; begins with ``where``.
    """
    try:
        return data[rows]
    except OSError as error:
        raise DataError(
            f"{where}: rows {rows.start}..{rows.stop - 1} of column '{data.name[1:]}' cannot be read: {error}. If it "
            "is compressed with a plugin's filter: pip install hdf5plugin"
        ) from error
