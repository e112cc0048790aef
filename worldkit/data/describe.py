"""`describe`: what a data set holds, as plain numbers and text."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError
from .base import EpisodeSource
from .formats.video import native_size
from .recording import flat_entries
from .registry import find_format
from .splits import SPLITS, MissingSplitError
from .statistics import RunningStatistics

BINS = 8  # of the histogram of lengths
_EXAMPLES = 3  # instructions shown


def open_splits(
    target: str | os.PathLike[str],
    *,
    format: str | None = None,
    height: int | None = None,
    width: int | None = None,
    peek: bool = False,
    **options: Any,
) -> tuple[dict[str, EpisodeSource], dict[str, str]]:
    """The sources of all splits a data set has.

    Args:
        target: Name or path, as for `open_dataset`.
        format: Name of the format, if it should not be recognised.
        height, width: Frame size; default: the format's.
        peek: Only a few frames will be read: nothing is decoded into the cache.
        **options: Options of the format.
    Returns:
        Split -> source, and split -> why there is none.
    Raises:
        DataError: if there is none at all, one is damaged, or an option is unknown to the format.
    """
    target = os.fspath(target)
    found = find_format(target, format)
    found.check_options(target, options)
    opener = (found.peek or found.opener) if peek else found.opener
    sources: dict[str, EpisodeSource] = {}
    problems: dict[str, str] = {}
    for split in SPLITS:
        try:
            source = opener(target, split=split, height=height, width=width or height, **options)
        except MissingSplitError as error:
            problems[split] = str(error)
        else:
            if any(source.length(i) for i in range(source.num_episodes)):
                sources[split] = source
            else:
                problems[split] = f"split '{split}' has no frames: there is too little data to cut into splits"
    if not sources:
        raise DataError(next(iter(problems.values())))
    return sources, problems


def describe(target: str | os.PathLike[str], *, format: str | None = None, **options: Any) -> dict[str, Any]:
    """What a data set holds.

    Args:
        target: Name or path, as for `open_dataset`.
        format: Name of the format, if it should not be recognised.
        **options: Options of the format.
    Returns:
        ``format``, ``bytes`` on disk (``None`` for generated data), and ``splits``: for each split ``episodes``,
        ``frames``, ``lengths`` (``min``, ``median``, ``max``, and a histogram as ``edges`` and ``counts``),
        ``resolution``, ``pixels`` (how pictures become frames, in words), ``views``, and ``entries``: name ->
        ``shape`` (``T``: frames), ``dtype`` and, for actions,
        done masks and instructions, what values they take. ``problems``: split -> why there is none. ``notes``: what
        was left out, and why. For videos and images, which are read at 64 pixels by default, ``native_resolution`` is
        that of the first file, and each split has ``frame_sizes`` and ``frame_rates`` (as they lie on disk -> number of
        clips that have them).
    Raises:
        DataError: if there is nothing, or it is damaged; `validate` then tells all faults.
    Example:
        >>> describe("balls-32", num_episodes=3, episode_length=4)["splits"]["val"]["frames"]
        12
    """
    target = os.fspath(target)
    with warnings.catch_warnings(record=True) as left_out:
        warnings.simplefilter("always", RuntimeWarning)
        sources, problems = open_splits(target, format=format, peek=True, **options)
    about = {split: _describe(source) for split, source in sources.items()}
    name = find_format(target, format).name
    found = {"data": target, "format": name, "bytes": disk_bytes(target), "splits": about, "problems": problems}
    found["notes"] = list(dict.fromkeys(str(warning.message) for warning in left_out))
    if note := time_note(list(sources.values())):
        found["notes"].append(note)
    return found | {"native_resolution": list(native_size(target, options.get("series")))} if name == "video" else found


def time_note(sources: Sequence[EpisodeSource]) -> str | None:
    """What to say of splits that share episodes, because there are too few; None if they do not.

    Args:
        sources: Of the splits of one data set.
    """
    names = [{source.episode_name(i) for i in range(source.num_episodes)} for source in sources]
    known = type(sources[0]).episode_name is not EpisodeSource.episode_name  # else equal names mean nothing
    if len(names) < 2 or len(names[0]) >= len(SPLITS) or not names[0] & names[1] or not known:
        return None
    return (
        f"{len(names[0])} episode(s) are too few for splits of their own, which takes {len(SPLITS)}: each is cut in "
        "time, the first 80% are train, the next 10% val, the last 10% test"
    )


def disk_bytes(target: str) -> int | None:
    """Size of a file, or of all files in a folder; ``None`` if there is neither."""
    path = Path(target).expanduser()
    if path.is_file():
        return path.stat().st_size
    if not path.is_dir():
        return None
    return sum(os.lstat(os.path.join(root, name)).st_size for root, _, names in os.walk(path) for name in names)


def _describe(source: EpisodeSource) -> dict[str, Any]:
    lengths = np.array([source.length(i) for i in range(source.num_episodes)])
    first, summary = source.read(0, 0, 1), source.summary
    shape = first["video"].shape
    counts, edges = np.histogram(lengths, bins=_edges(lengths))
    return {
        "episodes": source.num_episodes,
        "frames": int(lengths.sum()),
        "lengths": {
            "min": int(lengths.min()),
            "median": float(np.median(lengths)),
            "max": int(lengths.max()),
            "edges": edges.tolist(),
            "counts": counts.tolist(),
        },
        "resolution": list(shape[-2:]),
        "pixels": None if source.fitting is None else str(source.fitting),
        "views": shape[0] if len(shape) == 5 else 1,
        "entries": _entries(source, first),
        **{name: dict(summary[name]) for name in ("frame_sizes", "frame_rates") if name in summary},
        "skipped": source.skipped,
    }


def _edges(lengths: np.ndarray) -> np.ndarray:
    """Whole numbers that cut the range of the lengths into a few equal parts."""
    width = -(-(lengths.max() - lengths.min() + 1) // BINS)
    return np.arange(lengths.min(), lengths.max() + width + 1, width)


def _entries(source: EpisodeSource, first: Mapping[str, Any]) -> dict[str, Any]:
    """What is there besides the video."""
    timed, constant = flat_entries({name: _plain(value) for name, value in first.items()})
    found: dict[str, Any] = {}
    for name, array in timed.items():
        found[name] = {"shape": ["T", *array.shape[1:]], "dtype": str(array.dtype)}
        if name in ("action", "done_mask"):
            found[name] |= _range(source, name)
    for name, value in constant.items():
        text = isinstance(value, str)
        found[name] = {"shape": [] if text else list(value.shape), "dtype": "text" if text else str(value.dtype)}
        if text:
            texts = list(dict.fromkeys(str(source.read_entry(i, name)) for i in range(source.num_episodes)))
            found[name] |= {"different": len(texts), "examples": texts[:_EXAMPLES]}
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _plain(entry) for name, entry in value.items()}
    return value if isinstance(value, str) else np.asarray(value)


def _range(source: EpisodeSource, name: str) -> dict[str, list[float]]:
    """Smallest, largest and mean value per dimension, over all finite rows."""
    running = RunningStatistics()
    for i in range(source.num_episodes):
        values = np.asarray(source.read_entry(i, name), np.float64)
        values = values.reshape(len(values), -1)
        running.update(values[np.isfinite(values).all(1)])
    return {which: getattr(running, which).tolist() for which in ("min", "max", "mean", "std")}
