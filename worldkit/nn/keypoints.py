"""Keypoint proposals: every image patch proposes points by a spatial softmax over a small feature map.

Source: upstream lpwm modules/modules.py @ 4cf53c4 (prior), written from its description.
"""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor, nn

from ..distributions import full_precision


class PatchKeypoints(nn.Module):
    """Image ``[M, C, H, W]`` -> proposals ``[M, patches, 2]`` in [-1, 1] and (var y, var x, cov) ``[M, patches, 3]``.

    Args:
        cnn: Patches ``[P, C, side, side]`` -> maps ``[P, per_patch, h, w]``, whose softmaxes are the points.
        size: Height and width of the image.
        patch_size: Side of a patch, pixels; divides height and width.
        per_patch: Points per patch.
    Attributes:
        centres: Patch centres, ``[patches, 2]``, (y, x) in [-1, 1].
        num_proposals: Patches times points per patch.
    """

    centres: Tensor

    def __init__(self, cnn: nn.Module, *, size: tuple[int, int], patch_size: int, per_patch: int):
        super().__init__()
        self.patch_size, self.size, self.cnn = patch_size, size, cnn
        rows, columns = (torch.arange(0, side, patch_size) for side in size)
        corners = torch.cartesian_prod(rows, columns).repeat_interleave(per_patch, 0).float()
        self.num_proposals = corners.shape[0]
        self.register_buffer("corners", corners, persistent=False)
        centres = self.in_image(corners + patch_size // 2)
        self.register_buffer("centres", centres, persistent=False)

    def in_image(self, pixel: Tensor) -> Tensor:
        """Places ``[..., 2]`` (y, x) in pixels -> [-1, 1]."""
        y, x = pixel.unbind(-1)
        return torch.stack([2 * y / (self.size[0] - 1) - 1, 2 * x / (self.size[1] - 1) - 1], -1)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        side = self.patch_size
        patches = rearrange(image, "m c (gh ph) (gw pw) -> (m gh gw) c ph pw", ph=side, pw=side)
        maps = full_precision(self.cnn(patches))
        axis = torch.linspace(-1, 1, maps.shape[-1], device=image.device, dtype=maps.dtype)
        weight = rearrange(maps, "p k h w -> p k (h w)").softmax(-1)
        weight = rearrange(weight, "(m n) k (h w) -> m (n k) h w", m=image.shape[0], h=maps.shape[-2])
        rows, columns = weight.sum(-1), weight.sum(-2)
        y, x = (rows * axis).sum(-1), (columns * axis).sum(-1)  # products, which autocast leaves in full precision
        off_y, off_x = axis - y[..., None], axis - x[..., None]  # squares less a square lose digits at the border
        var_y = (rows * off_y.square()).sum(-1).clamp(min=1e-6)
        var_x = (columns * off_x.square()).sum(-1).clamp(min=1e-6)
        cov = (weight * off_y[..., None] * off_x[..., None, :]).sum((-1, -2))
        local = (torch.stack([y, x], -1) + 1) / 2 * (self.patch_size - 1)
        return self.in_image(local + self.corners), torch.stack([var_y, var_x, cov], -1)
