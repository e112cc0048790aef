"""Frames of FFmpeg as RGB arrays: the same pixels from every PyAV release that ``pyproject.toml`` admits.

Releases before 17 take every film for BT.601 with limited range, whatever it says; later ones ask the frame. Here the
frame is asked always, and everything is passed on.
"""

from __future__ import annotations

from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError, require_extra

LARGEST = 2**26
"""Pixels that a frame or picture may have, twice those of 8K: damaged headers state sizes that no memory holds."""

_ATTACHED_PICTURE = 0x400  # AV_DISPOSITION_ATTACHED_PIC
_ASSUMED, _BT2020, _FULL_RANGE = 2, 9, 2
_MATRICES = {  # matrix that a frame states (ITU-T H.273) -> the one to undo
    0: _ASSUMED, 1: 1, 2: _ASSUMED, 3: _ASSUMED, 4: 4, 5: _ASSUMED, 6: _ASSUMED, 7: 7, 9: _BT2020, 10: _BT2020,
}  # 5 and 6 are BT.601, which is assumed; constant luminance (10) is taken for its sibling, as players do


def decoder(package: str) -> str:
    """Package that turns files into pixels, with its version: a cache entry depends on it as on the file.

    Example:
        >>> decoder("numpy").split()[0], decoder("no-such-package")
        ('numpy', 'no-such-package')
    """
    try:
        return f"{package} {metadata.version(package)}"
    except metadata.PackageNotFoundError:
        return package


def check_size(height: int, width: int) -> None:
    """Raise ValueError for a picture of more than `LARGEST` pixels, before memory is taken for it.

    Example:
        >>> check_size(4320, 7680)
    """
    if height * width > LARGEST:
        raise ValueError(f"{height} x {width} are more than the {LARGEST} pixels that a picture may have")


def video_stream(path: Path, container: Any) -> Any:
    """The stream of an open container that is the film; frames beyond `LARGEST` are refused while it is decoded.

    Raises:
        DataError: if there is none.
        ValueError: if its frames are too large.
    """
    # FFmpeg plays text files as terminal art, and takes the cover of a song for a film
    streams = [s for s in container.streams.video if not s.disposition.value & _ATTACHED_PICTURE]
    if not streams or container.format.name == "tty":
        raise DataError(f"{path} has no video stream: give a video file, or a folder of images or videos")
    if streams[0].codec_context is None:
        raise DataError(f"{path} is coded in a way that this FFmpeg cannot decode: convert it to H.264 (mp4)")
    check_size(streams[0].height, streams[0].width)
    streams[0].codec_context.options = {"max_pixels": str(LARGEST)}
    return streams[0]


def quarter_turns(frame: Any) -> int:
    """Quarter turns to the left after which a frame stands upright; phones film sideways and say so."""
    return round(frame.rotation / 90) % 4


class ToRGB:
    """Scales frames of one film and turns them into RGB.

    Args:
        path: The film, for messages.
    Raises:
        MissingExtraError: without PyAV.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._reformatter = require_extra("av.video.reformatter", "video", "reading videos").VideoReformatter()

    def __call__(self, frame: Any, height: int, width: int) -> np.ndarray:
        """A frame, not turned yet, as uint8 ``[H, W, 3]``: scaled down by area averaging, up bicubically.

        Raises:
            DataError: for a colour matrix that FFmpeg cannot undo (YCgCo, ICtCp, ...).
        """
        method = "AREA" if height <= frame.height and width <= frame.width else "BICUBIC"
        pixels = frame.format
        colors: tuple[Any, ...] = ()
        if not pixels.is_rgb and not pixels.has_palette and len(pixels.components) > 2:
            stated = int(frame.colorspace)
            if stated not in _MATRICES:
                raise DataError(
                    f"{self._path}: its colour matrix, number {stated} of H.273, cannot be undone: convert it to BT.709"
                )
            frame.colorspace = _MATRICES[stated]
            colors = (frame.colorspace, "ITU601", method, frame.color_range, _FULL_RANGE)
        if colors:
            return self._reformatter.reformat(frame, width, height, "rgb24", *colors).to_ndarray()
        return self._reformatter.reformat(frame, width, height, "rgb24", interpolation=method).to_ndarray()
