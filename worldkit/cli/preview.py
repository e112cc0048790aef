"""Pictures of ``worldkit data preview``: a contact sheet with the actions, and an animation."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..data import EpisodeSource
from ..viz import PALETTE, grid
from ..viz.images import MUTED, canvas, enlarge, from_pil, text_block, to_pil

_CELL = 96  # pixels; smaller frames are enlarged to at least this height
_LARGEST = 160  # larger ones are shrunk to this height
_CAPTION, _ACTIONS = 22, 64  # heights
_GIF_FRAMES, _AT_ONCE = 120, 8
GIF_FPS = 50  # a GIF cannot be faster


def contact_sheet(source: EpisodeSource, episodes: list[int], frames: int) -> Tensor:
    """Evenly spaced frames of some episodes, a row each: its name, the frames, the goal and the actions, if there are.

    Returns:
        ``[3, h, w]`` uint8.
    """
    actions = {episode: _actions(source, episode) for episode in episodes}
    known = [values for values in actions.values() if values is not None]
    span = (min(float(v.min()) for v in known), max(float(v.max()) for v in known)) if known else (0.0, 0.0)
    rows = []
    for episode in episodes:
        length = source.length(episode)
        times = np.linspace(0, length - 1, frames).round().astype(int).tolist()
        items = [source.read(episode, t, t + 1) for t in times]
        pictures = torch.cat([_shown(item["video"]) for item in items])
        goal = source.read_entry(episode, "goal_image") if "goal_image" in items[0] else None
        row = grid(pictures if goal is None else torch.cat([pictures, _goal(goal)]), frames + (goal is not None))
        caption = f"{source.episode_name(episode)}, {length} frames"
        caption += f": {items[0]['language']}" if isinstance(items[0].get("language"), str) else ""
        caption += " (last picture: goal)" if goal is not None else ""
        parts = [text_block(caption, _CAPTION, row.shape[-1], align="left"), row]
        values = actions[episode]
        if values is not None:
            parts += _curves(values, span, pictures.shape[-1], frames, row.shape[-1])
        rows.append(torch.cat(parts, -2))
    return grid(torch.stack(rows), 1, gap=8)


def animation(source: EpisodeSource, episodes: list[int]) -> Tensor:
    """The first frames of some episodes side by side, with their names; one that ends waits at its last frame.

    Returns:
        ``[T, 3, h, w]`` uint8.
    """
    clips, captions = [], []
    for episode in episodes:
        stop = min(source.length(episode), _GIF_FRAMES)
        parts = [(start, min(start + _AT_ONCE, stop)) for start in range(0, stop, _AT_ONCE)]
        clips.append(torch.cat([_shown(source.read(episode, *part)["video"]) for part in parts]))
        name = Path(source.episode_name(episode)).name
        captions.append(text_block(name, _CAPTION, clips[-1].shape[-1], size=11, align="left"))
    longest, columns = max(map(len, clips)), math.ceil(math.sqrt(len(clips)))
    return torch.stack([
        grid(torch.stack([torch.cat([caption, clip[min(t, len(clip) - 1)]], -2)
                          for clip, caption in zip(clips, captions, strict=True)]), columns)
        for t in range(longest)
    ])


def _actions(source: EpisodeSource, episode: int) -> np.ndarray | None:
    """The actions of an episode, ``[T, A]``, without values that are not finite."""
    values = source.read_entry(episode, "action")
    if values is None or len(values) == 0:
        return None
    return np.nan_to_num(np.asarray(values, np.float64).reshape(len(values), -1), posinf=0.0, neginf=0.0)


def _curves(values: np.ndarray, span: tuple[float, float], cell: int, frames: int, width: int) -> list[Tensor]:
    """Actions over time, each number a line, under the frames they belong to; and what is what."""
    from PIL import ImageDraw

    image = to_pil(canvas(_ACTIONS, width, (247, 248, 250)))
    draw = ImageDraw.Draw(image)
    low, high = span
    left, right = cell / 2, cell / 2 + (frames - 1) * (cell + 4)  # the middles of the first and the last frame
    x = left + np.arange(len(values)) * (right - left) / max(1, len(values) - 1)
    y = _ACTIONS - 5 - (values - low) / ((high - low) or 1.0) * (_ACTIONS - 10)
    for number in reversed(range(values.shape[1])):
        points = list(zip(x.tolist(), y[:, number].tolist(), strict=True))
        color = PALETTE[number % len(PALETTE)]
        draw.line(points, fill=color, width=2) if len(points) > 1 else draw.point(points, fill=color)
    count = values.shape[1]
    text = f"action: {'a number' if count == 1 else f'{count} numbers'}, {low:.3g} to {high:.3g} over all rows"
    return [from_pil(image), text_block(text, 18, width, size=11, color=MUTED, align="left")]


def _goal(goal: Any) -> Tensor:
    """The goal as a picture beside the frames."""
    return _shown(torch.as_tensor(goal).unsqueeze(-4))


def _shown(video: Any) -> Tensor:
    """Frames ``[T, 3, h, w]``, cameras one above the other, of a size at which one can see something."""
    video = torch.as_tensor(video)
    if video.ndim == 5:
        video = torch.cat(list(video), -2)
    height, width = video.shape[-2:]
    if height > _LARGEST:
        size = (_LARGEST, max(1, round(width * _LARGEST / height)))
        smaller = [F.interpolate(frame[None].float(), size, mode="area") for frame in video]  # one by one: less memory
        video = torch.cat(smaller).round().to(torch.uint8)
    return enlarge(video, _CELL)[0]
