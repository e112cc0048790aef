"""What would follow if one thing lay elsewhere: the edit that the demo shows."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...counterfactual import most_visible, what_if
from ...errors import WorldkitError
from ...latents import Particles
from ...model import ComposedWorldModel
from ...viz.animation import framed
from ...viz.boxes import boxes_from_particles
from ...viz.difference import marked


@dataclass(frozen=True)
class Moved:
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
def move_one(model: ComposedWorldModel, video: Tensor, *, context_frames: int, shift: float = 0.6,
             cell: int = 96) -> Moved:
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
    z = model.encode(video[:, :context_frames])
    if not isinstance(z, Particles):
        raise WorldkitError("only particles are moved here")
    thing = z.follow(most_visible(model, z))
    token = thing[context_frames - 1][0]
    moved = z.edit(thing, delta_position=-torch.sign(z.position[0, -1, token]) * shift)
    found = what_if(model, z, moved, video.shape[1] - context_frames)
    boxes = [boxes_from_particles(moved.position[0, t, own[:1]].cpu(), moved.scale[0, t, own[:1]].cpu(),
                                  *video.shape[-2:]) for t, own in thing.items()]
    row = framed(marked(found.edited[0].cpu(), boxes, cell=cell), context_frames, cell=cell)
    return Moved(row, found.changed[0, context_frames:].tolist())
