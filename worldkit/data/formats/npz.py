"""Episodes as ``.npz`` files: numpy arrays under agreed names. Reader and writer.

Read are: the video, uint8 ``[T, H, W, C]`` or ``[T, C, H, W]`` (several cameras: one more axis in front), under
``video``, ``frames``, ``observations``, ``images``, ...; ``action`` or ``actions`` ``[T, A]``; ``done`` (1 at the last
frame of the episode; frames after it are padding) or ``done_mask``; ``language`` (a string, or token embeddings
``[L, E]``); ``goal_image``; ``masks.action`` and the like. Any other array as long as the video is ``state``, for
evaluation. Nothing is ever unpickled.

A file is one episode, unless it holds ``terminals`` (or ``timeouts``), 1 at the last row of each of many: that is how
OGBench's visual data sets lie on disk. Other flags are told in `worldkit.data.formats.npz_ends`. As in OGBench's own
loader, the action of such a row leads nowhere and is not used (it becomes 0), its frame is; ``NAME-val.npz`` is the
validation part of ``NAME.npz``, and there is no test part.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import DataError
from ...progress import track
from ..base import EpisodeSource
from ..cache import Span, Unread, cache_key
from ..entries import read_entries, save_entries
from ..fit import Fitting, check_resize
from ..recording import Recording, RecordingSource, cached_frames
from ..splits import split_episodes, split_paths
from .clip_files import IMAGE_SUFFIXES, VIDEO_SUFFIXES
from .npz_video import NpzEpisode, NpzVideo, files_of

_VERSION = 2  # raise when resizing changes, so that old cache entries are not used


def is_npz(target: str) -> bool:
    """Whether a target is an ``.npz`` file by name, or a folder (or its split folders) of them and of no clips."""
    path = Path(target).expanduser()
    if path.suffix.lower() == ".npz":
        return True
    folders = [path, *(folder for found in split_paths(path).values() for folder in found)]
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
    resize: str = "pad",
    split_seed: int = 0,
) -> EpisodeSource:
    """An ``.npz`` file, or a folder of them; see the module docstring.

    Args:
        target: File, folder, or folder with ``train``, ``val`` and ``test``.
        split: ``"train"``, ``"val"`` or ``"test"``.
        height: Default: the height of the first episode.
        width: Default: the height given, else the width of the first episode.
        resize: ``"pad"`` (whole picture, black borders), ``"stretch"`` or ``"crop"``; see `worldkit.data.fit`.
        split_seed: Another seed, another split of the episodes.
    Raises:
        DataError: for a missing or damaged file, an array of another layout, or pickled objects.
    """
    return _open(target, split, (height, width), resize, split_seed, peek=False)


def peek_npz(
    target: str,
    *,
    split: str,
    height: int | None = None,
    width: int | None = None,
    resize: str = "pad",
    split_seed: int = 0,
) -> EpisodeSource:
    """As `open_npz`, but frames are unpacked when they are read, and not kept."""
    return _open(target, split, (height, width), resize, split_seed, peek=True)


def _open(
    target: str, split: str, wanted: tuple[int | None, int | None], resize: str, split_seed: int, *, peek: bool
) -> EpisodeSource:
    height, width = wanted
    check_resize(resize)
    path = Path(target).expanduser()
    if not path.exists():
        raise DataError(f"{path} does not exist: give an .npz file or a folder of them")
    files, given = files_of(path, split)
    videos = [NpzVideo(file) for file in files]
    episodes = [(video, episode) for video in videos for episode in video.episodes()]
    lengths = [episode.stop - episode.start for _, episode in episodes]
    whole = [(i, 0, length) for i, length in enumerate(lengths)]
    spans = whole if given else split_episodes([e.name for _, e in episodes], lengths, split, seed=split_seed)
    if height and (empty := [video.path for video in videos if video.empty]):
        raise DataError(f"{empty[0]} holds no pictures, but numbers alone: they are for models that see vectors, "
                        "-o obs.height=0 -o obs.width=0 -o obs.vectors.NAME=WIDTH")
    size = (height or videos[0].size[0], width or height or videos[0].size[1])
    chosen: dict[Path, list[NpzEpisode]] = {}
    for i, first, last in spans:
        episode = episodes[i][1]
        cut = replace(episode, start=episode.start + first, stop=episode.start + last)
        chosen.setdefault(episode.file, []).append(cut)
    fitting = Fitting([v.size for v in videos if v.path in chosen for _ in chosen[v.path]], size, resize)
    recordings = []
    for video in track([video for video in videos if video.path in chosen], f"Reading {path.name}"):
        views = [_unread(video, view, size, resize) if peek else _decoded(video, view, size, resize)
                 for view in range(video.views or 1)]
        found = _recordings(video, tuple(views), chosen[video.path], size, resize)
        place = f"{video.path.parent.name}/" if path.is_dir() and video.path.parent != path else ""
        recordings += [replace(recording, name=place + recording.name) for recording in found]
    split_by = "folder" if given else "time" if any(span != whole[span[0]] for span in spans) else "clip"
    facts = {"name": path.name, "kind": "npz", "split": split, "split_by": split_by, "synthetic": False}
    return RecordingSource(recordings, fitting=fitting, **facts)


def _decoded(video: NpzVideo, view: int, size: tuple[int, int], resize: str) -> Span:
    """All frames of one camera of a file, through the cache."""
    path = video.path
    facts = (str(path.resolve()), path.stat().st_mtime_ns, path.stat().st_size)
    key = cache_key(path.name, version=_VERSION, file=facts, view=view, size=size, resize=resize)
    return Span.whole(cached_frames(key, partial(video.frames, view, size, resize)))


def _unread(video: NpzVideo, view: int, size: tuple[int, int], resize: str) -> Unread:
    """All frames of one camera of a file, unpacked when they are read."""
    return Unread(lambda first, last: islice(video.frames(view, size, resize), first, last), size, 0, video.length)


def _recordings(
    video: NpzVideo,
    views: tuple[Span | Unread, ...],
    episodes: Sequence[NpzEpisode],
    size: tuple[int, int],
    resize: str,
) -> Iterator[Recording]:
    """Episodes of one file at a frame size."""
    path, constant = video.path, {}
    lasts = [episode.stop - 1 for episode in video.episodes()]
    lasts = lasts if len(lasts) > 1 or video.is_flat else []
    timed, constant = read_entries(path, video.length, size, resize, video=video.name, lasts=lasts)
    whole = Recording(path.name, views, timed, constant)
    for episode in episodes:
        yield replace(whole.cut(episode.start, episode.stop), name=episode.name)


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
