"""Frames out of video and image files, resized while decoding; and the checks that a file is whole.

FFmpeg hides most damage: it conceals broken blocks, and at the end of a truncated file it simply stops. So a clip counts as
damaged if a frame fails to decode, if the decoder marks a frame as corrupt, or if clearly fewer frames came out than the
container states (by its frame count, or else by its duration).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError, require_extra


def scaled_size(height: int, width: int, source: tuple[int, int], resize: str) -> tuple[int, int]:
    """Size to scale a frame to before the centre cut.

    Args:
        height, width: Target size.
        source: Height and width of the frame.
        resize: ``"crop"`` keeps the aspect ratio and covers the target; ``"stretch"`` is the target itself.
    Example:
        >>> scaled_size(64, 64, (272, 640), "crop")
        (64, 151)
    """
    if resize == "stretch":
        return height, width
    factor = max(height / source[0], width / source[1])
    return max(height, round(source[0] * factor)), max(width, round(source[1] * factor))


def _center(frame: np.ndarray, height: int, width: int) -> np.ndarray:
    top, left = (frame.shape[0] - height) // 2, (frame.shape[1] - width) // 2
    return frame[top : top + height, left : left + width]


def decode_video(
    path: Path, height: int, width: int, *, resize: str = "crop", max_frames: int | None = None
) -> Iterator[np.ndarray]:
    """Frames of a video file, uint8 ``[H, W, 3]`` RGB each, in order of presentation.

    Args:
        path: Any container and codec of FFmpeg.
        height, width: Target size in pixels; scaled down by area averaging, up bicubically.
        resize: ``"crop"`` or ``"stretch"``, see `scaled_size`.
        max_frames: Stop after so many.
    Raises:
        DataError: if the file is not a video, or is truncated or damaged; names the frame.
        MissingExtraError: without PyAV.
    """
    av = require_extra("av", "video", f"reading {path.name}")
    count, end = 0, 0.0
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise DataError(f"{path} has no video stream: give a video file, or a folder of images or videos")
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            for frame in container.decode(stream):
                if frame.is_corrupt:
                    raise DataError(_damaged(path, f"frame {count} is damaged"))
                yield _resized(frame, height, width, resize)
                count += 1
                end = max(end, frame.time or 0.0)
                if count == max_frames:
                    return
            _check_complete(path, container, stream, count, end)
    except (av.FFmpegError, OSError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        if count:
            raise DataError(_damaged(path, f"frame {count} could not be decoded ({error})")) from error
        raise DataError(
            f"{path} cannot be read as a video ({type(error).__name__}): it is truncated, damaged or not a video. "
            "Give a whole video file (mp4, webm, avi, gif, ...), or a folder of images"
        ) from error


def _damaged(path: Path, problem: str) -> str:
    return f"{path} is truncated or damaged: {problem}. Replace the file, or pass on_error='skip' to leave such clips out"


def _check_complete(path: Path, container: Any, stream: Any, count: int, end: float) -> None:
    """Compare what was decoded with what the container states."""
    if count == 0:
        raise DataError(_damaged(path, "it has no frame"))
    if stream.frames:
        if count < stream.frames - max(1, stream.frames // 50):
            raise DataError(_damaged(path, f"frame {count} is missing, the file states {stream.frames} frames"))
        return
    if stream.duration is not None:
        duration = float(stream.duration * stream.time_base)
    elif container.duration is not None and len(container.streams) == 1:
        duration = container.duration / 1e6
    else:
        return  # nothing is stated
    covered = end - (container.start_time or 0) / 1e6 + duration / count
    frame_time = 1 / float(stream.average_rate or 25)
    if covered < 0.95 * duration - 2 * frame_time:
        raise DataError(
            _damaged(path, f"frame {count} is missing, {covered:.2f} of {duration:.2f} seconds could be decoded")
        )


def _resized(frame: Any, height: int, width: int, resize: str) -> np.ndarray:
    tall, wide = scaled_size(height, width, (frame.height, frame.width), resize)
    method = "AREA" if tall <= frame.height and wide <= frame.width else "BICUBIC"
    image = frame.to_ndarray(format="rgb24", width=wide, height=tall, interpolation=method)
    return _center(image, height, width)


def decode_images(files: Sequence[Path], height: int, width: int, *, resize: str = "crop") -> Iterator[np.ndarray]:
    """Image files as frames, uint8 ``[H, W, 3]`` RGB each (transparency is dropped, EXIF rotation is applied).

    Raises:
        DataError: naming the file that cannot be read.
        MissingExtraError: without Pillow.
    """
    image_module = require_extra("PIL.Image", "video", "reading image files")
    ops = require_extra("PIL.ImageOps", "video", "reading image files")
    for number, path in enumerate(files):
        try:
            with image_module.open(path) as opened:
                image = ops.exif_transpose(opened).convert("RGB")
        except (OSError, SyntaxError, ValueError, image_module.DecompressionBombError) as error:
            raise DataError(
                f"{path} (frame {number}) cannot be read as an image: {error}. "
                "Replace the file, or pass on_error='skip' to leave its clip out"
            ) from error
        tall, wide = scaled_size(height, width, (image.height, image.width), resize)
        smaller = tall <= image.height and wide <= image.width
        method = image_module.Resampling.BOX if smaller else image_module.Resampling.BICUBIC
        yield _center(np.asarray(image.resize((wide, tall), method)), height, width)
