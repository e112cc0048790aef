"""Boxes of objects: glimpses of them, and how much they overlap."""

from __future__ import annotations

import torch
from torch import Tensor

from ..nn.glimpse import crop


def place(box: Tensor) -> tuple[Tensor, Tensor]:
    """Position and sides of boxes ``[..., 4]`` as blocks of worldkit have them, in (y, x)."""
    return box[..., 2:].flip(-1), box[..., :2].flip(-1)


def look(pictures: Tensor, box: Tensor, size: int) -> Tensor:
    """Glimpses ``[B, N, C, size, size]`` of ``[B, C, H, W]`` at boxes ``[B, N, 4]``; outside is black."""
    position, sides = place(box)
    return crop(pictures, position, sides, size, outside="zeros")


def overlap(one: Tensor, other: Tensor) -> Tensor:
    """Intersection over union of boxes ``[B, N, 4]`` and ``[B, M, 4]``: ``[B, N, M]``; 0 of boxes without an area.

    Example:
        >>> box = torch.tensor([[[0.5, 0.5, 0.0, 0.0]]])
        >>> round(overlap(box, box + torch.tensor([0.0, 0.0, 0.5, 0.0])).item(), 3)
        0.333
    """
    (low, high), (other_low, other_high) = (_corners(x) for x in (one, other))
    sides = (torch.minimum(high[:, :, None], other_high[:, None]) - torch.maximum(low[:, :, None], other_low[:, None]))
    shared = sides.clamp(min=0).prod(-1)
    areas, other_areas = ((b - a).prod(-1) for a, b in ((low, high), (other_low, other_high)))
    real = [((b - a) > 0).all(-1) for a, b in ((low, high), (other_low, other_high))]
    union = areas[:, :, None] + other_areas[:, None] - shared
    return torch.where(real[0][:, :, None] & real[1][:, None], shared / (union + 1e-5), 0.0)


def _corners(box: Tensor) -> tuple[Tensor, Tensor]:
    centre, half = (box[..., 2:] + 1) / 2, box[..., :2] / 2
    return centre - half, centre + half
