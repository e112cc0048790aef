"""Videos, image folders and npz episodes one by one, for `worldkit.data.validate`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ...errors import DataError
from ..decode import decode_video, video_size
from ..glance import look, pauses
from ..parts import Entries, Frame, Part, Problem, named, npz_entries, split_folders
from ..paths import links_out
from ..splits import nested_splits
from .clip_files import Clip, find_clips
from .npz_video import NpzEpisode, NpzReader, NpzVideo, parts_of
from .scenes import told

_NUMBERS = (".npz", ".npy", ".csv", ".parquet", ".pkl", ".pt", ".h5", ".hdf5")


def video_parts(path: Path, *, series: str | Sequence[str] | None = None, **options: Any) -> Iterator[Part | Problem]:
    """The clip of a file, or every clip of a folder, and links that lead out of it."""
    if path.is_file():
        yield _clip(Clip(path.name, (path,)), "")
        return
    files: list[Path] = []
    for found in split_folders(path):
        if isinstance(found, Problem):
            yield found
            continue
        split, folder = found
        clips = find_clips(folder, series)
        nested = "" if split else nested_splits(folder, [clip.name for clip in clips])
        if nested:
            yield Problem(nested)
        if together := "" if split else told(clips):
            yield Problem(f"{folder}: {together}", warning=True)
        for clip in clips:
            files += [file for view in clip.views for file in view]
            yield _clip(clip, split)
    yield from _linked(path, files)
    yield from _unread(path, files)


def _unread(path: Path, files: Sequence[Path]) -> Iterator[Problem]:
    """Numbers beside clips that no clip reads: of another name or kind than its ``.npz``."""
    held = {clip.sidecar for clip in (Clip(file.name, (file,)) for file in files)}
    beside = [f for folder in sorted({path, *(f.parent for f in files)}) for f in sorted(folder.glob("[!.]*"))
              if f.suffix.lower() in _NUMBERS and f not in held]
    if beside:
        shown = ", ".join(str(file.relative_to(path)) for file in beside[:3]) + (", ..." if len(beside) > 3 else "")
        advice = "actions and the like of CLIP.mp4 lie in CLIP.npz, those of a folder of images in entries.npz"
        yield Problem(f"{path}: {len(beside)} file(s) beside the clips are not read: {shown}; {advice}", warning=True)


def _linked(path: Path, files: Iterable[Path]) -> Iterator[Problem]:
    text = links_out(path, files)
    if text is not None:
        yield Problem(f"{path}: {text}", warning=True)


def _clip(clip: Clip, split: str) -> Part:
    entries = partial(npz_entries, clip.sidecar)
    if not clip.is_video:
        return Part(str(clip.files[0].parent), split, None, entries, clip.views)
    film = clip.files[0]
    rate, apart = (lambda: look(film).rate), partial(pauses, film)
    return Part(str(film), split, partial(_film, film), entries, rate=rate, pauses=apart)


def _film(path: Path) -> Iterator[Frame]:
    yield from ((frame,) for frame in decode_video(path, *video_size(path)))


def npz_parts(path: Path, **options: Any) -> Iterator[Part | Problem]:
    """Every episode of every ``.npz`` file, and links that lead out of their folder."""
    found = list(parts_of(path))
    if path.is_dir():
        yield from (lack for lack in split_folders(path, ("", ".npz")) if isinstance(lack, Problem))
        yield from _linked(path, [file for _, file in found])
    for split, file in found:
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
