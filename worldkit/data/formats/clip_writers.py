"""Writers of clips anyone can look at: a folder of video files, or of folders of PNG images.

What the frames do not show (actions, instructions, states, ...) goes to ``NAME.npz`` beside the video ``NAME.mp4``, or
to ``entries.npz`` in the folder of images; the names inside are those of `worldkit.data.formats.npz`, and the
readers of clips pick them up.
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import DataError, require_extra
from ..entries import IMAGES_SIDECAR, save_entries
from ..video_io import write_video

_KINDS = ("mp4", "webm", "gif")


def _frames(episode: Mapping[str, Any], where: str) -> np.ndarray:
    """The video as ``[T, H, W, 3]``."""
    video = np.asarray(episode["video"])
    if video.ndim != 4 or video.shape[1] != 3:
        raise DataError(
            f"{where}: a clip has one view [T, 3, H, W], not {list(video.shape)}. Choose one camera, or write "
            "'lerobot', 'npz' or 'columns'"
        )
    return np.ascontiguousarray(np.moveaxis(video, 1, -1))


class VideoWriter:
    """Writes ``episode_000000.mp4`` and so on: H.264, crf 18, a key frame every 8 frames.

    Args:
        path: Folder.
        plan: What will be written; see `worldkit.data.writers.Plan`.
        kind: ``"mp4"``, ``"webm"`` (VP9) or ``"gif"`` (256 colours); see `write_video`.
        lossless: Write ``.mkv`` with FFV1 instead, which keeps every pixel; most players cannot show it.
    Raises:
        DataError: for another kind.
    """

    def __init__(self, path: Path, *, plan: Any, kind: str = "mp4", lossless: bool = False):
        require_extra("av", "video", "writing video files")
        if kind not in _KINDS:
            raise DataError(f"kind must be {', '.join(_KINDS)}, got {kind!r}")
        self._path, self._fps, self._kind, self._lossless, self._written = path, plan.fps, kind, lossless, 0
        path.mkdir(parents=True)

    def write(self, episode: Mapping[str, Any]) -> None:
        """Add an episode.

        Raises:
            DataError: for several views.
        """
        target = self._path / f"episode_{self._written:06d}.{self._kind}"
        frames = _frames(episode, target.name)
        if self._lossless:
            write_lossless(target.with_suffix(".mkv"), frames, self._fps)
        else:
            write_video(target, frames, self._fps)
        write_sidecar(target.with_suffix(".npz"), episode)
        self._written += 1

    def close(self) -> None:
        """Nothing is left to do."""


class FramesWriter:
    """Writes ``episode_000000/frame_000000.png`` and so on.

    Args:
        path: Folder.
        plan: What will be written; see `worldkit.data.writers.Plan`.
    """

    def __init__(self, path: Path, *, plan: Any):
        self._image = require_extra("PIL.Image", "video", "writing image files")
        self._path, self._written = path, 0
        path.mkdir(parents=True)

    def write(self, episode: Mapping[str, Any]) -> None:
        """Add an episode.

        Raises:
            DataError: for several views.
        """
        folder = self._path / f"episode_{self._written:06d}"
        folder.mkdir()
        for number, frame in enumerate(_frames(episode, folder.name)):
            self._image.fromarray(frame).save(folder / f"frame_{number:06d}.png")
        write_sidecar(folder / IMAGES_SIDECAR, episode)
        self._written += 1

    def close(self) -> None:
        """Nothing is left to do."""


def write_sidecar(path: Path, episode: Mapping[str, Any]) -> None:
    """The entries besides the video as ``.npz``; no file if there are none."""
    with open(path, "wb") as file:
        some = save_entries(file, episode)
    if not some:
        path.unlink()


def write_lossless(path: Path, frames: np.ndarray, fps: float) -> None:
    """Frames uint8 ``[T, H, W, 3]`` as FFV1 in Matroska, every frame a key frame, bit for bit."""
    av = require_extra("av", "video", "writing video files")
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=Fraction(fps).limit_denominator(1001))
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "bgr0"
        stream.options = {"g": "1"}
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
