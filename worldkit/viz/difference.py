"""Two videos beside one another and where they differ: maps, an animation, and the same standing still.

A map is the first video in dim grey with a glow over it: the farther a pixel of the second is from it, the brighter.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from einops import reduce, repeat
from torch import Tensor

from ..batch import check_shape, to_float_video
from .animation import CONTEXT_COLOR, PREDICTED_COLOR, TRUTH_COLOR, beside, captioned, framed
from .boxes import draw_boxes
from .images import MUTED, WHITE, enlarge, labelled_rows, to_uint8

DIFFER = "where they differ"
_GROUND, _GLOW = 0.45, ((0.85, 0.1, 0.35), (1.0, 0.55, 0.0), (1.0, 1.0, 0.6))  # share of the picture; weak to strong
_NOISE, _FULL = 0.04, 0.6  # a difference that does not glow yet, and one that glows as bright as can be


def glow(video: Tensor, difference: Tensor) -> Tensor:
    """Where a video differs from another one.

    Args:
        video: ``[T, 3, H, W]``, uint8 or float in [0, 1]: the ground, shown in dim grey.
        difference: ``[T, H, W]`` in [0, 1].
    Returns:
        ``[T, 3, H, W]`` uint8.
    Example:
        >>> glow(torch.zeros(1, 3, 2, 2), torch.tensor([[[0.0, 0.0], [0.0, 1.0]]]))[0, :, 1, 1].tolist()
        [255, 255, 153]
    """
    sizes = check_shape(video, "t c h w", name="video", c=3)
    check_shape(difference, "t h w", name="difference", t=sizes["t"], h=sizes["h"], w=sizes["w"])
    ground = _GROUND * reduce(to_float_video(video).cpu(), "t c h w -> t 1 h w", "mean")
    strength = ((difference.cpu().float() - _NOISE) / (_FULL - _NOISE)).clamp(0, 1)[:, None]
    colors = torch.tensor(_GLOW)[:, :, None, None]
    lower, upper = colors[0].lerp(colors[1], (2 * strength).clamp(max=1)), colors[1].lerp(colors[2], 2 * strength - 1)
    color = torch.where(strength < 0.5, lower, upper)
    return to_uint8(ground.lerp(color, strength.sqrt()))


def summed(video: Tensor, difference: Tensor) -> Tensor:
    """All differences of a clip in one map, the largest as bright as can be, over its last frame.

    Args:
        video, difference: As for `glow`.
    Returns:
        ``[3, H, W]`` uint8.
    """
    total = difference.float().mean(0, keepdim=True)
    return glow(video[-1:], total * _FULL / total.max().clamp(min=1e-6))[0]


def marked(video: Tensor, boxes: Sequence[Tensor], *, cell: int) -> Tensor:
    """Enlarged frames, with white boxes in the first ones.

    Args:
        video: ``[T, 3, H, W]``, uint8 or float in [0, 1].
        boxes: Of the first frames: ``[n, 4]`` each, (top, left, bottom, right) in pixels of the video.
        cell: As for `worldkit.viz.animate_rollout`.
    Returns:
        ``[T, 3, h, w]`` uint8.
    """
    pictures, factor = enlarge(to_uint8(video), cell)
    for t, found in enumerate(boxes):
        pictures[t] = draw_boxes(pictures[t], found.cpu() * factor, colors=[WHITE])
    return pictures


def animate_difference(
    rows: Mapping[str, Tensor], difference: Tensor, *, context_frames: int, truth: Tensor | None = None,
    boxes: Mapping[str, Sequence[Tensor]] | None = None, title: str = "", note: str = "", cell: int = 160,
) -> Tensor:
    """Two videos side by side, a map of where they differ at the right, and what really happened at the left.

    Args:
        rows: Caption -> ``[T, 3, H, W]``: two of them, given frames, then predicted ones.
        difference: ``[T, H, W]`` in [0, 1].
        context_frames: How many were given.
        truth: ``[T, 3, H, W]``, if known.
        boxes: Caption -> white boxes in the given frames, as for `marked`.
        title, note, cell: As for `worldkit.viz.animate_rollout`.
    Returns:
        ``[T, 3, h, w]`` uint8, for `worldkit.viz.save_animation`.
    """
    count = len(difference)
    colors = [CONTEXT_COLOR if t < context_frames else PREDICTED_COLOR for t in range(count)]
    panels = [] if truth is None else [captioned("what happened", truth, [TRUTH_COLOR] * count, cell)]
    panels += [captioned(name, marked(video, (boxes or {}).get(name, ()), cell=cell), colors, cell)
               for name, video in rows.items()]
    ground = next(iter(rows.values()))
    panels.append(captioned(DIFFER, glow(ground, difference), [MUTED] * count, cell))
    return beside(panels, context_frames=context_frames, title=title, note=note)


def difference_rows(
    rows: Mapping[str, Tensor], difference: Tensor, *, context_frames: int, truth: Tensor | None = None,
    boxes: Mapping[str, Sequence[Tensor]] | None = None, cell: int = 96,
) -> dict[str, Tensor]:
    """What `animate_difference` shows as rows of framed pictures, name -> ``[T, 3, h, w]`` uint8; same arguments."""
    found = {} if truth is None else {"what happened": framed(truth, None, cell=cell)}
    found |= {name: framed(marked(video, (boxes or {}).get(name, ()), cell=cell), context_frames, cell=cell)
              for name, video in rows.items()}
    maps = glow(next(iter(rows.values())), difference)
    return found | {DIFFER: framed(maps, context_frames, cell=cell)}


def difference_strip(rows: Mapping[str, Tensor], *, context_frames: int, frames: int = 8) -> Tensor:
    """Rows of `difference_rows` standing still, a column per frame.

    Args:
        rows: Name -> ``[T, 3, h, w]``.
        context_frames: How many frames were given: the last of them is shown, and predicted ones, if there are any.
        frames: Columns at most; evenly spaced behind the first.
    Returns:
        ``[3, h', w']`` uint8.
    """
    count = len(next(iter(rows.values())))
    first = context_frames if count > context_frames else 1
    later = torch.linspace(first, count - 1, min(frames - 1, count - first)).round().long().tolist()
    chosen = [first - 1, *later]
    titles = [f"given {t + 1}" if t < context_frames else f"predicted {t + 1 - context_frames}" for t in chosen]
    return labelled_rows({name: pictures[chosen] for name, pictures in rows.items()}, titles)


def held(row: Tensor, times: int = 4) -> Tensor:
    """An animation that rests on its last frame."""
    return torch.cat([row, repeat(row[-1], "c h w -> t c h w", t=times)])
