"""GroupNorm followed by GELU, with accurate statistics in channels-last layout.

On a CPU, PyTorch 2.13 sums channels-last inputs one pixel after the other and takes the variance as the mean of squares
less the square of the mean. At a mean of 10 standard deviations its result is off by 1e-3 and at 100 by 1e-1, where
contiguous inputs give 1e-6 and 1e-5; what a large flat area leaves of a small object is off by 1e-4 at any mean.
Contiguous copies cost twice the time. Here statistics take two passes (the mean, then the squares of what differs from
it), as pairwise sums; one thread works on parts small enough to stay in the processor's cache.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from .chunks import at_a_time

_CACHED_BYTES = 2**18
"""Of every temporary in one thread: four of them fit the second-level cache of current processors."""
_SHARED_BYTES = 2**22
"""Of every temporary, per thread, if there are several: they wait for one another after each operation on each part."""


class GroupNormGELU(nn.GroupNorm):
    """``gelu(group_norm(x))`` of maps ``[M, C, h, w]``; parameters and their names are those of `torch.nn.GroupNorm`.

    Example:
        >>> norm = GroupNormGELU(4, 32)
        >>> x = (torch.randn(2, 32, 8, 8) + 100).contiguous(memory_format=torch.channels_last)
        >>> exact = F.gelu(F.group_norm(x.double(), 4))
        >>> bool((norm(x) - exact).abs().max() < 1e-4)  # nn.GroupNorm: 1e-2
        True
    """

    def forward(self, x: Tensor) -> Tensor:
        # torch.compile's own code takes the variance in one stable pass, in any layout; so do CUDA's kernels
        if x.device.type != "cpu" or torch.compiler.is_compiling() or not _channels_last(x):
            return F.gelu(super().forward(x))
        dtype = torch.promote_types(x.dtype, torch.float32)
        out = _ChannelsLast.apply(x.to(dtype), self.weight.to(dtype), self.bias.to(dtype), self.num_groups, self.eps)
        return out.to(x.dtype)


def _channels_last(x: Tensor) -> bool:
    return x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last)


def _pixels(x: Tensor) -> Tensor:
    """``[M, C, h, w]`` -> ``[M, h * w, C]``: a view if channels-last."""
    return rearrange(x, "m c h w -> m (h w) c")


def _in_parts(*tensors: Tensor, temporaries: int) -> Iterator[tuple[tuple[Tensor, ...], list[Tensor]]]:
    """Slices of ``tensors`` ``[M, ...]``, as many images as fit the cache, and memory like the first for temporaries.

    The memory is the same for all parts: fresh memory would have to enter the cache first. Several threads get
    larger parts: after each operation on each part they wait for one another, on a busy machine for long.
    """
    x, threads = tensors[0], torch.get_num_threads()
    size = _CACHED_BYTES if threads == 1 else threads * _SHARED_BYTES
    step = at_a_time(size, x[:1].numel() * x.element_size())
    memory = [torch.empty_like(x[:step]) for _ in range(temporaries)]
    for part in zip(*(t.split(step) for t in tensors), strict=True):
        yield part, [m[: len(part[0])] for m in memory]


class _ChannelsLast(torch.autograd.Function):
    """Both directions; of the maps, only the input is kept for the backward pass.

    With one scale and one shift per image and channel, the result is ``gelu(x * scale + shift)``.
    """

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float) -> Tensor:
        images, channels, height, width = x.shape
        grouped = (images, groups, channels // groups)
        size = height * width * grouped[-1]
        out, average = torch.empty_like(x), x.new_full(grouped[-1:], 1 / size)
        means, scales, shifts = x.new_empty(3, images, 1, channels)
        rstds, weights, floor = x.new_empty(images, groups, 1), weight.view(grouped[1:]), x.new_tensor(eps)
        parts = _in_parts(_pixels(x), _pixels(out), means, means.view(grouped), rstds, scales, scales.view(grouped),
                          shifts, temporaries=1)
        for (pixels, result, mean, mean_g, rstd, scale, scale_g, shift), (other,) in parts:
            sums = torch.sum(pixels, 1).view_as(mean_g)
            torch.mul(sums.sum(-1, keepdim=True), average, out=mean_g)
            torch.ops.aten.mse_loss.out(pixels, mean, 0, out=other)  # squared differences, in one go
            sums = torch.sum(other, 1).view_as(mean_g)
            torch.rsqrt(torch.add(floor, sums.sum(-1, keepdim=True), alpha=1 / size), out=rstd)
            torch.mul(rstd, weights, out=scale_g)
            torch.addcmul(bias, mean, scale, value=-1, out=shift)
            torch.addcmul(shift, pixels, scale, out=other)
            torch.ops.aten.gelu.out(other, out=result)
        ctx.save_for_backward(x, weight, means, rstds, scales, shifts)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        """d/dx is ``inner * scale + along * (x - mean) + level``, ``inner`` being the gradient in front of GELU."""
        x, weight, means, rstds, scales, shifts = ctx.saved_tensors
        grouped = (*rstds.shape[:2], x.shape[1] // rstds.shape[1])
        out, ones = torch.empty_like(x), x.new_ones(grouped[-1:])
        share = weight.view(grouped[1:]) * (-1 / (x.shape[2] * x.shape[3] * grouped[-1]))
        by_weight, by_bias, alongs, levels = x.new_empty(4, *means.shape)
        parts = _in_parts(_pixels(x), _pixels(grad), _pixels(out), means, rstds, scales, shifts, by_weight, by_bias,
                          alongs, alongs.view(grouped), levels, levels.view(grouped), temporaries=2)
        for (pixels, above, result, mean, rstd, scale, shift, for_weight, for_bias, along, along_g, level,
             level_g), (inner, other) in parts:
            torch.addcmul(shift, pixels, scale, out=other)
            torch.ops.aten.gelu_backward.grad_input(above, other, grad_input=inner)
            torch.mul(inner, pixels, out=other)
            torch.sum(inner, 1, keepdim=True, out=for_bias)
            torch.sum(other, 1, keepdim=True, out=for_weight)
            for_weight.addcmul_(for_bias, mean, value=-1)
            torch.mul((for_weight.view_as(along_g) * share).sum(-1, keepdim=True) * rstd**3, ones, out=along_g)
            torch.mul((for_bias.view_as(level_g) * share).sum(-1, keepdim=True) * rstd, ones, out=level_g)
            level.addcmul_(mean, along, value=-1)
            torch.addcmul(level, inner, scale, out=other)
            torch.addcmul(other, pixels, along, out=result)
        return out, (by_weight.view(grouped) * rstds).sum(0).flatten(), by_bias.sum((0, 1)), None, None
