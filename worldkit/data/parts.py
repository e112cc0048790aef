"""A data set piece by piece, as it is on disk: what `worldkit.data.validate` looks at.

Readers stop at the first fault, and pass on what models can take. Here every episode is read on its own, and numbers
come unchecked, so that one fault does not hide the next one. A format says with ``register_format(..., parts=...)`` how
its files are read so; of others, the sources are read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError
from .base import EpisodeSource
from .entries import load_arrays
from .formats.hdf5 import HDF5Source
from .layouts.source import LayoutSource
from .recording import actions_in, flat_entries
from .registry import find_format
from .splits import SPLITS, MissingSplitError, split_folder

CHUNK = 32  # frames in memory at a time
Entries = tuple[dict[str, np.ndarray], dict[str, Any]]
"""Name -> array with a time axis, and name -> value of the whole episode."""
Frame = tuple[np.ndarray, ...]
"""What every camera shows at one moment, uint8 ``[H, W, 3]`` each; cameras may differ in size."""


@dataclass(frozen=True)
class Part:
    """One episode.

    Attributes:
        path: Its file or folder; where a file holds many episodes, also which one.
        split: Split it belongs to, ``""`` if the data set is not split.
        frames: Yields the frames one after the other; raises DataError.
        entries: What is there besides.
        images: In place of ``frames``: the image files of each camera.
        lacks: Cameras of other episodes that this one has not, if a `Problem` tells of them.
        rate: Frames per second that a video file states.
        pauses: Usual and longest time between its frames, if they are not alike.
    """

    path: str
    split: str
    frames: Callable[[], Iterator[Frame]] | None
    entries: Callable[[], Entries]
    images: tuple[tuple[Path, ...], ...] = ()
    lacks: tuple[str, ...] = ()
    rate: Callable[[], float | None] | None = None
    pauses: Callable[[], tuple[float, float] | None] | None = None


@dataclass(frozen=True)
class Problem:
    """What is wrong with a data set as a whole; a warning: what may be meant so."""

    text: str
    warning: bool = False


def find_parts(target: str, format: str | None, options: Mapping[str, Any]) -> tuple[str, list[Part], list[Problem]]:
    """All episodes of a data set.

    Args:
        target: Name or path.
        format: Name of the format; ``None``: it is recognised.
        options: Options of the format.
    Returns:
        Name of the format, its episodes, and what is wrong with the whole or kept splits from being opened.
    Raises:
        DataError: if nothing can be opened.
    """
    found = find_format(target, format)
    found.check_options(target, options)
    path = Path(target).expanduser()
    if found.parts is not None and not path.exists():
        raise DataError(f"{path} does not exist")
    held = list(found.parts(path, **options) if found.parts is not None else _from_sources(target, found, options))
    parts = [part for part in held if isinstance(part, Part)]
    problems = [problem for problem in held if isinstance(problem, Problem)]
    if not parts:
        raise DataError(problems[0].text if problems else f"{path} holds no episode")
    return found.name, parts, problems


def split_folders(path: Path, suffixes: Sequence[str] = ("",)) -> Iterator[tuple[str, Path] | Problem]:
    """Split and folder of each split, or the folder alone; a split that is not there is a problem."""
    for split in SPLITS:
        try:
            part = split_folder(path, split, suffixes)
        except MissingSplitError as error:
            yield Problem(str(error), warning=True)
            continue
        if part is None:
            yield "", path
            return
        yield split, part


def npz_entries(path: Path) -> Entries:
    """What an ``.npz`` file holds, if there is one."""
    return named(load_arrays(path)) if path.is_file() else ({}, {})


def named(arrays: Mapping[str, np.ndarray]) -> Entries:
    """Arrays of an ``.npz`` file as entries: actions and masks have a time axis; of others, it is not known."""
    known = (actions_in(arrays), "done", "done_mask")
    timed = {n: a for n, a in arrays.items() if n in known or n.startswith("masks.")}
    constant: dict[str, Any] = {n: a for n, a in arrays.items() if n not in timed}
    if "language" in constant and constant["language"].dtype.kind == "U" and constant["language"].size == 1:
        constant["language"] = str(constant["language"])
    return renamed(timed), constant


def renamed(columns: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Columns with our name for actions."""
    actions = actions_in(columns)
    return {"action" if name == actions else name: array for name, array in columns.items()}


def _from_sources(target: str, found: Any, options: Mapping[str, Any]) -> Iterator[Part | Problem]:
    """Episodes of a format that is known by its sources only."""
    told: set[str] = set()
    for split in SPLITS:
        try:
            source = found.opener(target, split=split, height=None, width=None, **options)
        except DataError as error:
            yield Problem(str(error), warning=isinstance(error, MissingSplitError))
        else:
            yield from _of_source(source, split)
            for name in source.unread if isinstance(source, HDF5Source) else ():
                if name not in told:
                    told.add(name)
                    yield Problem(f"'{name}' is no number per frame, [N, T, ...]: it is not read", warning=True)


def _of_source(source: EpisodeSource, split: str) -> Iterator[Part]:
    """Episodes of one split."""
    name = source.summary.get("name", "data")
    for empty in source.empty if isinstance(source, LayoutSource) else ():
        yield Part(str(source.root / split / empty), split, None, lambda: ({}, {}), ((),))
    for i in range(source.num_episodes):
        if isinstance(source, LayoutSource):
            episode = source.episodes[i]
            images = tuple(tuple(view.image_paths()) for view in episode.views)
            entries = partial(_layout_entries, source, i)
            yield Part(str(source.root / split / episode.name), split, None, entries, images)
        elif isinstance(source, HDF5Source):
            frames = partial(_chunks, partial(source.video, i), source.length(i))
            yield Part(source.episode_name(i), split, frames, partial(_stored, source, i))
        else:
            frames = partial(_chunks, partial(_source_video, source, i), source.length(i))
            where = f"{name}, split '{split}', {source.episode_name(i)}"
            yield Part(where, split, frames, partial(source_entries, source, i))


def _layout_entries(source: LayoutSource, number: int) -> Entries:
    episode = source.episodes[number]
    source.check_steps(episode)
    return source.columns(episode), source.constants(episode)


def _chunks(read: Callable[[int, int], Any], length: int) -> Iterator[Frame]:
    for start in range(0, length, CHUNK):
        video = np.moveaxis(np.asarray(read(start, min(start + CHUNK, length))), -3, -1)
        yield from zip(*(video[None] if video.ndim == 4 else video), strict=True)


def _stored(source: HDF5Source, number: int) -> Entries:
    return renamed(source.stored(number, 0, source.length(number))), {}


def _source_video(source: EpisodeSource, number: int, start: int, stop: int) -> Any:
    return source.read(number, start, stop)["video"]


def source_entries(source: EpisodeSource, number: int) -> Entries:
    names = [n for n in source.read(number, 0, 1) if n not in ("video", "state", "masks", "goal_image")]
    return flat_entries({n: source.read_entry(number, n) for n in names})
