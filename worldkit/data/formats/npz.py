"""Episodes as ``.npz`` files, one each: numpy arrays under agreed names. Reader and writer.

Read are: the video, uint8 ``[T, H, W, C]`` or ``[T, C, H, W]`` (several cameras: one more axis in front), under
``video``, ``frames``, ``observations``, ``images``, ...; ``action`` or ``actions`` ``[T, A]``; ``done`` (1 at the last
frame of the episode; frames after it are padding) or ``done_mask``; ``language`` (a string, or token embeddings
``[L, E]``); ``goal_image``; ``masks.action`` and the like. Any other array as long as the video is ``state``, for
evaluation. Nothing is ever unpickled.
"""

from __future__ import annotations

import contextlib
import os
import zipfile
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import DataError
from ..base import EpisodeSource
from ..cache import Span, cache_key
from ..entries import DAMAGED, VIDEO_NAMES, fit_frames, load_arrays, read_entries, save_entries
from ..progress import track
from ..recording import Recording, RecordingSource, cached_frames
from ..splits import SPLIT_FOLDERS, split_episodes, split_folder
from .clip_files import IMAGE_SUFFIXES, VIDEO_SUFFIXES
from .image_series import natural_key

_VERSION = 1  # raise when resizing changes, so that old cache entries are not used


def is_npz(target: str) -> bool:
    """Whether a target is an ``.npz`` file by name, or a folder (or its split folders) of them and of no clips."""
    path = Path(target).expanduser()
    if path.suffix == ".npz":
        return True
    folders = [path, *(path / name for spellings in SPLIT_FOLDERS.values() for name in spellings)]
    suffixes: set[str] = set()
    for folder in folders:
        with contextlib.suppress(OSError), os.scandir(folder) as found:
            suffixes |= {Path(entry.name).suffix.lower() for entry in found if not entry.name.startswith(".")}
    return ".npz" in suffixes and not suffixes & {*VIDEO_SUFFIXES, *IMAGE_SUFFIXES}


def open_npz(
    target: str,
    *,
    split: str,
    height: int | None = None,
    width: int | None = None,
    resize: str = "crop",
    split_seed: int = 0,
) -> EpisodeSource:
    """An ``.npz`` file, or a folder of them; see the module docstring.

    Args:
        target: File, folder, or folder with ``train``, ``val`` and ``test``.
        split: ``"train"``, ``"val"`` or ``"test"``.
        height: Default: the height of the first episode.
        width: Default: the height given, else the width of the first episode.
        resize: ``"crop"``: scale the frame until it covers the target and cut the centre. ``"stretch"``: scale both
            sides freely.
        split_seed: Another seed, another split of the episodes.
    Raises:
        DataError: for a missing or damaged file, an array of another layout, or pickled objects.
    """
    if resize not in ("crop", "stretch"):
        raise DataError(f"resize must be 'crop' or 'stretch', got {resize!r}")
    path = Path(target).expanduser()
    if not path.exists():
        raise DataError(f"{path} does not exist: give an .npz file or a folder of them")
    part = split_folder(path, split) if path.is_dir() else None
    folder = part or path
    files = npz_files(folder)
    lengths = [_Video(file).length for file in files]
    whole = [(i, 0, length) for i, length in enumerate(lengths)]
    spans = whole if part else split_episodes([f.name for f in files], lengths, split, seed=split_seed)
    native = _Video(files[0]).size
    size = (height or native[0], width or height or native[1])
    cut_in_time = any((first, last) != (0, lengths[i]) for i, first, last in spans)
    spans = track(spans, f"Reading {path.name}")
    recordings = [read_recording(files[i], size, resize).cut(first, last) for i, first, last in spans]
    split_by = "time" if cut_in_time else "clip"
    return RecordingSource(recordings, name=path.name, kind="npz", split=split, split_by=split_by, synthetic=False)


def npz_files(path: Path) -> list[Path]:
    """The files of a folder in natural order, or the file itself.

    Raises:
        DataError: if there is none.
    """
    files = sorted(path.glob("[!.]*.npz"), key=lambda f: natural_key(f.name)) if path.is_dir() else [path]
    if not files:
        raise DataError(f"{path} holds no .npz file")
    return files


def stored_frames(path: Path) -> Iterator[tuple[np.ndarray, ...]]:
    """Frames of a file in their own size, for each a tuple of its views ``[H, W, 3]``.

    Raises:
        DataError: see `open_npz`.
    """
    video = _Video(path)
    views = [_frames(path, video, view, video.size, "crop") for view in range(video.views or 1)]
    yield from zip(*views, strict=True)


class _Video:
    """Where the video of a file is and how it is laid out, from the array's header alone."""

    def __init__(self, path: Path):
        try:
            with zipfile.ZipFile(path) as archive:
                names = [name.removesuffix(".npy") for name in archive.namelist()]
                found = [name for name in VIDEO_NAMES if name in names]
                if not found:
                    raise DataError(
                        f"{path} has no video: expected uint8 frames under {', '.join(VIDEO_NAMES[:4])}, ...; "
                        f"it has {', '.join(names) or 'nothing'}"
                    )
                with archive.open(f"{found[0]}.npy") as file:
                    shape, dtype = _header(file)
        except DAMAGED as error:
            if isinstance(error, DataError):
                raise
            raise DataError(f"{path} cannot be read as .npz: it is missing, truncated or damaged ({error})") from error
        self.name = found[0]
        what = f"{path}: '{self.name}'"
        if dtype != np.uint8 or len(shape) not in (4, 5) or 0 in shape:
            raise DataError(
                f"{what} must be uint8 [T, H, W, C] or [T, C, H, W] (several cameras: one axis more in front), "
                f"got {dtype} {list(shape)}"
            )
        last, front = shape[-1] in (1, 3), shape[-3] in (1, 3)
        if last == front:
            problem = "its channels could be first or last" if last else "it has neither 1 nor 3 channels"
            raise DataError(f"{what} {list(shape)}: {problem}; store it as uint8 [T, H, W, 3]")
        self.channels_last = last
        self.views = shape[0] if len(shape) == 5 else None
        self.length = shape[-4]
        self.size = (shape[-3], shape[-2]) if last else (shape[-2], shape[-1])


def _header(file: Any) -> tuple[tuple[int, ...], np.dtype]:
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(file)
    return shape, dtype


def read_recording(path: Path, size: tuple[int, int], resize: str = "crop") -> Recording:
    """One file as a recording at a frame size; its frames go through the cache.

    Raises:
        DataError: see `open_npz`.
    """
    video = _Video(path)
    facts = (str(path.resolve()), path.stat().st_mtime_ns, path.stat().st_size)
    views = []
    for view in range(video.views or 1):
        key = cache_key(path.name, version=_VERSION, file=facts, view=view, size=size, resize=resize)
        views.append(Span.whole(cached_frames(key, partial(_frames, path, video, view, size, resize))))
    timed, constant = read_entries(path, video.length, size, resize)
    return Recording(path.name, tuple(views), timed, constant)


def _frames(path: Path, video: _Video, view: int, size: tuple[int, int], resize: str) -> Iterator[np.ndarray]:
    frames = load_arrays(path, [video.name])[video.name]
    yield from fit_frames(frames[view] if video.views else frames, video.channels_last, size, resize)


class NpzWriter:
    """Writes a folder of ``episode_000000.npz`` and so on (compressed), or one ``.npz`` file.

    Args:
        path: Folder, or a file for a single episode.
        plan: What will be written; see `worldkit.data.writers.Plan`.
    Raises:
        DataError: for a file name and more than one episode.
    """

    def __init__(self, path: Path, *, plan: Any):
        self._path, self._written = path, 0
        self._single = plan.name.endswith(".npz")
        if self._single and plan.num_episodes != 1:
            raise DataError(f"{plan.name} can hold one episode, not {plan.num_episodes}: give a folder")
        if not self._single:
            path.mkdir(parents=True)

    def write(self, episode: Mapping[str, Any]) -> None:
        """Add an episode, entries as `EpisodeSource.read` gives them."""
        target = self._path if self._single else self._path / f"episode_{self._written:06d}.npz"
        with open(target, "wb") as file:
            save_entries(file, episode, video=np.asarray(episode["video"]))
        self._written += 1

    def close(self) -> None:
        """Nothing is left to do."""
