"""Convolution, GroupNorm and ReLU in one step, from padded maps to padded maps, on a CPU.

Written operation by operation, a block of a convolution stack goes over its maps a dozen times besides the convolution;
most of that is fresh memory and borders. Here the normalised maps are written straight into the middle of the next
block's padded input, what can be is done in place, and for the backward pass only two maps are kept: the padded input
and the convolution's output less its mean. Doubling the sides (bilinear) before a convolution is folded into it: every
pixel of a pair of rows and columns sees the same 3 x 3 pixels of the small map, with weights of its own.

Everything is channels-last; statistics are taken in two passes, see `worldkit.nn.norm`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor
from torch.autograd.function import once_differentiable

LAST = torch.channels_last

# Rows of a doubled map, by phase (even, odd) and tap (above, here, below), as shares of the small map's three rows.
_TAPS = (((0.75, 0.25, 0.0), (0.25, 0.75, 0.0), (0.0, 0.75, 0.25)),
         ((0.25, 0.75, 0.0), (0.0, 0.75, 0.25), (0.0, 0.25, 0.75)))


def doubled(weight: Tensor) -> Tensor:
    """Kernels ``[O, I, 3, 3]`` for a doubled map -> ``[4 O, I, 3, 3]`` for the small one: even and odd rows, columns.

    Example:
        >>> x, w = torch.rand(1, 2, 5, 6), torch.rand(3, 2, 3, 3)
        >>> large = F.interpolate(x, scale_factor=2, mode="bilinear")
        >>> want = F.conv2d(F.pad(large, [1] * 4, mode="replicate"), w)
        >>> y = F.conv2d(F.pad(x, [1] * 4, mode="replicate"), doubled(w))
        >>> torch.allclose(rearrange(y, "m (a b o) h w -> m o (h a) (w b)", a=2, b=2), want, atol=1e-6)
        True
    """
    taps = weight.new_tensor(_TAPS)
    return rearrange(torch.einsum("atl,bsm,oits->aboilm", taps, taps, weight), "a b o i l m -> (a b o) i l m")


def pad_border(x: Tensor, pad: int) -> Tensor:
    """Channels-last copy of maps with their border repeated ``pad`` times; as replication padding, but faster."""
    return _Pad.apply(x, pad)


def conv_norm_relu(
    x: Tensor, weight: Tensor, norm: torch.nn.GroupNorm | None, *, stride: int = 1, double: bool = False, pad: int = 0
) -> Tensor:
    """Padded maps -> ``relu(norm(conv(.)))``, padded for the next block.

    A padded result is for the next block alone: the backward pass writes over the gradient that it is given.

    Args:
        x: ``[M, I, H + k - 1, W + k - 1]``, channels-last, of the size before doubling.
        weight: Kernels ``[O, I, k, k]``.
        norm: Its parameters, or None.
        stride: Of the convolution.
        double: The maps are doubled before the convolution (k = 3).
        pad: How often the border of the result is repeated.
    Returns:
        ``[M, O, H' + 2 pad, W' + 2 pad]``, channels-last.
    """
    if norm is None:
        return _Block.apply(x, weight, None, None, 1, 0.0, stride, double, pad)
    return _Block.apply(x, weight, norm.weight, norm.bias, norm.num_groups, norm.eps, stride, double, pad)


def _empty(x: Tensor, channels: int, height: int, width: int) -> Tensor:
    return torch.empty((x.shape[0], channels, height, width), dtype=x.dtype, device=x.device, memory_format=LAST)


def _inside(x: Tensor, pad: int) -> Tensor:
    return x[:, :, pad : x.shape[2] - pad, pad : x.shape[3] - pad]


def _repeat_border(x: Tensor, pad: int) -> Tensor:
    for dim in (3, 2):
        last = x.shape[dim] - pad
        if pad:
            x.narrow(dim, 0, pad).copy_(x.narrow(dim, pad, 1))
            x.narrow(dim, last, pad).copy_(x.narrow(dim, last - 1, 1))
    return x


def _fold_border(grad: Tensor, pad: int) -> Tensor:
    """Gradient of padded maps -> of the maps; adds in place."""
    for dim in (2, 3):
        last = grad.shape[dim] - pad
        for i in range(pad):
            grad.select(dim, pad).add_(grad.select(dim, i))
            grad.select(dim, last - 1).add_(grad.select(dim, last + i))
    return _inside(grad, pad)


class _Pad(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, pad: int) -> Tensor:
        ctx.pad = pad
        out = _empty(x, x.shape[1], x.shape[2] + 2 * pad, x.shape[3] + 2 * pad)
        _inside(out, pad).copy_(x)
        return _repeat_border(out, pad)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        return _fold_border(grad.clone(), ctx.pad), None


def _phases(x: Tensor, double: bool) -> Tensor:
    """Maps ``[M, C, H, W]`` as ``[M, h, w, a, b, C]``: where they lie, if every a x b pixels came from one (a view)."""
    a = 2 if double else 1
    return rearrange(x, "m c (h a) (w b) -> m h w a b c", a=a, b=a)


def _as_maps(x: Tensor) -> Tensor:
    """Dense ``[M, h, w, a, b, C]`` -> maps ``[M, C, h w, a b]`` of the same memory.

    With the strides of channels-last maps even along axes of size 1, by which PyTorch tells layouts apart.
    """
    images, height, width, a, b, channels = x.shape
    area, phases = height * width, a * b
    return x.as_strided((images, channels, area, phases), (area * phases * channels, 1, phases * channels, channels))


class _Block(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, gain, bias, groups, eps, stride, double, pad):
        kernel = (doubled(weight) if double else weight).contiguous(memory_format=LAST)
        made = F.conv2d(x, kernel, stride=stride).contiguous(memory_format=LAST)
        images, factor, channels = x.shape[0], 2 if double else 1, weight.shape[0]
        out = _empty(x, channels, factor * made.shape[2] + 2 * pad, factor * made.shape[3] + 2 * pad)
        into = _phases(_inside(out, pad), double)
        made = made.permute(0, 2, 3, 1).view(*into.shape)
        ctx.options = groups, stride, double, pad
        if gain is None:
            torch.clamp(made, min=0, out=into)
            ctx.save_for_backward(x, weight, made)
            return _repeat_border(out, pad)
        per_channel, size = (images, groups, channels // groups), made[0, ..., 0].numel() * channels // groups

        def mean(values: Tensor) -> Tensor:
            return values.sum((1, 2, 3, 4)).view(per_channel).sum(-1, keepdim=True) / size

        made.sub_(mean(made).expand(per_channel).reshape(images, 1, 1, 1, 1, channels))
        rstd = (mean(made.square()) + eps).rsqrt()
        scale = (rstd * gain.view(per_channel[1:])).view(images, 1, 1, 1, 1, channels)
        torch.addcmul(bias, made, scale, out=into).relu_()
        ctx.save_for_backward(x, weight, made, gain, bias, rstd[..., 0], scale)
        return _repeat_border(out, pad)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        (groups, stride, double, pad), (x, weight, made, *norm) = ctx.options, ctx.saved_tensors
        grad = _phases(_fold_border(grad, pad) if pad else grad, double)
        grads = (None, None)
        if not norm:
            grad = torch.ops.aten.threshold_backward(grad, made, 0)
        else:
            gain, bias, rstd, scale = norm
            inner = torch.addcmul(bias, made, scale)
            torch.ops.aten.threshold_backward.grad_input(grad, inner, 0, grad_input=inner)
            above, maps = _as_maps(inner), _as_maps(made)
            images, channels, area, phases = maps.shape
            grad, *grads = torch.ops.aten.native_group_norm_backward(
                above, maps, torch.zeros_like(rstd), rstd, gain, images, channels, area * phases, groups, [True] * 3)
            grad = grad.permute(0, 2, 3, 1)
        height, width = made.shape[1:3]
        grad = grad.reshape(x.shape[0], height, width, -1).permute(0, 3, 1, 2)
        kernel = (doubled(weight) if double else weight).contiguous(memory_format=LAST)
        d_x, d_kernel, _ = torch.ops.aten.convolution_backward(
            grad, x, kernel, None, [stride, stride], [0, 0], [1, 1], False, [0, 0], 1,
            [ctx.needs_input_grad[0], ctx.needs_input_grad[1], False])
        if double and d_kernel is not None:
            taps = weight.new_tensor(_TAPS)
            d_kernel = rearrange(d_kernel, "(a b o) i l m -> a b o i l m", a=2, b=2)
            d_kernel = torch.einsum("atl,bsm,aboilm->oits", taps, taps, d_kernel)
        return d_x, d_kernel, *grads, None, None, None, None, None
