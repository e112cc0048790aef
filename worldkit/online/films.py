"""Real and imagined episodes side by side, with their rewards."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ..batch import Batch
from ..data.vectors import batched
from ..model import ComposedWorldModel
from ..names import VectorColumn
from ..viz.images import WHITE, border, canvas, enlarge, text_block, to_uint8

REAL, SEEN, IMAGINED = (220, 38, 38), (37, 99, 235), (22, 163, 74)
_EDGE, _GAP, _CHART, _TITLE = 4, 8, 72, 22


def imagined(model: ComposedWorldModel, entries: Mapping[str, Tensor], conditions: Mapping[str, str], *,
             context: int, vectors: Mapping[str, VectorColumn] | None = None, cell: int = 160) -> Tensor:
    """An episode, and what a model makes of its first frames and its actions.

    Args:
        model: Draws; a head ``"reward"`` adds its predictions to the chart below.
        entries: Columns of an episode: ``"video"`` ``[T, C, H, W]`` uint8, ``"reward"`` ``[T]``, and conditions.
        conditions: Condition -> column.
        context: Frames that the model sees.
        vectors: Vector beside the picture -> column.
        cell: Height to which frames are enlarged.
    Returns:
        ``[T, 3, h, w]`` uint8.
    """
    device = next(model.parameters()).device
    video = entries["video"][None].to(device)
    given = {name: entries[column][None].to(device) for name, column in conditions.items()
             if name in model.conditioners}
    horizon = video.shape[1] - context
    with torch.no_grad():
        seen = Batch(video, vectors={name: batched(entries[column.column.removeprefix("state.")][None], column).to(
            device) for name, column in (vectors or {}).items()})
        found = model.rollout(seen.context(context), horizon, conditions=given, deterministic=True)
    drawn = torch.cat([found.context_video[0], found.video[0]]).clamp(0, 1).cpu()
    said = found.predictions.get("reward")
    told = entries["reward"][: video.shape[1] - 1].float()
    guess = None if said is None else said[0].float().cpu()  # index k: transition that leads to frame context + k
    real = border(enlarge(_colour(entries["video"]), cell)[0], REAL, _EDGE)
    dreamt = to_uint8(_colour(drawn))
    dreamt = torch.cat([border(enlarge(dreamt[:context], cell)[0], SEEN, _EDGE),
                        border(enlarge(dreamt[context:], cell)[0], IMAGINED, _EDGE)])
    height, width = real.shape[-2:]
    frames = []
    for t in range(len(real)):
        picture = canvas(_TITLE + height + _CHART, 2 * width + _GAP)
        picture[:, :_TITLE, :width] = text_block("what happened", _TITLE, width, size=13)
        what = "reconstructed" if t < context else f"imagined, +{t - context + 1}"
        picture[:, :_TITLE, -width:] = text_block(what, _TITLE, width, size=13)
        picture[:, _TITLE : _TITLE + height, :width] = real[t]
        picture[:, _TITLE : _TITLE + height, -width:] = dreamt[t]
        picture[:, _TITLE + height :] = _chart(told, guess, t, context, _CHART, 2 * width + _GAP)
        frames.append(picture)
    return torch.stack(frames)


def _chart(real: Tensor, guess: Tensor | None, now: int, context: int, height: int, width: int) -> Tensor:
    """Rewards up to a frame: bars of what was given, dots of what was imagined."""
    picture = canvas(height, width, WHITE)
    known = real if guess is None else torch.cat([real, guess])
    low, high = min(0.0, float(known.min())), max(0.0, float(known.max()))
    high = high if high > low else low + 1
    top, bottom = 18, height - 4

    def line(value: float) -> int:
        return round(bottom - (value - low) / (high - low) * (bottom - top))

    zero = line(0.0)
    picture[:, zero] = 200
    step = width / max(1, len(real))
    for t in range(min(now, len(real))):
        left, right = round(t * step), max(round(t * step) + 1, round((t + 1) * step) - 1)
        rows = sorted((zero, line(float(real[t]))))
        _fill(picture, rows[0], rows[1] + 1, left, right, REAL)
        k = t + 1 - context
        if guess is not None and 0 <= k < len(guess):
            row = line(float(guess[k]))
            _fill(picture, max(0, row - 2), row + 2, left, right, IMAGINED)
    picture[:, :16] = text_block(f"reward: given red, imagined green ({low:.3g} to {high:.3g})", 16, width, size=11,
                                 align="left")
    return picture


def _fill(picture: Tensor, top: int, bottom: int, left: int, right: int, color: tuple[int, int, int]) -> None:
    picture[:, top:bottom, left:right] = torch.tensor(color, dtype=torch.uint8)[:, None, None]


def _colour(frames: Tensor) -> Tensor:
    return frames.expand(-1, 3, -1, -1) if frames.shape[1] == 1 else frames
