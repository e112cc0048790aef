"""A transformer along time that takes one step at a time and keeps what it remembers in a vector.

Every step gives keys and values of its own; the next ones attend to those of the last ``window`` steps. They are the
memory, `[N, memory_dim]`, which whoever calls carries from step to step, copies, stores, or forgets: zeros remember
nothing. Rows never see one another, and a step sees none that comes later, for it is not in the memory.

Time is told by a learned bias per head and distance, so that a step is the same at whatever time it is made. Layers
above the first look back farther than the window, through what the steps they attend to had attended to.

Source: TransDreamer (arXiv:2202.09481) and STORM (arXiv:2310.09615) put a transformer in the place of an RSSM's GRU;
Transformer-XL (arXiv:1901.02860) attends to what earlier segments left. Ours: gradients go through the memory, and the
memory is part of the state.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .attention import FeedForward, RMSNorm
from .heads_fit import check_heads


class RecallLayer(nn.Module):
    """Pre-norm attention of one token to remembered keys and values and to its own, then an MLP."""

    def __init__(self, dim: int, num_heads: int, window: int):
        super().__init__()
        check_heads(dim, num_heads)
        self.num_heads = num_heads
        self.norm1, self.qkv, self.proj = RMSNorm(dim), nn.Linear(dim, 3 * dim, bias=False), nn.Linear(dim, dim)
        self.distance = nn.Parameter(torch.zeros(num_heads, window))  # newest last
        self.norm2, self.feed_forward = RMSNorm(dim), FeedForward(dim)

    def forward(self, x: Tensor, past: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """One step.

        Args:
            x: ``[N, D]``.
            past: Keys and values ``[N, 2, W - 1, D]``, oldest first.
            hidden: 0 for what is remembered, -inf where nothing is, ``[N, 1, W]``.
        Returns:
            ``[N, D]``, and keys and values ``[N, 2, W, D]``, its own last.
        """
        q, *new = self.qkv(self.norm1(x)).chunk(3, -1)
        seen = torch.cat([past, torch.stack(new, 1)[:, :, None]], 2)
        k, v = seen.unflatten(-1, (self.num_heads, -1)).unbind(1)  # [N, W, heads, d]
        q = q.unflatten(-1, (self.num_heads, -1))
        logits = torch.einsum("nhd,nwhd->nhw", q * q.shape[-1] ** -0.5, k) + self.distance + hidden
        out = torch.einsum("nhw,nwhd->nhd", logits.softmax(-1), v).flatten(1)
        x = x + self.proj(out)
        return x + self.feed_forward(self.norm2(x)), seen


class RecallTransformer(nn.Module):
    """Layers of `RecallLayer` over a memory.

    Args:
        dim, num_layers, num_heads: As everywhere.
        window: Steps that one sees, itself included.
    Attributes:
        memory_dim: Numbers of the memory: keys and values of ``window - 1`` steps, and for each whether it is there.
    Raises:
        ConfigError: ``num_heads`` does not divide ``dim``.
    Example:
        >>> model = RecallTransformer(16, num_layers=2, num_heads=4, window=3)
        >>> memory = torch.zeros(5, model.memory_dim)
        >>> for x in torch.randn(4, 5, 16):
        ...     h, memory = model(x, memory)
        >>> h.shape, memory.shape
        (torch.Size([5, 16]), torch.Size([5, 130]))
    """

    def __init__(self, dim: int, *, num_layers: int, num_heads: int, window: int):
        super().__init__()
        self.window = window
        self.layers = nn.ModuleList(RecallLayer(dim, num_heads, window) for _ in range(num_layers))
        self.norm = RMSNorm(dim)
        self.memory_dim = (window - 1) * (2 * num_layers * dim + 1)

    def forward(self, x: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        """One step: ``[N, D]`` and ``[N, memory_dim]`` -> the same."""
        slots = self.window - 1
        there = memory[:, :slots] > 0.5
        hidden = torch.zeros_like(there, dtype=x.dtype).masked_fill(~there, -torch.inf)
        hidden = torch.cat([hidden, x.new_zeros(x.shape[0], 1)], 1)[:, None]
        past = memory[:, slots:].unflatten(-1, (len(self.layers), 2, slots, x.shape[-1]))
        after = [torch.cat([there[:, 1:].to(x.dtype), x.new_ones(x.shape[0], min(slots, 1))], 1)]
        for index, layer in enumerate(self.layers):
            x, seen = layer(x, past[:, index], hidden)
            after.append(seen[:, :, 1:].flatten(1))
        return self.norm(x), torch.cat(after, 1)
