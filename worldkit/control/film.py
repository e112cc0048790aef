"""Animations of episodes: what was to be reached, and what was done."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..viz.images import border, enlarge, grid

GOAL_COLOR, ACTED_COLOR = (22, 163, 74), (37, 99, 235)


def film(episodes: Sequence[tuple[Tensor, Tensor | None]], *, cell: int = 128) -> Tensor:
    """Episodes side by side, a column each: the goal above (green border), what was done below.

    Args:
        episodes: Frames uint8 ``[T, C, H, W]`` and goal ``[C, H, W]`` of each; one that is over early stands still.
        cell: Height to which frames are enlarged.
    Returns:
        ``[T, 3, h, w]`` uint8.
    Example:
        >>> film([(torch.zeros(3, 3, 8, 8, dtype=torch.uint8), None)] * 2, cell=8).shape
        torch.Size([3, 3, 16, 36])
    """
    length = max(len(frames) for frames, _ in episodes)
    with_goals = all(goal is not None for _, goal in episodes)
    columns = []
    for frames, goal in episodes:
        held = torch.cat([frames, frames[-1:].expand(length - len(frames), -1, -1, -1)])
        shown = border(enlarge(_colour(held), cell)[0], ACTED_COLOR)
        if with_goals:
            above = border(enlarge(_colour(goal[None]), cell)[0], GOAL_COLOR)
            columns.append((above[0], shown))
        else:
            columns.append((None, shown))
    rows = []
    for t in range(length):
        pictures = [above for above, _ in columns if above is not None] + [shown[t] for _, shown in columns]
        rows.append(grid(torch.stack(pictures), len(columns)))
    return torch.stack(rows)


def _colour(frames: Tensor) -> Tensor:
    return frames.expand(-1, 3, -1, -1) if frames.shape[1] == 1 else frames
