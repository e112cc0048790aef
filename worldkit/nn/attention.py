"""RMS normalisation, multi-head attention, and the pre-norm block without conditioning."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn


class RMSNorm(nn.Module):
    r""":math:`x / \max(\|x\|, 10^{-12}) \cdot \sqrt{C} \cdot g`."""

    def __init__(self, dim: int):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.gain.shape, self.gain, eps=1e-24)


class Attention(nn.Module):
    """Multi-head self-attention without biases over the second-last axis of ``[..., L, D]``.

    ``qkv`` holds the query, key and value projections as rows, in this order.
    """

    def __init__(self, dim: int, num_heads: int, dropout: float = 0.0):
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"dim {dim} must be divisible by num_heads {num_heads}")
        self.num_heads, self.dropout = num_heads, dropout
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.proj = nn.Linear(dim, dim, bias=False)

    def heads(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, each ``[..., heads, L, D / heads]``."""
        q, k, v = rearrange(self.qkv(x), "... l (three h d) -> three ... h l d", three=3, h=self.num_heads)
        return q, k, v

    def attend(self, q: Tensor, k: Tensor, v: Tensor, *, causal: bool = False) -> Tensor:
        """Attention and output projection: ``[..., L, D]``. ``causal``: the last query is the last key's time."""
        dropout = self.dropout if self.training else 0.0
        mask = None
        if causal and 1 < q.shape[-2] != k.shape[-2]:
            ones = torch.ones(q.shape[-2], k.shape[-2], dtype=torch.bool, device=q.device)
            mask = ones.tril(k.shape[-2] - q.shape[-2])
        square = causal and q.shape[-2] == k.shape[-2] and q.shape[-2] > 1
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout, is_causal=square)
        out = self.proj(rearrange(out, "... h l d -> ... l (h d)"))
        return F.dropout(out, dropout) if dropout else out

    def forward(self, x: Tensor) -> Tensor:
        return self.attend(*self.heads(x))


class FeedForward(nn.Sequential):
    """Linear(D, 4D), GELU, Linear(4D, D), dropout."""

    def __init__(self, dim: int, dropout: float = 0.0):
        super().__init__(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim), nn.Dropout(dropout))


class Block(nn.Module):
    """Pre-norm transformer block over ``[B, L, D]``."""

    def __init__(self, dim: int, num_heads: int):
        super().__init__()
        self.norm1, self.attention = RMSNorm(dim), Attention(dim, num_heads)
        self.norm2, self.feed_forward = RMSNorm(dim), FeedForward(dim)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.feed_forward(self.norm2(x))
