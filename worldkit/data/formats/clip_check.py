"""Videos, image folders and npz episodes one by one, for `worldkit.data.validate`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ..decode import decode_video, frame_rate, video_size
from ..parts import Frame, Part, npz_entries, split_folders
from .clip_files import Clip, find_clips
from .npz import npz_files, stored_frames


def video_parts(path: Path, *, series: str | Sequence[str] | None = None, **options: Any) -> Iterator[Part]:
    """The clip of a file, or every clip of a folder."""
    if path.is_file():
        yield _clip(Clip(path.name, (path,)), "")
        return
    for split, folder in split_folders(path):
        for clip in find_clips(folder, series):
            yield _clip(clip, split)


def _clip(clip: Clip, split: str) -> Part:
    entries = partial(npz_entries, clip.sidecar)
    if not clip.is_video:
        return Part(str(clip.files[0].parent), split, None, entries, clip.views)
    film = clip.files[0]
    return Part(str(film), split, partial(_film, film), entries, rate=partial(frame_rate, film))


def _film(path: Path) -> Iterator[Frame]:
    yield from ((frame,) for frame in decode_video(path, *video_size(path)))


def npz_parts(path: Path, **options: Any) -> Iterator[Part]:
    """Every ``.npz`` file."""
    for split, folder in split_folders(path) if path.is_dir() else [("", path)]:
        for file in npz_files(folder):
            yield Part(str(file), split, partial(stored_frames, file), partial(npz_entries, file))
