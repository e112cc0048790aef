"""Files of the layouts: folders and images in the order of their numbers, and ``.pt`` and ``.pkl`` files as plain data.

Neither kind of file can run code here: ``.pt`` goes through ``torch.load(weights_only=True)``, ``.pkl`` through an
unpickler that knows numpy arrays and plain containers, and nothing else.
"""

from __future__ import annotations

import contextlib
import io
import math
import os
import pickle
import pickletools
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import DataError
from ..splits import split_folder


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
        with torch.serialization.safe_globals(_SAFE):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a damaged pickle raises
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise DataError(
            f"{path} cannot be read ({reason}): it is missing, damaged, or holds objects other than tensors, arrays, "
            "numbers and strings, which are never loaded"
        ) from error


class _Kind:
    """The type of an array's numbers, as pickles make it: a code, and then perhaps a byte order.

    NumPy's own would take any state from a pickle, and a damaged one ends Python.
    """

    def __init__(self, code: Any, *options: Any):
        self.dtype = np.dtype(code)
        if self.dtype.kind not in "biufcSU":
            raise pickle.UnpicklingError(f"an array of {self.dtype}, which is neither numbers nor text")

    def __setstate__(self, state: Any) -> None:
        self.dtype = self.dtype.newbyteorder(state[1])


class _Held(np.ndarray):
    """An array as large as what a pickle holds of it, not as it says."""

    def __new__(cls, *args: Any) -> _Held:
        return super().__new__(cls, 0, np.int8)

    def __setstate__(self, state: Any) -> None:
        version, shape, kind, fortran, data = state
        dtype = kind.dtype if isinstance(kind, _Kind) else kind  # of pickles that are made of what is returned here
        if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize != len(data):
            raise pickle.UnpicklingError(f"{len(data)} bytes for an array {list(shape)} of {dtype}")
        super().__setstate__((version, shape, dtype, fortran, data))


def _scalar(kind: _Kind, data: bytes) -> Any:
    value, = np.frombuffer(data, kind.dtype)
    return value


def _from_buffer(buffer: bytes, kind: _Kind, shape: tuple[int, ...], order: str) -> np.ndarray:
    return np.frombuffer(buffer, kind.dtype).reshape(shape, order=order)


def _latin1(text: str, encoding: str) -> bytes:
    """How old pickles hold bytes: as text to be encoded."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"encoding {encoding}")
    return text.encode("latin1")


class _Call:
    """A function as pickles get it: without attributes, so that they cannot change it."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., Any]):
        object.__setattr__(self, "_function", function)

    def __call__(self, *args: Any) -> Any:
        return self._function(*args)

    def __setattr__(self, name: str, value: Any) -> None:
        raise pickle.UnpicklingError(f"it sets {name}")


_NAMES = {"numpy.ndarray": _Call(_Held), "numpy.dtype": _Call(_Kind), "_codecs.encode": _Call(_latin1)}
for _core in ("numpy.core", "numpy._core"):  # numpy 1 and 2
    _NAMES |= {f"{_core}.multiarray._reconstruct": _Call(_Held), f"{_core}.multiarray.scalar": _Call(_scalar),
               f"{_core}.numeric._frombuffer": _Call(_from_buffer)}
"""What a pickle may name -> what it gets: plain numpy arrays and numbers, and nothing that could do anything."""
_SAFE = [*((call, name) for name, call in _NAMES.items()), _Held, _Kind]


class _PlainUnpickler(pickle.Unpickler):
    """Knows `_NAMES`, and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if f"{module}.{name}" not in _NAMES:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return _NAMES[f"{module}.{name}"]


def _check_lengths(data: bytes) -> None:
    """Check that a pickle asks for no more memory than it has bytes: Python takes it before it reads on.

    Raises:
        ValueError: for one that does, or breaks off.
    """
    for code, value, _ in pickletools.genops(data):
        if code.name in _COUNTED and value > len(data):
            raise ValueError(f"{code.name} {value} in {len(data)} bytes")


_COUNTED = ("FRAME", "PUT", "BINPUT", "LONG_BINPUT")


def load_pickle(path: Path) -> Any:
    """What a pickle holds, if that is numpy arrays, numbers, strings and containers of them.

    Raises:
        DataError: if it is missing or damaged, or holds anything else.
    """
    try:
        data = path.read_bytes()
        _check_lengths(data)
        return _PlainUnpickler(io.BytesIO(data)).load()
    except Exception as error:  # whatever a damaged pickle raises
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
