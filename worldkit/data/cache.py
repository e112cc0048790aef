"""The on-disk cache of decoded and generated clips: uint8, ready to train on.

One entry is a folder of ``.npy`` files whose first axis is time: ``video.npy`` ``[T, C, H, W]`` and, where there are
any, ``state.position.npy`` and the like. It is written under a temporary name and renamed when complete, so a
half-written entry is never found; an entry whose files are shorter than their headers say (power loss) is thrown away
and made again. Entries are named by everything they depend on, so they never go stale. Deleting the cache folder is
always safe. Several users may share one: what one of them has decoded, the others read.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError, WorldkitError
from ..files import new_folder
from .base import EpisodeSource


def cache_folder() -> Path:
    """``$WORLDKIT_CACHE`` if set, else ``~/.cache/worldkit``."""
    return Path(os.environ.get("WORLDKIT_CACHE") or Path.home() / ".cache" / "worldkit").expanduser()


def cache_key(name: str, **facts: Any) -> str:
    """A readable folder name with a hash of everything the entry depends on.

    Example:
        >>> cache_key("bikes.mp4", height=64, width=64)
        'bikes.mp4-6335d388e69e48e3'
    """
    digest = hashlib.sha256(json.dumps([name, facts], sort_keys=True).encode()).hexdigest()[:16]
    safe = "".join(c if c.isalnum() or c in "._-" else "_" for c in name)[-60:]
    return f"{safe}-{digest}"


class NpyWriter:
    """Appends blocks along the first axis of a ``.npy`` file; the header is completed by `close`.

    Example:
        >>> import tempfile; folder = tempfile.TemporaryDirectory()
        >>> writer = NpyWriter(Path(folder.name) / "x.npy")
        >>> writer.append(np.zeros((2, 3), np.uint8)); writer.append(np.ones((1, 3), np.uint8)); writer.close()
        >>> np.load(Path(folder.name) / "x.npy").shape
        (3, 3)
    """

    def __init__(self, path: Path):
        self._file = open(path, "wb")
        self._rows, self._tail, self._dtype, self._header = 0, None, None, 0

    def append(self, block: np.ndarray) -> None:
        """Add ``[n, ...]``; every block must agree with the first in dtype and in the axes after the first."""
        if self._tail is None:
            self._tail, self._dtype = block.shape[1:], block.dtype
            self._write_header()
            self._header = self._file.tell()
        if (block.shape[1:], block.dtype) != (self._tail, self._dtype):
            raise DataError(
                f"blocks of one clip differ: {self._dtype} {self._tail}, then {block.dtype} {block.shape[1:]}"
            )
        self._file.write(np.ascontiguousarray(block).data)
        self._rows += len(block)

    def _write_header(self) -> None:
        np.lib.format.write_array_header_1_0(
            self._file,
            {
                "descr": np.lib.format.dtype_to_descr(self._dtype),
                "fortran_order": False,
                "shape": (self._rows, *self._tail),
            },
        )

    def close(self) -> None:
        """Write the final shape (numpy leaves room for the first axis to grow) and flush to disk."""
        if self._tail is not None:
            self._file.seek(0)
            self._write_header()
            assert self._file.tell() == self._header
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()


def cached(key: str, blocks: Callable[[], Iterable[dict[str, np.ndarray]]]) -> Path:
    """The folder of a cache entry, made first if it is not there.

    Args:
        key: From `cache_key`.
        blocks: Called if the entry must be made; yields dicts field -> array ``[t, ...]``, in order of time.
    Returns:
        Folder with one ``<field>.npy`` per field.
    Raises:
        DataError: if nothing was yielded.
        WorldkitError: if the cache cannot be written (not a DataError, so that ``on_error="skip"`` does not hide it).
    """
    try:
        final = _place(cache_folder() / key)
        if final.is_dir():
            return final
        final.parent.mkdir(parents=True, exist_ok=True)
        partial = new_folder(final.parent, f".partial-{key}-")
    except OSError as error:
        raise _cannot_write(cache_folder(), error) from error
    try:
        _write(partial, blocks())
        try:
            partial.rename(final)
        except OSError:  # another process finished the same entry first
            if not (final.is_dir() and _intact(final)):
                raise
    except OSError as error:
        raise _cannot_write(final.parent, error) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return final


def _place(entry: Path) -> Path:
    """The folder of an entry, or our own beside it, if another user keeps a closed or damaged one there."""
    user = os.geteuid() if hasattr(os, "geteuid") else 0
    for folder in (entry, entry.with_name(f"{entry.name}-user{user}")):
        if not folder.is_dir():
            return folder
        try:
            os.listdir(folder)
            if _intact(folder):
                return folder
            shutil.rmtree(folder)
            return folder
        except PermissionError:
            continue
    raise WorldkitError(f"{folder} cannot be read nor deleted: delete it, or set WORLDKIT_CACHE to another folder")


def _cannot_write(folder: Path, error: OSError) -> WorldkitError:
    return WorldkitError(
        f"cannot write the cache folder {folder} ({error}): "
        "free some space there, or set WORLDKIT_CACHE to a folder that can be written (by several users: mode 1777)"
    )


def _write(folder: Path, blocks: Iterable[dict[str, np.ndarray]]) -> None:
    writers: dict[str, NpyWriter] = {}
    try:
        for block in blocks:
            for field, array in block.items():
                if field not in writers:
                    writers[field] = NpyWriter(folder / f"{field}.npy")
                writers[field].append(array)
    finally:
        for writer in writers.values():
            writer.close()
    if not writers:
        raise DataError("nothing to cache: no frames")


def _intact(folder: Path) -> bool:
    try:
        return len({len(array) for array in _open(folder).values()}) == 1
    except PermissionError:
        raise
    except (ValueError, OSError):  # numpy: file shorter than its header says, or no header
        return False


def _open(folder: Path) -> dict[str, np.ndarray]:
    return {path.stem: np.load(path, mmap_mode="r") for path in sorted(folder.glob("*.npy"))}


@lru_cache(maxsize=128)  # every file map holds a file descriptor; kept here, a source stays small to pickle
def cached_maps(folder: Path) -> dict[str, np.ndarray]:
    """All fields of an entry, mapped into memory.

    Raises:
        DataError: if the entry was deleted since.
    """
    fields = _open(folder)
    if not fields:
        raise DataError(f"{folder} is gone: the cache was emptied while its data were in use. Open the data again")
    return fields


def cached_video(folder: Path) -> np.ndarray:
    """The frames of an entry ``[T, C, H, W]``, mapped into memory."""
    return cached_maps(folder)["video"]


@dataclass(frozen=True)
class Span:
    """An episode inside a cache entry: frames ``start .. stop - 1`` of ``folder``."""

    folder: Path
    start: int
    stop: int

    @classmethod
    def whole(cls, folder: Path) -> Span:
        """All frames of an entry."""
        return cls(folder, 0, len(np.load(folder / "video.npy", mmap_mode="r")))

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the frames."""
        height, width = cached_video(self.folder).shape[-2:]
        return height, width

    def read(self, start: int, stop: int) -> np.ndarray:
        """Frames ``start .. stop - 1`` of the episode, ``[T, C, H, W]``."""
        return np.array(cached_video(self.folder)[self.start + start : self.start + stop])


@dataclass(frozen=True)
class Unread:
    """An episode that is not in the cache: frames are decoded when they are read, and kept nowhere. For a look at data.

    Attributes:
        frames: Called as ``frames(first, last)``, yields frames ``[H, W, C]`` of the whole recording.
        size: Their height and width.
        start, stop: The part of the recording that is meant.
    """

    frames: Callable[[int, int], Iterable[np.ndarray]]
    size: tuple[int, int]
    start: int
    stop: int

    def read(self, start: int, stop: int) -> np.ndarray:
        """Frames ``start .. stop - 1`` of the part, ``[T, C, H, W]``."""
        stop = min(self.start + stop, self.stop)
        frames = [np.moveaxis(frame, -1, 0) for frame in self.frames(self.start + start, stop)]
        return np.stack(frames) if frames else np.zeros((0, 3, *self.size), np.uint8)


class CacheSource(EpisodeSource):
    """Episodes that lie in the cache. Files are mapped into memory, not read.

    Args:
        spans: One per episode.
        skipped: Clips that were left out on the way.
        **summary: The source's summary; ``resolution`` is added.
    """

    def __init__(self, spans: Sequence[Span], *, skipped: int = 0, **summary: Any):
        self._spans, self.skipped = list(spans), skipped
        self._summary = summary

    @property
    def num_episodes(self) -> int:
        return len(self._spans)

    def episode_name(self, episode: int) -> str:
        split = self._summary.get("split")
        return f"{split}/{episode}" if split else super().episode_name(episode)

    def length(self, episode: int) -> int:
        return self._spans[episode].stop - self._spans[episode].start

    def read(self, episode: int, start: int, stop: int) -> dict[str, Any]:
        span = self._spans[episode]
        item: dict[str, Any] = {}
        for field, array in cached_maps(span.folder).items():
            frames = np.array(array[span.start + start : span.start + stop])  # a copy, off the file map
            group, _, name = field.rpartition(".")
            (item.setdefault(group, {}) if group else item)[name] = frames
        return item

    @property
    def summary(self) -> dict[str, Any]:
        resolution = list(self.read(0, 0, 1)["video"].shape[-2:]) if self._spans else None
        return {**self._summary, "resolution": resolution}
