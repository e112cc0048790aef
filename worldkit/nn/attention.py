"""RMS normalisation, multi-head attention, and the pre-norm block without conditioning."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from . import few_keys
from .checkpoint import Checkpointed
from .dropout import Dropout, dropout
from .heads_fit import check_heads
from .products import Linear


class RMSNorm(nn.Module):
    r""":math:`x / \max(\|x\|, 10^{-12}) \cdot \sqrt{C} \cdot g`."""

    def __init__(self, dim: int):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type != "cpu" or x.dtype != self.gain.dtype or torch.compiler.is_compiling():
            return F.rms_norm(x, self.gain.shape, self.gain, eps=1e-24)
        if not torch.is_grad_enabled():
            return (x * _factor(x)).mul_(self.gain)
        return _RMSNorm.apply(x, self.gain)


def _factor(x: Tensor) -> Tensor:
    return math.sqrt(x.shape[-1]) / torch.linalg.vector_norm(x, dim=-1, keepdim=True).clamp_(min=1e-12)


class _RMSNorm(torch.autograd.Function):
    """The same in few operations: on a CPU, PyTorch 2.13 takes 16 for the backward pass, and remembers their inputs."""

    @staticmethod
    def forward(ctx, x: Tensor, gain: Tensor) -> Tensor:
        factor = _factor(x)
        unit = x * factor
        ctx.save_for_backward(unit, factor, gain)
        return unit * gain

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        """d/dx is ``factor * (grad * gain - unit * mean(grad * gain * unit))``."""
        unit, factor, gain = ctx.saved_tensors
        along = grad * unit
        mean = (along @ gain)[..., None] / len(gain)
        return (grad * gain).addcmul_(unit, mean, value=-1).mul_(factor), along.reshape(-1, len(gain)).sum(0)


def attention_weights(q: Tensor, k: Tensor, causal: bool, bias: Tensor | None = None) -> Tensor:
    """Softmax over keys, ``[M, L, d]``, ``[M, S, d]`` -> ``[M, L, S]``; ``causal``: last query = last key in time.

    ``bias`` ``[heads, L, S]`` is added to the logits; M is a multiple of its heads.
    """
    start = q.new_zeros(1, q.shape[1], k.shape[1])
    if causal:
        start = start.fill_(-torch.inf).triu(1 + k.shape[1] - q.shape[1])
    if bias is not None:
        start = (start + bias).to(q.dtype).repeat(q.shape[0] // bias.shape[0], 1, 1)
    return torch.baddbmm(start, q, k.transpose(1, 2), alpha=q.shape[-1] ** -0.5).softmax(-1)


class Attention(Checkpointed):
    """Multi-head self-attention without biases over the second-last axis of ``[..., L, D]``.

    ``qkv`` holds the query, key and value projections as rows, in this order.

    Args:
        dim, num_heads, dropout: As everywhere.
        head_dim: Width of a head; None: ``dim / num_heads``.
        qk_norm: Queries and keys are normalised.
    """

    when = frozenset({"cnn"})

    def __init__(self, dim: int, num_heads: int, dropout: float = 0.0, *, head_dim: int | None = None,
                 qk_norm: bool = False):
        super().__init__()
        if head_dim is None:
            check_heads(dim, num_heads)
        self.num_heads, self.dropout = num_heads, dropout
        head_dim = head_dim or dim // num_heads
        self.qkv = Linear(dim, 3 * num_heads * head_dim, bias=False)
        self.proj = Linear(num_heads * head_dim, dim, bias=False)
        self.query_norm, self.key_norm = (RMSNorm(head_dim) if qk_norm else None for _ in range(2))

    def heads(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, each ``[..., heads, L, D / heads]``."""
        x = self.qkv(x)
        q, k, v = x.view(*x.shape[:-1], 3, self.num_heads, -1).unbind(-3)  # [..., L, heads, d]
        if self.query_norm is not None:
            q, k = self.query_norm(q), self.key_norm(k)
        return q.transpose(-3, -2), k.transpose(-3, -2), v.transpose(-3, -2)

    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, *, causal: bool = False, bias: Tensor | None = None
    ) -> Tensor:
        """Attention and output projection: ``[..., L, D]``.

        Args:
            q, k, v: As `heads` gives them.
            causal: The last query is the last key's time.
            bias: In place of ``causal``: added to the logits, ``[heads, L, S]``; -inf hides a key.
        """
        out = self.run(self._mix, *(x.flatten(0, -4) for x in (q, k, v)), causal, bias)  # kernels want four axes
        if torch.compiler.is_exporting():  # other runtimes lay out what a kernel gives in another way
            out = out.clone(memory_format=torch.contiguous_format)
        out = self.proj(out.transpose(1, 2).reshape(*q.shape[:-3], q.shape[-2], -1))
        return dropout(out, self.dropout) if self.training else out

    def _mix(self, q: Tensor, k: Tensor, v: Tensor, causal: bool, bias: Tensor | None) -> Tensor:
        """Values ``[M, heads, S, d]`` mixed by attention: ``[M, heads, L, d]``."""
        p = self.dropout if self.training else 0.0
        if p and q.device.type == "cpu":  # the fused kernel of CPUs knows no dropout
            weights = dropout(attention_weights(q.flatten(0, 1), k.flatten(0, 1), causal, bias), p)
            return torch.bmm(weights, v.flatten(0, 1)).unflatten(0, q.shape[:2])
        if bias is None and not p and few_keys.pays(q, k):
            return few_keys.attend(q, k, v)
        # four axes: with a mask of three, PyTorch 2.13 takes CPUs' slow way
        mask, square = None if bias is None else bias[None].to(q.dtype), q.shape[-2] == k.shape[-2]
        if causal and not square and q.shape[-2] > 1:
            ones = torch.ones(q.shape[-2], k.shape[-2], dtype=torch.bool, device=q.device)
            mask = ones.tril(k.shape[-2] - q.shape[-2])
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=p, is_causal=causal and square)

    def forward(self, x: Tensor) -> Tensor:
        return self.attend(*self.heads(x))


class FeedForward(Checkpointed, nn.Sequential):
    """Linear(D, 4D), GELU, Linear(4D, D), dropout."""

    when = frozenset({"cnn"})

    def __init__(self, dim: int, dropout: float = 0.0):
        super().__init__(Linear(dim, 4 * dim), nn.GELU(), Linear(4 * dim, dim), Dropout(dropout))

    def forward(self, x: Tensor) -> Tensor:
        first, *_ = self  # unpacked, since looking a layer up by its number costs as much as a small operation
        return self.after(first(x))

    def after(self, hidden: Tensor) -> Tensor:
        """Everything after the first layer."""
        _, activation, second, drop = self
        return drop(self.run(lambda h: second(activation(h)), hidden))


class Block(nn.Module):
    """Pre-norm transformer block over ``[B, L, D]``; ``norm``: what makes its norms (ours is infinitely steep at 0)."""

    def __init__(self, dim: int, num_heads: int, norm: Callable[[int], nn.Module] = RMSNorm):
        super().__init__()
        self.norm1, self.attention = norm(dim), Attention(dim, num_heads)
        self.norm2, self.feed_forward = norm(dim), FeedForward(dim)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.feed_forward(self.norm2(x))
