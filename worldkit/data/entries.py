"""What an ``.npz`` file holds besides frames: actions, masks, instruction, goal, state.

Such a file is an episode of its own (`worldkit.data.formats.npz`) or lies beside a clip.

Nothing is ever unpickled. The names are told in `worldkit.data.formats.npz`.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np

from ..errors import DataError
from .fit import fit_video
from .recording import actions_in, as_action, flat_entries

VIDEO_NAMES = ("video", "frames", "observations", "observation", "images", "image", "imgs", "pixels")
CONSTANT = ("language", "goal_image")
DAMAGED = (zipfile.BadZipFile, zlib.error, OSError, ValueError, EOFError, RuntimeError, TokenError, SyntaxError,
           TypeError, MemoryError, OverflowError, KeyError)
"""What a broken .npy or .npz file raises; NumPy reads a header as Python, with its tokeniser for one of Python 2."""
IMAGES_SIDECAR = "entries.npz"  # in a folder of images; a video CLIP.mp4 has CLIP.npz


def fit_frames(frames: np.ndarray, channels_last: bool, size: tuple[int, int], resize: str) -> np.ndarray:
    """Frames of any layout as ``[T, H, W, 3]`` of a size; grey ones get three equal channels."""
    frames = frames if not channels_last else np.moveaxis(frames, -1, -3)
    fitted = fit_video(frames, size, resize)
    return np.moveaxis(np.repeat(fitted, 3 // fitted.shape[-3], axis=-3), -3, -1)


def header(file: Any) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, order and dtype of an array in an open ``.npy`` file."""
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    return read(file)


def is_video(archive: zipfile.ZipFile, name: str) -> bool:
    """Whether an array of an ``.npz`` file is frames, by its header: ``observations`` may be numbers as well.

    True of one whose header is damaged: who reads it tells.
    """
    try:
        with archive.open(f"{name}.npy") as file:
            shape, _, dtype = header(file)
    except DAMAGED:
        return True
    return dtype == np.uint8 and len(shape) in (4, 5)


def load_arrays(
    path: Path, names: list[str] | None = None, *, video: str | None = None, max_frames: int | None = None
) -> dict[str, np.ndarray]:
    """Arrays of a file, those with a time axis up to ``max_frames``; default: all but the video.

    Args:
        path: The file.
        names: Which ones.
        video: The one that is the video; default: all that are called like one and are frames.
        max_frames: Use only the first steps.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            if names is None:
                frames = [n for n in VIDEO_NAMES if n in archive.files and is_video(archive.zip, n)]
                names = [n for n in archive.files if n not in ([video] if video else frames)]
            arrays = {name: _loaded(archive, name) for name in names}
    except DAMAGED as error:
        raise DataError(
            f"{path} cannot be read: {error}. It is damaged, or holds pickled objects, which are never loaded: store "
            "plain arrays and strings"
        ) from error
    return {n: a if n in CONSTANT or not a.ndim or not max_frames else a[:max_frames] for n, a in arrays.items()}


def read_entries(
    path: Path,
    length: int,
    size: tuple[int, int],
    resize: str = "pad",
    *,
    video: str | None = None,
    max_frames: int | None = None,
    lasts: Sequence[int] = (),
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """What a file holds besides its video, under flat names: with a time axis, and for the whole episode.

    Args:
        path: The file.
        length: Frames of the episode.
        size: Height and width for a goal image.
        resize: How the goal image gets that size.
        video: The array that is the video, if the file holds it.
        max_frames: Use only the first steps.
        lasts: Steps whose action leads nowhere, as another episode begins behind them: it becomes 0.
    Raises:
        DataError: if an action, mask or goal has another layout or length.
    """
    timed: dict[str, np.ndarray] = {}
    constant: dict[str, Any] = {}
    arrays = load_arrays(path, video=video, max_frames=max_frames)
    actions = actions_in(arrays)
    for name, array in arrays.items():
        if name == actions:
            if len(lasts) and array.ndim and len(array) == length:
                array[np.asarray(lasts)] = 0
            timed["action"] = as_action(array, str(path))
        elif name in CONSTANT:
            constant[name] = _constant(path, name, array, size, resize)
        elif name == "done" and ends_many(array):
            if not len(lasts):
                raise DataError(f"{path}: 'done' ends several episodes, but this is one: only its last frame may be 1")
            timed["state.done"] = array
        elif name == "done":
            ended = np.cumsum(array.reshape(-1) != 0)
            timed["done_mask"] = (np.concatenate([[0], ended[:-1]]) == 0).astype(np.float32)
        elif name == "done_mask" or name.partition(".")[0] == "masks":
            timed[name] = array
        elif array.ndim and len(array) == length and array.dtype.kind in "fiub":
            timed[name if name.startswith("state.") else f"state.{name}"] = array
    for name, array in timed.items():
        steps = len(np.atleast_1d(array))
        if steps != length:
            short = name == "action" and steps == length - 1
            advice = ". The last action leads nowhere: give it a row of NaN or 0" if short else ""
            raise DataError(f"{path}: '{name}' has {steps} steps, the video has {length} frames{advice}")
    return timed, constant


def ends_many(done: np.ndarray) -> bool:
    """Whether ``done`` becomes 1 more than once: it ends several episodes; 0 or 1 behind a single end is padding.

    Example:
        >>> ends_many(np.array([0, 1, 0, 1])), ends_many(np.array([0, 1, 1, 0]))
        (True, False)
    """
    ended = done.reshape(-1) != 0
    return int((ended & ~np.concatenate([[False], ended[:-1]])).sum()) > 1


def check_constant(array: np.ndarray, name: str, where: str) -> None:
    """Whether an array can be the instruction or the goal image of an episode.

    Raises:
        DataError: for another dtype or shape.
    """
    got = f"got {array.dtype} {list(array.shape)}"
    if name == "language":
        text, embeddings = array.dtype.kind == "U" and array.size == 1, array.dtype.kind == "f" and array.ndim == 2
        if not (text or embeddings):
            raise DataError(f"{where}: language must be a string or embeddings [L, E], {got}")
    elif array.dtype != np.uint8 or array.ndim not in (3, 4) or not {array.shape[-1], array.shape[-3]} & {1, 3}:
        raise DataError(f"{where}: {name} must be uint8 [H, W, 3] or [3, H, W], {got}")


def _loaded(archive: Any, name: str) -> np.ndarray:
    try:
        array = archive[name]
    except ValueError as error:
        raise ValueError(f"'{name}': {error}") from error
    if not isinstance(array, np.ndarray):  # NumPy gives the bytes of whatever else a file holds
        raise ValueError(f"'{name}' is no array")
    return array


def _constant(path: Path, name: str, array: np.ndarray, size: tuple[int, int], resize: str) -> Any:
    check_constant(array, name, str(path))
    if name == "language":
        return str(array.reshape(-1)[0]) if array.dtype.kind == "U" else array.astype(np.float32)
    last = array.shape[-1] in (1, 3)
    frames = array[None] if array.ndim == 3 else array
    fitted = np.ascontiguousarray(np.moveaxis(fit_frames(frames, last, size, resize), -1, -3))
    return fitted[0] if array.ndim == 3 else fitted


def save_entries(file: Any, episode: Mapping[str, Any], **arrays: np.ndarray) -> bool:
    """Write the entries of an episode besides its video, and ``arrays``, as ``.npz``; False if there was nothing."""
    timed, constant = flat_entries(episode)
    arrays |= {**timed, **{name: np.asarray(value) for name, value in constant.items()}}
    if arrays:
        np.savez_compressed(file, allow_pickle=False, **arrays)
    return bool(arrays)
