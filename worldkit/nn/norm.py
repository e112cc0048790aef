"""GroupNorm followed by GELU, ReLU or SiLU, with accurate statistics in channels-last layout.

On a CPU, PyTorch 2.13 sums channels-last inputs one pixel after the other and takes the variance as the mean of squares
less the square of the mean. At a mean of 10 standard deviations its result is off by 1e-3 and at 100 by 1e-1, where
contiguous inputs give 1e-6 and 1e-5; what a large flat area leaves of a small object is off by 1e-4 at any mean.
Contiguous copies cost twice the time. Here statistics take two passes (the mean, then the squares of what differs from
it), as pairwise sums; the backward pass hands PyTorch's own the input less its mean, where that one is accurate, too.
Without a graph, large batches are worked on a part at a time: fresh memory costs as much time as the arithmetic.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from .chunks import at_a_time

LAST = torch.channels_last
_AT_ONCE = 1 << 18
"""Numbers that are normalised at a time where there is no graph."""
_LARGE = 1 << 15
"""Numbers of an image from which on its statistics are taken without writing anything."""


class _GroupNormAnd(nn.GroupNorm):
    """GroupNorm and what follows it; parameters and their names are those of `torch.nn.GroupNorm`."""

    follow: str

    def forward(self, x: Tensor) -> Tensor:
        # torch.compile's own code takes the variance in one stable pass, in any layout; so do CUDA's kernels
        if x.device.type != "cpu" or torch.compiler.is_compiling() or not _channels_last(x):
            return getattr(F, self.follow)(super().forward(x))
        dtype = torch.promote_types(x.dtype, torch.float32)
        weight, bias = self.weight.to(dtype), self.bias.to(dtype)
        if torch.is_grad_enabled():
            return _ChannelsLast.apply(x.to(dtype), weight, bias, self.num_groups, self.eps, self.follow).to(x.dtype)
        out, rows = torch.empty_like(x, dtype=dtype), min(at_a_time(_AT_ONCE, x[:1].numel()), max(1, len(x)))
        for part, room in zip(x.to(dtype).split(rows), out.split(rows), strict=True):
            _normalise(part, weight, bias, self.num_groups, self.eps, self.follow, room)
        return out.to(x.dtype)


class GroupNormGELU(_GroupNormAnd):
    """``gelu(group_norm(x))`` of maps ``[M, C, h, w]``.

    Example:
        >>> norm = GroupNormGELU(4, 32)
        >>> x = (torch.randn(2, 32, 8, 8) + 100).contiguous(memory_format=torch.channels_last)
        >>> exact = F.gelu(F.group_norm(x.double(), 4))
        >>> bool((norm(x) - exact).abs().max() < 1e-4)  # nn.GroupNorm: 1e-2
        True
    """

    follow = "gelu"


class GroupNormReLU(_GroupNormAnd):
    """``relu(group_norm(x))`` of maps ``[M, C, h, w]``.

    Example:
        >>> x = torch.randn(2, 8, 4, 4)
        >>> torch.allclose(GroupNormReLU(4, 8)(x), F.relu(F.group_norm(x, 4)))
        True
    """

    follow = "relu"


class GroupNormSiLU(_GroupNormAnd):
    """``silu(group_norm(x))`` of maps ``[M, C, h, w]``.

    Example:
        >>> x = torch.randn(2, 8, 4, 4)
        >>> torch.allclose(GroupNormSiLU(4, 8)(x), F.silu(F.group_norm(x, 4)))
        True
    """

    follow = "silu"


def _channels_last(x: Tensor) -> bool:
    return x.dim() == 4 and x.is_contiguous(memory_format=LAST)


def _group_means(x: Tensor, groups: int) -> Tensor:
    """Means of the groups of channels-last maps ``[M, C, h, w]``: ``[M, groups, 1]``."""
    images, channels, height, width = x.shape
    sums = x.sum((2, 3)).view(images, groups, channels // groups)
    return sums.sum(-1, keepdim=True) / (height * width * channels // groups)


def group_moments(x: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    """Means and variances of the groups of channels-last maps ``[M, C, h, w]`` on a CPU, ``[M, groups, 1]`` each.

    In passes that write nothing. PyTorch's statistics of batches sum one pixel after the other; of them the squares of
    what differs from the mean are taken, which only matter to their own size, and not the mean.

    Example:
        >>> x = (torch.randn(2, 8, 64, 64) + 10).contiguous(memory_format=torch.channels_last)
        >>> mean, variance = group_moments(x, 2)
        >>> want = x.double().unflatten(1, (2, -1)).flatten(2).var(-1, correction=0)
        >>> torch.allclose(variance[..., 0].double(), want, rtol=1e-4)
        True
    """
    means = (x.sum((2, 3)) / (x.shape[2] * x.shape[3])).unflatten(1, (groups, -1))
    if x[0].numel() < _LARGE:  # few passes matter less than many calls
        squares = (x - means.reshape(*x.shape[:2], 1, 1)).square()
        variances = (squares.sum((2, 3)) / (x.shape[2] * x.shape[3])).view_as(means)
    else:
        found = [torch.batch_norm_update_stats(image, None, None, 0.0)[1] for image in x.split(1)]
        variances = torch.stack(found).view_as(means)
    mean = means.mean(-1, keepdim=True)
    return mean, (variances + (means - mean).square()).mean(-1, keepdim=True)


def _normalise(
    x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float, follow: str, out: Tensor
) -> tuple[Tensor, ...]:
    """Write the result into ``out``; returns what a backward pass needs.

    Operations write over their inputs where they can.
    """
    images, channels = x.shape[:2]
    per_channel, per_map = (images, groups, channels // groups), (images, channels, 1, 1)
    mean = _group_means(x, groups)
    centred = x - mean.expand(per_channel).reshape(per_map)
    torch.square(centred, out=out)
    rstd = (_group_means(out, groups) + eps).rsqrt()
    scale, shift = (rstd * weight.view(per_channel[1:])).view(per_map), bias.view(per_map[1:])
    getattr(torch.ops.aten, f"{follow}_")(torch.addcmul(shift, centred, scale, out=out))
    return centred, shift, rstd, scale


class _ChannelsLast(torch.autograd.Function):
    """Both directions; of the maps, only one is kept for the backward pass: the input less its mean."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float, follow: str) -> Tensor:
        out = torch.empty_like(x)
        centred, shift, rstd, scale = _normalise(x, weight, bias, groups, eps, follow, out)
        ctx.save_for_backward(centred, weight, shift, rstd[..., 0], scale)
        ctx.follow = follow
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        centred, weight, shift, rstd, scale = ctx.saved_tensors
        images, channels, height, width = centred.shape
        inner = torch.addcmul(shift, centred, scale)
        if ctx.follow == "gelu":
            torch.ops.aten.gelu_backward.grad_input(grad, inner, grad_input=inner)
        elif ctx.follow == "silu":
            torch.ops.aten.silu_backward.grad_input(grad, inner, grad_input=inner)
        else:
            torch.ops.aten.threshold_backward.grad_input(grad, inner, 0, grad_input=inner)
        grads = torch.ops.aten.native_group_norm_backward(
            inner, centred, torch.zeros_like(rstd), rstd, weight, images, channels, height * width, rstd.shape[1],
            [True, True, True])
        return *grads, None, None, None
