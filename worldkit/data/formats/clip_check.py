"""Videos, image folders and npz episodes one by one, for `worldkit.data.validate`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ...errors import DataError
from ..decode import decode_video, video_size
from ..glance import look
from ..parts import Entries, Frame, Part, named, npz_entries, split_folders
from .clip_files import Clip, find_clips
from .npz_video import NpzEpisode, NpzReader, NpzVideo, parts_of


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
    return Part(str(film), split, partial(_film, film), entries, rate=lambda: look(film).rate)


def _film(path: Path) -> Iterator[Frame]:
    yield from ((frame,) for frame in decode_video(path, *video_size(path)))


def npz_parts(path: Path, **options: Any) -> Iterator[Part]:
    """Every episode of every ``.npz`` file."""
    for split, file in parts_of(path):
        try:
            reader = NpzReader(NpzVideo(file))
            episodes = reader.video.episodes()
        except DataError as error:
            yield Part(str(file), split, partial(_fail, error), partial(npz_entries, file))
            continue
        for episode in episodes:
            where = str(file.with_name(episode.name))
            yield Part(where, split, partial(reader.frames, episode), partial(_npz_episode, reader, episode))


def _npz_episode(reader: NpzReader, episode: NpzEpisode) -> Entries:
    return named(reader.arrays(episode))


def _fail(error: DataError) -> Iterator[Frame]:
    raise error
