"""Pictures of ``worldkit data preview``: a contact sheet and an animation."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..data import EpisodeSource
from ..viz import grid
from ..viz.images import enlarge, text_block

_CELL = 96  # pixels; smaller frames are enlarged to at least this height
_GIF_FRAMES = 120
GIF_FPS = 50  # a GIF cannot be faster


def contact_sheet(source: EpisodeSource, episodes: list[int], frames: int) -> Tensor:
    """Evenly spaced frames of some episodes, one row each, with a caption and, where there is one, the goal.

    Returns:
        ``[3, h, w]`` uint8.
    """
    rows = []
    for episode in episodes:
        times = np.linspace(0, source.length(episode) - 1, frames).round().astype(int).tolist()
        items = [source.read(episode, t, t + 1) for t in times]
        pictures = torch.cat([_shown(item["video"]) for item in items])
        if "goal_image" in items[0]:
            goal = torch.as_tensor(source.read(episode, 0, source.length(episode))["goal_image"])
            pictures = torch.cat([pictures, _shown(goal.unsqueeze(-4))])
        row = grid(pictures, len(pictures))
        caption = f"{source.episode_name(episode)}, {source.length(episode)} frames"
        caption += f": {items[0]['language']}" if isinstance(items[0].get("language"), str) else ""
        caption += " (last picture: goal)" if "goal_image" in items[0] else ""
        rows.append(torch.cat([text_block(caption, 22, row.shape[-1], align="left"), row], -2))
    return grid(torch.stack(rows), 1, gap=8)


def animation(source: EpisodeSource, episodes: list[int]) -> Tensor:
    """The first frames of some episodes side by side; one that ends waits at its last frame.

    Returns:
        ``[T, 3, h, w]`` uint8.
    """
    clips = []
    for episode in episodes:
        clips.append(_shown(source.read(episode, 0, min(source.length(episode), _GIF_FRAMES))["video"]))
    longest = max(len(clip) for clip in clips)
    columns = int(np.ceil(np.sqrt(len(clips))))
    return torch.stack([
        grid(torch.stack([clip[min(t, len(clip) - 1)] for clip in clips]), columns) for t in range(longest)
    ])


def _shown(video: Any) -> Tensor:
    """Frames ``[T, 3, h, w]``, cameras one above the other, enlarged so that one can see something."""
    video = torch.as_tensor(video)
    if video.ndim == 5:
        video = torch.cat(list(video), -2)
    return enlarge(video, _CELL)[0]
