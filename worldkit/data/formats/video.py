"""Video files, and folders of videos, images or image folders: decoded once, resized, kept in the cache as uint8.

Each clip becomes one cache entry named by its path, modification time, size and the target size; training reads that. A
folder is searched with its sub-folders: every video file is a clip, and so is every folder that holds image files, in
order of time (``frame2`` before ``frame10``, ``84.38285`` before ``84.4156127``); of several series, the one chosen is
taken (`worldkit.data.formats.image_series`). How clips are split is told in `worldkit.data.splits`. Actions and the
like may lie beside: ``CLIP.npz`` for ``CLIP.mp4``, ``entries.npz`` in a folder of images (see
`worldkit.data.formats.npz`).
"""

from __future__ import annotations

import contextlib
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import DataError
from ...progress import track
from ..base import EpisodeSource
from ..cache import Span, Unread, cache_key
from ..decode import WHITE, check_white, decode_images, decode_video, image_size
from ..entries import read_entries
from ..film import decoder
from ..fit import Fitting, check_resize, some
from ..glance import frames_between, look
from ..recording import Recording, RecordingSource, cached_frames
from ..splits import ALL, SPLITS, nested_splits, split_clips, split_folder, split_time
from .clip_files import VIDEO_SUFFIXES, Clip, find_clips
from .scenes import scenes

DEFAULT_SIZE = 64
_VERSION = 2  # raise when decoding or resizing changes, so that old cache entries are not used


def is_clip_path(target: str) -> bool:
    """Whether a target is a folder, a file, or at least named like a video; for the registry.

    A file with another suffix counts, too: FFmpeg looks at the content, and says best what is wrong with it.
    """
    path = Path(target).expanduser()
    return path.exists() or path.suffix.lower() in VIDEO_SUFFIXES


def open_video(
    target: str,
    *,
    split: str,
    height: int | None = None,
    width: int | None = None,
    resize: str = "pad",
    max_frames: int | None = None,
    on_error: str = "raise",
    split_seed: int = 0,
    series: str | Sequence[str] | None = None,
    white: int = WHITE,
) -> EpisodeSource:
    """A video file, or a folder of clips.

    Args:
        target: File or folder.
        split: ``"train"``, ``"val"`` or ``"test"``.
        height: Default 64.
        width: Default: the height.
        resize: ``"pad"`` (whole picture, black borders), ``"stretch"`` or ``"crop"``; see `worldkit.data.fit`.
        max_frames: Use only the first frames of every clip.
        on_error: ``"raise"``, or ``"skip"``: leave out a clip that cannot be decoded, with a warning, and count it.
        split_seed: Another seed, another split of the clips.
        series: Which of several series of images in one folder (``"rgba"``); several (``"left,right"``) are cameras of
            one clip; ``"all"``: all images, one behind the other.
        white: The value of 16-bit images that becomes white; for depth in mm, the farthest to tell apart (4000).
    Raises:
        DataError: see `open_dataset`.
    """
    wanted = _Wanted((height or DEFAULT_SIZE, width or height or DEFAULT_SIZE), resize, max_frames, white)
    return _open(target, wanted, split=split, on_error=on_error, split_seed=split_seed, series=series)


def peek_video(
    target: str, *, height: int | None = None, width: int | None = None, resize: str = "pad",
    max_frames: int | None = None, white: int = WHITE, **options: Any,
) -> EpisodeSource:
    """As `open_video`, but frames are decoded when they are read, and not kept."""
    size = (height or DEFAULT_SIZE, width or height or DEFAULT_SIZE)
    return _open(target, _Wanted(size, resize, max_frames, white, peek=True), **options)


@dataclass(frozen=True)
class _Wanted:
    """How frames are wanted; ``peek``: not decoded now, and not kept."""

    size: tuple[int, int]
    resize: str
    max_frames: int | None
    white: int
    peek: bool = False


def _open(
    target: str,
    wanted: _Wanted,
    *,
    split: str,
    on_error: str = "raise",
    split_seed: int = 0,
    series: str | Sequence[str] | None = None,
) -> EpisodeSource:
    check_resize(wanted.resize)
    if on_error not in ("raise", "skip"):
        raise DataError(f"on_error must be 'raise' or 'skip', got {on_error!r}")
    if wanted.max_frames is not None and wanted.max_frames < 1:
        raise DataError(f"max_frames must be at least 1, got {wanted.max_frames}")
    check_white(wanted.white)
    path = Path(target).expanduser()
    clips, cut_in_time = _choose(path, split, split_seed, series)
    recordings, skipped, fps = [], 0, None
    for clip in track(clips, f"{'Looking at' if wanted.peek else 'Decoding'} {path.name}"):
        try:
            recordings.append(_recording(clip, _peek(clip, wanted) if wanted.peek else _decode(clip, wanted), wanted))
            fps = fps or (look(clip.files[0]).rate if clip.is_video else None)  # of one clip; see `frame_rates`
        except DataError as error:
            if on_error == "raise":
                raise
            warnings.warn(f"skipped: {error}", RuntimeWarning, stacklevel=2)
            skipped += 1
    if not recordings:
        raise DataError(f"{path}: none of the {skipped} clip(s) of split '{split}' could be decoded")
    if cut_in_time:
        recordings = [r.cut(*split_time(r.views[0].stop, split)) for r in recordings]
    kind = "video" if clips[0].is_video else "images"
    facts = {"name": path.name, "kind": kind, "split": split, "split_by": "time" if cut_in_time else "clip"}
    shown = [clip for clip in clips if clip.name in {r.name for r in recordings}]
    if wanted.peek:
        facts |= _own_facts(shown)
    fitting = Fitting(_sizes(some(shown)), wanted.size, wanted.resize)
    return RecordingSource(recordings, skipped=skipped, fitting=fitting, **facts, fps=fps, synthetic=False)


def _own_facts(clips: Sequence[Clip]) -> dict[str, Any]:
    """Frame sizes and frames per second of clips as they lie on disk, each with the number of clips that have it."""
    sizes, films = _sizes(clips), [look(clip.files[0]) for clip in clips if clip.is_video]
    rates = Counter(round(film.rate, 2) for film in films if film.rate is not None)
    return {"frame_sizes": Counter(f"{height}x{width}" for height, width in sizes),
            "frame_rates": {f"{rate:g}": count for rate, count in rates.most_common()}}


def _sizes(clips: Sequence[Clip]) -> list[tuple[int, int]]:
    """Height and width of the first picture of every camera of every clip."""
    return [look(files[0]).size if clip.is_video else image_size(files[0]) for clip in clips for files in clip.views]


def all_clips(target: str, series: str | Sequence[str] | None = None) -> list[Clip]:
    """The clip of a video file, or all clips of a folder.

    Raises:
        DataError: if there is none.
    """
    path = Path(target).expanduser()
    if not path.exists():
        raise DataError(f"{path} does not exist: give a video file or a folder")
    return find_clips(path, series) if path.is_dir() else [Clip(path.name, (path,))]


def native_size(target: str, series: str | Sequence[str] | None = None) -> tuple[int, int]:
    """Height and width of the frames of a video file, or of the first clip of a folder.

    Raises:
        DataError: if there is none, or it cannot be read.
    """
    clip = all_clips(target, series)[0]
    return look(clip.files[0]).size if clip.is_video else image_size(clip.files[0])


def frame_rates(target: str, series: str | Sequence[str] | None = None) -> dict[float, str]:
    """Frames per second of the clips of a video file or a folder, each with the first clip that has it.

    Clips that cannot be read are passed over.
    """
    found: dict[float, str] = {}
    for clip in all_clips(target, series):
        with contextlib.suppress(DataError):
            rate = look(clip.files[0]).rate if clip.is_video else None
            if rate is not None:
                found.setdefault(round(rate, 2), clip.name)
    return found


def _recording(clip: Clip, views: tuple[Span | Unread, ...], wanted: _Wanted) -> Recording:
    """A clip with what its sidecar knows."""
    if not clip.sidecar.is_file():
        return Recording(clip.name, views)
    length = views[0].stop
    entries = read_entries(clip.sidecar, length, wanted.size, wanted.resize, max_frames=wanted.max_frames)
    return Recording(clip.name, views, *entries)


def _choose(
    path: Path, split: str, seed: int, series: str | Sequence[str] | None
) -> tuple[list[Clip], bool]:
    """The clips to decode for a split, and whether they must be cut in time."""
    if not path.exists():
        raise DataError(f"{path} does not exist: give a video file or a folder")
    if path.is_file():
        return [Clip(path.name, (path,))], True
    part = split_folder(path, split)
    if part is not None:
        return [replace(clip, name=f"{part.name}/{clip.name}") for clip in find_clips(part, series)], False
    clips = find_clips(path, series)
    if split == ALL:
        return clips, True
    if nested := nested_splits(path, [clip.name for clip in clips]):
        raise DataError(nested)
    names = scenes(clips)
    each = list(dict.fromkeys(names))
    if len(each) < len(SPLITS):
        return clips, True
    chosen = {each[i] for i in split_clips(each, seed=seed)[split]}
    return [clip for clip, name in zip(clips, names, strict=True) if name in chosen], False


def _decode(clip: Clip, wanted: _Wanted) -> tuple[Span, ...]:
    """The cache entries of one clip, one per camera."""
    options = {"size": wanted.size, "resize": wanted.resize, "max_frames": wanted.max_frames}
    options |= {"white": wanted.white} if wanted.white != WHITE else {}
    name = Path(clip.name).name or clip.files[0].parent.name
    views = []
    for camera in clip.views:
        files = camera if clip.is_video else camera[: wanted.max_frames]
        lost = next((f for f in files if not f.exists()), None)
        if lost is not None:
            raise DataError(f"{lost} leads nowhere: it is a link to a file that is not there")
        facts = [(str(f.resolve()), f.stat().st_mtime_ns, f.stat().st_size) for f in files]
        made_by = decoder("av" if clip.is_video else "pillow")
        key = cache_key(name, version=_VERSION, files=facts, decoder=made_by, **options)
        views.append(Span.whole(cached_frames(key, partial(_frames, files, clip.is_video, wanted))))
    return tuple(views)


def _frames(
    files: Sequence[Path], is_video: bool, wanted: _Wanted, start: int = 0, stop: int | None = None
) -> Iterator[np.ndarray]:
    """Frames of one camera, ``[H, W, 3]`` each: all of them, with a check that a film is whole, or some."""
    if not is_video:
        return decode_images(files[start:stop], *wanted.size, resize=wanted.resize, white=wanted.white)
    if stop is None:
        return decode_video(files[0], *wanted.size, resize=wanted.resize, max_frames=wanted.max_frames)
    return frames_between(files[0], start, stop, *wanted.size, resize=wanted.resize)


def _peek(clip: Clip, wanted: _Wanted) -> tuple[Unread, ...]:
    """Frames of each camera that are not decoded."""
    views = []
    for files in clip.views:
        length = look(files[0]).frames if clip.is_video else len(files)
        frames = partial(_frames, files, clip.is_video, wanted)
        views.append(Unread(frames, wanted.size, 0, min(length, wanted.max_frames or length)))
    return tuple(views)
