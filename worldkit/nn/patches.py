"""Frames as rows of square patches, and back. Sides that are no multiple of a patch are filled up with zeros at the
bottom and on the right, and cut off again."""

from __future__ import annotations

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor


def patch_grid(height: int, width: int, size: int) -> tuple[int, int]:
    """Rows and columns of patches that cover an image.

    Example:
        >>> patch_grid(90, 160, 4)
        (23, 40)
    """
    return -(-height // size), -(-width // size)


def to_patches(video: Tensor, size: int) -> Tensor:
    """``[B, T, C, H, W]`` -> ``[B, T, N, C * size * size]``, row by row."""
    height, width = video.shape[-2:]
    rows, columns = patch_grid(height, width, size)
    if (rows * size, columns * size) != (height, width):
        video = F.pad(video, (0, columns * size - width, 0, rows * size - height))
    return rearrange(video, "b t c (h p) (w q) -> b t (h w) (c p q)", p=size, q=size)


def from_patches(patches: Tensor, size: int, *, height: int, width: int) -> Tensor:
    """Inverse of `to_patches`.

    Example:
        >>> import torch
        >>> video = torch.rand(1, 2, 3, 10, 7)
        >>> torch.equal(from_patches(to_patches(video, 4), 4, height=10, width=7), video)
        True
    """
    rows, columns = patch_grid(height, width, size)
    video = rearrange(patches, "b t (h w) (c p q) -> b t c (h p) (w q)", h=rows, w=columns, p=size, q=size)
    return video[..., :height, :width]
