"""stable-worldmodel's folders of images or videos, read as they are; its Lance tables, named.

A folder holds ``ep_len.npz`` and ``ep_offset.npz``, one ``COLUMN.npz`` for each column of numbers or text (all episodes
one behind the other, as in `worldkit.data.formats.columns`, under the same names), and a folder for each camera:
``pixels/ep_0_step_0.jpeg`` per frame, or ``pixels/ep_0.mp4`` per episode. A folder called ``goal`` holds goals; the
first one of a clip counts. An episode is decoded into the cache when it is first read.

Source: github.com/galilai-group/stable-worldmodel, ``stable_worldmodel/data/formats`` @ addbab4.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import DataError
from ..base import EpisodeSource, SpannedSource
from ..cache import Span, Unread, cache_key
from ..decode import decode_images, decode_video, image_size, video_size
from ..entries import DAMAGED
from ..film import decoder
from ..fit import Fitting, check_resize
from ..glance import frames_between
from ..parts import Frame, Part, source_entries
from ..paths import inside
from ..recording import actions_in, as_action, cached_frames, check_mask, put
from ..splits import ALL, split_episodes
from .columns import choose_cameras
from .index import GOALS, INDEX, as_text, check_index, index_of, role_of

_IMAGES = (".jpeg", ".jpg", ".png")
_VERSION = 2  # raise when decoding or resizing changes, so that old cache entries are not used


def is_swm(target: str) -> bool:
    """Whether a target is a folder with ``ep_len.npz`` and ``ep_offset.npz``."""
    return all((Path(target).expanduser() / f"{name}.npz").is_file() for name in INDEX)


def is_lance(target: str) -> bool:
    """Whether a target is a Lance table, or a folder with some."""
    path = Path(target).expanduser()
    return path.is_dir() and (path.suffix == ".lance" or any(path.glob("*.lance")))


def open_lance(target: str, *, split: str, height: int | None = None, width: int | None = None) -> EpisodeSource:
    """Tells how to convert a Lance table.

    Raises:
        DataError: always.
    """
    raise DataError(
        f"{target} is a Lance table, as stable-worldmodel writes it; worldkit reads its other formats. Convert it "
        f"where stable-worldmodel is installed: from stable_worldmodel.data import convert; convert({target!r}, "
        "'data.h5', dest_format='hdf5')"
    )


class SWMSource(SpannedSource):
    """Episodes of one folder.

    Args:
        root: The folder.
        split: ``"train"``, ``"val"`` or ``"test"``.
        cameras: Folders to show; see `choose_cameras`.
        height, width: Frame size; default: that of the first camera.
        resize: See `worldkit.data.fit`.
        split_seed: Another seed, another split.
        peek: Decode what is read, and keep nothing, for a look at the data.
    Raises:
        DataError: if a table is missing or damaged, or does not fit the index.
    """

    def __init__(
        self,
        root: Path,
        *,
        split: str,
        cameras: str | Sequence[str] | None = None,
        height: int | None = None,
        width: int | None = None,
        resize: str = "pad",
        split_seed: int = 0,
        peek: bool = False,
    ):
        check_resize(resize)
        self._root, self._split, self._resize, self._peek = root, split, resize, peek
        self._lengths, self._offsets = index_of(str(root), *(_table(root, name) for name in INDEX))
        check_index(str(root), self._lengths, self._offsets)
        if not self._lengths or min(self._lengths) < 1:
            raise DataError(f"{root}: ep_len has {'an episode without frames' if self._lengths else 'no episode'}")
        self._columns = {name: _table(root, name) for name in _names(root) if name not in INDEX}
        for name, column in self._columns.items():
            rows = max(o + n for o, n in zip(self._offsets, self._lengths, strict=True))
            if not column.ndim or len(column) < rows or min(self._offsets) < 0:
                found = f"episodes from row {min(self._offsets)} to {rows - 1}, {name}.npz is {list(column.shape)}"
                raise DataError(f"{root}: the index (ep_offset, ep_len) tells of {found}")
        self._actions = actions_in(self._columns)
        folders = sorted(p.name for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))
        shown = [name for name in folders if name.startswith("pixels")] or [f for f in folders if f not in GOALS]
        shapes = {name: self._native(name) for name in shown}
        self.cameras = choose_cameras(root, shapes, cameras, resized=height is not None)
        self._goal = next((name for name in GOALS if name in folders), None)
        native = shapes[self.cameras[0]]
        self._size = (height or native[0], width or height or native[1])
        self.fitting = Fitting([shapes[name] for name in self.cameras], self._size, resize)
        names = [str(i) for i in range(len(self._lengths))]
        self._spans = split_episodes(names, self._lengths, split, seed=split_seed)

    def read(self, episode: int, start: int, stop: int) -> dict[str, Any]:
        number, first, _ = self._spans[episode]
        frames = slice(first + start, first + stop)
        views = [self._shown(name, number).read(frames.start, frames.stop) for name in self.cameras]
        item: dict[str, Any] = {"video": views[0] if len(views) == 1 else np.stack(views)}
        if self._goal is not None:
            item["goal_image"] = self._shown(self._goal, number).read(frames.start, frames.start + 1)[0]
        for name in self._columns:
            self._put(item, name, frames, number)
        return item

    def read_entry(self, episode: int, name: str) -> Any:
        if name != "action":
            return super().read_entry(episode, name)
        number, first, last = self._spans[episode]
        return self._action(slice(first, last), number) if self._actions else None

    @property
    def summary(self) -> dict[str, Any]:
        facts = {"name": self._root.name, "kind": "swm", "split": self._split, "cameras": self.cameras}
        return {**facts, "resolution": list(self._size), "synthetic": False}

    def _put(self, item: dict[str, Any], name: str, frames: slice, number: int) -> None:
        values = self._columns[name][self._offsets[number] :][frames]
        role = role_of(name, values.dtype, values.ndim)
        if name == self._actions:
            item["action"] = self._action(frames, number)
        elif role == "language":
            item.setdefault(role, as_text(values[0]))
        elif role is not None and role != "goal_image":
            role = f"state.{name}" if role == "action" else role
            check_mask(values, role, f"{self._root}, episode {number}")
            put(item, role, np.array(values))

    def _action(self, frames: slice, number: int) -> np.ndarray:
        values, where = self._columns[self._actions][self._offsets[number] :][frames], f"{self._root}, episode {number}"
        return as_action(values, where, first=frames.start, ends=frames.stop == self._lengths[number])

    def _native(self, camera: str) -> tuple[int, int]:
        files = self._files(camera, 0)
        return video_size(files[0]) if files[0].suffix == ".mp4" else image_size(files[0])

    def _files(self, camera: str, number: int) -> list[Path]:
        """The video of an episode, or its images."""
        film = inside(self._root, f"{camera}/ep_{number}.mp4")
        if film.is_file():
            return [film]
        folder = inside(self._root, camera)
        first = folder / f"ep_{number}_step_0"
        suffix = next((suffix for suffix in _IMAGES if first.with_suffix(suffix).is_file()), None)
        if suffix is None:
            raise DataError(f"{folder} holds neither {film.name} nor {first.name}.jpeg: episode {number} is missing")
        files = [folder / f"ep_{number}_step_{step}{suffix}" for step in range(self._lengths[number])]
        for file in files:
            if not file.is_file():
                raise DataError(f"{file} does not exist: frame {file.stem.rpartition('_')[2]} of episode {number}")
            if file.is_symlink():
                inside(self._root, f"{camera}/{file.name}")
        return files

    def _shown(self, camera: str, number: int) -> Span | Unread:
        """The frames of an episode, decoded into the cache if they are not there."""
        files = self._files(camera, number)
        if self._peek:
            return Unread(partial(self._some, files), self._size, 0, self._lengths[number])
        stamps = [(str(f.resolve()), f.stat().st_mtime_ns, f.stat().st_size) for f in files]
        facts = {"size": self._size, "resize": self._resize, "length": self._lengths[number], "files": stamps}
        facts["decoder"] = decoder("av" if files[0].suffix == ".mp4" else "pillow")
        key = cache_key(f"{self._root.name}-{camera}-{number}", version=_VERSION, **facts)
        return Span(cached_frames(key, lambda: self._decoded(files, number, self._size)), 0, self._lengths[number])

    def stream(self, episode: int) -> Iterator[Frame]:
        """Frames of a whole episode one by one, ``[H, W, 3]`` of each camera in its own size.

        Raises:
            DataError: if a file is missing or damaged, or a film has another number of frames.
        """
        number = self._spans[episode][0]
        views = [self._decoded(self._files(name, number), number, self._native(name)) for name in self.cameras]
        yield from zip(*views, strict=True)

    def _some(self, files: Sequence[Path], start: int, stop: int) -> Iterator[np.ndarray]:
        if files[0].suffix == ".mp4":
            return frames_between(files[0], start, stop, *self._size, resize=self._resize)
        return decode_images(files[start:stop], *self._size, resize=self._resize)

    def _decoded(self, files: Sequence[Path], number: int, size: tuple[int, int]) -> Iterator[np.ndarray]:
        if files[0].suffix != ".mp4":
            yield from decode_images(files, *size, resize=self._resize)
            return
        count = 0
        for frame in decode_video(files[0], *size, resize=self._resize):
            count += 1
            yield frame
        if count != self._lengths[number]:
            raise DataError(f"{files[0]} has {count} frames, but ep_len says {self._lengths[number]}")


def _names(root: Path) -> list[str]:
    return sorted(file.stem for file in root.glob("[!.]*.npz"))


def _table(root: Path, name: str) -> np.ndarray:
    path = inside(root, f"{name}.npz")
    try:
        with np.load(path, allow_pickle=False) as archive:
            return archive[archive.files[0]]
    except (*DAMAGED, IndexError) as error:
        raise DataError(
            f"{path} cannot be read: {error}. It is damaged, or holds pickled objects, which are never loaded: store "
            "numbers or plain text, or move the file away"
        ) from error


def open_swm(
    target: str,
    *,
    split: str,
    height: int | None = None,
    width: int | None = None,
    cameras: str | Sequence[str] | None = None,
    resize: str = "pad",
    split_seed: int = 0,
) -> EpisodeSource:
    """A folder of stable-worldmodel; see the module docstring and `SWMSource`.

    Raises:
        DataError: if a file is missing or damaged, or does not fit the index.
    """
    options: Mapping[str, Any] = {"cameras": cameras, "height": height, "width": width, "split_seed": split_seed}
    return SWMSource(Path(target).expanduser(), split=split, resize=resize, **options)


def peek_swm(target: str, *, split: str, **options: Any) -> EpisodeSource:
    """As `open_swm`, but frames are decoded when they are read, and not kept."""
    return SWMSource(Path(target).expanduser(), split=split, peek=True, **options)


def swm_parts(path: Path, *, cameras: str | Sequence[str] | None = None, **options: Any) -> Iterator[Part]:
    """Every episode, decoded frame by frame, for `worldkit.data.validate`."""
    source = SWMSource(path, split=ALL, cameras=cameras, peek=True)
    for i in range(source.num_episodes):
        where = f"{path}, {source.episode_name(i)}"
        yield Part(where, "", partial(source.stream, i), partial(source_entries, source, i))
