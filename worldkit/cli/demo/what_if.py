"""What would follow if one thing lay elsewhere: the edit that the demo shows."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...errors import WorldkitError
from ...latents import Latent, Particles
from ...model import ComposedWorldModel
from ...viz.animation import framed
from ...viz.boxes import boxes_from_particles, draw_boxes
from ...viz.images import WHITE, enlarge, to_uint8

_SOME = 0.3  # change of a pixel's brightness, of 1, that one sees
_FEW = 6  # things that are tried


@dataclass(frozen=True)
class WhatIf:
    """One thing moved in every given frame, and what the model predicts then.

    Attributes:
        row: Given frames with the thing moved (a box marks it) and the predicted ones, ``[T, 3, h, w]`` uint8.
        changed: Share of the pixels of every predicted frame that are visibly others than without the edit.
    """

    row: Tensor
    changed: list[float]

    @property
    def visible(self) -> bool:
        """Whether the edit changes every predicted frame by as much as half a ball's area, twice over."""
        return min(self.changed) > 0.05


@torch.no_grad()
def what_if(model: ComposedWorldModel, video: Tensor, *, context_frames: int, shift: float = 0.6,
            cell: int = 96) -> WhatIf:
    """Move the thing that paints most of the last given frame, with all its particles, in every given frame.

    Args:
        model: A model with particle latents.
        video: One clip ``[1, T, C, H, W]``; the first frames are given, as many as follow are predicted.
        context_frames: How many are given.
        shift: How far, in image coordinates [-1, 1]; towards the image's middle.
        cell: Height of a picture, pixels, to which small frames are enlarged by a whole factor.
    Raises:
        WorldkitError: nothing is visible in a given frame.
    """
    horizon = video.shape[1] - context_frames
    z = model.encode(video[:, :context_frames])
    if not isinstance(z, Particles):
        raise WorldkitError("only particles are moved here")
    thing = z.follow(_most_painted(model, z))
    token = thing[context_frames - 1][0]
    moved = z.edit(thing, delta_position=-torch.sign(z.position[0, -1, token]) * shift)
    videos = []
    for start in (z, moved):
        given = _drawn(model, start)
        predicted = model.rollout(given, horizon, deterministic=True)
        assert predicted.video is not None
        videos.append(torch.cat([given, predicted.video.clamp(0, 1)], 1)[0].cpu())
    plain, edited = videos
    changed = ((plain - edited).abs().amax(1)[context_frames:] > _SOME).float().mean((1, 2))
    pictures, _ = enlarge(to_uint8(edited), cell)
    for t in range(context_frames):
        own = thing[t][:1]
        box = boxes_from_particles(moved.position[0, t, own].cpu(), moved.scale[0, t, own].cpu(), *pictures.shape[-2:])
        pictures[t] = draw_boxes(pictures[t], box, colors=[WHITE])
    return WhatIf(framed(pictures, context_frames, cell=cell), changed.tolist())


def _most_painted(model: ComposedWorldModel, z: Latent) -> list[int]:
    """Tokens of the thing in the last given frame without which the picture changes most: black ones show nothing."""
    last = z[:, -1:]
    things = last.objects()[:_FEW]
    if not things:
        raise WorldkitError("no token is visible in the last given frame")
    whole = _drawn(model, last)
    without = [_drawn(model, last.edit(tokens, transparency=0.0)) for tokens in things]
    return things[int(torch.stack([(whole - video).abs().mean() for video in without]).argmax())]


def _drawn(model: ComposedWorldModel, z: Latent) -> Tensor:
    video = model.decode(z).video
    assert video is not None
    return video.clamp(0, 1)
