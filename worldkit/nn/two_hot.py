"""Numbers as a choice among bins, and back: what two-hot heads, critics and their losses share.

A number is shared out between the two bins around it, so that the expected value of that target is the number itself.
Bins lie in raw space (closely around 0 and widely far off), as in Dreamer v3 since 2024; there nothing is transformed
afterwards. For bins in symlog space give `two_hot` the `symlog` of the target, and take `symexp` of the mean.

Source: danijar/dreamerv3 @ e3f0224 (symexp_twohot), written from its description.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def symlog(x: Tensor) -> Tensor:
    """``sign(x) log(1 + |x|)``; inverse: `symexp`."""
    return x.sign() * x.abs().log1p()


def symexp(x: Tensor) -> Tensor:
    """``sign(x) (e^|x| - 1)``; inverse: `symlog`."""
    return x.sign() * x.abs().expm1()


def symexp_bins(num: int, limit: float = 20.0, *, dtype: torch.dtype = torch.float32) -> Tensor:
    """Bins from ``-symexp(limit)`` to ``symexp(limit)``, evenly spaced before symexp and symmetric to the last digit.

    Args:
        num: How many. An odd number has 0 in the middle, an even one has it twice.
        limit: See above.
        dtype: Of the bins; they are computed in float64.
    Example:
        >>> [round(b, 2) for b in symexp_bins(5, 2.0).tolist()]
        [-6.39, -1.72, 0.0, 1.72, 6.39]
    """
    half = symexp(torch.linspace(-limit, 0, (num + 1) // 2, dtype=torch.float64))
    return torch.cat([half, -half.flip(0)[num % 2:]]).to(dtype)


def neighbours(target: Tensor, bins: Tensor) -> tuple[Tensor, Tensor]:
    """The two bins around a number and their shares, ``[..., 2]`` each; beyond the bins the outermost one counts.

    Args:
        target: ``[...]``, in the bins' space; the shares of what is no number are none, either.
        bins: ``[bins]``, ascending.
    """
    last = len(bins) - 1
    below = torch.searchsorted(bins, target.contiguous(), right=True) - 1  # a number on a bin has that below
    above = (below + 1).clamp(0, last)
    below = below.clamp(0, last)
    down, up = (target - bins[below]).abs(), (bins[above] - target).abs()
    share = torch.where(below == above, 1.0, up / (down + up)).where(~target.isnan(), torch.nan)
    return torch.stack([below, above], -1), torch.stack([share, 1 - share], -1)


def two_hot(target: Tensor, bins: Tensor) -> Tensor:
    """Shares of all bins, ``[..., bins]``; see `neighbours`."""
    index, share = neighbours(target, bins)
    out = torch.zeros(*target.shape, len(bins), device=target.device, dtype=target.dtype)
    return out.scatter_add_(-1, index, share)


def expected(logits: Tensor, bins: Tensor) -> Tensor:
    """Mean over bins that are symmetric about 0: ``[..., bins]`` -> ``[...]``.

    Bins of one size and two signs are added first, so that even a float32 mean of equal shares is exactly 0.
    """
    parts, half = logits.softmax(-1) * bins, len(bins) // 2
    return (parts[..., half + len(bins) % 2:] + parts[..., :half].flip(-1)).sum(-1)


def two_hot_loss(logits: Tensor, target: Tensor, bins: Tensor, *, also: tuple[float, Tensor] | None = None) -> Tensor:
    """Cross-entropy of two-hot targets in nats, ``[...]``.

    Args:
        logits: ``[..., bins]``.
        target: ``[...]``.
        bins: ``[bins]``, ascending.
        also: So many times the cross-entropy of other targets is added; together they cost little more than one.
    Example:
        >>> two_hot_loss(torch.zeros(2, 5), torch.tensor([0.0, 99.0]), symexp_bins(5, 2.0))
        tensor([1.6094, 1.6094])
    """
    index, share = neighbours(target, bins)
    if also is not None:
        others, theirs = neighbours(also[1], bins)
        index, share = torch.cat([index, others], -1), torch.cat([share, also[0] * theirs], -1)
    return _CrossEntropy.apply(logits, index, share)


class _CrossEntropy(torch.autograd.Function):
    """Of a few classes that have all the weight, so that nothing as wide as the logits is made but their softmax."""

    @staticmethod
    def forward(ctx, logits: Tensor, index: Tensor, share: Tensor) -> Tensor:
        log_p = logits.log_softmax(-1)
        ctx.save_for_backward(log_p, index, share)
        return -(log_p.gather(-1, index) * share).sum(-1)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        log_p, index, share = ctx.saved_tensors
        share = share * grad[..., None]
        return log_p.exp().mul_(share.sum(-1, keepdim=True)).scatter_add_(-1, index, -share), None, None
