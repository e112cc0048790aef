"""Convolutions over maps whose border is repeated, on a CPU: the gradient of the border is folded in where it lies.

PyTorch 2.13 adds it up into a map of its own, which takes five times as long.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable


def replicate(x: Tensor, before: int, after: int) -> Tensor:
    """Repeat the border: ``before`` pixels at the left and top, ``after`` at the right and bottom.

    torch.compile gets the same in other words: PyTorch 2.13 expects the gradient of its replication padding in
    contiguous layout, where for channels-last input it is channels-last, and stops.
    """
    if not torch.compiler.is_compiling():
        return F.pad(x, (before, after, before, after), mode="replicate")
    for dim in (2, 3):
        first, last = x.narrow(dim, 0, 1), x.narrow(dim, x.shape[dim] - 1, 1)
        x = torch.cat([first] * before + [x] + [last] * after, dim)
    return x


def replicated_conv(
    x: Tensor, weight: Tensor, bias: Tensor, *, before: int = 1, after: int = 1, stride: int = 1, padding: int = 0,
    transposed: bool = False,
) -> Tensor:
    """Convolve ``replicate(x, before, after)``: maps ``[M, I, h, w]``; kernels as of the functions of PyTorch.

    Args:
        x: ``[M, I, h, w]``.
        weight, bias, stride, padding: As of `torch.nn.functional.conv2d`.
        before, after: As of `replicate`.
        transposed: `torch.nn.functional.conv_transpose2d` instead.
    Example:
        >>> x, w, b = torch.rand(2, 3, 4, 4), torch.rand(5, 3, 3, 3), torch.rand(5)
        >>> torch.allclose(replicated_conv(x, w, b), F.conv2d(replicate(x, 1, 1), w, b))
        True
    """
    if x.device.type != "cpu" or torch.compiler.is_compiling() or torch.is_autocast_enabled("cpu"):
        conv = F.conv_transpose2d if transposed else F.conv2d
        return conv(replicate(x, before, after), weight, bias, stride=stride, padding=padding)
    return _Conv.apply(x, weight, bias, before, after, (transposed, [stride] * 2, [padding] * 2))


class _Conv(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor, before: int, after: int, how: tuple) -> Tensor:
        padded, (transposed, stride, padding) = replicate(x, before, after), how
        ctx.save_for_backward(padded, weight)
        ctx.options = before, after, how
        return torch.convolution(padded, weight, bias, stride, padding, [1, 1], transposed, [0, 0], 1)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        (padded, weight), (before, after, (transposed, stride, padding)) = ctx.saved_tensors, ctx.options
        outputs = weight.shape[1 if transposed else 0]
        d_padded, d_weight, d_bias = torch.ops.aten.convolution_backward(
            grad, padded, weight, [outputs], stride, padding, [1, 1], transposed, [0, 0], 1,
            list(ctx.needs_input_grad[:3]))
        d_x = None if d_padded is None else _fold_border(d_padded, before, after)
        return d_x, d_weight, d_bias, None, None, None


def _fold_border(grad: Tensor, before: int, after: int) -> Tensor:
    """Gradient of padded maps -> of the maps, a part of it; adds in place."""
    for dim in (2, 3):
        last = grad.shape[dim] - after - 1
        for i in range(before):
            grad.select(dim, before).add_(grad.select(dim, i))
        for i in range(after):
            grad.select(dim, last).add_(grad.select(dim, last + 1 + i))
    return grad[:, :, before : grad.shape[2] - after, before : grad.shape[3] - after]
