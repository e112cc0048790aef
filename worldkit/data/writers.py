"""Formats that can be written, and `write_dataset`, which writes any source in any of them, complete or not at all.

To add one, write a class with ``write(episode)`` and ``close()``, and register it::

    from worldkit.data import register_writer

    class RobotLogWriter:
        def __init__(self, path, *, plan, compress=True):    # after ``plan``: the options of the format
            ...

    register_writer("robot-log", RobotLogWriter, description="robot logs, one file per episode")

``write_dataset(source, "out", "robot-log", compress=False)`` then works.
"""

from __future__ import annotations

import contextlib
import inspect
import math
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ..errors import DataError, DuplicateComponentError
from ..registry import load_plugins, suggestion
from .base import EpisodeSource
from .recording import flat_entries
from .registry import check_kinds
from .splits import check_split

DEFAULT_FPS = 10


@dataclass(frozen=True)
class Plan:
    """What is going to be written.

    Attributes:
        name: Name of the target's file or folder (while writing, it has another one).
        fps: Frames per second.
        splits: Split -> number of episodes, in the order in which they come; one entry ``""`` if there are no splits.
        lengths: Frames of every episode, in that order.
        sample: The first frame of the first episode, with all its entries.
        cameras: Names of the views, where the source knows them.
    """

    name: str
    fps: float
    splits: Mapping[str, int]
    lengths: tuple[int, ...]
    sample: Mapping[str, Any]
    cameras: tuple[str, ...] = ()

    @property
    def num_episodes(self) -> int:
        """Episodes of all splits."""
        return sum(self.splits.values())


class EpisodeWriter(Protocol):
    """What `write_dataset` calls: every episode once, in order, then ``close``."""

    def write(self, episode: Mapping[str, Any]) -> None:
        """Add an episode; entries as `EpisodeSource.read` gives them, numpy arrays."""

    def close(self) -> None:
        """Complete what was written."""


@dataclass(frozen=True)
class WritableFormat:
    """A registered writer."""

    name: str
    writer: Callable[..., EpisodeWriter]
    description: str
    suffixes: tuple[str, ...]
    joint: bool

    def options(self) -> list[str]:
        """Names of the options of the writer."""
        return [name for name in list(inspect.signature(self.writer).parameters)[1:] if name != "plan"]


_writers: dict[str, WritableFormat] = {}


def register_writer(
    name: str,
    writer: Callable[..., EpisodeWriter],
    *,
    description: str,
    suffixes: tuple[str, ...] = (),
    joint: bool = False,
) -> None:
    """Teach `write_dataset` a format.

    Args:
        name: Name for ``write_dataset(..., format=name)``.
        writer: ``writer(path, *, plan, **options)`` -> object with ``write`` and ``close``; ``path`` does not exist
            yet.
        description: What is written, in a few words.
        suffixes: If it writes a file, the suffixes it may have; the first one is used for the splits of a folder.
        joint: One data set holds all splits. Otherwise each split gets a writer and a file or folder of its own.
    Raises:
        DuplicateComponentError: if the name is taken.
    """
    if name in _writers:
        raise DuplicateComponentError(f"data writer '{name}' is registered twice: pick another name")
    _writers[name] = WritableFormat(name, writer, description, suffixes, joint)


def list_writers() -> dict[str, str]:
    """Name -> what is written, of every registered writer."""
    load_plugins()
    return {name: f.description for name, f in _writers.items()}


def suffix_writers(suffix: str) -> list[str]:
    """Names of the writers of files with a suffix, in the order of registration.

    Example:
        >>> suffix_writers(".h5")
        ['hdf5', 'columns']
    """
    load_plugins()
    return [name for name, f in _writers.items() if suffix in f.suffixes]


def write_dataset(
    source: EpisodeSource | Mapping[str, EpisodeSource],
    path: str | os.PathLike[str],
    format: str,
    *,
    fps: float | None = None,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
    **options: Any,
) -> Path:
    """Write episodes in a format.

    Everything goes to a hidden neighbour of the target, which is renamed when it is complete. After an interruption the
    target is not there, or still the old one; a ``.NAME.partial-PID`` that a killed process left can be deleted, and is
    never taken for data. (A process killed just between the two renames of a replacement leaves the old data set as
    ``.NAME.old-PID``.)

    Args:
        source: The episodes; or split (``"train"``, ``"val"``, ``"test"``) -> episodes, to keep the splits apart.
        path: Target: a folder, or for HDF5 without splits a file.
        format: A name of `list_writers`: ``"lerobot"``, ``"npz"``, ``"hdf5"``, ``"columns"``, ``"video"``,
            ``"frames"``, or a plugin's.
        fps: Frames per second. Default: the source's own, or 10.
        overwrite: Replace an existing target.
        progress: Called as ``progress(episodes written, episodes in all)``.
        **options: Options of the format, such as ``lossless=True``.
    Returns:
        The path.
    Raises:
        DataError: for an unknown format or option, a target that exists or cannot be written (a full disk), an empty
            source, episodes that differ in their entries, or an entry the format has no place for.
        MissingExtraError: if the format needs a package that is not installed.
    Example:
        >>> import tempfile; from worldkit.data import ArraySource, open_dataset
        >>> source = ArraySource([{"video": np.zeros((4, 3, 8, 8), np.uint8), "action": np.ones((4, 2), np.float32)}])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     written = write_dataset(source, f"{folder}/demo.hdf5", "columns")
        ...     open_dataset(written, num_frames=3)[0]["action"].shape
        torch.Size([3, 2])
    """
    found = _find(format, options)
    sources = dict(source) if isinstance(source, Mapping) else {"": source}
    for name in sources:
        if name:
            check_split(name)
    final = Path(path).expanduser().absolute()
    _check_target(final, found, "" in sources, overwrite)
    plan = _plan(final.name, sources, fps)
    partial = final.with_name(f".{final.name}.partial-{os.getpid()}")
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        _remove(partial)  # of an earlier process with the same number
        _write_all(partial, found, sources, plan, progress, options)
        _swap(partial, final, overwrite)
    except OSError as error:
        cause = os.strerror(error.errno) if error.errno else str(error).splitlines()[0]
        raise DataError(f"cannot write {final}: {cause}. Nothing was left there") from error
    finally:
        with contextlib.suppress(OSError):
            _remove(partial)
    return final


def _find(name: str, options: Mapping[str, Any]) -> WritableFormat:
    load_plugins()
    if name not in _writers:
        raise DataError(
            f"no writer for the data format '{name}'.{suggestion(name, list(_writers))} Known: {', '.join(_writers)}"
        )
    found = _writers[name]
    for option in options:
        if option not in found.options():
            raise DataError(
                f"writing '{name}' has no option '{option}'.{suggestion(option, found.options())} "
                f"It has: {', '.join(found.options()) or 'none'}"
            )
    check_kinds(found.writer, options, f"the writer '{name}'")
    return found


def _check_target(final: Path, found: WritableFormat, one_part: bool, overwrite: bool) -> None:
    if final.exists():
        if not overwrite:
            raise DataError(f"{final} exists already: give another path, or overwrite=True to replace it")
        if final in (Path.cwd(), Path.home(), *Path.cwd().parents, *Path.home().parents):
            raise DataError(f"{final} holds the current folder or your home: it will not be replaced")
    if found.suffixes and one_part and final.suffix not in found.suffixes:
        raise DataError(f"'{found.name}' without splits is a file: give a path with {' or '.join(found.suffixes)}")


def _plan(name: str, sources: Mapping[str, EpisodeSource], fps: float | None) -> Plan:
    if not any(source.num_episodes for source in sources.values()):
        raise DataError("there is no episode to write")
    first = next(source for source in sources.values() if source.num_episodes)
    if fps is None:
        fps = first.summary.get("fps") or DEFAULT_FPS
    if not 0 < fps < math.inf:
        raise DataError(f"fps must be a finite number above 0, got {fps}")
    return Plan(
        name=name,
        fps=float(fps),
        splits={split: source.num_episodes for split, source in sources.items()},
        lengths=tuple(source.length(i) for source in sources.values() for i in range(source.num_episodes)),
        sample=_arrays(first.read(0, 0, 1)),
        cameras=tuple(first.summary.get("cameras") or ()),
    )


def _write_all(
    partial: Path,
    found: WritableFormat,
    sources: Mapping[str, EpisodeSource],
    plan: Plan,
    progress: Callable[[int, int], None] | None,
    options: Mapping[str, Any],
) -> None:
    writer, written = None, 0
    try:
        for split, source in sources.items():
            if not found.joint or writer is None:
                path, part = partial, plan
                if split and not found.joint:
                    partial.mkdir(exist_ok=True)
                    path = partial / f"{split}{found.suffixes[0] if found.suffixes else ''}"
                    lengths = plan.lengths[written : written + source.num_episodes]
                    part = replace(plan, name=path.name, splits={split: source.num_episodes}, lengths=lengths)
                writer = found.writer(path, plan=part, **options)
            for episode in range(source.num_episodes):
                item = _arrays(source.read(episode, 0, source.length(episode)))
                _check_like(plan.sample, item, split, episode)
                writer.write(item)
                written += 1
                if progress is not None:
                    progress(written, plan.num_episodes)
            if not found.joint:
                writer.close()
        if found.joint:
            writer.close()
    except BaseException:
        _give_up(writer, partial)
        raise


def _give_up(writer: EpisodeWriter | None, partial: Path) -> None:
    """Close the files of a writer that failed; emptied first, so that a full disk takes what is flushed then."""
    with contextlib.suppress(OSError):
        for file in [partial] if partial.is_file() else partial.rglob("*"):
            if file.is_file():
                os.truncate(file, 0)
    if writer is not None:
        with contextlib.suppress(Exception):
            writer.close()


def _arrays(value: Any) -> Any:
    """Tensors, at any depth of dicts, as arrays."""
    if isinstance(value, Mapping):
        return {name: _arrays(entry) for name, entry in value.items()}
    return value.detach().cpu().numpy() if hasattr(value, "detach") else value


def _check_like(sample: Mapping[str, Any], item: Mapping[str, Any], split: str, episode: int) -> None:
    """Every episode must have the entries, dtypes and shapes (apart from time) of the first."""

    def layout(entries: Mapping[str, Any]) -> dict[str, Any]:
        timed, constant = flat_entries(entries)
        video = np.asarray(entries["video"])
        found = {name: (array.dtype, array.shape[1:]) for name, array in timed.items()}
        found |= {n: "text" if isinstance(v, str) else (v.dtype, v.shape) for n, v in constant.items()}
        return {**found, "video": (video.dtype, video.shape[:-4] + video.shape[-3:])}

    expected, got = layout(sample), layout(item)
    for name in sorted({*expected, *got}):
        if expected.get(name) != got.get(name):
            where = f"episode {episode}" + (f" of split '{split}'" if split else "")
            raise DataError(
                f"all episodes of a data set must agree, but {where} has {name} {got.get(name, 'not')}, the first "
                f"episode {expected.get(name, 'not')}"
            )


def _swap(partial: Path, final: Path, overwrite: bool) -> None:
    """Put what is complete in the place of the target; an old one is set aside first, and back if that fails."""
    if not final.exists():
        partial.rename(final)
        return
    if not overwrite:
        raise DataError(f"{final} was made by someone else in the meantime: give another path, or overwrite=True")
    old = final.with_name(f".{final.name}.old-{os.getpid()}")
    final.rename(old)
    try:
        partial.rename(final)
    except OSError:
        old.rename(final)
        raise
    _remove(old)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
