"""`TokenReadout`: a set of tokens to a vector."""

from __future__ import annotations

import torch
from einops import einsum, rearrange
from torch import Tensor, nn

from .attention import RMSNorm

_QUERIES = 4


class TokenReadout(nn.Module):
    """Tokens ``[..., K, D]``, in any order and of any number, -> ``[..., outputs]``.

    Every token goes through two layers; then a few learned queries look at all of them, so that one token (the ball)
    can count and the others (the rest) need not, and their mean is beside it. The last layer begins at zero.

    Args:
        dim: Width of a token.
        hidden_dim: Width of the layers.
        outputs: Numbers that come out.
    Example:
        >>> TokenReadout(5, 16, 2)(torch.randn(3, 4, 7, 5)).shape
        torch.Size([3, 4, 2])
    """

    def __init__(self, dim: int, hidden_dim: int, outputs: int):
        super().__init__()
        self.tokens = nn.Sequential(
            nn.Linear(dim, hidden_dim), RMSNorm(hidden_dim), nn.SiLU(), nn.Linear(hidden_dim, hidden_dim),
            RMSNorm(hidden_dim), nn.SiLU(),
        )
        self.scores = nn.Linear(hidden_dim, _QUERIES)
        last = nn.Linear(hidden_dim, outputs)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        joined = nn.Linear((1 + _QUERIES) * hidden_dim, hidden_dim)
        self.out = nn.Sequential(joined, RMSNorm(hidden_dim), nn.SiLU(), last)

    def forward(self, tokens: Tensor) -> Tensor:
        h = self.tokens(tokens)
        seen = einsum(self.scores(h).softmax(-2), h, "... k q, ... k d -> ... q d")
        return self.out(torch.cat([rearrange(seen, "... q d -> ... (q d)"), h.mean(-2)], -1))
