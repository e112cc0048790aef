"""Attention and MLP that norm their own input, as the predictors of LeWM and DINO-WM have them.

In LeWM they stand behind an AdaLN, which norms and modulates first: what modulates passes through a second norm here,
and a constant scale or shift over channels is lost. That is upstream's.

Source: galilai-group/stable-worldmodel @ addbab4, gaoyuezhou/dino_wm @ 0a9492f, written from their description.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from .dropout import Dropout
from .memory import Remember
from .products import Linear


class NormedAttention(nn.Module):
    """LayerNorm, attention without biases of any inner width, output layer with bias, over ``[M, L, D]``."""

    def __init__(self, dim: int, num_heads: int, head_dim: int, dropout: float = 0.0):
        super().__init__()
        self.num_heads, self.dropout = num_heads, dropout
        self.norm = nn.LayerNorm(dim)
        self.qkv = Linear(dim, 3 * num_heads * head_dim, bias=False)
        self.proj, self.drop = Linear(num_heads * head_dim, dim), Dropout(dropout)

    def forward(
        self, x: Tensor, *, mask: Tensor | None = None, causal: bool = False, remember: Remember | None = None,
        last: int | None = None,
    ) -> Tensor:
        """Args:
            x: ``[M, L, D]``.
            mask: Bool ``[L, S]``, True where a query sees a key.
            causal: In its place: of the tokens up to its own, where as many keys as queries are seen (else all).
            remember: Adds keys and values to earlier ones.
            last: So many of the last tokens ask; None: all. They see all keys, whatever the mask.
        Returns:
            ``[M, L or last, D]``.
        """
        q, k, v = rearrange(self.qkv(self.norm(x)), "m l (three h d) -> three m h l d", three=3, h=self.num_heads)
        if remember is not None:
            k, v = remember(k, v)
        if last is not None:
            q, mask = q[..., -last:, :], None
        p = self.dropout if self.training else 0.0
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=p,
                                             is_causal=causal and q.shape[-2] == k.shape[-2])
        return self.drop(self.proj(rearrange(out, "m h l d -> m l (h d)")))


class NormedMLP(nn.Sequential):
    """LayerNorm, linear, GELU, dropout, linear, dropout."""

    def __init__(self, dim: int, hidden: int, dropout: float = 0.0):
        super().__init__(nn.LayerNorm(dim), Linear(dim, hidden), nn.GELU(), Dropout(dropout),
                         Linear(hidden, dim), Dropout(dropout))


class AdaLNBlock(nn.Module):
    """Attention and MLP, modulated by a condition per token through AdaLN-zero; causal.

    Example:
        >>> block, x = AdaLNBlock(8, 2, 4, 16), torch.randn(1, 3, 8)
        >>> torch.equal(block(x, torch.randn(1, 3, 8)), x)  # gates begin at zero
        True
    """

    def __init__(self, dim: int, num_heads: int, head_dim: int, hidden: int, dropout: float = 0.0):
        super().__init__()
        self.norm = nn.LayerNorm(dim, eps=1e-6, elementwise_affine=False)
        self.attention = NormedAttention(dim, num_heads, head_dim, dropout)
        self.mlp = NormedMLP(dim, hidden, dropout)
        self.modulation = Linear(dim, 6 * dim)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def forward(self, x: Tensor, cond: Tensor, *, remember: Remember | None = None, last: int | None = None) -> Tensor:
        """Tokens and conditions ``[M, L, D]``; for the others see `NormedAttention`, which may answer for fewer."""
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(F.silu(cond)).chunk(6, -1)
        mixed = self.attention(torch.addcmul(shift1, self.norm(x), 1 + scale1), causal=True, remember=remember,
                               last=last)
        if last is not None:
            x, gate1, shift2, scale2, gate2 = (part[:, -last:] for part in (x, gate1, shift2, scale2, gate2))
        x = x + gate1 * mixed
        return x + gate2 * self.mlp(torch.addcmul(shift2, self.norm(x), 1 + scale2))


class Projector(nn.Module):
    """Linear, norm, GELU, linear over the last axis; a batch norm takes all other axes together.

    Args:
        dim, hidden, out: Widths.
        norm: ``"batch"`` (running statistics outside of training) or ``"layer"``.
    """

    def __init__(self, dim: int, hidden: int, out: int, *, norm: str = "batch"):
        super().__init__()
        self.first, self.last = Linear(dim, hidden), Linear(hidden, out)
        self.norm = nn.BatchNorm1d(hidden) if norm == "batch" else nn.LayerNorm(hidden)

    def forward(self, x: Tensor) -> Tensor:
        rows = self.first(x).flatten(0, -2)
        return self.last(F.gelu(self.norm(rows))).unflatten(0, x.shape[:-1])
