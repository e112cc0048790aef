"""Episodes of HDF5 columns one by one, for `worldkit.data.validate`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from ...errors import DataError
from ..parts import CHUNK, Entries, Frame, Part, Problem, renamed
from ..recording import ACTIONS
from ..splits import SPLIT_FOLDERS
from .columns import column_files, read_index
from .h5 import H5File, datasets, read_rows
from .index import INDEX, overlaps


def columns_parts(path: Path, **options: Any) -> Iterator[Part | Problem]:
    """Every episode, and rows that two of them share."""
    for found in column_files(path):
        split = next((name for name, spellings in SPLIT_FOLDERS.items() if found.stem in spellings), "")
        file = H5File(found, read_index)
        index = read_index(found, file.open())
        for i, (length, offset) in enumerate(zip(*index, strict=True)):
            where = f"{found}, episode {i}"
            read = partial(_rows, file, slice(offset, offset + length), where)
            yield Part(where, split, partial(_row_frames, read), partial(_row_entries, read))
        yield from (Problem(f"{found}: {shared}") for shared in overlaps(*index))


def _rows(
    file: H5File, rows: slice, where: str, *, images: bool, part: slice = slice(None)
) -> Entries:
    """Columns of one episode, cameras or all others; ``part`` of its rows."""
    chosen = range(rows.start, rows.stop)[part]
    timed, constant = {}, {}
    for name, data in datasets(file.open()).items():
        if name in INDEX or not data.ndim or name.startswith("pixels") != images:
            continue
        if rows.start < 0 or rows.stop > len(data):
            place = f"rows {rows.start}..{rows.stop - 1}"
            raise DataError(f"it should lie at {place} (ep_offset, ep_len), but '{name}' has {len(data)} rows")
        if data.dtype.kind in "OS" and name not in ACTIONS:
            constant[name] = "text"
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
