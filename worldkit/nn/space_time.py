"""The plain spatio-temporal transformer of Genie: attention over the tokens of a frame, causal attention over time, one
feed-forward layer.

Unlike PINT's (`worldkit.nn.transformer`) it has no AdaLN: what a frame is told is added to its tokens before. Heads
have a width of their own (Genie's are wider than ``dim / num_heads``). The paper leaves norms, positions and initial
weights open: here LayerNorm before every part, learned tables of tokens and of times, added once at the input,
and the last layer of every part at zero, so that what a token shows gets through to its code from the first step on.

A `Memory` carries keys and values of past frames; `Memory.length` may be set back, and the frames behind it are written
over: so a frame is tried out, again and again, on what is known of the frames before it.

Source: Genie (arXiv:2402.15391), section 2, figure 4, and its tables of sizes.
"""

from __future__ import annotations

from functools import partial

import torch
from einops import rearrange
from torch import Tensor, nn

from .attention import Attention, FeedForward
from .checkpoint import Checkpointed
from .memory import Memory, Remember


class SpaceTimeBlock(Checkpointed):
    """Attention in space, causal attention in time, feed-forward; ``[B, T, N, D]`` -> the same."""

    when = frozenset({"all"})

    def __init__(self, dim: int, num_heads: int, *, head_dim: int | None = None, qk_norm: bool = False,
                 dropout: float = 0.0, still: bool = True):
        super().__init__()
        options = {"head_dim": head_dim, "qk_norm": qk_norm}
        self.norm_space, self.space = nn.LayerNorm(dim), Attention(dim, num_heads, dropout, **options)
        self.norm_time, self.time = nn.LayerNorm(dim), Attention(dim, num_heads, dropout, **options)
        self.norm_forward, self.feed_forward = nn.LayerNorm(dim), FeedForward(dim, dropout)
        for last in (self.space.proj, self.time.proj, self.feed_forward[2]) if still else ():
            nn.init.zeros_(last.weight)
            if last.bias is not None:
                nn.init.zeros_(last.bias)

    def forward(self, x: Tensor, remember: Remember | None = None) -> Tensor:
        """``remember`` adds the keys and values of frames before these, see `Memory.extend`."""
        return self._forward(x, remember) if remember is not None else self.run(self._forward, x)

    def _forward(self, x: Tensor, remember: Remember | None = None) -> Tensor:
        x = x + self.space(self.norm_space(x))
        q, k, v = self.time.heads(rearrange(self.norm_time(x), "b t n d -> b n t d"))  # [B, N, heads, T, d]
        if remember is not None:
            k, v = remember(k, v)
        x = x + rearrange(self.time.attend(q, k, v, causal=True), "b n t d -> b t n d")
        return x + self.feed_forward(self.norm_forward(x))


class SpaceTimeTransformer(nn.Module):
    """Tokens ``[B, T, N, D]`` -> tokens ``[B, T, N, D]``; frame t sees frames 0..t only.

    Args:
        dim, num_layers, num_heads, dropout: As everywhere; a layer is a block of two attentions and one feed-forward.
        head_dim: Width of a head; None: ``dim / num_heads``.
        num_tokens: Tokens per frame.
        max_frames: Longest sequence.
        qk_norm: Queries and keys are normalised.
    Example:
        >>> transformer = SpaceTimeTransformer(dim=8, num_layers=2, num_heads=2, num_tokens=6, max_frames=5)
        >>> transformer(torch.rand(2, 4, 6, 8)).shape
        torch.Size([2, 4, 6, 8])
    """

    def __init__(self, *, dim: int, num_layers: int, num_heads: int, num_tokens: int, max_frames: int,
                 head_dim: int | None = None, qk_norm: bool = False, dropout: float = 0.0, still: bool = True):
        super().__init__()
        self.max_frames = max_frames
        self.token_embedding = nn.Parameter(0.2 * torch.randn(num_tokens, dim))
        self.time_embedding = nn.Parameter(0.02 * torch.randn(max_frames, dim))
        self.blocks = nn.ModuleList(
            SpaceTimeBlock(dim, num_heads, head_dim=head_dim, qk_norm=qk_norm, dropout=dropout, still=still)
            for _ in range(num_layers)
        )
        self.norm_out = nn.LayerNorm(dim)

    def forward(self, x: Tensor, *, memory: Memory | None = None) -> Tensor:
        """Transform tokens.

        Args:
            x: ``[B, T, N, D]``; with a memory, the frames that follow the remembered ones.
            memory: Updated in place with the keys and values of ``x``.
        """
        offset, frames = 0 if memory is None else memory.length, x.shape[1]
        if offset + frames > self.max_frames:
            raise ValueError(f"{offset + frames} frames do not fit the transformer's {self.max_frames}")
        x = x + self.token_embedding + self.time_embedding[offset : offset + frames, None]
        for layer, block in enumerate(self.blocks):
            remember = None if memory is None else partial(memory.extend, layer, frames=frames, limit=self.max_frames)
            x = block(x, remember)
        if memory is not None:
            memory.length += frames
        return self.norm_out(x)

    def slide(self, x: Tensor) -> Tensor:
        """Tokens of any number of frames: one beyond ``max_frames`` is read in the window that ends with it."""
        window, parts = self.max_frames, [self(x[:, : self.max_frames])]
        parts += [self(x[:, end - window : end])[:, -1:] for end in range(window + 1, x.shape[1] + 1)]
        return parts[0] if len(parts) == 1 else torch.cat(parts, 1)


def parameter_count(*, dim: int, num_layers: int, num_heads: int, num_tokens: int, max_frames: int,
                    head_dim: int | None = None, qk_norm: bool = False) -> int:
    """Parameters of a `SpaceTimeTransformer`, in closed form.

    A block has two attentions of ``4 dim heads head_dim``, a feed-forward of ``8 dim^2 + 5 dim``, three norms.

    Example:
        >>> sizes = {"dim": 8, "num_layers": 2, "num_heads": 3, "num_tokens": 6, "max_frames": 5, "head_dim": 4}
        >>> sum(p.numel() for p in SpaceTimeTransformer(**sizes).parameters()) == parameter_count(**sizes)
        True
    """
    head_dim = head_dim or dim // num_heads
    block = 8 * dim * num_heads * head_dim + 8 * dim**2 + 5 * dim + 6 * dim + (4 * head_dim if qk_norm else 0)
    return num_layers * block + (num_tokens + max_frames + 2) * dim
