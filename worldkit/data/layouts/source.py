"""`LayoutSource`: episodes of image files in folders, with what lies beside them; what all layouts share.

Opening lists folders only. An episode is decoded into the cache when it is first read, so that the workers of a loader
share that work. Where upstream pads clips, windows may pass the end of an episode: the last frame is repeated, the
action is 0 and so is the done mask.
"""

from __future__ import annotations

import contextlib
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from ...errors import DataError
from ..base import EpisodeSource
from ..cache import Span, Unread, cache_key, cached, cached_maps
from ..decode import decode_images, image_size
from ..film import decoder
from ..fit import Fitting, check_resize, some
from ..recording import as_action, cached_frames, put
from ..splits import MissingSplitError
from .files import check_pairs, load_pt, numbers

_VERSION = 4  # raise when decoding, resizing or reading changes, so that old cache entries are not used


@dataclass(frozen=True)
class View:
    """The files of one camera of one episode, in order: images, and, if the layout has them, one ``.pt`` per frame."""

    folder: Path
    images: tuple[str, ...]
    metadata: tuple[str, ...] = ()

    def image_paths(self) -> list[Path]:
        return [self.folder / name for name in self.images]

    def metadata_paths(self) -> list[Path]:
        return [self.folder / name for name in self.metadata]


@dataclass(frozen=True)
class Episode:
    """One episode: a name for messages, and its cameras."""

    name: str
    views: tuple[View, ...]

    @property
    def length(self) -> int:
        return len(self.views[0].images)


class LayoutSource(EpisodeSource):
    """Episodes of one layout. A subclass says what lies beside the frames, and where windows and goals may lie.

    Args:
        root: The data set.
        episodes: Its episodes of this split.
        split: ``"train"``, ``"val"`` or ``"test"``.
        height: Frame height; default: the first image's.
        width: Frame width; default: the height given, else the first image's.
        resize: See `worldkit.data.fit`.
        on_error: ``"raise"``, or ``"skip"``: read all episodes now, and leave out those that cannot be read.
        goal_seed: Another seed, other random goals.
    Attributes:
        kind: The layout's name.
        empty: Names of episodes without frames, which are left out and counted as skipped.
        inverted: Colours are inverted.
        besides: What else is done to the pictures, in words.
        beside: Entries `columns` gives.
        peek: Decode what is read, and keep nothing, for a look at the data.
        number: Finds the step in the name of an image and of its metadata file, without suffix.
    Raises:
        DataError: for no episodes, an unknown option, or (``"skip"``) if none can be read.
    """

    kind: ClassVar[str]
    inverted: ClassVar[bool] = False
    besides: ClassVar[str] = ""
    peek: bool = False
    beside: ClassVar[tuple[str, ...]] = ()
    number: ClassVar[Callable[[str], int] | None] = None

    def __init__(
        self,
        root: Path,
        episodes: Sequence[Episode],
        *,
        split: str,
        height: int | None,
        width: int | None,
        resize: str,
        on_error: str = "raise",
        goal_seed: int = 0,
    ):
        check_resize(resize)
        if on_error not in ("raise", "skip"):
            raise DataError(f"on_error must be 'raise' or 'skip', got {on_error!r}")
        self.root, self.split, self.episodes = root, split, [e for e in episodes if e.length]
        self.empty = [e.name for e in episodes if not e.length]
        if not self.episodes:
            raise MissingSplitError(f"{root}: no episode of the layout '{self.kind}' in split '{split}'")
        self._resize, self._goal_seed = resize, goal_seed
        native = (1, 1) if height else image_size(self.episodes[0].views[0].image_paths()[0])
        self._size = (height or native[0], width or height or native[1])
        self.fitting = Fitting(self._picture_sizes(), self._size, resize, self.besides)
        self._decoded: dict[int, list[Span | Unread]] = {}
        self.skipped = len(self.empty)
        if on_error == "skip":
            self._leave_out_broken()

    def _picture_sizes(self) -> list[tuple[int, int]]:
        """Of the first image of some episodes; those that cannot be read are passed over."""
        sizes = []
        for view in (view for episode in some(self.episodes) for view in episode.views):
            with contextlib.suppress(DataError):
                sizes.append(image_size(view.image_paths()[0]))
        return sizes

    def columns(self, episode: Episode) -> dict[str, np.ndarray]:
        """Entries with a time axis, under flat names (`worldkit.data.recording`), as they are on disk."""
        return {}

    def column_files(self, episode: Episode) -> list[Path]:
        """The files `columns` reads; if one changes, it is read again."""
        return episode.views[0].metadata_paths()

    def constants(self, episode: Episode) -> dict[str, Any]:
        """Conditions of the whole episode."""
        return {}

    def goal_frame(self, episode: int, start: int, stop: int) -> int | None:
        """Number of the frame that is the goal of a window, ``None`` if the layout has no goals."""
        return None

    @property
    def num_episodes(self) -> int:
        return len(self.episodes)

    def episode_name(self, episode: int) -> str:
        return f"{self.split}/{self.episodes[episode].name}"

    def length(self, episode: int) -> int:
        return self.episodes[episode].length

    def read(self, episode: int, start: int, stop: int) -> dict[str, Any]:
        end = min(stop, self.length(episode))
        item: dict[str, Any] = {"video": self._shown(episode, start, end)}
        for name, array in self._beside(episode).items():
            put(item, name, np.array(array[start:end]))
        item |= self.constants(self.episodes[episode])
        goal = self._goal(episode, start, stop)
        if goal is not None:
            item["goal_image"] = goal
        return _padded(item, stop - end)

    def read_entry(self, episode: int, name: str) -> Any:
        if name in self.beside:
            return np.array(self._beside(episode)[name])
        if name == "goal_image":
            return self._goal(episode, 0, self.length(episode))
        return super().read_entry(episode, name)

    def _shown(self, episode: int, start: int, stop: int) -> np.ndarray:
        """Frames ``[T, C, H, W]``; several cameras get an axis of their own."""
        views = [view.read(start, stop) for view in self._views(episode)]
        return views[0] if len(views) == 1 else np.stack(views)

    def _goal(self, episode: int, start: int, stop: int) -> np.ndarray | None:
        goal = self.goal_frame(episode, start, stop)
        return None if goal is None else self._shown(episode, goal, goal + 1)[..., 0, :, :, :]

    @property
    def summary(self) -> dict[str, Any]:
        facts = {"name": self.root.name, "kind": self.kind, "split": self.split, "split_by": "folder"}
        return {**facts, "resolution": list(self._size), "synthetic": False}

    def _views(self, episode: int) -> list[Span | Unread]:
        """The frames of each camera, decoded into the cache if they are not there."""
        if episode not in self._decoded:
            self._decoded[episode] = [self._decode(episode, view) for view in self.episodes[episode].views]
        return self._decoded[episode]

    def _decode(self, episode: int, view: View) -> Span | Unread:
        if self.peek:
            return Unread(partial(self._frames, view), self._size, 0, len(view.images))
        facts = {"size": self._size, "resize": self._resize, "inverted": self.inverted, "decoder": decoder("pillow")}
        key = cache_key(self.episodes[episode].name, version=_VERSION, files=_stamps(view.image_paths()), **facts)
        return Span(cached_frames(key, lambda: self._frames(view)), 0, len(view.images))

    def _frames(self, view: View, start: int = 0, stop: int | None = None) -> Iterator[np.ndarray]:
        for frame in decode_images(view.image_paths()[start:stop], *self._size, resize=self._resize):
            yield 255 - frame if self.inverted else frame

    def _beside(self, episode: int) -> Mapping[str, np.ndarray]:
        """The columns of an episode, as models take them."""
        found = self.episodes[episode]
        if not self.beside or self.peek:
            return self._clean_columns(found) if self.beside else {}
        stamps = _stamps(self.column_files(found))
        key = cache_key(f"{found.name}-columns", version=_VERSION, kind=self.kind, length=found.length, files=stamps)
        return cached_maps(cached(key, lambda: [self._clean_columns(found)]))

    def _clean_columns(self, episode: Episode) -> dict[str, np.ndarray]:
        """Columns as models take them.

        Raises:
            DataError: if they do not fit the frames, or an action is not a number.
        """
        self.check_steps(episode)
        columns, where = self.columns(episode), f"{self.root}, episode {episode.name}"
        for name, array in columns.items():
            if not np.ndim(array):
                raise DataError(f"{where}: '{name}' is one number, but there are {episode.length} frames")
            if len(array) < episode.length:
                raise DataError(f"{where}: '{name}' has {len(array)} steps, but there are {episode.length} frames")
        columns = {name: array[: episode.length] for name, array in columns.items()}
        return {name: as_action(array, where) if name == "action" else array for name, array in columns.items()}

    def check_steps(self, episode: Episode) -> None:
        """Raise DataError if images would get the metadata of other steps."""
        if self.number is not None:
            for view in episode.views:
                check_pairs(view.images, view.metadata, self.number, view.folder)

    def _leave_out_broken(self) -> None:
        readable = []
        for number, episode in enumerate(self.episodes):
            try:
                self._views(number)
                self._beside(number)
                self.constants(episode)
                readable.append(episode)
            except DataError as error:
                warnings.warn(f"skipped: {error}", RuntimeWarning, stacklevel=4)
        self.skipped += len(self.episodes) - len(readable)
        self.episodes, self._decoded = readable, {}
        if not readable:
            raise DataError(f"{self.root}: none of the {self.skipped} episode(s) of split '{self.split}' can be read")


class PaddedSource(LayoutSource):
    """Episodes whose windows may pass the end.

    In training, an episode that is long enough gives every window inside it; a shorter one every window that it fills
    at least by half. Otherwise, an episode gives one clip: its first frames.
    """

    def last_start(self, episode: int, span: int) -> int:
        length = self.length(episode)
        if self.split != "train":
            return 0
        return length - span if span <= length else max(0, length - span // 2)


class SparseSource(PaddedSource):
    """Episodes that upstream reads a few random clips from; here, every start such a clip can have is one window."""

    def last_start(self, episode: int, span: int) -> int:
        length = self.length(episode)
        if self.split != "train":
            return 0
        return length - span // 2 if span <= length else length - 1


def read_metadata(paths: Sequence[Path], names: Mapping[str, str]) -> dict[str, np.ndarray]:
    """Rows of ``.pt`` files, one dict per frame.

    Args:
        paths: One file per frame.
        names: Key in the files -> flat name of the entry. Any other key with numbers or vectors of one shape in every
            file becomes ``state.KEY``.
    Returns:
        Flat name -> ``[T, ...]``.
    Raises:
        DataError: if a file is missing or damaged, lacks a key, or differs from the others in shape; names the file.
    """
    rows: dict[str, list[np.ndarray]] = {name: [] for name in names.values()}
    others: dict[str, list[np.ndarray]] = {}
    for path in paths:
        metadata = load_pt(path)
        for key, name in names.items():
            if not isinstance(metadata, dict) or key not in metadata:
                held = f"it holds {', '.join(map(str, metadata))}" if isinstance(metadata, dict) else "it holds no dict"
                raise DataError(f"{path} has no '{key}': {held}")
            row = numbers(metadata[key], f"{path}: '{key}'")
            if rows[name] and row.shape != rows[name][0].shape:
                shapes = f"{list(row.shape)}, in {paths[0].name} {list(rows[name][0].shape)}"
                raise DataError(f"{path}: '{key}' has shape {shapes}")
            rows[name].append(row)
        for key in metadata.keys() - names.keys():
            with contextlib.suppress(DataError):
                name = re.sub(r"[^\w.-]", "_", f"state.{key}")  # it will name a file of the cache
                others.setdefault(name, []).append(numbers(metadata[key], name))
    for name, values in sorted(others.items()):
        if len(values) == len(paths) and values[0].ndim < 3 and len({row.shape for row in values}) == 1:
            rows[name] = values
    return {name: np.stack(values) for name, values in rows.items()}


def random_frame(seed: int, episode: int, start: int, first: int, last: int) -> int:
    """A frame from ``first`` to ``last``; the same for the same arguments."""
    return int(np.random.default_rng([seed, episode, start, first]).integers(first, last + 1))


def _padded(item: dict[str, Any], frames: int) -> dict[str, Any]:
    if frames <= 0:
        return item
    video = item["video"]
    item["video"] = np.concatenate([video, np.repeat(video[..., -1:, :, :, :], frames, axis=-4)], axis=-4)
    for name in ("action", "done_mask"):
        if name in item:
            item[name] = np.concatenate([item[name], np.zeros_like(item[name], shape=(frames, *item[name].shape[1:]))])
    for name, array in item.get("state", {}).items():
        item["state"][name] = np.concatenate([array, np.repeat(array[-1:], frames, axis=0)])
    return item


def _stamps(paths: Sequence[Path]) -> list[tuple[str, int, int]]:
    """What tells whether a file changed.

    Raises:
        DataError: if one is missing.
    """
    try:
        return [(str(p), stat.st_mtime_ns, stat.st_size) for p in paths for stat in [p.stat()]]
    except OSError as error:
        raise DataError(f"{error.filename} cannot be read: {error.strerror}") from error
