"""Frames of the cameras of a LeRobot data set: which cameras can be shown, and their frames, decoded or not yet."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import DataError, require_extra
from ..cache import Span, Unread, cache_key
from ..decode import WHITE, decode_at, to_rgb, video_size
from ..film import check_size, decoder
from ..fit import fit_video
from ..paths import inside
from ..recording import cached_frames
from .lerobot_meta import DataSetInfo, EpisodeInfo, open_parquet, reading_parquet

TOLERANCE = 1e-4  # seconds between a frame of a video and the time it should have, as in lerobot
GOAL = "goal_image"
_VERSION = 4  # raise when decoding or resizing changes, so that old cache entries are not used


@dataclass(frozen=True)
class View:
    """How frames are wanted.

    Attributes:
        size: Height and width.
        resize: See `worldkit.data.fit`.
        white: Value of a 16-bit image that becomes white.
        peek: Do not decode now, nor keep what is decoded.
    """

    size: tuple[int, int]
    resize: str = "pad"
    white: int = WHITE
    peek: bool = False


@dataclass(frozen=True)
class Cameras:
    """The cameras of a data set.

    Attributes:
        shapes: Camera -> height and width.
        depth: Cameras that are probably depth maps, each with the reason.
        lacking: Camera -> episodes that have no frames of it.
    """

    shapes: Mapping[str, tuple[int, int]]
    depth: Mapping[str, str] = field(default_factory=dict)
    lacking: Mapping[str, Sequence[int]] = field(default_factory=dict)

    def default(self) -> dict[str, tuple[int, int]]:
        """Those to show if none is asked for: the ones that all episodes have, without depth."""
        return {n: size for n, size in self.shapes.items() if n not in self.depth and n not in self.lacking}

    def remarks(self) -> list[str]:
        """What was left out by default, and why."""
        found = [f"'{name}' {why}: it is left out unless cameras= names it" for name, why in self.depth.items()]
        for name, episodes in self.lacking.items():
            found.append(f"camera '{name}' is missing in {numbered(episodes)}: it is left out unless cameras= names it")
        return found


def numbered(episodes: Sequence[int]) -> str:
    """Episodes in words, the first few of many.

    Example:
        >>> numbered([3]), numbered(range(8))
        ('episode 3', 'episodes 0, 1, 2, 3, 4 and 3 more')
    """
    more = f" and {len(episodes) - 5} more" if len(episodes) > 5 else ""
    return f"episode{'s' * (len(episodes) > 1)} {', '.join(map(str, episodes[:5]))}{more}"


def find_cameras(info: DataSetInfo, episodes: Sequence[EpisodeInfo]) -> Cameras:
    """The cameras of a data set; depth maps that are marked as such are none of them."""
    shapes = info.cameras(without=GOAL)
    depth = {name: why for name in shapes if (why := _probable_depth(info, name, episodes[0]))}
    lacking = {}
    for name in shapes:
        if info.features[name]["dtype"] == "video":
            missing = [episode.index for episode in episodes if name not in episode.videos]
        else:
            missing = sorted(number for path in {e.data for e in episodes} for number in _without_images(path, name))
        if missing:
            lacking[name] = missing
    return Cameras(shapes, depth, lacking)


def _probable_depth(info: DataSetInfo, name: str, episode: EpisodeInfo) -> str:
    """Why a camera is probably a depth map that nothing marks as one; ``""``: it is not."""
    feature = info.features[name]
    details = {**(feature.get("info") or {}), **(feature.get("video_info") or {})}
    pixels = str(details.get("video.pix_fmt", ""))
    if pixels.startswith("gray1"):  # gray10le, gray12le, gray16le
        return f"has one channel of more than 8 bits ({pixels}), so it is probably depth"
    if feature["dtype"] != "image" or 1 not in (feature["shape"][0], feature["shape"][-1]):
        return ""
    mode = next((image.mode for image in _opened(info, name, episode, 0, 1)), "")
    return "has one channel of 16 bits, so it is probably depth" if mode.startswith("I") or mode == "F" else ""


def _without_images(path: Path, name: str) -> list[int]:
    """Episodes of a data file whose cells have no image."""
    if not path.is_file():
        return []  # told where it is read
    with reading_parquet(path):
        file, counts = open_parquet(path), []
        leaves = [i for i, leaf in enumerate(file.schema) if leaf.path.split(".bytes")[0] == name]
        for group in range(file.num_row_groups):
            next(file.iter_batches(1, [group], [name]), None)  # an error, where asking damaged statistics ends Python
            for i in leaves:
                column, kind = file.metadata.row_group(group).column(i), file.schema.column(i).physical_type
                if column.physical_type != kind:  # the same
                    raise ValueError(f"column '{name}' is said to hold {column.physical_type} and {kind}")
                counts.append(column.statistics)
        if all(count is not None and count.null_count == 0 for count in counts):
            return []
        table = file.read(columns=["episode_index", name])
        owners = table["episode_index"].to_numpy()
        empty = np.array([not _holds_image(cell) for cell in table[name].to_pylist()])
    return sorted(set(owners[empty].tolist()))


def _holds_image(cell: Any) -> bool:
    return bool(cell.get("bytes") or cell.get("path")) if isinstance(cell, Mapping) else bool(cell)


def camera_frames(
    info: DataSetInfo, name: str, view: View, episode: EpisodeInfo, stamps: np.ndarray, start: int, stop: int
) -> Iterator[np.ndarray]:
    """Frames ``start .. stop - 1`` of one camera, ``[H, W, 3]`` each, decoded now and kept nowhere.

    Raises:
        DataError: if the episode has no such camera, or frames are missing or damaged.
    """
    path = _file(info, name, episode)
    begin = episode.videos[name][1] if name in episode.videos else 0.0
    try:
        if info.features[name]["dtype"] == "video":
            tolerance = TOLERANCE + float(np.spacing(np.float32(stamps.max())))  # they are stored as float32
            times = (stamps.reshape(-1).astype(np.float64) + begin)[start:stop].tolist()
            _check_film(info, name, path)
            yield from decode_at(path, times, *view.size, resize=view.resize, tolerance=tolerance)
        else:
            yield from _images(info, name, view, episode, start, stop)
    except DataError as error:
        raise DataError(f"episode {episode.index}, camera '{name}': {error}") from error


def _check_film(info: DataSetInfo, name: str, path: Path) -> None:
    """Whether the frames of a video have the size that the data set states."""
    try:
        size = video_size(path)
    except DataError as error:
        raise DataError(f"{path} cannot be read as a video: it is truncated, damaged or not a video") from error
    info.check_size(name, size, path)


def _file(info: DataSetInfo, name: str, episode: EpisodeInfo) -> Path:
    """The file with the frames of a camera."""
    if info.features[name]["dtype"] != "video":
        return episode.data
    if name not in episode.videos:
        raise DataError(f"{info.path}: episode {episode.index} has no camera '{name}'")
    path = episode.videos[name][0]
    if not path.is_file():
        raise DataError(f"{path} does not exist, but episode {episode.index} of camera '{name}' should be in it")
    return path


def read_camera(
    info: DataSetInfo, name: str, view: View, episode: EpisodeInfo, stamps: np.ndarray
) -> Span | Unread:
    """The frames of one camera at the timestamps of an episode, decoded if they are not in the cache."""
    frames = partial(camera_frames, info, name, view, episode, stamps)
    path = _file(info, name, episode)
    if view.peek:
        return Unread(frames, view.size, 0, episode.length)
    begin = episode.videos[name][1] if name in episode.videos else 0.0
    times = stamps.reshape(-1).astype(np.float64) + begin
    facts = {
        "file": (str(path.resolve()), path.stat().st_mtime_ns, path.stat().st_size),
        "camera": name,
        "episode": episode.index,
        "decoder": decoder("av" if info.features[name]["dtype"] == "video" else "pillow"),
        "times": hashlib.sha256(times.tobytes()).hexdigest(),
        "white": view.white,
    }
    name = f"{info.root.name}-{episode.index}"
    key = cache_key(name, version=_VERSION, size=view.size, resize=view.resize, **facts)
    return Span.whole(cached_frames(key, partial(frames, 0, episode.length)))


def goal_image(info: DataSetInfo, name: str, view: View, episode: EpisodeInfo) -> np.ndarray:
    """The goal of an episode, ``[3, H, W]``: that of its first frame."""
    return np.ascontiguousarray(next(_images(info, name, view, episode, 0, 1)).transpose(2, 0, 1))


def _images(
    info: DataSetInfo, name: str, view: View, episode: EpisodeInfo, start: int, stop: int
) -> Iterator[np.ndarray]:
    """Images of an episode from the parquet file, ``[H, W, 3]`` each."""
    for number, image in enumerate(_opened(info, name, episode, start, stop), start):
        try:
            pixels = np.array(to_rgb(image, view.white, image.format))
        except (OSError, SyntaxError, ValueError) as error:
            raise _unreadable(episode, number, error) from error
        info.check_size(name, pixels.shape[:2], episode.data)
        yield fit_video(pixels.transpose(2, 0, 1)[None], view.size, view.resize)[0].transpose(1, 2, 0)


def _opened(info: DataSetInfo, name: str, episode: EpisodeInfo, start: int, stop: int) -> Iterator[Any]:
    """Images of an episode as Pillow opens them."""
    image_module = require_extra("PIL.Image", "video", "reading images of a LeRobot data set")
    with reading_parquet(episode.data):
        cells = _cells(episode, name)[start:stop]
    for number, cell in enumerate(cells, start):
        try:
            cell = cell.as_py()
            stored = cell if isinstance(cell, Mapping) else {"bytes": cell}
            held = stored.get("bytes")
            source = io.BytesIO(held) if held else inside(info.root, stored["path"], episode.data)
            with image_module.open(source) as opened:
                check_size(opened.height, opened.width)
                yield opened
        except (OSError, SyntaxError, ValueError, KeyError, TypeError, image_module.DecompressionBombError) as error:
            if isinstance(error, DataError):
                raise
            raise _unreadable(episode, number, error) from error


def _cells(episode: EpisodeInfo, name: str) -> list[Any]:
    """A column of an episode in the order of its frames; groups of rows without any of it are left alone.

    pyarrow's own filters would do it; the scanner behind them waits for ever on some damaged files (pyarrow 26).
    """
    file, frames, cells = open_parquet(episode.data), [], []
    for group in range(file.num_row_groups):
        index = file.read_row_group(group, ["episode_index", "frame_index"], use_threads=False)
        rows = np.flatnonzero(index["episode_index"].to_numpy() == episode.index)
        if len(rows):
            column = file.read_row_group(group, [name], use_threads=False)[name]
            frames += index["frame_index"].to_numpy()[rows].astype(np.int64).tolist()
            cells += [column[row] for row in rows.tolist()]
    return [cells[i] for i in np.argsort(frames, kind="stable")]


def _unreadable(episode: EpisodeInfo, number: int, error: Exception) -> DataError:
    return DataError(f"{episode.data}: image of frame {number} cannot be read ({error})")
