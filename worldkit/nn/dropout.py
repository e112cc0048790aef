"""Dropout that is cheap on a CPU: 16 random bits per element and a boolean mask (a third of the time, a quarter of the
memory of `torch.nn.functional.dropout` there). On other devices it IS that function."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_LEVELS = 2**16


def keep_mask(shape: torch.Size, p: float) -> tuple[Tensor, float]:
    """Independent booleans, False with probability round(65536 p) / 65536, and one over the probability of True."""
    dropped = round(p * _LEVELS)
    count = shape.numel()
    bits = torch.empty((count + 3) // 4, dtype=torch.int64).random_(-(2**63), None).view(torch.int16)[:count]
    return (bits >= dropped - _LEVELS // 2).view(shape), _LEVELS / (_LEVELS - dropped)


class _Masked(torch.autograd.Function):
    """``x * mask * scale``; remembers the mask only."""

    @staticmethod
    def forward(ctx, x: Tensor, mask: Tensor, scale: float) -> Tensor:
        ctx.save_for_backward(mask)
        ctx.scale = scale
        return (x * mask).mul_(scale)

    @staticmethod
    def backward(ctx, grad: Tensor):
        (mask,) = ctx.saved_tensors
        return _Masked.apply(grad, mask, ctx.scale), None, None


def dropout(x: Tensor, p: float) -> Tensor:
    """Zero elements with probability ``p`` and scale the others, so that the mean stays; always active.

    On a CPU ``p`` is rounded to a multiple of 2^-16, and elements are scaled for the rounded value.
    """
    if not p:
        return x
    if x.device.type != "cpu":
        return F.dropout(x, p)
    return _Masked.apply(x, *keep_mask(x.shape, p))


class Dropout(nn.Module):
    """`dropout` as a layer: active in training mode."""

    def __init__(self, p: float):
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        return dropout(x, self.p) if self.training else x
