"""Where the frames of an ``.npz`` file lie, and where its episodes end."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

import numpy as np

from ...errors import DataError
from ..entries import DAMAGED, VIDEO_NAMES, fit_frames, header, is_video, load_arrays
from ..splits import ALL, SPLITS, MissingSplitError, split_folder
from .image_series import natural_key
from .npz_ends import ending, find_stops

_CHUNK = 64  # frames in memory at a time
_PARTNER = "-val"


@dataclass(frozen=True)
class NpzEpisode:
    """One episode of a file.

    Attributes:
        file: Where it lies.
        name: For messages and for splits: the file's, and where it holds several, the number in it.
        start, stop: Its rows.
    """

    file: Path
    name: str
    start: int
    stop: int


def npz_files(path: Path) -> list[Path]:
    """The files of a folder in natural order, or the file itself.

    Raises:
        DataError: if there is none.
    """
    held = [file for file in path.glob("[!.]*") if file.suffix.lower() == ".npz"] if path.is_dir() else [path]
    files = sorted(held, key=lambda file: natural_key(file.name))
    if not files:
        raise DataError(f"{path} holds no .npz file")
    return files


def files_of(path: Path, split: str) -> tuple[list[Path], bool]:
    """The files of a split, and whether the data say so: by folders, or by OGBench's pairs.

    ``NAME-val.npz`` beside ``NAME.npz`` is the validation part of it, and the rest of the folder is for training.

    Raises:
        MissingSplitError: if the data are split, but not this way.
        DataError: if there is no file.
    """
    part = split_folder(path, split, ("", ".npz")) if path.is_dir() else None
    if part is not None:
        return npz_files(part), True
    around = npz_files(path) if path.is_dir() else [path, path.with_name(f"{path.stem}{_PARTNER}.npz")]
    around = [file for file in around if file == path or file.is_file()]
    names = {file.stem for file in around}
    partners = [f for f in around if f.stem.endswith(_PARTNER) and f.stem.removesuffix(_PARTNER) in names]
    if not partners or split == ALL:
        return around, bool(partners)
    if split == "test":
        raise MissingSplitError(
            f"{path} has {partners[0].stem.removesuffix(_PARTNER)}.npz for training and {partners[0].name} for "
            "validation, but nothing for split 'test': ask for 'train' or 'val'"
        )
    return (partners if split == "val" else [file for file in around if file not in partners]), True


def parts_of(path: Path) -> list[tuple[str, Path]]:
    """Split (``""`` if the data are not split) and file, of every file."""
    found: list[tuple[str, Path]] = []
    for split in SPLITS:
        try:
            files, given = files_of(path, split)
        except MissingSplitError:
            continue
        if not given:
            return [("", file) for file in files]
        found += [(split, file) for file in files]
    return found


class NpzVideo:
    """Where the video of a file is and how it is laid out, from the array's header alone."""

    def __init__(self, path: Path):
        try:
            with zipfile.ZipFile(path) as archive:
                names = [name.removesuffix(".npy") for name in archive.namelist()]
                found = [name for name in VIDEO_NAMES if name in names]
                if not found:
                    raise DataError(
                        f"{path} has no video: expected uint8 frames under {', '.join(VIDEO_NAMES[:4])}, ...; "
                        f"it has {', '.join(names) or 'nothing'}"
                    )
                self.name = next((name for name in found if is_video(archive, name)), found[0])
                with archive.open(f"{self.name}.npy") as file:
                    shape, by_columns, dtype = header(file)
        except DAMAGED as error:
            if isinstance(error, DataError):
                raise
            raise DataError(f"{path} cannot be read as .npz: it is missing, truncated or damaged ({error})") from error
        self.path = path
        self._ends = ending(names)
        self.is_flat = "terminals" in names or "timeouts" in names
        self._streams = len(shape) == 4 and not by_columns
        what = f"{path}: '{self.name}'"
        self.empty = dtype == np.uint8 and len(shape) in (4, 5) and shape[-3:] in ((0, 0, 3), (3, 0, 0))
        if dtype != np.uint8 or len(shape) not in (4, 5) or (0 in shape and not self.empty) or not shape[-4]:
            raise DataError(
                f"{what} must be uint8 [T, H, W, C] or [T, C, H, W] (several cameras: one axis more in front), "
                f"got {dtype} {list(shape)}"
            )
        last, front = shape[-1] in (1, 3), shape[-3] in (1, 3)
        if last == front:
            problem = "its channels could be first or last" if last else "it has neither 1 nor 3 channels"
            raise DataError(f"{what} {list(shape)}: {problem}; store it as uint8 [T, H, W, 3]")
        if len(shape) == 5 and shape[0] > shape[1]:
            raise DataError(
                f"{what} {list(shape)} would be {shape[0]} cameras of {shape[1]} frames: cameras come first, then "
                "time. Swap the first two axes, or store each episode in a file of its own"
            )
        self.channels_last = last
        self.views = shape[0] if len(shape) == 5 else None
        self.length = shape[-4]
        self.size = (shape[-3], shape[-2]) if last else (shape[-2], shape[-1])
        self._row = shape[-3:]

    def episodes(self) -> list[NpzEpisode]:
        """Its episodes, see `worldkit.data.formats.npz_ends`; all rows are one, where nothing says more.

        Raises:
            DataError: if what says so is not as long as the video.
        """
        stops = find_stops(load_arrays(self.path, self._ends), self.length, str(self.path)) if self._ends else []
        spans = list(zip([0, *stops], stops, strict=False))
        if len(spans) < 2:
            return [NpzEpisode(self.path, self.path.name, 0, self.length)]
        return [NpzEpisode(self.path, f"{self.path.name}, episode {i}", *span) for i, span in enumerate(spans)]

    def frames(self, view: int, size: tuple[int, int], resize: str) -> Iterator[np.ndarray]:
        """Its frames at a size, ``[H, W, 3]`` each; one view is read piece by piece, however long.

        Raises:
            DataError: if the file is damaged.
        """
        for rows in self._pieces() if self._streams else self._whole(view):
            yield from fit_frames(rows, self.channels_last, size, resize)

    def _whole(self, view: int) -> Iterator[np.ndarray]:
        frames = load_arrays(self.path, [self.name])[self.name]
        yield frames[view] if self.views else frames

    def _pieces(self) -> Iterator[np.ndarray]:
        row = int(np.prod(self._row))
        try:
            with zipfile.ZipFile(self.path) as archive, archive.open(f"{self.name}.npy") as file:
                header(file)
                for start in range(0, self.length, _CHUNK):
                    count = min(_CHUNK, self.length - start)
                    data = file.read(count * row)
                    if len(data) < count * row:
                        raise EOFError(f"it ends in frame {start + len(data) // row}")
                    yield np.frombuffer(bytearray(data), np.uint8).reshape(count, *self._row)
        except DAMAGED as error:
            raise DataError(f"{self.path} cannot be read: {error}. It is damaged: replace it") from error


class NpzReader:
    """Frames and numbers of the episodes of one file, for readers that go through it once from front to back."""

    def __init__(self, video: NpzVideo):
        self.video, self._at, self._rest = video, 0, iter(())
        self._load = lru_cache(maxsize=1)(partial(load_arrays, video=video.name))

    def frames(self, episode: NpzEpisode) -> Iterator[tuple[np.ndarray, ...]]:
        """Frames in their own size, for each a tuple of its views ``[H, W, 3]``."""
        video = self.video
        if self._at == 0 or self._at > episode.start:
            views = [video.frames(view, video.size, "stretch") for view in range(video.views or 1)]
            self._at, self._rest = 0, zip(*views, strict=True)
        for frame in self._rest:
            self._at += 1
            if self._at > episode.start:
                yield frame
            if self._at == episode.stop:
                return

    def arrays(self, episode: NpzEpisode) -> dict[str, np.ndarray]:
        """What there is besides, each array with a time axis cut to the episode."""
        every, length = self._load(self.video.path), self.video.length
        if episode.stop - episode.start == length:
            return dict(every)
        return {name: array[episode.start : episode.stop] if array.ndim and len(array) == length else array
                for name, array in every.items()}
