"""Spatial transformers for particles: crop glimpses from an image, paste glimpses back, composite them.

Positions are ``(y, x)`` in [-1, 1], scales ``(height, width)`` in (0, 1) as box side over image side. Crops of all
particles come from ONE sampling grid per image, so the image is never copied. Pasting with zero padding is separable
(rows, then columns), and compositing needs five sums over particles, never the particles' canvases side by side.

Source: upstream lpwm modules/modules.py @ 4cf53c4 (spatial transform, compositing), written from its description.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

EPS_SCALE = 1e-9
EPS_WEIGHT = 1e-5


def _centres(size: int, like: Tensor) -> Tensor:
    """Pixel centres in [-1, 1] without the corners: (2 i + 1) / size - 1."""
    return (torch.arange(size, device=like.device, dtype=like.dtype) * 2 + 1) / size - 1


def crop(image: Tensor, position: Tensor, scale: Tensor, size: int) -> Tensor:
    """Bilinear glimpses with border padding (align_corners=False).

    Args:
        image: ``[M, C, H, W]``.
        position: ``[M, N, 2]``.
        scale: ``[M, N, 2]`` in (0, 1), or anything that broadcasts to it.
        size: Side of a glimpse in pixels.
    Returns:
        ``[M, N, C, size, size]``; gradients reach image, position and scale.
    """
    u = _centres(size, image)
    scale = scale.expand_as(position)
    ys, xs = (position[..., None] + scale[..., None] * u).unbind(-2)  # [M, N, size]
    count = position.shape[1]
    grid = torch.stack([
        xs[:, :, None, :].expand(-1, -1, size, -1),
        ys[:, :, :, None].expand(-1, -1, -1, size),
    ], -1)
    grid = rearrange(grid, "m n h w xy -> m (n h) w xy")
    out = F.grid_sample(image, grid, padding_mode="border", align_corners=False)
    return rearrange(out, "m c (n h) w -> m n c h w", n=count)


def paste_weights(centre: Tensor, scale: Tensor, glimpse_size: int, size: int) -> Tensor:
    """Interpolation weights of one axis.

    Args:
        centre, scale: ``[M, N]`` position and scale along this axis.
        glimpse_size: Pixels of the glimpse along this axis.
        size: Pixels of the canvas along this axis.
    Returns:
        ``[M, N, size, glimpse_size]``: canvas = weights @ glimpse. Zero outside the glimpse.
    """
    u = _centres(size, centre)
    local = (u - centre[..., None]) / (scale[..., None] + EPS_SCALE)  # [M, N, size]
    pixel = ((local + 1) * glimpse_size - 1) / 2
    taps = torch.arange(glimpse_size, device=centre.device, dtype=centre.dtype)
    return (1 - (pixel[..., None] - taps).abs()).clamp(min=0)


def paste(glimpses: Tensor, position: Tensor, scale: Tensor, size: int) -> Tensor:
    """Glimpses ``[M, N, C, P, P]`` on zero canvases ``[M, N, C, size, size]``."""
    side = glimpses.shape[-1]
    rows = paste_weights(position[..., 0], scale[..., 0], side, size)
    columns = paste_weights(position[..., 1], scale[..., 1], side, size)
    return torch.einsum("mnhp,mncpq,mnwq->mnchw", rows, glimpses, columns)


def box_mask(position: Tensor, present: Tensor, glimpse_size: int, size: int) -> Tensor:
    """Image region NOT covered by the boxes of present particles, ``[M, 1, size, size]`` in {0, 1}.

    Every box has the fixed side ``glimpse_size``, moved to the particle with nearest-neighbour sampling.

    Args:
        position: ``[M, N, 2]``.
        present: ``[M, N]``, 1 where the particle counts.
    """
    pad = (size - glimpse_size) // 2
    box = glimpse_size + 2 * pad
    u = torch.linspace(-1, 1, size, device=position.device, dtype=position.dtype) * ((size - 1) / size)
    index = (((u - position[..., None] + 1) * box - 1) / 2).round()  # [M, N, 2, size]
    inside = ((index >= pad) & (index < pad + glimpse_size)).to(position.dtype)
    covered = torch.einsum("mn,mnh,mnw->mhw", present, inside[:, :, 0], inside[:, :, 1])
    return 1 - covered.clamp(0, 1)[:, None]
