"""Spatial transformers for particles: crop glimpses from an image, paste glimpses back, composite them.

Positions are ``(y, x)`` in [-1, 1], scales ``(height, width)`` in (0, 1) as box side over image side. Crops of all
particles come from ONE sampling grid per image, so the image is never copied. Pasting with zero padding is separable
(rows, then columns), and compositing needs five sums over particles, never the particles' canvases side by side.

Source: upstream lpwm modules/modules.py @ 4cf53c4 (spatial transform, compositing), written from its description.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from ..config import ObsSpec

EPS_SCALE = 1e-9
EPS_WEIGHT = 1e-5


def glimpse_side(ratio: float, obs: ObsSpec) -> int:
    """Pixels of a glimpse's side, which is square, for its share of the image's longer side."""
    return int(round(ratio * (max(obs.height, obs.width) - 1)))


def _centres(size: int, like: Tensor, corners: bool = False) -> Tensor:
    """Where the pixels of an axis lie in [-1, 1]: without the corners, (2 i + 1) / size - 1; else from -1 to 1."""
    if corners:
        return torch.linspace(-1, 1, size, device=like.device, dtype=like.dtype)
    return (torch.arange(size, device=like.device, dtype=like.dtype) * 2 + 1) / size - 1


def crop(
    image: Tensor, position: Tensor, scale: Tensor, size: int, *, corners: bool = False,
    outside: Literal["zeros", "border"] | None = None,
) -> Tensor:
    """Bilinear glimpses.

    Args:
        image: ``[M, C, H, W]``.
        position: ``[M, N, 2]``.
        scale: ``[M, N, 2]`` in (0, 1), or anything that broadcasts to it.
        size: Side of a glimpse in pixels.
        corners: -1 and 1 are the centres of the corner pixels, and outside is black (DLPv2, DDLP); else they are the
            image's edges, and outside the border goes on (DLPv3, LPWM).
        outside: What is outside, where that is not what ``corners`` says.
    Returns:
        ``[M, N, C, size, size]``; gradients reach image, position and scale.
    """
    u = _centres(size, image, corners)
    scale = scale.expand_as(position)
    ys, xs = (position[..., None] + scale[..., None] * u).unbind(-2)  # [M, N, size]
    count = position.shape[1]
    grid = torch.stack([
        xs[:, :, None, :].expand(-1, -1, size, -1),
        ys[:, :, :, None].expand(-1, -1, -1, size),
    ], -1)
    grid = rearrange(grid, "m n h w xy -> m (n h) w xy")
    padding = outside or ("zeros" if corners else "border")
    out = F.grid_sample(image, grid, padding_mode=padding, align_corners=corners)
    return rearrange(out, "m c (n h) w -> m n c h w", n=count)


def paste_weights(centre: Tensor, scale: Tensor, glimpse_size: int, size: int, *, corners: bool = False) -> Tensor:
    """Interpolation weights of one axis.

    Args:
        centre, scale: ``[M, N]`` position and scale along this axis.
        glimpse_size: Pixels of the glimpse along this axis.
        size: Pixels of the canvas along this axis.
        corners: As in `crop`.
    Returns:
        ``[M, N, size, glimpse_size]``: canvas = weights @ glimpse. Zero outside the glimpse.
    """
    u = _centres(size, centre, corners)
    local = (u - centre[..., None]) / (scale[..., None] + EPS_SCALE)  # [M, N, size]
    pixel = (local + 1) / 2 * (glimpse_size - 1) if corners else ((local + 1) * glimpse_size - 1) / 2
    taps = torch.arange(glimpse_size, device=centre.device, dtype=centre.dtype)
    return (1 - (pixel[..., None] - taps).abs()).clamp(min=0)


def axis_weights(
    glimpses: Tensor, position: Tensor, scale: Tensor, size: tuple[int, int], *, corners: bool = False
) -> list[Tensor]:
    """`paste_weights` of rows and of columns for glimpses ``[M, N, C, P, P]`` on canvases of ``size`` (H, W)."""
    side = glimpses.shape[-1]
    return [
        paste_weights(position[..., axis], scale[..., axis], side, size[axis], corners=corners) for axis in (0, 1)
    ]


def paste(
    glimpses: Tensor, position: Tensor, scale: Tensor, size: tuple[int, int], *, corners: bool = False
) -> Tensor:
    """Glimpses ``[M, N, C, P, P]`` on zero canvases ``[M, N, C, H, W]``; ``size`` is (H, W)."""
    rows, columns = axis_weights(glimpses, position, scale, size, corners=corners)
    return torch.einsum("mnhp,mncpq,mnwq->mnchw", rows, glimpses, columns)


def box_mask(
    position: Tensor, present: Tensor, glimpse_size: int, size: tuple[int, int], *, corners: bool = False
) -> Tensor:
    """Image region NOT covered by the boxes of present particles, ``[M, 1, H, W]`` in [0, 1].

    Every box has the fixed side ``glimpse_size``, moved to the particle with nearest-neighbour sampling.

    Args:
        position: ``[M, N, 2]``.
        present: ``[M, N]``, how much the particle counts, from 0 to 1.
        size: Height and width of the image.
        corners: As in `crop`.
    """
    covered = torch.einsum("mn,mnh,mnw->mhw", present, *(
        _inside(position[..., axis], glimpse_size, size[axis], corners) for axis in (0, 1)
    ))
    return 1 - covered.clamp(0, 1)[:, None]


def _inside(centre: Tensor, glimpse_size: int, size: int, corners: bool) -> Tensor:
    """Which pixels of an axis lie in boxes around ``[M, N]``: ``[M, N, size]`` in {0, 1}."""
    pad = (size - glimpse_size) // 2
    box = glimpse_size + 2 * pad
    if corners:
        index = ((_centres(size, centre, True) - centre[..., None] + 1) / 2 * (box - 1)).round()
    else:
        u = torch.linspace(-1, 1, size, device=centre.device, dtype=centre.dtype) * ((size - 1) / size)
        index = (((u - centre[..., None] + 1) * box - 1) / 2).round()
    return ((index >= pad) & (index < pad + glimpse_size)).to(centre.dtype)
