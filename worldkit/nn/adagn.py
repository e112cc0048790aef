"""GroupNorm whose scale and shift are told by a condition, and SiLU behind it: ``silu(norm(x) * (1 + scale) + shift)``.

In channels-last layout on a CPU both run in one step. Statistics take two passes (the mean, then the squares of what
differs from it), see `worldkit.nn.norm`; of the maps, only one is kept for the backward pass: the input less its mean.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from .norm import group_moments

LAST = torch.channels_last
EPS = 1e-5


def num_groups(channels: int) -> int:
    """Groups of 32 channels, at least one, as DIAMOND has them."""
    return max(1, channels // 32)


def norm_silu(x: Tensor, scale: Tensor, shift: Tensor, groups: int, *, eps: float = EPS) -> Tensor:
    """Maps ``[B, C, h, w]``, scale and shift ``[B, C]`` -> ``silu(group_norm(x) * (1 + scale) + shift)``.

    Example:
        >>> x, told = torch.randn(2, 8, 4, 4), torch.randn(2, 8)
        >>> want = F.silu(F.group_norm(x, 2) * (1 + told[..., None, None]) + told[..., None, None])
        >>> last = x.contiguous(memory_format=torch.channels_last)
        >>> torch.allclose(norm_silu(last, told, told, 2), want, atol=1e-6)
        True
    """
    plain = x.device.type != "cpu" or torch.compiler.is_compiling() or x.dtype not in (torch.float32, torch.float64)
    if plain or not x.is_contiguous(memory_format=LAST):
        x = F.group_norm(x, groups, eps=eps)
        return F.silu(torch.addcmul(shift[..., None, None], x, 1 + scale[..., None, None]))
    if torch.is_grad_enabled() and (x.requires_grad or scale.requires_grad):
        return _NormSiLU.apply(x, scale.to(x.dtype), shift.to(x.dtype), groups, eps)
    mean, variance = group_moments(x, groups)  # no graph: nothing is written but the result
    gain = (variance + eps).rsqrt() * (1 + scale).unflatten(1, (groups, -1))
    start = shift - (mean * gain).flatten(1)
    return F.silu(torch.addcmul(start[..., None, None], x, _per_map(gain, x.shape[1])), inplace=True)


def _group_means(x: Tensor, groups: int) -> Tensor:
    """Means of the groups of maps: ``[B, groups, 1]``."""
    sums = x.sum((2, 3)).unflatten(1, (groups, -1))
    return sums.sum(-1, keepdim=True) / (x[0].numel() // groups)


def _per_map(x: Tensor, channels: int) -> Tensor:
    """Numbers per group ``[B, groups, 1]`` or per channel ``[B, groups, C / groups]`` -> ``[B, C, 1, 1]``."""
    return x.expand(-1, -1, channels // x.shape[1]).flatten(1)[..., None, None]


def _normed(x: Tensor, scale: Tensor, shift: Tensor, groups: int, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """The result; the input less its mean; what the standard deviation is divided by ``[B, groups, 1]``."""
    channels = x.shape[1]
    centred = x - _per_map(_group_means(x, groups), channels)
    out = centred.square()
    rstd = (_group_means(out, groups) + eps).rsqrt()
    gain = _per_map(rstd * (1 + scale).unflatten(1, (groups, -1)), channels)
    torch.addcmul(shift[..., None, None], centred, gain, out=out)
    return F.silu(out, inplace=True), centred, rstd


class _NormSiLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, scale: Tensor, shift: Tensor, groups: int, eps: float) -> Tensor:
        out, centred, rstd = _normed(x, scale, shift, groups, eps)
        ctx.save_for_backward(centred, scale, shift, rstd)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        centred, scale, shift, rstd = ctx.saved_tensors
        groups, channels, size = rstd.shape[1], centred.shape[1], centred[0].numel() // rstd.shape[1]
        gain = rstd * (1 + scale).unflatten(1, (groups, -1))  # [B, groups, C / groups]
        inner = torch.addcmul(shift[..., None, None], centred, _per_map(gain, channels))
        grad = grad.contiguous(memory_format=LAST)
        torch.ops.aten.silu_backward.grad_input(grad, inner, grad_input=inner)
        with_x = inner * centred
        to_shift, to_gain = (x.sum((2, 3)).unflatten(1, (groups, -1)) for x in (inner, with_x))
        mean, slope = ((gain * x).sum(-1, keepdim=True) / size for x in (to_shift, to_gain))
        torch.addcmul(-_per_map(mean, channels), centred, -_per_map(slope * rstd.square(), channels), out=with_x)
        with_x.addcmul_(inner, _per_map(gain, channels))
        return with_x, (to_gain * rstd).flatten(1), to_shift.flatten(1), None, None
