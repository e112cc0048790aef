"""`write_video`: frames to an mp4, webm or gif file, complete or not at all."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..errors import DataError, require_extra
from ..files import write_atomically
from ..gif import gif_file

if TYPE_CHECKING:
    from torch import Tensor


def write_video(path: str | os.PathLike[str], frames: np.ndarray | Tensor, fps: float = 10) -> Path:
    """Write frames as a video; the suffix decides how.

    ``.mp4``: H.264, crf 18, a key frame every 8 frames (quick random access); an odd side grows by one repeated pixel,
    as the codec asks for even ones. ``.webm``: the same with VP9, crf 24. ``.gif``: one palette of 256 colours made for
    all frames, no dithering, endless loop. Every frame is stored, also one that equals the frame before.

    Args:
        path: Target; its folder is made if need be. It is written under a temporary name and renamed.
        frames: uint8 ``[T, H, W, 3]``, RGB; array or tensor.
        fps: Frames per second; gif rounds the time per frame to 1/100 s.
    Returns:
        The path.
    Raises:
        DataError: for another suffix, dtype or shape, no frames, or ``fps`` not above 0.
        OSError: the file cannot be written; an older one is as it was.
        MissingExtraError: without PyAV (mp4, webm) or Pillow (gif).
    """
    path = Path(path).expanduser()
    writers = {".mp4": _write_mp4, ".webm": _write_webm, ".gif": _write_gif}
    if path.suffix.lower() not in writers:
        raise DataError(f"cannot write {path}: use the suffix {', '.join(writers)}")
    frames = frames.detach().cpu().numpy() if hasattr(frames, "detach") else np.asarray(frames)
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or 0 in frames.shape:
        raise DataError(
            f"frames must be uint8 [T, H, W, 3] with at least one frame, got {frames.dtype} {list(frames.shape)}"
        )
    if not fps > 0:
        raise DataError(f"fps must be above 0, got {fps}")
    write_atomically(path, lambda partial: writers[path.suffix.lower()](partial, np.ascontiguousarray(frames), fps))
    return path


def _write_mp4(path: Path, frames: np.ndarray, fps: float) -> None:
    _encode(path, frames, fps, "libx264", {"crf": "18", "g": "8"})


def _write_webm(path: Path, frames: np.ndarray, fps: float) -> None:
    _encode(path, frames, fps, "libvpx-vp9", {"crf": "24", "b": "0", "g": "8"})


def _encode(path: Path, frames: np.ndarray, fps: float, codec: str, options: dict[str, str]) -> None:
    from fractions import Fraction

    av = require_extra("av", "video", f"writing {path.suffix}")
    odd = [(0, side % 2) for side in frames.shape[1:3]]
    frames = np.pad(frames, [(0, 0), *odd, (0, 0)], mode="edge")
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=Fraction(fps).limit_denominator(1001))
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.options = options
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def _write_gif(path: Path, frames: np.ndarray, fps: float) -> None:
    image = require_extra("PIL.Image", "video", "writing gif")
    sample = frames[:: max(1, len(frames) // 32)]
    palette = image.fromarray(np.concatenate(list(sample))).quantize(256, method=image.Quantize.FASTOCTREE)
    pictures = [image.fromarray(f).quantize(palette=palette, dither=image.Dither.NONE) for f in frames]
    path.write_bytes(gif_file(pictures, max(2, round(100 / fps))))
