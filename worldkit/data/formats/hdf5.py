"""The HDF5 layout of Balls-Interaction (G-SWM, DDLP): reader and writer.

A file holds ``imgs`` uint8 ``[N, T, H, W, 3]`` and, per ball, ``positions`` ``(x, y)`` in pixels, ``velocities``,
``in_camera`` and more; `write_balls_hdf5` lists them. The reader needs ``imgs`` only, takes ``actions`` (or ``action``)
``[N, T, A]`` (action numbers: ``[N, T]``) as a condition, and hands out ``positions``, ``velocities``, ``in_camera``
and whatever else has rows ``[N, T, ...]`` as ``"state"``. A folder with ``train.hdf5`` and so on is split; a single
file of another name is split by episode (see `worldkit.data.splits`).

G-SWM's single ball (``positions`` ``[N, T, 2]``) and maze (``imgs``, and ``trajs`` for every second frame, which is not
read) are laid out like this, too.
"""

from __future__ import annotations

import datetime
import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from einops import rearrange

from ...errors import DataError
from ...files import write_atomically
from ..base import EpisodeSource, SpannedSource
from ..fit import Fit, Fitting, check_resize, fit_video
from ..recording import ACTIONS, actions_in, as_action
from ..splits import ALL, MissingSplitError, split_episodes, split_folder, split_of, split_paths
from .balls import CANVAS, NUM_BALLS, RADIUS, SPLIT_SIZES, BallEpisodes, episode_seeds, iter_balls
from .h5 import H5File, NewFile, datasets

SUFFIXES = (".hdf5", ".h5")


def is_hdf5(target: str) -> bool:
    """Whether a target is an HDF5 file by name, or a folder with at least one ``train``, ``val`` or ``test`` file."""
    path = Path(target).expanduser()
    return (path.suffix.lower() in SUFFIXES and not path.is_dir()) or bool(split_paths(path, SUFFIXES))


class HDF5Source(SpannedSource):
    """Episodes of one HDF5 file. The file is opened at the first read, once in every process.

    Args:
        path: The file.
        split: Name for the summary.
        spans: Episodes to use, as ``(episode, first frame, one past the last)``; default: all, whole.
        height, width: Frame size; default: the file's own.
        resize: See `worldkit.data.fit`.
    Raises:
        DataError: if the file cannot be read, or ``imgs`` is missing or of another layout.
    """

    def __init__(
        self,
        path: Path,
        *,
        split: str = "train",
        spans: list[tuple[int, int, int]] | None = None,
        height: int | None = None,
        width: int | None = None,
        resize: str = "pad",
    ):
        self._path, self._split, self._resize = path, split, resize
        self._file = H5File(path, _check_layout)
        held = datasets(self._file.open())
        episodes, self._frames, *self._native, _ = held["imgs"].shape
        self._actions = actions_in(held)
        rows = {n for n, d in held.items() if d.shape[:2] == (episodes, self._frames) and d.dtype.kind in "fiub"}
        self._others = sorted(rows - {"imgs", self._actions, *_STATE.values(), *_PER_BALL})
        self._besides = [name for name in (self._actions, *_STATE.values(), *self._others) if name in held]
        self.unread = [n for n in self._file.open() if n not in {"imgs", *self._besides, *_PER_BALL}]
        self._file.close()
        self._spans = [(i, 0, self._frames) for i in range(episodes)] if spans is None else spans
        self._size = (height or self._native[0], width or self._native[1])
        self._fit = Fit.of((self._native[0], self._native[1]), self._size, resize)
        self.fitting = Fitting([self._fit.source], self._size, resize)

    def episode_name(self, episode: int) -> str:
        return f"{self._path.name}, {super().episode_name(episode)}"

    def read(self, episode: int, start: int, stop: int) -> dict[str, Any]:
        item: dict[str, Any] = {"video": self.video(episode, start, stop)}
        if self._actions:
            item["action"] = self._action(episode, start, stop)
        stored = self.stored(episode, start, stop)
        state = _state(stored, self._fit) | {name: stored[name] for name in self._others}
        return {**item, "state": state} if state else item

    def read_entry(self, episode: int, name: str) -> Any:
        if name != "action":
            return super().read_entry(episode, name)
        return self._action(episode, 0, self.length(episode)) if self._actions else None

    def video(self, episode: int, start: int, stop: int) -> np.ndarray:
        """Frames alone, uint8 ``[T, 3, H, W]``."""
        images = self._rows("imgs", episode, start, stop)
        return fit_video(rearrange(images, "t h w c -> t c h w"), self._size, self._resize)

    def stored(self, episode: int, start: int, stop: int) -> dict[str, np.ndarray]:
        """What the file holds besides frames, unchecked and under its own names."""
        return {name: self._rows(name, episode, start, stop) for name in self._besides}

    def _action(self, episode: int, start: int, stop: int) -> np.ndarray:
        number, first, _ = self._spans[episode]
        values, where = self._rows(self._actions, episode, start, stop), f"{self._path}, episode {number}"
        return as_action(values, where, first=first + start, ends=first + stop == self._frames)

    def _rows(self, name: str, episode: int, start: int, stop: int) -> np.ndarray:
        number, first, _ = self._spans[episode]
        try:
            return self._file.open()[name][number, first + start : first + stop]
        except OSError as error:
            place = f"{self._path}, episode {number}: frames {first + start}..{first + stop - 1} of '{name}'"
            raise DataError(f"{place} cannot be read: {error}") from error

    @property
    def summary(self) -> dict[str, Any]:
        return {
            "name": self._path.name,
            "kind": "hdf5",
            "split": self._split,
            "resolution": list(self._size),
            "synthetic": False,
        }


def _check_layout(path: Path, file: Any) -> None:
    held = datasets(file)
    if "imgs" not in held:
        has = ", ".join(name if name in held else f"the group {name}" for name in file) or "nothing"
        raise DataError(
            f"{path} has no 'imgs'; it has {has}. Expected: imgs uint8 [N, T, H, W, 3], or columns with ep_len and "
            "ep_offset; other layouts (robomimic, ACT, D4RL) are not read: write each episode as an .npz file with "
            "video uint8 [T, H, W, 3] and action [T, A]"
        )
    images = held["imgs"]
    if images.ndim != 5 or images.shape[-1] != 3 or images.dtype != np.uint8 or 0 in images.shape:
        raise DataError(f"{path}: imgs must be uint8 [N, T, H, W, 3], got {images.dtype} {list(images.shape)}")
    for name, shape in _BESIDES.items():
        if name not in held:
            continue
        found = held[name].shape
        if found[:2] != images.shape[:2] or (shape.endswith("2]") and found[-1] != 2):
            wanted = f"{name} must be {shape} with N, T = {images.shape[0]}, {images.shape[1]} as imgs has it"
            advice = ". The last action of an episode leads nowhere: it may be NaN" if name in ACTIONS else ""
            raise DataError(f"{path}: {wanted}, got {list(found)}{advice}")


_STATE = {"position": "positions", "velocity": "velocities", "in_camera": "in_camera"}
_PER_BALL = ("sizes", "masses", "layers", "shapes", "present", "colors", "ids")  # what else the original writes
_BESIDES = {
    **dict.fromkeys(ACTIONS, "[N, T, A] or [N, T]"),
    "positions": "[N, T, balls, 2] or [N, T, 2]",
    "velocities": "[N, T, balls, 2]",
    "in_camera": "[N, T, balls]",
}


def _state(data: Mapping[str, np.ndarray], fit: Fit) -> dict[str, np.ndarray]:
    """Known facts in our units: ``(y, x)``, [-1, 1] over the frame, in which the picture may be padded or cropped."""
    half, covered = np.array(fit.source) / 2, np.array(fit.scaled) / fit.target
    state = {}
    if "positions" in data:
        known = data["positions"].reshape(len(data["positions"]), -1, 2)  # of a single ball [T, 2]
        state["position"] = ((known[..., ::-1] / half - 1) * covered).astype(np.float32)
    if "velocities" in data:
        state["velocity"] = (data["velocities"][..., ::-1] / half * covered).astype(np.float32)
    if "in_camera" in data:
        state["in_camera"] = data["in_camera"] > 0.5
    return state


def open_hdf5(
    target: str, *, split: str, height: int | None = None, width: int | None = None, resize: str = "pad"
) -> EpisodeSource:
    """An HDF5 file, or a folder with ``train.hdf5``, ``val.hdf5``, ``test.hdf5``; see the module docstring.

    Args:
        target: The file or folder.
        split: ``"train"``, ``"val"`` or ``"test"``.
        height: Default: the images'.
        width: Default: the height given, else the images'.
        resize: ``"pad"`` (whole picture, black borders), ``"stretch"`` or ``"crop"``; see `worldkit.data.fit`.
    Raises:
        DataError: if the file is missing or damaged, or does not hold the split.
    """
    path = Path(target).expanduser()
    size: dict[str, Any] = {"height": height, "width": width, "resize": check_resize(resize)}
    if not path.exists():
        raise DataError(f"{path} does not exist: give an HDF5 file, or a folder with train.hdf5, val.hdf5, test.hdf5")
    if path.is_dir():
        return HDF5Source(split_folder(path, split, SUFFIXES), split=split, **size)
    named = split_of(path.stem)
    if named and split not in (named, ALL):
        raise MissingSplitError(
            f"{path} holds split '{named}', not '{split}': give its folder, {path.parent}, or ask for it"
        )
    whole = HDF5Source(path, split=split, **size)
    if named:
        return whole
    lengths = [whole.length(i) for i in range(whole.num_episodes)]
    spans = split_episodes([str(i) for i in range(len(lengths))], lengths, split)
    return HDF5Source(path, split=split, spans=spans, **size)


class BallsWriter:
    """Writes one file of the Balls layout: ``imgs``, and ``positions``, ``velocities``, ``in_camera``, ``actions``.

    Args:
        path: The file.
        plan: What will be written; see `worldkit.data.writers.Plan`, and `fits_balls_layout`.
    """

    def __init__(self, path: Path, *, plan: Any):
        self._new, self._plan, self._written = NewFile(path), plan, 0

    def write(self, episode: Mapping[str, Any]) -> None:
        """Add an episode, entries as `EpisodeSource.read` gives them."""
        video = np.asarray(episode["video"])
        half = np.array(video.shape[-2:]) / 2
        columns = {"imgs": rearrange(video, "t c h w -> t h w c")}
        if "action" in episode:
            columns["actions"] = episode["action"]
        for name, array in episode.get("state", {}).items():
            values = np.asarray(array, np.float64)
            if name != "in_camera":  # (y, x) in [-1, 1] -> (x, y) in pixels
                values = ((values + (name == "position")) * half)[..., ::-1]
            columns[_STATE[name]] = values
        for name, array in columns.items():
            data = self._new.file.require_dataset(name, (self._plan.num_episodes, *array.shape), array.dtype)
            data[self._written] = array
        self._written += 1
        self._new.flush()

    def close(self) -> None:
        """Complete the file."""
        self._new.close()


def fits_balls_layout(plan: Any) -> bool:
    """Whether the Balls layout has a place for everything: one view, one length, no state or condition it lacks."""
    sample = plan.sample
    state = sample.get("state", {})
    return (
        len(set(plan.lengths)) == 1
        and np.ndim(sample["video"]) == 4
        and np.shape(sample["video"])[1] == 3
        and "position" in state
        and all(_fits(name, np.asarray(array)) for name, array in state.items())
        and set(sample) <= {"video", "state", "action"}
        and ("action" not in sample or _fits("action", np.asarray(sample["action"])))
    )


def _fits(name: str, array: np.ndarray) -> bool:
    """Whether the layout has this entry, and reads it as it was."""
    if name == "in_camera":
        return array.dtype == bool and array.ndim == 2
    if name == "action":
        return array.dtype == np.float32 and array.ndim == 2
    return name in _STATE and array.dtype == np.float32 and array.ndim == 3 and array.shape[2] == 2


def write_balls_hdf5(
    folder: str | os.PathLike[str],
    *,
    splits: Mapping[str, int] = SPLIT_SIZES,
    image_size: int = CANVAS,
    num_frames: int = 100,
) -> list[Path]:
    """Write Balls-Interaction as ``train.hdf5``, ``val.hdf5``, ``test.hdf5`` and ``version.txt``, as the original does.

    With the defaults this is the original data set: 6.6 GB. Each file is written under a temporary name and renamed
    when complete. Contents: ``imgs`` uint8 ``[N, T, S, S, 3]``; all others float64: ``positions``, ``velocities``
    ``[N, T, 3, 2]`` ``(x, y)`` in pixels of the written image (per frame); ``sizes`` (radius in pixels), ``masses``,
    ``layers``, ``shapes``, ``present``, ``in_camera``, ``ids`` ``[N, T, 3]``; ``colors`` ``[N, T, 3, 3]`` in [0, 1]. A
    ball that another one hides completely has ``in_camera``, ``ids``, ``positions`` and ``sizes`` 0, and a new id
    afterwards.

    Args:
        folder: Made if need be.
        splits: Split -> number of episodes.
        image_size: 64, 32 or 16.
        num_frames: Frames per episode.
    Returns:
        The files written.
    Raises:
        DataError: for an unknown split, another image size, or less than one episode.
        MissingExtraError: without h5py.
    """
    folder = Path(folder).expanduser()
    for split, count in splits.items():
        episode_seeds(split, count)  # complain before anything is written
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for split, count in splits.items():
        written.append(folder / f"{split}.hdf5")
        write_atomically(written[-1], partial(_write_split, split, count, image_size, num_frames))
    version = f"{datetime.date.today()}\n"
    write_atomically(folder / "version.txt", lambda temporary: temporary.write_text(version))
    return written


def _write_split(split: str, count: int, image_size: int, num_frames: int, path: Path) -> None:
    new = NewFile(path)
    for part in iter_balls(split, num_episodes=count, image_size=image_size, num_frames=num_frames):
        part_of = slice(part.first_episode, part.first_episode + len(part.video))
        for name, array in _columns(part, image_size).items():
            new.file.require_dataset(name, (count, *array.shape[1:]), array.dtype)[part_of] = array
        new.flush()
    new.close()


def _columns(part: BallEpisodes, image_size: int) -> dict[str, np.ndarray]:
    """All datasets of the layout for some episodes."""
    scale = image_size / CANVAS
    seen = part.in_camera
    visible = seen.astype(np.float64)  # [E, T, 3]
    zeros, ones = np.zeros_like(visible), np.ones_like(visible)
    return {
        "imgs": rearrange(part.video, "e t c h w -> e t h w c"),
        "positions": part.positions * scale * visible[..., None],
        "velocities": part.velocities * scale,
        "sizes": RADIUS * scale * visible,
        "masses": ones,
        "layers": zeros,
        "shapes": zeros,
        "present": ones,
        "colors": np.broadcast_to(part.colors[:, None], (*visible.shape, 3)),
        "in_camera": visible,
        "ids": _ids(seen),
    }


def _ids(seen: np.ndarray) -> np.ndarray:
    """A new number for every appearance, counted by frame, then ball; 0 while hidden. ``seen``: bool ``[E, T, 3]``."""
    appears = seen & ~np.pad(seen, ((0, 0), (1, 0), (0, 0)))[:, :-1]
    number = np.cumsum(rearrange(appears, "e t n -> e (t n)"), axis=1)
    number = rearrange(number, "e (t n) -> e t n", n=NUM_BALLS)
    return np.maximum.accumulate(np.where(appears, number, 0), axis=1) * seen.astype(np.float64)
