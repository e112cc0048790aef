"""A causal transformer over one sequence of tokens, which goes on from what it has seen (`worldkit.nn.memory.Memory`).

Pre-norm layers with biases everywhere, GELU, a norm at the end. Sequences are made of blocks of equal length; with
attention ``"block-causal"`` tokens of a block also see those behind them in it.

Source: IRIS (arXiv:2209.00588), written from a description of it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .attention import attention_weights
from .dropout import Dropout, dropout
from .memory import Memory
from .products import Linear


def visible(length: int, block: int, attention: str) -> Tensor:
    """Which keys a query sees, bool ``[length, length]``.

    Args:
        length: Tokens.
        block: Tokens of a block.
        attention: ``"causal"`` or ``"block-causal"``.
    Example:
        >>> visible(4, 2, "block-causal").int().tolist()
        [[1, 1, 0, 0], [1, 1, 0, 0], [1, 1, 1, 1], [1, 1, 1, 1]]
    """
    seen = torch.ones(length, length, dtype=torch.bool).tril()
    if attention == "block-causal":
        number = torch.arange(length) // block
        seen = seen | (number[:, None] == number)
    return seen


class TokenAttention(nn.Module):
    """Self-attention of some heads; ``qkv`` has queries, keys and values as its rows, in this order."""

    def __init__(self, dim: int, num_heads: int, dropout: float):
        super().__init__()
        self.num_heads, self.dropout = num_heads, dropout
        self.qkv, self.proj = Linear(dim, 3 * dim), Linear(dim, dim)

    def forward(self, x: Tensor, layer: int, memory: Memory | None, mask: Tensor | None, limit: int) -> Tensor:
        batch, count, dim = x.shape
        q, k, v = self.qkv(x).view(batch, count, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        if memory is not None:
            k, v = memory.extend(layer, k, v, frames=count, limit=limit)
        return self.proj(self._mix(q, k, v, mask).transpose(1, 2).reshape(batch, count, dim))

    def _mix(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """``[B, heads, count, d]``; ``mask`` None: causal, the last query is the last key."""
        p, square = self.dropout if self.training else 0.0, q.shape[-2] == k.shape[-2]
        if p and q.device.type == "cpu":  # the fused kernel of CPUs knows no dropout
            bias = None if mask is None else q.new_zeros(mask.shape).masked_fill(~mask, -torch.inf)[None]
            weights = attention_weights(q.flatten(0, 1), k.flatten(0, 1), mask is None, bias)
            return torch.bmm(dropout(weights, p), v.flatten(0, 1)).unflatten(0, q.shape[:2])
        alone = q.shape[-2] == 1  # it sees all that there is
        if mask is None and not square and not alone:
            mask = torch.ones(q.shape[-2], k.shape[-2], dtype=torch.bool, device=q.device).tril(
                k.shape[-2] - q.shape[-2])
        causal = mask is None and not alone
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=p, is_causal=causal)


class TokenLayer(nn.Module):
    """Attention and MLP, each behind a norm and added."""

    def __init__(self, dim: int, num_heads: int, dropout: float):
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(dim), TokenAttention(dim, num_heads, dropout)
        self.norm2 = nn.LayerNorm(dim)
        self.widen, self.narrow = Linear(dim, 4 * dim), Linear(4 * dim, dim)
        self.drop = Dropout(dropout)

    def forward(self, x: Tensor, layer: int, memory: Memory | None, mask: Tensor | None, limit: int) -> Tensor:
        x = x + self.drop(self.attention(self.norm1(x), layer, memory, mask, limit))
        return x + self.drop(self.narrow(F.gelu(self.widen(self.norm2(x)))))


class CausalTransformer(nn.Module):
    """Tokens ``[B, L, D]`` with their positions -> hidden states ``[B, L, D]``, behind the last norm.

    Args:
        dim, num_layers, num_heads: Sizes.
        block: Tokens of a block.
        blocks: Most blocks there will ever be.
        attention: See `visible`.
        dropout: Of attention, and of what layers add.
    Example:
        >>> net = CausalTransformer(8, 2, 2, block=3, blocks=4).eval()
        >>> x, memory = torch.randn(1, 7, 8), Memory()
        >>> parts = [net(x[:, i : i + 1], memory) for i in range(7)]
        >>> torch.allclose(torch.cat(parts, 1), net(x), atol=1e-5), memory.length
        (True, 7)
    """

    seen: Tensor | None

    def __init__(self, dim: int, num_layers: int, num_heads: int, *, block: int, blocks: int,
                 attention: str = "causal", dropout: float = 0.0):
        super().__init__()
        self.limit = block * blocks
        self.layers = nn.ModuleList(TokenLayer(dim, num_heads, dropout) for _ in range(num_layers))
        self.norm = nn.LayerNorm(dim)
        seen = None if attention == "causal" else visible(self.limit, block, attention)
        self.register_buffer("seen", seen, persistent=False)

    def forward(self, x: Tensor, memory: Memory | None = None) -> Tensor:
        """Hidden states of tokens.

        Args:
            x: Tokens, their positions added.
            memory: Of the tokens before these; these are added to it.
        """
        past, count = 0 if memory is None else memory.length, x.shape[1]
        mask = None if self.seen is None else self.seen[past : past + count, : past + count]
        for number, layer in enumerate(self.layers):
            x = layer(x, number, memory, mask, self.limit)
        if memory is not None:
            memory.length += count
        return self.norm(x)
