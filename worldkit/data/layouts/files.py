"""Files of the layouts: folders and images in the order of their numbers, and ``.pt`` and ``.pkl`` files as plain data.

Neither kind of file can run code here: ``.pt`` goes through ``torch.load(weights_only=True)``, ``.pkl`` through an
unpickler that knows numpy arrays and plain containers, and nothing else.
"""

from __future__ import annotations

import contextlib
import functools
import os
import pickle
import sys
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import DataError
from ..splits import split_folder

_READ_ERRORS = (pickle.UnpicklingError, RuntimeError, OSError, EOFError, zipfile.BadZipFile, ValueError, LookupError)
_READ_ERRORS += (AttributeError, TypeError, AssertionError, MemoryError)  # what damaged pickles raise


def part_of(target: str, split: str, *, expected: str, stand_in: Mapping[str, str] | None = None) -> Path:
    """The folder of a split.

    Args:
        target: The data set's folder.
        split: ``"train"``, ``"val"`` or ``"test"``.
        expected: What the layout looks like, for the message.
        stand_in: Split -> the split that is taken in its place, where the layout has none.
    Raises:
        DataError: if there is no such folder.
    """
    root = Path(target).expanduser()
    if not root.is_dir():
        raise DataError(f"{root} is no folder: expected {expected}")
    folder = split_folder(root, (stand_in or {}).get(split, split))
    if folder is None:
        raise DataError(f"{root} has no folders train, val (or valid), test: expected {expected}")
    return folder


def subfolders(folder: Path) -> list[str]:
    """Names of the folders in a folder, hidden ones left out, sorted as text."""
    try:
        with os.scandir(folder) as found:
            return sorted(entry.name for entry in found if not entry.name.startswith(".") and entry.is_dir())
    except OSError as error:
        raise DataError(f"{folder} cannot be listed: {error}") from error


def numbered(names: list[str], number: Callable[[str], int], where: Path, expected: str) -> list[str]:
    """Names in the order of their numbers.

    Args:
        names: Files or folders; files without their suffix are passed to ``number``.
        number: Finds the number in a name.
        where: The folder, for messages.
        expected: What a name looks like, for messages.
    Raises:
        DataError: if a name has no number.
    Example:
        >>> numbered(["10.png", "9.png"], int, Path("."), "NUMBER.png")
        ['9.png', '10.png']
    """

    def key(name: str) -> int:
        try:
            return number(Path(name).stem)
        except (ValueError, IndexError):
            raise DataError(f"{where / name} has no number where one is expected: {expected}") from None

    return sorted(names, key=key)


def check_pairs(images: Sequence[str], files: Sequence[str], number: Callable[[str], int], where: Path) -> None:
    """Check that images and the files of their steps, both in order, are numbered alike.

    Raises:
        DataError: if one is missing in between or in front, so that later images would get the actions of other steps.
    """
    pairs = list(zip(images, files, strict=False))
    apart = [number(Path(image).stem) - number(Path(file).stem) for image, file in pairs]
    for (image, file), difference in zip(pairs, apart, strict=True):
        if difference != apart[0]:
            raise DataError(f"{where}: {image} would go with {file}: a file before them is missing")
    if any(apart):  # counted from different numbers, unless they end with the same one
        last = [_last(names_in(where, Path(names[0]).suffix), number) for names in (images, files)]
        if last[0] == last[1]:
            image, file = pairs[0]
            raise DataError(f"{where}: {image} would go with {file}, but both end with {last[0]}: the first is missing")


def _last(names: Sequence[str], number: Callable[[str], int]) -> int:
    """The highest number in the names that have one."""
    found = [-1]
    for name in names:
        with contextlib.suppress(ValueError, IndexError):
            found.append(number(Path(name).stem))
    return max(found)


def check_rows(images: Sequence[str], columns: Mapping[str, Sequence[Any]], where: Path) -> None:
    """Check that images named by their numbers have a row each in columns without numbers.

    Raises:
        DataError: if one is missing in between or in front, so that later images would get the rows of other steps.
    """
    found = [int(Path(name).stem) for name in images]
    for before, after in zip(found, found[1:], strict=False):
        if after != before + 1:
            raise DataError(f"{where}: frame {before + 1} is missing: later frames would get the rows of other steps")
    if found and found[0]:  # numbered from 1, or the first ones are missing
        frames = len(names_in(where, Path(images[0]).suffix))
        for name, rows in columns.items():
            if len(rows) > frames:
                problem = f"'{name}' has {len(rows)} rows for {frames} frames, the first of which is {images[0]}"
                raise DataError(f"{where}: frames are missing: {problem}")


def names_in(folder: Path, suffix: str, prefix: str = "") -> list[str]:
    """Names of the files with a suffix and a prefix; equal names of different folders share their memory."""
    try:
        with os.scandir(folder) as found:
            return [sys.intern(f.name) for f in found if f.name.endswith(suffix) and f.name.startswith(prefix)]
    except OSError as error:
        raise DataError(f"{folder} cannot be listed: {error}") from error


def has_below(path: Path, *steps: str) -> bool:
    """Whether a path exists that goes through the first folder (any) at every step ``"*"``; quick, never raises.

    Example:
        >>> has_below(Path("/does/not/exist"), "*", "actions.pkl")
        False
    """
    for step in steps:
        if step == "*":
            try:
                with os.scandir(path) as found:
                    names = (entry.name for entry in found if not entry.name.startswith(".") and entry.is_dir())
                    first = next(names, None)
            except OSError:
                return False
            if first is None:
                return False
            path = path / first
        else:
            path = path / step
    return path.exists()


def load_pt(path: Path) -> Any:
    """What a ``.pt`` file holds, on the CPU: tensors, numpy arrays, numbers, strings and containers of them.

    Raises:
        DataError: if it is missing or damaged, or holds anything else.
    """
    import torch

    try:
        with torch.serialization.safe_globals(_numpy_types()):
            return torch.load(path, map_location="cpu", weights_only=True)
    except _READ_ERRORS as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise DataError(
            f"{path} cannot be read ({reason}): it is missing, damaged, or holds objects other than tensors, arrays, "
            "numbers and strings, which are never loaded"
        ) from error


@functools.cache
def _numpy_types() -> list[Any]:
    """What plain numpy arrays and numbers are pickled with, under the module names of numpy 1 and 2."""
    core = np._core.multiarray
    dtypes = {type(np.dtype(code)) for code in np.typecodes["AllInteger"] + np.typecodes["AllFloat"] + "?US"}
    rebuild = [(getattr(core, n), f"numpy.{c}.multiarray.{n}") for c in ("core", "_core") for n in _REBUILD]
    return [np.ndarray, np.dtype, *dtypes, *rebuild]


_REBUILD = ("_reconstruct", "scalar")


class _FromBuffer:
    """Makes an array from bytes. Without attributes, so that a pickle cannot change it."""

    __slots__ = ()

    def __call__(self, buffer: bytes, dtype: np.dtype, shape: tuple[int, ...], order: str) -> np.ndarray:
        return np.frombuffer(buffer, dtype).reshape(shape, order=order)


class _Latin1:
    """How old pickles hold bytes: as text to be encoded. Without attributes, so that a pickle cannot change it."""

    __slots__ = ()

    def __call__(self, text: str, encoding: str) -> bytes:
        if encoding != "latin1":
            raise pickle.UnpicklingError(f"encoding {encoding}")
        return text.encode("latin1")


class _PlainUnpickler(pickle.Unpickler):
    """Knows numpy arrays and numbers; refuses every other name, so nothing can be called that does something."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in (("numpy", "ndarray"), ("numpy", "dtype")):
            return getattr(np, name)
        if module in ("numpy.core.multiarray", "numpy._core.multiarray") and name in _REBUILD:
            return getattr(np._core.multiarray, name)
        if module in ("numpy.core.numeric", "numpy._core.numeric") and name == "_frombuffer":
            return _FromBuffer()
        if (module, name) == ("_codecs", "encode"):
            return _Latin1()
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")


def load_pickle(path: Path) -> Any:
    """What a pickle holds, if that is numpy arrays, numbers, strings and containers of them.

    Raises:
        DataError: if it is missing or damaged, or holds anything else.
    """
    try:
        with open(path, "rb") as file:
            return _PlainUnpickler(file).load()
    except _READ_ERRORS as error:
        raise DataError(
            f"{path} cannot be read ({error}): it is missing, damaged, or holds objects other than numpy arrays and "
            "plain lists, which are never loaded"
        ) from error


def numbers(value: Any, where: str) -> np.ndarray:
    """A tensor, array or list as an array of numbers.

    Raises:
        DataError: if it is none.
    """
    value = value.detach().numpy() if hasattr(value, "detach") else value
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise DataError(f"{where} is no array of numbers: {error}") from error
    if array.dtype.kind not in "fiub":
        raise DataError(f"{where} must be numbers, got {array.dtype} {list(array.shape)}")
    return array
