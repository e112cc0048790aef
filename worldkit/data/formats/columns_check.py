"""Episodes of HDF5 columns one by one, for `worldkit.data.validate`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from ...errors import DataError
from ..parts import CHUNK, Entries, Frame, Part, Problem, renamed
from ..splits import split_of
from .columns import column_files, is_camera, read_index
from .h5 import H5File, datasets, read_rows
from .index import INDEX, TEXTS, overlaps, role_of


def columns_parts(path: Path, **options: Any) -> Iterator[Part | Problem]:
    """Every episode, rows that two of them share, and what is not read."""
    for found in column_files(path):
        split = split_of(found.stem) or ""
        file = H5File(found, read_index)
        index = read_index(found, file.open())
        for i, (length, offset) in enumerate(zip(*index, strict=True)):
            where = f"{found}, episode {i}"
            read = partial(_rows, file, slice(offset, offset + length), where)
            yield Part(where, split, partial(_row_frames, read), partial(_row_entries, read))
        yield from (Problem(f"{found}: {shared}") for shared in overlaps(*index))
        yield from (Problem(f"{found}: {unread}", warning=True) for unread in _unread(file.open()))


def _unread(file: Any) -> Iterator[str]:
    """What lies in a file and no reader takes."""
    for name, data in file.items():
        if not hasattr(data, "shape"):
            yield f"the group '{name}' is not read: columns lie at the top of the file"
        elif name in INDEX or is_camera(name, data) or not data.ndim:
            continue
        elif name.startswith("pixels"):
            yield f"'{name}' is {data.dtype} {list(data.shape)}, no camera (uint8 [N, H, W, 3]): it is not read"
        elif role_of(name, data.dtype, data.ndim) is None:
            kind = f"text, and not called {', '.join(TEXTS)}" if data.dtype.kind in "OS" else f"{data.ndim} axes wide"
            yield f"'{name}' is {kind}: it is not read"


def _rows(
    file: H5File, rows: slice, where: str, *, images: bool, part: slice = slice(None)
) -> Entries:
    """Columns of one episode, cameras or all others; ``part`` of its rows."""
    chosen = range(rows.start, rows.stop)[part]
    timed, constant = {}, {}
    for name, data in datasets(file.open()).items():
        if name in INDEX or not data.ndim or name.startswith("pixels") != images or is_camera(name, data) != images:
            continue
        if rows.start < 0 or rows.stop > len(data):
            place = f"rows {rows.start}..{rows.stop - 1}"
            raise DataError(f"it should lie at {place} (ep_offset, ep_len), but '{name}' has {len(data)} rows")
        role = role_of(name, data.dtype, data.ndim)
        if role == "language":
            constant[role] = "text"
        elif role is None and not images:
            continue
        elif len(chosen):
            timed[name] = read_rows(data, slice(chosen.start, chosen.stop), where)
    return timed, constant


def _row_entries(read: Callable[..., Any]) -> Entries:
    timed, constant = read(images=False)
    return renamed(timed), constant


def _row_frames(read: Callable[..., Any]) -> Iterator[Frame]:
    start = 0
    while views := list(read(images=True, part=slice(start, start + CHUNK))[0].values()):
        yield from zip(*views, strict=True)
        start += CHUNK
