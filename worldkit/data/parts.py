"""A data set piece by piece, as it is on disk: what `worldkit.data.validate` looks at.

Readers stop at the first fault, and pass on what models can take. Here every episode is read on its own, and numbers
come unchecked, so that one fault does not hide the next one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError
from .base import EpisodeSource
from .cache import cached_video
from .decode import decode_video, video_size
from .entries import load_arrays
from .formats.columns import column_files, read_index
from .formats.h5 import H5File, datasets, read_rows
from .formats.hdf5 import HDF5Source
from .formats.index import INDEX, overlaps
from .formats.lerobot import read_camera
from .formats.lerobot_check import contradictions
from .formats.lerobot_meta import read_columns, read_episodes, read_info
from .formats.npz import npz_files, stored_frames
from .formats.clip_files import Clip, find_clips
from .layouts.source import LayoutSource
from .recording import ACTIONS, flat_entries
from .registry import find_format
from .splits import SPLIT_FOLDERS, SPLITS, split_folder

CHUNK = 32  # frames in memory at a time


@dataclass(frozen=True)
class Part:
    """One episode.

    Attributes:
        path: Its file or folder; where a file holds many episodes, also which one.
        split: Split it belongs to, ``""`` if the data set is not split.
        frames: Yields the frames one after the other, for each a tuple of its views, uint8 ``[H, W, 3]`` (cameras may
            differ in size); raises DataError.
        entries: What is there besides: name -> array with a time axis, and name -> value of the whole episode.
        images: In place of ``frames``: the image files of each camera.
    """

    path: str
    split: str
    frames: Callable[[], Iterator[tuple[np.ndarray, ...]]] | None
    entries: Callable[[], tuple[dict[str, np.ndarray], dict[str, Any]]]
    images: tuple[tuple[Path, ...], ...] = ()


def find_parts(target: str, format: str | None, options: Mapping[str, Any]) -> tuple[str, list[Part], list[DataError]]:
    """All episodes of a data set.

    Args:
        target: Name or path.
        format: Name of the format; ``None``: it is recognised.
        options: Options of the format, for formats that are read through their sources.
    Returns:
        Name of the format, its episodes, and what is wrong with the whole or kept splits from being opened.
    Raises:
        DataError: if nothing can be opened.
    """
    found = find_format(target, format)
    path = Path(target).expanduser()
    found.check_options(target, options)
    clips = partial(_clips, series=options.get("series"))
    finder = {"video": clips, "npz": _npz, "lerobot": _lerobot, "columns": _columns}.get(found.name)
    if finder is not None:
        if not path.exists():
            raise DataError(f"{path} does not exist")
        parts = list(finder(path))
        if not parts:
            raise DataError(f"{path} holds no episode")
        check = {"lerobot": contradictions, "columns": _shared_rows}.get(found.name)
        return found.name, parts, list(check(path)) if check else []
    parts, problems = [], []
    for split in SPLITS:
        try:
            source = found.opener(target, split=split, height=None, width=None, **options)
        except DataError as error:
            problems.append(error)
        else:
            parts += _of_source(source, split)
    if not parts:
        raise problems[0] if problems else DataError(f"{target} holds no episode")
    return found.name, parts, problems


def _split_folders(path: Path) -> list[tuple[str, Path]]:
    """Split and folder of each split, or the folder alone."""
    found = []
    for split in SPLITS:
        try:
            part = split_folder(path, split)
        except DataError:  # split, but not this one
            continue
        if part is not None:
            found.append((split, part))
    return found or [("", path)]


def _clips(path: Path, series: str | Sequence[str] | None = None) -> Iterator[Part]:
    if path.is_file():
        yield _clip(Clip(path.name, (path,)), "")
        return
    for split, folder in _split_folders(path):
        for clip in find_clips(folder, series):
            yield _clip(clip, split)


def _clip(clip: Clip, split: str) -> Part:
    entries = partial(_sidecar, clip.sidecar)
    if not clip.is_video:
        return Part(str(clip.files[0].parent), split, None, entries, clip.views)
    return Part(str(clip.files[0]), split, partial(_video, clip.files[0]), entries)


def _video(path: Path) -> Iterator[tuple[np.ndarray, ...]]:
    yield from ((frame,) for frame in decode_video(path, *video_size(path)))


def _sidecar(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    return _named(load_arrays(path)) if path.is_file() else ({}, {})


def _named(arrays: Mapping[str, np.ndarray]) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Arrays of an ``.npz`` file: actions and masks have a time axis; of others, it is not known."""
    timed = {n: a for n, a in arrays.items() if n in (*ACTIONS, "done", "done_mask") or n.startswith("masks.")}
    plain = {n: a.dtype.kind != "U" or (n == "language" and a.size != 1) for n, a in arrays.items()}
    constant = {n: a if plain[n] else str(a) for n, a in arrays.items() if n not in timed}
    return _renamed(timed), constant


def _renamed(columns: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {"action" if name in ACTIONS else name: array for name, array in columns.items()}


def _npz(path: Path) -> Iterator[Part]:
    for split, folder in _split_folders(path) if path.is_dir() else [("", path)]:
        for file in npz_files(folder):
            yield Part(str(file), split, partial(stored_frames, file), partial(_sidecar, file))


def _lerobot(path: Path) -> Iterator[Part]:
    info = read_info(path)
    cameras = info.cameras(without="goal_image")
    spans = info.splits.items() if len(info.splits) > 1 else ()
    for episode in read_episodes(info):
        split = next((name for name, (first, last) in spans if first <= episode.index < last), "")

        def entries(episode: Any = episode) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
            return _renamed(read_columns(info, [episode])[episode.index]), {}

        def frames(episode: Any = episode) -> Iterator[tuple[np.ndarray, ...]]:
            stamps = read_columns(info, [episode])[episode.index]["timestamp"]
            views = [cached_video(read_camera(info, n, s, "crop", episode, stamps).folder) for n, s in cameras.items()]
            for frame in zip(*views, strict=True):
                yield tuple(np.moveaxis(view, 0, -1) for view in frame)

        yield Part(f"{path}, episode {episode.index}", split, frames, entries)


def _columns(path: Path) -> Iterator[Part]:
    for found in column_files(path):
        split = next((name for name, spellings in SPLIT_FOLDERS.items() if found.stem in spellings), "")
        file = H5File(found, read_index)
        for i, (length, offset) in enumerate(zip(*read_index(found, file.open()), strict=True)):
            where = f"{found}, episode {i}"
            read = partial(_rows, file, slice(offset, offset + length), where)
            yield Part(where, split, partial(_row_frames, read), partial(_row_entries, read))


def _shared_rows(path: Path) -> Iterator[DataError]:
    for found in column_files(path):
        index = read_index(found, H5File(found, read_index).open())
        yield from (DataError(f"{found}: {shared}") for shared in overlaps(*index))


def _rows(
    file: H5File, rows: slice, where: str, *, images: bool, part: slice = slice(None)
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
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


def _row_entries(read: Callable[..., Any]) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    timed, constant = read(images=False)
    return _renamed(timed), constant


def _row_frames(read: Callable[..., Any]) -> Iterator[tuple[np.ndarray, ...]]:
    start = 0
    while views := list(read(images=True, part=slice(start, start + CHUNK))[0].values()):
        yield from zip(*views, strict=True)
        start += CHUNK


def _of_source(source: EpisodeSource, split: str) -> Iterator[Part]:
    """Episodes of a format that is known by its source only."""
    name = source.summary.get("name", "data")
    for i in range(source.num_episodes):
        if isinstance(source, LayoutSource):
            episode = source.episodes[i]
            images = tuple(tuple(view.image_paths()) for view in episode.views)
            entries = partial(_layout_entries, source, i)
            yield Part(str(source.root / split / episode.name), split, None, entries, images)
        elif isinstance(source, HDF5Source):
            frames = partial(_chunks, partial(source.video, i), source.length(i))
            yield Part(f"{name}, split '{split}', episode {i}", split, frames, partial(_stored, source, i))
        else:
            frames = partial(_chunks, partial(_source_video, source, i), source.length(i))
            yield Part(f"{name}, split '{split}', episode {i}", split, frames, partial(_source_entries, source, i))


def _layout_entries(source: LayoutSource, number: int) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    episode = source.episodes[number]
    return source.columns(episode), source.constants(episode)


def _chunks(read: Callable[[int, int], Any], length: int) -> Iterator[tuple[np.ndarray, ...]]:
    for start in range(0, length, CHUNK):
        video = np.moveaxis(np.asarray(read(start, min(start + CHUNK, length))), -3, -1)
        yield from zip(*(video[None] if video.ndim == 4 else video), strict=True)


def _stored(source: HDF5Source, number: int) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    return _renamed(source.stored(number, 0, source.length(number))), {}


def _source_video(source: EpisodeSource, number: int, start: int, stop: int) -> Any:
    return source.read(number, start, stop)["video"]


def _source_entries(source: EpisodeSource, number: int) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    names = [n for n in source.read(number, 0, 1) if n not in ("video", "state", "masks", "goal_image")]
    return flat_entries({n: source.read_entry(number, n) for n in names})
