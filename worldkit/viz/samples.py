"""Videos drawn out of nothing, side by side: as an animation, and as a grid that stands still.

Borders as in rollouts: blue the first frames, which a prior drew; green those that the dynamics predicted after them.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..batch import check_shape
from ..errors import ShapeError
from .animation import framed
from .images import grid, labelled_rows


def animate_samples(videos: Tensor, *, first_frames: int, cell: int = 96) -> Tensor:
    """All videos at once, in rows.

    Args:
        videos: ``[N, T, 3, H, W]``, uint8 or float in [0, 1]. Several views: stack them along H first.
        first_frames: Leading frames that a prior drew.
        cell: Height to which small frames are enlarged by a whole factor, in pixels.
    Returns:
        ``[T, 3, h, w]`` uint8, for `save_animation`.
    Raises:
        ShapeError: without videos or frames.
    Example:
        >>> animate_samples(torch.rand(4, 5, 3, 32, 32), first_frames=1).shape
        torch.Size([5, 3, 216, 216])
    """
    frames = _frames(videos, first_frames, cell)
    columns = math.ceil(math.sqrt(len(videos)))
    return torch.stack([grid(frames[:, t], columns) for t in range(frames.shape[1])])


def samples_strip(videos: Tensor, *, first_frames: int, frames: int = 8, cell: int = 96) -> Tensor:
    """A row for every video, a column per frame.

    Args:
        videos, first_frames, cell: As for `animate_samples`.
        frames: Columns at most: evenly spaced frames, the first and the last among them.
    Returns:
        ``[3, h, w]`` uint8.
    Example:
        >>> samples_strip(torch.rand(2, 20, 3, 32, 32), first_frames=4).shape
        torch.Size([3, 242, 988])
    """
    if frames < 1:
        raise ShapeError(f"a strip needs at least 1 frame, got frames={frames}")
    shown = _frames(videos, first_frames, cell)
    chosen = torch.linspace(0, shown.shape[1] - 1, min(frames, shown.shape[1])).round().long()
    rows = {f"sample {n}": clip[chosen] for n, clip in enumerate(shown)}
    return labelled_rows(rows, [f"frame {t}" for t in chosen.tolist()])


def _frames(videos: Tensor, first_frames: int, cell: int) -> Tensor:
    """Enlarged and bordered, ``[N, T, 3, h, w]``."""
    sizes = check_shape(videos, "n t c h w", name="videos", c=3)
    if not sizes["n"] or not sizes["t"]:
        raise ShapeError(f"there is nothing to show in {sizes['n']} videos of {sizes['t']} frames")
    return torch.stack([framed(video, first_frames, cell=cell) for video in videos])
