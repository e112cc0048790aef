"""Frames out of video and image files, resized while decoding; and the checks that a file is whole.

FFmpeg hides most damage: it conceals broken blocks, and at the end of a truncated file it simply stops. So a clip
counts as damaged if a frame fails to decode, if the decoder marks a frame as corrupt, or if clearly fewer frames came
out than the container states (by its frame count, or else by its duration).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError, require_extra
from ..pictures import fit_pictures
from .film import ToRGB, check_size, quarter_turns, video_stream

_ORIENTATION, _LYING = 0x0112, 5  # EXIF: from 5 on, rows and columns change places
WHITE = 65535  # the value of a 16-bit image that becomes white


def decode_video(
    path: Path, height: int, width: int, *, resize: str = "pad", max_frames: int | None = None
) -> Iterator[np.ndarray]:
    """Frames of a video file, uint8 ``[H, W, 3]`` RGB each, in order of presentation.

    Args:
        path: Any container and codec of FFmpeg.
        height, width: Target size in pixels; scaled down by area averaging, up bicubically.
        resize: See `worldkit.data.fit`.
        max_frames: Stop after so many.
    Raises:
        DataError: if the file is not a video, or is truncated or damaged; names the frame.
        MissingExtraError: without PyAV.
    """
    av = require_extra("av", "video", f"reading {path.name}")
    opened, count, packets, start, end = False, 0, 0, None, 0.0
    to_rgb = ToRGB(path)
    try:
        if path.suffix.lower() == ".gif":
            _check_gif(path)
        with av.open(str(path)) as container:
            opened = True
            stream = video_stream(path, container)
            stream.thread_type = "AUTO"
            for packet in container.demux(stream):
                packets += packet.size > 0 and not packet.is_discard
                for frame in packet.decode():
                    if frame.is_corrupt:
                        raise DataError(_damaged(path, f"frame {count} is damaged"))
                    yield _resized(frame, to_rgb, height, width, resize)
                    count += 1
                    if frame.time is not None:
                        start = frame.time if start is None else start
                        end = max(end, frame.time + float((frame.duration or 0) * frame.time_base))
                    if count == max_frames:
                        return
            _check_complete(path, container, stream, (count, packets), (start or 0.0, end))
    except (av.FFmpegError, OSError, ValueError, OverflowError) as error:
        if isinstance(error, DataError):
            raise
        if opened:
            raise DataError(_damaged(path, f"frame {count} could not be decoded ({error})")) from error
        raise DataError(
            f"{path} cannot be read as a video ({type(error).__name__}): it is truncated, damaged or not a video. "
            "Give a whole video file (mp4, webm, avi, gif, ...) or a folder of images; in a folder of videos, "
            "on_error='skip' leaves such clips out"
        ) from error


def decode_at(
    path: Path,
    times: Sequence[float],
    height: int,
    width: int,
    *,
    resize: str = "pad",
    tolerance: float = 1e-4,
) -> Iterator[np.ndarray]:
    """The frames of a video file shown at given times, uint8 ``[H, W, 3]`` RGB each.

    One seek to the key frame before the first time, then forward; files with a short distance between key frames are
    quick to enter anywhere.

    Args:
        path: Any container and codec of FFmpeg.
        times: Ascending presentation times in seconds.
        height, width: Target size in pixels.
        resize: See `worldkit.data.fit`.
        tolerance: A frame this many seconds from a wanted time counts as the frame of that time.
    Raises:
        DataError: if the file is not a video, is damaged, or has no frame at one of the times; names the frame.
        MissingExtraError: without PyAV.
    """
    av = require_extra("av", "video", f"reading {path.name}")
    number, last, frame, to_rgb = 0, None, None, ToRGB(path)
    try:
        with av.open(str(path)) as container:
            stream = video_stream(path, container)
            stream.thread_type = "AUTO"
            frames = _frames_from(container, stream, times[0] + tolerance)
            for number, time in enumerate(times):
                while frame is None or frame.time < time - tolerance:
                    last, frame = frame, next(frames, None)
                    if frame is None:
                        end = "has none" if last is None else f"ends with the frame at {last.time:.4f} s"
                        raise DataError(f"{path}: frame {number} of the episode, at {time:.4f} s, is missing: it {end}")
                    if frame.is_corrupt:
                        raise DataError(f"{path}: frame {number} of the episode, at {time:.4f} s, is damaged")
                if frame.time > time + tolerance:
                    nearest = min((f for f in (last, frame) if f), key=lambda f: abs(f.time - time))
                    raise DataError(
                        f"{path}: frame {number} of the episode should be at {time:.4f} s, but the nearest frame is at "
                        f"{nearest.time:.4f} s, more than {tolerance:g} s away"
                    )
                yield _resized(frame, to_rgb, height, width, resize)
    except (av.FFmpegError, OSError, ValueError, OverflowError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(
            f"{path} cannot be read as a video, frame {number} of the episode ({error}): it is missing, truncated, "
            "damaged or not a video"
        ) from error


def _frames_from(container: Any, stream: Any, time: float) -> Iterator[Any]:
    """Frames in order, the first of them at most at a time.

    A seek may end behind it: frames that are shown before their key frame (open groups of pictures) are lost when
    decoding begins there. Then it begins earlier.
    """
    back = 0.0
    while True:
        container.seek(int((time - back) / stream.time_base), stream=stream)
        frames = container.decode(stream)
        first = next(frames, None)
        if (first is not None and first.time <= time) or back > time:
            return chain([] if first is None else [first], frames)
        back = max(1.0, 2 * back)


def _damaged(path: Path, problem: str) -> str:
    advice = "Replace the file, or pass on_error='skip' to leave such clips out"
    return f"{path} is truncated or damaged: {problem}. {advice}"


def _check_complete(
    path: Path, container: Any, stream: Any, found: tuple[int, int], times: tuple[float, float]
) -> None:
    """Compare what was found with what the container states.

    Args:
        found: Frames that were decoded, and packets they came from.
        times: Seconds at which the first frame begins and the last one ends.
    """
    count, packets = found
    if count == 0:
        raise DataError(_damaged(path, "frame 0 is missing"))
    stated, begins = _stated_seconds(container, stream)
    seconds = times[1] - (0.0 if begins else times[0])
    slack = 2 / float(stream.average_rate or 25)
    lasts = stated is None or seconds >= stated - max(slack, min(0.02 * stated, 1.0))
    # a trimmed file still counts the frames before the cut; those that are left fill the stated time
    frames = packets if stream.frames and stated is not None and lasts else stream.frames
    if count < frames - max(1, frames // 50):
        raise DataError(_damaged(path, f"frame {count} is missing, the file states {frames} frames"))
    if not frames and not lasts:
        raise DataError(
            _damaged(path, f"frame {count} is missing, only {seconds:.2f} of {stated:.2f} seconds are there")
        )


def _stated_seconds(container: Any, stream: Any) -> tuple[float | None, bool]:
    """Stated length of a film, and whether it is counted from time 0: the first frame may come later.

    Matroska, WebM and ASF state the time at which the last frame ends, all others, and the statistics that mkvmerge
    writes, how long the frames last.
    """
    from_zero = container.format.name in ("matroska,webm", "asf")
    if stream.duration is not None:
        return float(stream.duration * stream.time_base), from_zero
    tags = {name: text for name, text in stream.metadata.items() if name.partition("-")[0] == "DURATION"}
    for text in tags.values():  # "00:00:02.400000000"; mkvmerge adds the language to the name
        if text.count(":") == 2:
            hours, minutes, seconds = text.split(":")
            statistics = any(name.startswith("_STATISTICS") for name in stream.metadata)
            return int(hours) * 3600 + int(minutes) * 60 + float(seconds), from_zero and not statistics
    if container.duration is not None and len(container.streams) == 1:  # with sound, it may be the sound's
        return container.duration / 1e6, from_zero
    return None, from_zero


def _check_gif(path: Path) -> None:
    """Walk the blocks of a gif file up to its end mark: FFmpeg takes the end of a cut file for the end of the film."""
    data = path.read_bytes()

    def skip_table(flags_at: int) -> int:
        flags = data[flags_at]
        return 3 * 2 ** ((flags & 7) + 1) if flags & 0x80 else 0

    frames = 0
    try:
        at = 13 + skip_table(10)
        while data[at] != 0x3B:  # end mark
            image = data[at] == 0x2C
            if image:  # descriptor, colour table, code size
                at += 11 + skip_table(at + 9)
            elif data[at] == 0x21:  # extension
                at += 2
            else:
                raise IndexError
            while data[at]:  # sub-blocks, each after its length, up to an empty one
                at += 1 + data[at]
            at += 1
            frames += image
    except IndexError:
        raise DataError(_damaged(path, f"the file breaks off in frame {frames}")) from None


def _resized(frame: Any, to_rgb: ToRGB, height: int, width: int, resize: str) -> np.ndarray:
    whole = np.rot90(to_rgb(frame, frame.height, frame.width), quarter_turns(frame))
    return fit_pictures(whole, (height, width), resize)


@contextmanager
def open_film(path: Path) -> Iterator[tuple[Any, Any]]:
    """The open container of a video file, and its stream."""
    av = require_extra("av", "video", f"reading {path.name}")
    try:
        with av.open(str(path)) as container:
            yield container, video_stream(path, container)
    except (av.FFmpegError, OSError, ValueError, OverflowError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(_damaged(path, f"frame 0 cannot be read ({error})")) from error


def video_size(path: Path) -> tuple[int, int]:
    """Height and width of a video's frames as they are shown.

    Raises:
        DataError: if it cannot be read.
        MissingExtraError: without PyAV.
    """
    with open_film(path) as (container, stream):
        frame = next(container.decode(stream), None)
        if frame is None:
            raise DataError(_damaged(path, "frame 0 is missing"))
    size = (frame.height, frame.width)
    return size[::-1] if quarter_turns(frame) % 2 else size


def image_size(path: Path) -> tuple[int, int]:
    """Height and width of an image file as it is shown, from its header.

    Raises:
        DataError: if it cannot be read.
        MissingExtraError: without Pillow.
    """
    image = require_extra("PIL.Image", "video", "reading image files")
    try:
        with image.open(path) as opened:
            turned = "exif" in opened.info and opened.getexif().get(_ORIENTATION, 1) >= _LYING
            return (opened.width, opened.height) if turned else (opened.height, opened.width)
    except (OSError, SyntaxError, ValueError, image.DecompressionBombError) as error:
        raise DataError(f"{path} cannot be read as an image: {error}") from error


def decode_images(
    files: Sequence[Path], height: int, width: int, *, resize: str = "pad", white: int = WHITE
) -> Iterator[np.ndarray]:
    """Image files as frames, uint8 ``[H, W, 3]`` RGB each (transparency is dropped, EXIF rotation is applied, 16 bits
    of grey become 8: ``white`` and all above it becomes 255).

    Raises:
        DataError: naming the file that cannot be read, or whose values (float, 32 bits) have no known range.
        MissingExtraError: without Pillow.
    """
    image_module = require_extra("PIL.Image", "video", "reading image files")
    ops = require_extra("PIL.ImageOps", "video", "reading image files")
    for number, path in enumerate(files):
        try:
            with image_module.open(path) as opened:
                _check_single(opened)
                image = to_rgb(ops.exif_transpose(opened), white, opened.format)
        except (OSError, SyntaxError, ValueError, image_module.DecompressionBombError) as error:
            raise DataError(
                f"{path} (frame {number}) cannot be read as an image: {error}. "
                "Replace the file, or pass on_error='skip' to leave its clip out"
            ) from error
        yield fit_pictures(np.asarray(image), (height, width), resize)


def _check_single(opened: Any) -> None:
    """Raise ValueError for a file of several pictures (TIFF stack, animation; a phone's JPEG may hold a preview), or of
    a huge one."""
    check_size(opened.height, opened.width)
    if getattr(opened, "is_animated", False) and opened.format != "MPO":
        problem = f"it holds {opened.n_frames} pictures, of which one would be read"
        raise ValueError(f"{problem}; save each as a file of its own, or all as a film (mp4, gif)")


def check_white(white: int) -> None:
    """Raise DataError unless a value of 16-bit images can be white."""
    if not isinstance(white, int) or not 1 <= white <= WHITE:
        raise DataError(f"white must be a whole number from 1 to {WHITE}, the value of 16-bit images, got {white!r}")


def to_rgb(image: Any, white: int = WHITE, kind: str | None = None) -> Any:
    """A Pillow image as 8-bit RGB. Pillow itself would clip more bits, not scale them: depth in mm would be white.

    Args:
        image: Of any mode.
        white: The value of 16-bit grey that becomes 255.
        kind: Format of its file: Pillow 10 takes 16-bit PNG for 32 bits.
    Raises:
        ValueError: for values (float, 32 bits) that have no known range.
    """
    if image.mode.startswith("I;16") or (image.mode == "I" and kind == "PNG"):
        values = np.asarray(image).astype(np.uint16)
        grey = values >> 8 if white == WHITE else np.minimum(values.astype(np.uint32) * 255 // white, 255)
        module = require_extra("PIL.Image", "video", "reading image files")
        return module.fromarray(grey.astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        kind = "float" if image.mode == "F" else "32-bit"
        raise ValueError(f"its {kind} values have no known range; write 8 or 16 bits per value")
    return image.convert("RGB")
