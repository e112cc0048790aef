"""What a film says of itself, and single frames of it, without decoding all of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError
from .decode import decode_at, decode_video, open_film
from .film import quarter_turns

_RATE_OFF = 0.1  # how far frames may come from the stated rate, as films of few frames do
_PAUSE = 1.5  # as long against the usual time between frames, there is one: containers round times to milliseconds
_NEAR = 64  # frames this close to the beginning are decoded from there


@dataclass(frozen=True)
class Film:
    """Facts of a video file.

    Attributes:
        frames: How many, as the container counts them.
        rate: Frames per second, their mean if they vary; ``None`` if nobody knows.
        size: Height and width as they are shown.
    """

    frames: int
    rate: float | None
    size: tuple[int, int]


def look(path: Path) -> Film:
    """Read the facts of a film; only its first frame is decoded.

    Raises:
        DataError: if it cannot be read.
        MissingExtraError: without PyAV.
    """
    return _look(path, path.stat().st_mtime_ns if path.exists() else 0)


@lru_cache(maxsize=4096)
def _look(path: Path, changed: int) -> Film:
    with open_film(path) as (container, stream):
        # complete where the container counts its frames (mp4, mov, avi); PyAV before 17 does not tell them
        entries = getattr(stream, "index_entries", ())
        indexed = sum(not entry.is_discard for entry in entries) if stream.frames and len(entries) else 0
        stated = float(stream.average_rate) if stream.average_rate else None
        frame, packets, stamps = None, 0, []
        for packet in container.demux(stream):
            if packet.size > 0 and not packet.is_discard:
                packets += 1
                stamps += [] if packet.pts is None else [float(packet.pts * stream.time_base)]
            frame = frame or next(iter(packet.decode()), None)
            if frame is not None and indexed:
                break
        if frame is None:
            raise DataError(f"{path} is truncated or damaged: frame 0 is missing. Replace the file")
        size = (frame.height, frame.width)
        rate = stated if indexed else _rate(stated, stamps)
        return Film(indexed or packets, rate, size[::-1] if quarter_turns(frame) % 2 else size)


def _rate(stated: float | None, stamps: Sequence[float]) -> float | None:
    """The rate that a film states, unless its frames come at another one: Matroska may state its clock's."""
    seconds = max(stamps) - min(stamps) if stamps else 0.0
    if not seconds:
        return stated
    measured = (len(stamps) - 1) / seconds
    if stated is not None and abs(measured / stated - 1) < _RATE_OFF:
        return stated
    whole = round(measured)
    return float(whole) if whole and abs(measured / whole - 1) < 0.001 else round(measured, 2)


def pauses(path: Path) -> tuple[float, float] | None:
    """Usual and longest time in seconds from one frame of a film to the next, if they are not alike.

    Raises:
        DataError: if it cannot be read.
        MissingExtraError: without PyAV.
    """
    times = np.asarray(_times(path, path.stat().st_mtime_ns if path.exists() else 0))
    if len(times) < 3:
        return None
    steps = np.diff(times)
    usual, longest = float(np.median(steps)), float(steps.max())
    return (usual, longest) if longest > _PAUSE * usual else None


def frames_between(
    path: Path, start: int, stop: int, height: int, width: int, *, resize: str = "pad"
) -> Iterator[np.ndarray]:
    """Frames ``start .. stop - 1`` of a film, uint8 ``[H, W, 3]`` each, decoded from the key frame before them.

    Raises:
        DataError: if the file is damaged.
        MissingExtraError: without PyAV.
    """
    times = _times(path, path.stat().st_mtime_ns) if start > _NEAR else ()
    if start < len(times):
        yield from decode_at(path, times[start:stop], height, width, resize=resize)
    else:
        yield from islice(decode_video(path, height, width, resize=resize, max_frames=stop), start, stop)


@lru_cache(maxsize=16)
def _times(path: Path, changed: int) -> tuple[float, ...]:
    """When each frame is shown, in seconds; empty if the container does not say."""
    with open_film(path) as (container, stream):
        packets: list[Any] = [p for p in container.demux(stream) if p.size > 0 and not p.is_discard]
        stamps = [packet.pts for packet in packets]
        if None in stamps or len(set(stamps)) < len(stamps):
            return ()
        return tuple(float(stamp * stream.time_base) for stamp in sorted(stamps))
