"""Rollout animations: the true clip beside rollouts of a model, as GIF or MP4.

The border of a frame says what it is: red the ground truth, blue a reconstructed context frame (the model has seen it),
green a predicted one. A rollout driven by latent actions inferred from the true future must carry that in its name
and be explained by a note: `MEAN`, `SAMPLED` and `INFERRED` are the usual three.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor

from ..batch import check_shape
from ..errors import ShapeError, WorldkitError, require_extra
from ..files import write_atomically
from .images import (
    INK,
    MUTED,
    WHITE,
    border,
    canvas,
    enlarge,
    labelled_rows,
    save_gif,
    text_block,
    text_height,
    to_uint8,
)

MEAN = "the mean prediction (scored)"
SAMPLED = "one sampled prediction"
INFERRED = "latent actions read off the true future"

TRUTH_COLOR, CONTEXT_COLOR, PREDICTED_COLOR = (220, 38, 38), (37, 99, 235), (22, 163, 74)
_BORDER, _GAP, _CAPTION, _TITLE_LINE, _NOTE_SIZE = 5, 8, 40, 20, 12


def animate_rollout(
    truth: Tensor, rollouts: Mapping[str, Tensor], *, context_frames: int, title: str = "", note: str = "",
    goal: Tensor | None = None, cell: int = 160,
) -> Tensor:
    """The true clip and rollouts side by side, with coloured borders and captions.

    Args:
        truth: True frames, ``[T, 3, H, W]``, uint8 or float in [0, 1]. Several views: stack them along H first.
        rollouts: Caption -> ``[T, 3, H, W]``: reconstructed context, then predicted frames. The usual three are
            ``{MEAN: ..., SAMPLED: ..., INFERRED: ...}``.
        context_frames: Number of leading frames that are reconstructions.
        title: Text above everything, for example the instruction.
        note: Text below everything: what a column means that its name cannot say.
        goal: Goal image, ``[3, H, W]``, shown at the right.
        cell: Height to which small frames are enlarged by a whole factor, in pixels.
    Returns:
        ``[T, 3, h, w]`` uint8, for `save_animation`.
    Raises:
        ShapeError: if shapes differ, or ``context_frames`` is not in 0 .. T.
    Source:
        The three-panel animation of upstream lpwm, eval/eval_model.py @ 4cf53c4, with the scored mean beside it.
    Example:
        >>> clip = torch.rand(4, 3, 32, 32)
        >>> animate_rollout(clip, {MEAN: clip, SAMPLED: clip}, context_frames=2).shape
        torch.Size([4, 3, 226, 542])
    """
    sizes = _check(truth, rollouts, context_frames)
    panels = [captioned("ground truth", truth, [TRUTH_COLOR] * sizes["t"], cell)]
    colors = [CONTEXT_COLOR] * context_frames + [PREDICTED_COLOR] * (sizes["t"] - context_frames)
    panels += [captioned(name, video, colors, cell) for name, video in rollouts.items()]
    if goal is not None:
        check_shape(goal, "c h w", name="goal", c=3, h=sizes["h"], w=sizes["w"])
        panels.append(captioned("goal", repeat(goal, "c h w -> t c h w", t=sizes["t"]), [MUTED] * sizes["t"], cell))
    return beside(panels, context_frames=context_frames, title=title, note=note, phases=bool(rollouts))


def rollout_strip(
    truth: Tensor, rollouts: Mapping[str, Tensor], *, context_frames: int, note: str = "", frames: int = 6,
    cell: int = 96,
) -> Tensor:
    """What `animate_rollout` shows, standing still: a row for the truth and each rollout, a column per frame.

    Args:
        truth, rollouts, context_frames, note, cell: As there.
        frames: Columns at most: evenly spaced frames, from the last given one to the last of the clip.
    Returns:
        ``[3, h, w]`` uint8.
    Raises:
        ShapeError: as there, or if ``frames`` is below 1.
    Example:
        >>> clip = torch.rand(9, 3, 32, 32)
        >>> rollout_strip(clip, {MEAN: clip, SAMPLED: clip}, context_frames=4).shape
        torch.Size([3, 352, 768])
    """
    count = _check(truth, rollouts, context_frames)["t"]
    if frames < 1:
        raise ShapeError(f"a strip needs at least 1 frame, got frames={frames}")
    first = max(0, context_frames - 1)
    chosen = torch.linspace(count - 1, first, min(frames, count - first)).round().long().flip(0)
    colors = [CONTEXT_COLOR if t < context_frames else PREDICTED_COLOR for t in chosen.tolist()]
    rows = {"ground truth": _framed(truth[chosen], [TRUTH_COLOR] * len(chosen), cell)}
    rows |= {name: _framed(video[chosen], colors, cell) for name, video in rollouts.items()}
    strip = labelled_rows(rows, [f"frame {t}" for t in chosen.tolist()])
    return torch.cat([strip, _note(note, strip.shape[-1])], -2) if note else strip


def save_animation(frames: Tensor, path: str | os.PathLike[str], *, fps: float = 8) -> None:
    """Write an animation; the ending of the path chooses the format. Replaces the file in one step.

    Args:
        frames: ``[T, 3, h, w]``, uint8 or float in [0, 1].
        path: Ends in ``.gif`` (see `gif_bytes`) or ``.mp4`` (H.264; odd sizes get one more line or column).
        fps: Frames per second; at most 50 for a GIF.
    Raises:
        WorldkitError: for any other ending.
        MissingExtraError: for ``.mp4`` without PyAV.
        ShapeError: if there is no frame or fps is out of range.
    """
    suffix = Path(path).suffix.lower()
    if suffix == ".gif":
        save_gif(frames, path, fps=fps)
    elif suffix == ".mp4":
        if check_shape(frames, "t c h w", name="frames", c=3)["t"] == 0 or fps <= 0:
            raise ShapeError(f"an animation needs frames and fps > 0, got {len(frames)} frames and fps={fps}")
        write_atomically(path, lambda temporary: _write_mp4(to_uint8(frames), temporary, fps))
    else:
        raise WorldkitError(f"cannot write an animation to '{path}': name it .gif or .mp4")


def _check(truth: Tensor, rollouts: Mapping[str, Tensor], context_frames: int) -> dict[str, int]:
    """Sizes of the truth, once all fits together."""
    sizes = check_shape(truth, "t c h w", name="truth", c=3)
    for name, video in rollouts.items():
        check_shape(video, "t c h w", name=f"rollout '{name}'", **sizes)
    if sizes["t"] == 0 or not 0 <= context_frames <= sizes["t"]:
        raise ShapeError(f"context_frames must be in 0 .. {sizes['t']}, the frames of the clip, got {context_frames}")
    return sizes


def framed(video: Tensor, context_frames: int | None, *, cell: int = 96) -> Tensor:
    """Enlarged frames of a clip, each in the border that says what it is.

    Args:
        video: ``[T, 3, H, W]``, uint8 or float in [0, 1].
        context_frames: Leading frames that were given (blue), the rest was predicted (green); None: the truth (red).
        cell: Height to which small frames are enlarged by a whole factor, in pixels.
    Returns:
        ``[T, 3, h, w]`` uint8.
    Example:
        >>> framed(torch.zeros(3, 3, 32, 32), 2).shape
        torch.Size([3, 3, 106, 106])
    """
    if context_frames is None:
        return _framed(video, [TRUTH_COLOR] * len(video), cell)
    return _framed(video, [CONTEXT_COLOR if t < context_frames else PREDICTED_COLOR for t in range(len(video))], cell)


def _framed(video: Tensor, colors: list[tuple[int, int, int]], cell: int) -> Tensor:
    """Enlarged frames, each in a border of its colour, ``[T, 3, h, w]``."""
    pictures = enlarge(to_uint8(video), cell)[0]
    return torch.cat([border(p[None], color, _BORDER) for p, color in zip(pictures, colors, strict=True)])


def _note(text: str, width: int) -> Tensor:
    height = text_height(text, width, size=_NOTE_SIZE) + _GAP
    return text_block(text, height, width, size=_NOTE_SIZE, color=INK)


def beside(
    panels: Sequence[Tensor], *, context_frames: int, title: str = "", note: str = "", phases: bool = True,
) -> Tensor:
    """Animations of one size side by side, a line below that counts the frames, ``[T, 3, h, w]`` uint8.

    Args:
        panels: ``[T, 3, h, w]`` uint8 each, see `captioned`.
        context_frames, title, note: As for `animate_rollout`.
        phases: Say of every frame whether it was given or predicted.
    """
    count, gap = len(panels[0]), repeat(canvas(panels[0].shape[2], _GAP), "c h w -> t c h w", t=len(panels[0]))
    joined = torch.cat([part for panel in panels for part in (gap, panel)] + [gap], -1)
    strips = [joined, _footers(context_frames, count, joined.shape[-1], phases)]
    if title:
        header = text_block(title, _title_height(title, joined.shape[-1]), joined.shape[-1], size=15, color=INK)
        strips.insert(0, repeat(header, "c h w -> t c h w", t=count))
    if note:
        strips.append(repeat(_note(note, joined.shape[-1]), "c h w -> t c h w", t=count))
    return torch.cat(strips, -2)


def captioned(caption: str, video: Tensor, colors: list[tuple[int, int, int]], cell: int) -> Tensor:
    """Enlarged, bordered frames with a caption above, ``[T, 3, h, w]``."""
    framed = _framed(video, colors, cell)
    header = text_block(caption, _CAPTION, framed.shape[-1], size=13)
    return torch.cat([repeat(header, "c h w -> t c h w", t=len(framed)), framed], -2)


def _footers(context_frames: int, count: int, width: int, rollouts: bool) -> Tensor:
    """One line per frame: which frame it is, and whether the model has seen it."""
    lines = []
    for t in range(count):
        phase, color = ("context", CONTEXT_COLOR) if t < context_frames else ("predicted", PREDICTED_COLOR)
        text = f"frame {t} / {count - 1}" + (f"  {phase}" if rollouts else "")
        lines.append(text_block(text, 16, width, size=12, color=color if rollouts else MUTED))
    return torch.stack(lines)


def _title_height(title: str, width: int) -> int:
    """Room for the title at about 8 pixels a letter, three lines at most."""
    return _TITLE_LINE * min(3, 1 + len(title) * 8 // width) + 8


def _write_mp4(frames: Tensor, path: Path, fps: float) -> None:
    av = require_extra("av", "video", "writing an .mp4")
    height, width = frames.shape[-2:]
    pad = (0, width % 2, 0, height % 2)  # H.264 with 4:2:0 colour needs even sides
    frames = F.pad(frames, pad, value=WHITE[0])
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001))
        stream.height, stream.width = frames.shape[-2:]
        stream.pix_fmt, stream.options = "yuv420p", {"crf": "18"}
        for frame in frames:
            array = rearrange(frame, "c h w -> h w c").contiguous().numpy()
            container.mux(stream.encode(av.VideoFrame.from_ndarray(array, format="rgb24")))
        container.mux(stream.encode())
