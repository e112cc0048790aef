"""The transformer of DDLP's PINT: joint attention over all tokens of all frames so far, with a relative bias.

Unlike the factorised transformer of LPWM (`nn.transformer`), every token sees every token of its own frame and of all
earlier ones in one attention. Nothing but a bias on the attention tells tokens and frames apart: the sum of a learned
number for the distance in time and one for the distance in token number, per layer and head. The tables are as long as
the window allows, whatever the length of the sequence at hand, so a short history looks like a long one's start.

Source: DDLP (arXiv:2306.05957); upstream github.com/taldatech/ddlp @ 5686275, written from its description.
"""

from __future__ import annotations

from functools import partial

import torch
from einops import rearrange
from torch import Tensor, nn

from .attention import Attention, FeedForward
from .checkpoint import Checkpointed
from .memory import Memory, Remember
from .products import Linear


class RelativeBias(nn.Module):
    """Additive attention bias that is a sum over the distance in time and the distance in token number.

    Args:
        num_heads: Attention heads.
        max_frames: Longest sequence.
        num_tokens: Most tokens per frame.
        causal: Hide later frames.
    """

    def __init__(self, num_heads: int, max_frames: int, num_tokens: int, causal: bool = True):
        super().__init__()
        self.causal = causal
        self.time = nn.Parameter(0.02 * torch.randn(2 * max_frames - 1, num_heads))
        self.token = nn.Parameter(0.02 * torch.randn(2 * num_tokens - 1, num_heads))

    def forward(self, queries: int, frames: int, tokens: int) -> Tensor:
        """Bias of the last ``queries`` frames towards all ``frames``; -inf for later ones, if causal.

        Returns:
            ``[heads, queries * tokens, frames * tokens]``, frame by frame.
        """
        clock, row = (torch.arange(n, device=self.time.device) for n in (frames, tokens))
        age = clock - clock[frames - queries:, None]  # [queries, frames], positive = later than the query
        time = self.time.t()[:, age + len(self.time) // 2]
        if self.causal and queries > 1:
            time = time.masked_fill(age > 0, -torch.inf)
        token = self.token.t()[:, row - row[:, None] + len(self.token) // 2]
        bias = time[:, :, None, :, None] + token[:, None, :, None, :]
        return rearrange(bias, "h t n s m -> h (t n) (s m)")


class JointBlock(Checkpointed):
    """Pre-norm block (LayerNorm) over the tokens of all frames."""

    when = frozenset({"all"})

    def __init__(
        self, dim: int, num_heads: int, max_frames: int, num_tokens: int, dropout: float, causal: bool = True
    ):
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(dim), Attention(dim, num_heads, dropout)
        self.bias = RelativeBias(num_heads, max_frames, num_tokens, causal)
        self.norm2, self.feed_forward = nn.LayerNorm(dim), FeedForward(dim, dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.run(self.extend, x)

    def extend(
        self, x: Tensor, remember: Remember | None = None, last_only: bool = False, bias: Tensor | None = None
    ) -> Tensor:
        """Frames after the remembered ones, if there are any.

        Args:
            x: ``[B, T, N, D]``.
            remember: Adds keys and values to those of earlier frames.
            last_only: Tokens of the last frame only.
            bias: Of the last frame towards as many as there may be, if it is known.
        """
        tokens = x.shape[2]
        q, k, v = self.attention.heads(self.norm1(x).flatten(1, 2))
        if remember is not None:
            k, v = remember(k, v)
        if last_only:
            q, x = q[..., -tokens:, :], x[:, -1:]
        if bias is None:
            bias = self.bias(x.shape[1], k.shape[-2] // tokens, tokens)
        else:
            bias = bias[..., -k.shape[-2]:]
        out = self.attention.attend(q, k, v, bias=bias)
        x = x + out.unflatten(1, (-1, tokens))
        return x + self.feed_forward(self.norm2(x))


class JointTransformer(nn.Module):
    """Tokens ``[B, T, N, D]`` -> tokens ``[B, T, N, D]``; if causal, frame t sees frames 0..t only.

    Args:
        dim, num_layers, num_heads, dropout: As everywhere.
        max_frames: Longest sequence.
        num_tokens: Most tokens per frame.
        causal: Hide later frames; without that, frames cannot be given one after the other with a memory.
    Raises:
        ValueError: ``dim`` is no multiple of ``num_heads``, a sequence is too long or too wide, or a memory is given
            although later frames matter.
    Example:
        >>> net = JointTransformer(dim=8, num_layers=2, num_heads=2, max_frames=4, num_tokens=3, dropout=0.0)
        >>> x, memory = torch.randn(1, 3, 3, 8), Memory()
        >>> steps = [net(x[:, t : t + 1], memory=memory) for t in range(3)]  # every frame costs one frame
        >>> torch.allclose(torch.cat(steps, 1), net(x), atol=1e-5)
        True
    """

    def __init__(
        self, *, dim: int, num_layers: int, num_heads: int, max_frames: int, num_tokens: int, dropout: float,
        causal: bool = True,
    ):
        super().__init__()
        self.max_frames, self.num_tokens, self.causal = max_frames, num_tokens, causal
        self.blocks = nn.ModuleList(
            JointBlock(dim, num_heads, max_frames, num_tokens, dropout, causal) for _ in range(num_layers)
        )
        self.norm = nn.LayerNorm(dim)
        self.head = Linear(dim, dim, bias=False)
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, std=0.02)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)

    @torch.no_grad()
    def start_from_history(self, strength: float = 4.0) -> None:
        """Begin with attention that follows every token through time, and with layers of ordinary size.

        Head h looks at its own token h frames ago (bias ``strength`` on that lag and on token distance 0); the last
        head stays free. Of tokens that keep to their things, the differences between heads are velocities: found at
        once instead of after many thousand steps. Not upstream's.
        """
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, std=self.head.in_features**-0.5)
        for block in self.blocks:
            time, token = block.bias.time, block.bias.token
            for head in range(min(time.shape[1] - 1, len(time) // 2 + 1)):
                time[len(time) // 2 - head, head] += strength
                token[len(token) // 2, head] += strength

    def forward(self, x: Tensor, *, memory: Memory | None = None, last_only: bool = False) -> Tensor:
        """Transform tokens.

        Args:
            x: ``[B, T, N, D]``; with a memory, the frames that follow the remembered ones.
            memory: Updated in place with the keys and values of ``x``.
            last_only: Return the last frame only, ``[B, 1, N, D]``.
        """
        frames, tokens = x.shape[1:3]
        total = frames + (0 if memory is None else memory.length)
        if total > self.max_frames or tokens > self.num_tokens:
            raise ValueError(f"{total} frames of {tokens} tokens do not fit the transformer's {self.max_frames} of "
                             f"{self.num_tokens}")
        if memory is not None and not self.causal:
            raise ValueError("a memory holds earlier frames as they were before the later ones came: causal only")
        biases = self._biases_of_one_frame(memory, tokens) if memory is not None and frames == 1 else None
        for layer, block in enumerate(self.blocks):
            last = last_only and layer == len(self.blocks) - 1
            if memory is None and not last:
                x = block(x)
                continue
            remember = None if memory is None else partial(memory.extend, layer, frames=frames, limit=self.max_frames)
            x = block.extend(x, remember, last, biases[layer] if biases else None)
        if memory is not None:
            memory.length = total
        return self.head(self.norm(x))

    def _biases_of_one_frame(self, memory: Memory, tokens: int) -> list[Tensor] | None:
        """Per layer the bias of a frame towards as many as there may be, made once; None where there may be a graph."""
        if torch.is_grad_enabled():
            return None
        if not memory.bias:
            memory.bias = [block.bias(1, self.max_frames, tokens) for block in self.blocks]
        return memory.bias
