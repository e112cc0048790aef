"""Video files, and folders of videos, images or image folders: decoded once, resized, kept in the cache as uint8.

Each clip becomes one cache entry named by its path, modification time, size and the target size; training reads that. A
folder is searched with its sub-folders: every video file is a clip, and so is every folder that holds image files (in
natural order: ``frame2`` before ``frame10``). How clips are split is told in `worldkit.data.splits`. Actions and the
like may lie beside: ``CLIP.npz`` for ``CLIP.mp4``, ``entries.npz`` in a folder of images (see
`worldkit.data.formats.npz`).
"""

from __future__ import annotations

import contextlib
import os
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import DataError
from ..base import EpisodeSource
from ..cache import Span, cache_key, cached
from ..decode import decode_images, decode_video, frame_rate, image_size, video_size
from ..entries import IMAGES_SIDECAR, read_entries
from ..progress import track
from ..recording import Recording, RecordingSource
from ..splits import SPLITS, split_clips, split_folder, split_time

VIDEO_SUFFIXES = (
    ".mp4",
    ".m4v",
    ".mov",
    ".webm",
    ".mkv",
    ".avi",
    ".gif",
    ".mpg",
    ".mpeg",
    ".ts",
    ".wmv",
    ".flv",
    ".ogv",
)
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
DEFAULT_SIZE = 64
_VERSION = 1  # raise when decoding or resizing changes, so that old cache entries are not used


@dataclass(frozen=True)
class Clip:
    """One clip that is not decoded yet: a name inside its data set, and one video file or its image files."""

    name: str
    files: tuple[Path, ...]

    @property
    def is_video(self) -> bool:
        return self.files[0].suffix.lower() not in IMAGE_SUFFIXES

    @property
    def sidecar(self) -> Path:
        """The file with actions and the like, if there is one."""
        return self.files[0].with_suffix(".npz") if self.is_video else self.files[0].parent / IMAGES_SIDECAR


def natural_key(name: str) -> list[Any]:
    """Sort key that orders numbers by value.

    Example:
        >>> sorted(["f10.png", "f2.png"], key=natural_key)
        ['f2.png', 'f10.png']
    """
    return [int(part) if part.isdecimal() else part.lower() for part in re.split(r"(\d+)", name)]


def is_clip_path(target: str) -> bool:
    """Whether a target is a folder, a file, or at least named like a video; for the registry.

    A file with another suffix counts, too: FFmpeg looks at the content, and says best what is wrong with it.
    """
    path = Path(target).expanduser()
    return path.exists() or path.suffix.lower() in VIDEO_SUFFIXES


def find_clips(folder: Path) -> list[Clip]:
    """Every clip below a folder, in natural order. Hidden files and folders are passed over.

    Raises:
        DataError: if there is none, or one folder holds both videos and images.
    """
    clips: list[Clip] = []
    for root, folders, names in os.walk(folder, followlinks=True):
        visible = (name for name in folders if not name.startswith(".") and not _leads_back(Path(root, name)))
        folders[:] = sorted(visible, key=natural_key)
        files = [Path(root) / n for n in sorted(names, key=natural_key) if not n.startswith(".")]
        videos = [f for f in files if f.suffix.lower() in VIDEO_SUFFIXES]
        images = [f for f in files if f.suffix.lower() in IMAGE_SUFFIXES]
        if videos and images:
            raise DataError(
                f"{root} holds {len(videos)} video(s) and {len(images)} image(s), so it is unclear which are the data: "
                "move one kind elsewhere"
            )
        clips += [Clip(video.relative_to(folder).as_posix(), (video,)) for video in videos]
        if images:
            clips.append(Clip(Path(root).relative_to(folder).as_posix(), tuple(images)))
    if not clips:
        raise DataError(
            f"{folder} holds no video ({', '.join(VIDEO_SUFFIXES[:6])}, ...) and no image "
            f"({', '.join(IMAGE_SUFFIXES[:4])}, ...): give a folder of videos, of images or of image folders"
        )
    return sorted(clips, key=lambda clip: natural_key(clip.name))


def _leads_back(folder: Path) -> bool:
    """Whether this is a link to a folder it lies in."""
    return folder.is_symlink() and folder.parent.resolve().is_relative_to(folder.resolve())


def open_video(
    target: str,
    *,
    split: str,
    height: int | None = None,
    width: int | None = None,
    resize: str = "crop",
    max_frames: int | None = None,
    on_error: str = "raise",
    split_seed: int = 0,
) -> EpisodeSource:
    """A video file, or a folder of clips.

    Args:
        target: File or folder.
        split: ``"train"``, ``"val"`` or ``"test"``.
        height: Default 64.
        width: Default: the height.
        resize: ``"crop"``: scale the frame until it covers the target and cut the centre. ``"stretch"``: scale both
            sides freely.
        max_frames: Use only the first frames of every clip.
        on_error: ``"raise"``, or ``"skip"``: leave out a clip that cannot be decoded, with a warning, and count it.
        split_seed: Another seed, another split of the clips.
    Raises:
        DataError: see `open_dataset`.
    """
    if resize not in ("crop", "stretch"):
        raise DataError(f"resize must be 'crop' or 'stretch', got {resize!r}")
    if on_error not in ("raise", "skip"):
        raise DataError(f"on_error must be 'raise' or 'skip', got {on_error!r}")
    if max_frames is not None and max_frames < 1:
        raise DataError(f"max_frames must be at least 1, got {max_frames}")
    height = height or DEFAULT_SIZE
    size = (height, width or height)
    decode = partial(_decode, size=size, resize=resize, max_frames=max_frames)
    path = Path(target).expanduser()
    clips, cut_in_time = _choose(path, split, split_seed)
    recordings, skipped, fps = [], 0, None
    for clip in track(clips, f"Decoding {path.name}"):
        try:
            recordings.append(_recording(clip, Span.whole(decode(clip)), size, resize, max_frames))
            fps = fps or (frame_rate(clip.files[0]) if clip.is_video else None)  # of one clip; see `frame_rates`
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
    return RecordingSource(recordings, skipped=skipped, **facts, fps=fps, synthetic=False)


def native_size(target: str) -> tuple[int, int]:
    """Height and width of the frames of a video file, or of the first clip of a folder.

    Raises:
        DataError: if there is none, or it cannot be read.
    """
    path = Path(target).expanduser()
    if not path.exists():
        raise DataError(f"{path} does not exist: give a video file or a folder")
    clip = find_clips(path)[0] if path.is_dir() else Clip(path.name, (path,))
    return video_size(clip.files[0]) if clip.is_video else image_size(clip.files[0])


def frame_rates(target: str) -> dict[float, str]:
    """Frames per second of the clips of a video file or a folder, each with the first clip that has it.

    Clips that cannot be read are passed over.
    """
    path = Path(target).expanduser()
    clips = find_clips(path) if path.is_dir() else [Clip(path.name, (path,))]
    found: dict[float, str] = {}
    for clip in clips:
        with contextlib.suppress(DataError):
            rate = frame_rate(clip.files[0]) if clip.is_video else None
            if rate is not None:
                found.setdefault(round(rate, 2), clip.name)
    return found


def _recording(clip: Clip, span: Span, size: tuple[int, int], resize: str, max_frames: int | None) -> Recording:
    """A decoded clip with what its sidecar knows."""
    if not clip.sidecar.is_file():
        return Recording(clip.name, (span,))
    entries = read_entries(clip.sidecar, span.stop, size, resize, max_frames=max_frames)
    return Recording(clip.name, (span,), *entries)


def _choose(path: Path, split: str, seed: int) -> tuple[list[Clip], bool]:
    """The clips to decode for a split, and whether they must be cut in time."""
    if not path.exists():
        raise DataError(f"{path} does not exist: give a video file or a folder")
    if path.is_file():
        return [Clip(path.name, (path,))], True
    part = split_folder(path, split)
    if part is not None:
        return find_clips(part), False
    clips = find_clips(path)
    if len(clips) < len(SPLITS):
        return clips, True
    return [clips[i] for i in split_clips([clip.name for clip in clips], seed=seed)[split]], False


def _decode(clip: Clip, *, size: tuple[int, int], resize: str, max_frames: int | None) -> Path:
    """The cache entry of one clip."""
    files = clip.files[:max_frames] if not clip.is_video else clip.files
    facts = [(str(f.resolve()), f.stat().st_mtime_ns, f.stat().st_size) for f in files]

    def blocks() -> Iterator[dict[str, np.ndarray]]:
        if clip.is_video:
            frames = decode_video(files[0], *size, resize=resize, max_frames=max_frames)
        else:
            frames = decode_images(files, *size, resize=resize)
        for frame in frames:
            yield {"video": frame.transpose(2, 0, 1)[None]}

    options = {"size": size, "resize": resize, "max_frames": max_frames}
    name = Path(clip.name).name or files[0].parent.name
    return cached(cache_key(name, version=_VERSION, files=facts, **options), blocks)
