"""HDF5 with one dataset per column and all episodes behind one another, as stable-worldmodel has it. Reader and writer.

``ep_len`` and ``ep_offset`` say where each episode lies; every other dataset has one row per step. Cameras are the
uint8 columns ``[N, H, W, 3]`` whose names start with ``pixels``; ``action`` is the condition (row ``t`` acts between
frames ``t`` and ``t + 1``, the last row of an episode may be NaN); a uint8 image column ``goal`` (or ``goal_image``) is
the goal (``[N, V, H, W, 3]``: one per camera), ``language``, ``task`` or ``instruction`` the instruction: the first
step of a clip counts. ``done_mask`` and ``masks.action`` are what they are called; other numbers are ``state``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import DataError, require_extra
from ..base import EpisodeSource, SpannedSource
from ..fit import Fitting, check_resize, fit_video
from ..recording import ACTIONS, actions_in, as_action, check_mask, flat_entries, put
from ..splits import ALL, MissingSplitError, split_episodes, split_folder, split_of, split_paths
from .h5 import H5File, NewFile, datasets, open_h5, read_rows
from .hdf5 import SUFFIXES, BallsWriter, fits_balls_layout
from .index import GOALS, INDEX, TEXTS, as_text, check_index, index_of, role_of


def column_files(path: Path) -> list[Path]:
    """The file, the files of the splits, or the only HDF5 file of a folder."""
    if path.suffix.lower() in SUFFIXES and not path.is_dir():
        return [path]
    there = [file for files in split_paths(path, SUFFIXES).values() for file in files]
    if there or not path.is_dir():
        return there
    single = [file for file in path.glob("[!.]*") if file.suffix.lower() in SUFFIXES]
    return single if len(single) == 1 else []


def is_columns(target: str) -> bool:
    """Whether a target is an HDF5 file (or a folder with one, or with one per split) that has ``ep_len``."""
    files = column_files(Path(target).expanduser())
    with contextlib.suppress(ImportError, OSError):
        if files and files[0].is_file():
            with open_h5(files[0]) as file:
                return all(name in file for name in INDEX)
    return False


class ColumnsSource(SpannedSource):
    """Episodes of one file. The file is opened at the first read, once in every process.

    Args:
        path: The file.
        split: ``"train"``, ``"val"`` or ``"test"``, for the summary and for a file that is not split.
        whole: The file is one split; else it is split here.
        cameras: Columns to show; see `choose_cameras`.
        height, width: Frame size; default: that of the first camera.
        resize: See `worldkit.data.fit`.
        split_seed: Another seed, another split.
    Raises:
        DataError: if the file cannot be read, or its columns do not fit its index.
    """

    def __init__(
        self,
        path: Path,
        *,
        split: str,
        whole: bool,
        cameras: str | Sequence[str] | None = None,
        height: int | None = None,
        width: int | None = None,
        resize: str = "pad",
        split_seed: int = 0,
    ):
        self._path, self._split, self._resize = path, split, resize
        self._file = H5File(path, read_index)
        file = self._file.open()
        held = datasets(file)
        shapes = {
            name: tuple(data.shape[1:3])
            for name, data in held.items()
            if is_camera(name, data)
        }
        self.cameras = choose_cameras(path, shapes, cameras, resized=height is not None)
        self._views = [list(shapes).index(name) for name in self.cameras]
        native = shapes[self.cameras[0]]
        self._size = (height or native[0], width or height or native[1])
        self.fitting = Fitting([shapes[name] for name in self.cameras], self._size, resize)
        for name in GOALS:
            if name in held and held[name].ndim == 5 and held[name].shape[1] != len(shapes):
                shape = f"{list(held[name].shape)}, but there are {len(shapes)} cameras: {', '.join(shapes)}"
                raise DataError(f"{path}: '{name}' should have one image per camera, [N, V, H, W, 3]; it is {shape}")
        self._lengths, self._offsets = read_index(path, file)
        self._columns = self._check(held)
        self._actions = actions_in(self._columns)
        names = [str(i) for i in range(len(self._lengths))]
        self._spans = (
            [(i, 0, length) for i, length in enumerate(self._lengths)]
            if whole
            else split_episodes(names, self._lengths, split, seed=split_seed)
        )
        self._file.close()

    def _check(self, held: Mapping[str, Any]) -> list[str]:
        """Columns to read besides cameras, after a check that every one reaches to the end of every episode."""
        columns = [n for n, data in held.items() if n not in INDEX and not n.startswith("pixels") and data.ndim]
        check_index(str(self._path), self._lengths, self._offsets)
        for name in (*self.cameras, *columns):
            for i, (offset, length) in enumerate(zip(self._offsets, self._lengths, strict=True)):
                if offset < 0 or length < 1 or offset + length > len(held[name]):
                    raise DataError(
                        f"{self._path}: episode {i} should lie at rows {offset}..{offset + length - 1} "
                        f"(ep_offset, ep_len), but column '{name}' has {len(held[name])} rows"
                    )
        return columns

    def episode_name(self, episode: int) -> str:
        return f"{self._path.name}, {super().episode_name(episode)}"

    def read(self, episode: int, start: int, stop: int) -> dict[str, Any]:
        number, first, _ = self._spans[episode]
        rows = slice(self._offsets[number] + first + start, self._offsets[number] + first + stop)
        views = [self._frames(name, rows, number) for name in self.cameras]
        item: dict[str, Any] = {"video": views[0] if len(views) == 1 else np.stack(views)}
        for name in self._columns:
            self._put(item, name, rows, number)
        return item

    def _rows(self, name: str, rows: slice, number: int) -> np.ndarray:
        return read_rows(self._file.open()[name], rows, f"{self._path}, episode {number}")

    def _frames(self, name: str, rows: slice, number: int) -> np.ndarray:
        return self._fitted(self._rows(name, rows, number))

    def _fitted(self, images: np.ndarray) -> np.ndarray:
        fitted = fit_video(np.moveaxis(images, -1, 1), self._size, self._resize)
        return np.repeat(fitted, 3 // fitted.shape[1], axis=1)

    def _goal(self, name: str, row: int, number: int) -> np.ndarray:
        """The goal at a row; where every camera has one, those of the cameras to show."""
        goal = self._rows(name, slice(row, row + 1), number)[0]
        views = self._fitted(goal[None] if goal.ndim == 3 else goal[self._views])
        return views if len(views) > 1 else views[0]

    def _put(self, item: dict[str, Any], name: str, rows: slice, number: int) -> None:
        data = self._file.open()[name]
        role = role_of(name, data.dtype, data.ndim)
        if role == "action" and name != self._actions:
            role = f"state.{name}"  # the data set has both
        if role == "action":
            item["action"] = self._action(rows, number)
        elif role == "language":
            item.setdefault(role, as_text(self._rows(name, slice(rows.start, rows.start + 1), number)[0]))
        elif role == "goal_image":
            item["goal_image"] = self._goal(name, rows.start, number)
        elif role is not None:
            values = self._rows(name, rows, number)
            check_mask(values, role, f"{self._path}, episode {number}")
            put(item, role, values)

    def _action(self, rows: slice, number: int) -> np.ndarray:
        first, stop = (row - self._offsets[number] for row in (rows.start, rows.stop))
        values, where = self._rows(self._actions, rows, number), f"{self._path}, episode {number}"
        return as_action(values, where, first=first, ends=stop == self._lengths[number])

    def read_entry(self, episode: int, name: str) -> Any:
        if name != "action":
            return super().read_entry(episode, name)
        number, first, last = self._spans[episode]
        begin = self._offsets[number]
        return self._action(slice(begin + first, begin + last), number) if self._actions else None

    @property
    def summary(self) -> dict[str, Any]:
        return {
            "name": self._path.name,
            "kind": "columns",
            "split": self._split,
            "cameras": self.cameras,
            "resolution": list(self._size),
            "synthetic": False,
        }


def is_camera(name: str, data: Any) -> bool:
    """Whether a column has frames to show."""
    pictures = data.ndim == 4 and data.dtype == np.uint8 and data.shape[-1] in (1, 3) and 0 not in data.shape[1:]
    return name.startswith("pixels") and pictures


def read_index(path: Path, file: Any) -> tuple[list[int], list[int]]:
    """The length of every episode, and the row at which it begins.

    Raises:
        DataError: if ``ep_len`` or ``ep_offset`` is missing, damaged or not a list of whole numbers, or they disagree.
    """
    held = datasets(file)
    missing = [name for name in INDEX if name not in held]
    if missing:
        raise DataError(f"{path} has no '{missing[0]}'; it has {', '.join(file) or 'nothing'}")
    index = (held[name] for name in INDEX)
    rows = [read_rows(data, slice(0, len(data)), str(path)) if data.ndim else data[()] for data in index]
    return index_of(str(path), *rows)


def choose_cameras(
    where: Path, shapes: Mapping[str, tuple[int, int]], cameras: str | Sequence[str] | None, *, resized: bool = False
) -> list[str]:
    """The cameras to show.

    Args:
        where: For messages.
        shapes: Camera -> height and width.
        cameras: Names, or a string with commas between them; the last part of a dotted name will do. ``None``: the only
            camera, or all, if they have one frame size.
        resized: A frame size was asked for, so chosen cameras may differ in theirs.
    Returns:
        Names as in ``shapes``.
    Raises:
        DataError: if there is no camera, a name is unknown, or the sizes differ.
    Example:
        >>> choose_cameras(Path("a"), {"images.front": (8, 8), "images.wrist": (4, 4)}, "front")
        ['images.front']
    """
    known = ", ".join(f"{name} {height}x{width}" for name, (height, width) in shapes.items()) or "none"
    if not shapes:
        raise DataError(f"{where} has no camera: no column of uint8 images (or video) to show")
    wanted = cameras.split(",") if isinstance(cameras, str) else list(shapes if cameras is None else cameras)
    chosen = []
    for name in wanted:
        matches = [full for full in shapes if full == name] or [
            full for full in shapes if full.endswith((f".{name}", f"_{name}"))
        ]
        if len(matches) != 1:
            raise DataError(f"{where} has no single camera '{name}'; its cameras: {known}")
        chosen += matches
    if not chosen:
        raise DataError(f"{where}: cameras= names no camera; its cameras: {known}")
    if len({shapes[name] for name in chosen}) > 1 and (cameras is None or not resized):
        short = chosen[0].rpartition(".")[2]
        advice = f"cameras='{short}'" if cameras is None else "height= and width="
        raise DataError(f"{where}: cameras of different sizes make no views: {known}. Choose with {advice}")
    return chosen


def open_columns(
    target: str,
    *,
    split: str,
    height: int | None = None,
    width: int | None = None,
    cameras: str | Sequence[str] | None = None,
    resize: str = "pad",
    split_seed: int = 0,
) -> EpisodeSource:
    """An HDF5 file with ``ep_len`` and ``ep_offset``; see the module docstring and `ColumnsSource`.

    Raises:
        DataError: if the file is missing or damaged, does not hold the split, or its columns do not fit its index.
    """
    check_resize(resize)
    path = Path(target).expanduser()
    part = split_folder(path, split, SUFFIXES) if path.is_dir() else None
    files = [part] if part else column_files(path)
    if not files:
        raise DataError(f"{path} does not exist or holds no single HDF5 file: give the file")
    named = split_of(files[0].stem)
    if named and split not in (named, ALL):
        raise MissingSplitError(f"{files[0]} holds split '{named}', not '{split}': give its folder, or ask for it")
    options = {"cameras": cameras, "height": height, "width": width, "resize": resize, "split_seed": split_seed}
    return ColumnsSource(files[0], split=split, whole=bool(named), **options)


class ColumnsWriter:
    """Writes one HDF5 file of columns: ``pixels`` (``pixels.0`` and so on with several views), ``action``, ...

    Args:
        path: The file.
        plan: What will be written; see `worldkit.data.writers.Plan`.
    """

    def __init__(self, path: Path, *, plan: Any):
        self._h5py = require_extra("h5py", "data", "writing HDF5")
        self._new, self._plan, self._lengths = NewFile(path), plan, []
        self._columns: dict[str, Any] = {}

    def write(self, episode: Mapping[str, Any]) -> None:
        """Add an episode, entries as `EpisodeSource.read` gives them.

        Raises:
            DataError: for language embeddings, which would be repeated in every row.
        """
        video = np.moveaxis(np.asarray(episode["video"]), -3, -1)
        views = [video] if video.ndim == 4 else list(video)
        names = ["pixels"] if len(views) == 1 else [f"pixels.{i}" for i in range(len(views))]
        columns = dict(zip(names, views, strict=True))
        timed, constant = flat_entries(episode)
        for name, value in constant.items():
            if not isinstance(value, str) and name != "goal_image":
                raise DataError(f"the columns format has no place for '{name}' {list(value.shape)}: write npz")
            row = value if isinstance(value, str) else np.moveaxis(value, -3, -1)
            columns[name] = np.array([row] * len(views[0]), dtype=object if isinstance(value, str) else np.uint8)
        # a state keeps its prefix only where the plain name would mean something else
        meaning = {*ACTIONS, "done_mask", *INDEX, *GOALS, *TEXTS}
        for name, array in timed.items():
            short = name.removeprefix("state.")
            clear = short not in meaning and not short.startswith(("pixels", "masks.", "state.")) and array.ndim < 4
            columns[short if clear else name] = array
        for name, values in columns.items():
            if "/" in name:
                raise DataError(f"the columns format has no place for '{name}': HDF5 takes '/' for a folder. Write npz")
            self._append(name, values)
        self._lengths.append(len(views[0]))
        self._new.flush()

    def _append(self, name: str, values: np.ndarray) -> None:
        if name not in self._columns:
            text = values.dtype == object
            tail = values.shape[1:]
            rows = max(1, min(len(values), 2**18 // max(1, int(np.prod(tail)))))  # chunks of about 256 kB
            self._columns[name] = self._new.file.create_dataset(
                name,
                (0, *tail),
                maxshape=(None, *tail),
                chunks=(rows, *tail),
                dtype=self._h5py.string_dtype() if text else values.dtype,
            )
        data = self._columns[name]
        data.resize(len(data) + len(values), axis=0)
        data[-len(values) :] = values

    def close(self) -> None:
        """Write the index."""
        self._new.file["ep_len"] = np.array(self._lengths, np.int32)
        self._new.file["ep_offset"] = np.concatenate([[0], np.cumsum(self._lengths)[:-1]]).astype(np.int64)
        self._new.close()


def hdf5_writer(path: Path, *, plan: Any) -> BallsWriter | ColumnsWriter:
    """A writer of the Balls layout where that has a place for everything, else of columns."""
    return (BallsWriter if fits_balls_layout(plan) else ColumnsWriter)(path, plan=plan)
