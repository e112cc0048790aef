"""The spatio-temporal transformer of PINT: attention over tokens, then causal attention over time, AdaLN everywhere.

Every layer is a spatial half-block followed by a temporal half-block, each with its own attention and MLP. A condition
modulates both through AdaLN-zero. The condition always contains learned embeddings of token and time, and AdaLN's
projection is linear; so the embeddings' share of it is a sum of two small tables, and only what varies between samples
is projected per token.

A `Memory` carries keys and values of past frames, so that one more frame costs one frame.

Source: LPWM (arXiv:2603.04553), upstream modules/modules.py @ 4cf53c4, written from its description.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from .attention import Attention, FeedForward, RMSNorm
from .checkpoint import Checkpointed
from .chunks import at_a_time, pieces
from .memory import Memory, Remember
from .products import Linear, linear

Modulation = Callable[[slice, slice], Sequence[Tensor]]
"""(times, tokens) -> the six vectors (of the head two) of these tokens at these times, ``[B or 1, T', N', D]`` each."""

ALL = slice(None)
_CHUNK_BYTES = 2**24


def _modulate(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    moved = x + shift
    return torch.addcmul(moved, x, scale) if torch.is_grad_enabled() else moved.addcmul_(x, scale)


def _apart(table: Tensor, given: Tensor, count: int) -> tuple[Tensor, ...]:
    """The sum of ``[T, N, count D]`` and ``[B, T, 1, count D]`` as ``count`` tensors ``[B, T, N, D]``.

    Each lies together, as do the activations that meet them: then both are gone through without jumps.
    """
    table, given = (x.unflatten(-1, (count, -1)).movedim(-2, 0).contiguous() for x in (table, given))
    return (table[:, None] + given).unbind(0)


def _chunks(x: Tensor, axis: int) -> list[slice]:
    """Slices of an axis of ``[B, T, N, D]``, so that on a CPU the largest activation (6 D wide) stays small.

    Larger temporaries are mapped, page-faulted and unmapped by every operation.
    """
    length = x.shape[axis]
    if x.device.type != "cpu":
        return [slice(0, length)]
    step = at_a_time(_CHUNK_BYTES, 6 * x.numel() * x.element_size() / length)
    return pieces(length, step)


class HalfBlock(Checkpointed):
    """Attention and MLP with AdaLN-zero; ``modulation`` projects a condition to six vectors per token.

    Rows of ``modulation``: scale (attention, MLP), shift (attention, MLP), gate (attention, MLP).
    """

    when = frozenset({"all"})

    def __init__(self, dim: int, num_heads: int, dropout: float):
        super().__init__()
        self.norm1, self.attention = RMSNorm(dim), Attention(dim, num_heads, dropout)
        self.norm2, self.feed_forward = RMSNorm(dim), FeedForward(dim, dropout)
        self.modulation = Linear(dim, 6 * dim)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def mlp(self, x: Tensor, scale: Tensor, shift: Tensor, gate: Tensor) -> Tensor:
        first = self.feed_forward[0]
        hidden = self.feed_forward.run(lambda x, *rows: first(_modulate(self.norm2(x), *rows)), x, scale, shift)
        return torch.addcmul(x, gate, self.feed_forward.after(hidden))


class SpatialBlock(HalfBlock):
    """Full attention among the tokens of one frame."""

    def forward(self, x: Tensor, modulation: Modulation) -> Tensor:
        parts = [self.run(self._forward, x[:, times], modulation, times) for times in _chunks(x, 1)]
        return parts[0] if len(parts) == 1 else torch.cat(parts, 1)

    def _forward(self, x: Tensor, modulation: Modulation, times: slice) -> Tensor:
        scale_a, scale_m, shift_a, shift_m, gate_a, gate_m = modulation(times, ALL)
        q, k, v = self.attention.run(self._heads, x, scale_a, shift_a)
        return self.mlp(torch.addcmul(x, gate_a, self.attention.attend(q, k, v)), scale_m, shift_m, gate_m)

    def _heads(self, x: Tensor, scale: Tensor, shift: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.attention.heads(_modulate(self.norm1(x), scale, shift))  # [B, T, heads, N, d]


class TemporalBlock(HalfBlock):
    """Causal attention over time, for every token separately."""

    def forward(self, x: Tensor, modulation: Modulation) -> Tensor:
        parts = [self.run(self._forward, x[:, :, tokens], modulation, tokens) for tokens in _chunks(x, 2)]
        return parts[0] if len(parts) == 1 else torch.cat(parts, 2)

    def _forward(self, x: Tensor, modulation: Modulation, tokens: slice) -> Tensor:
        return self.extend(x, modulation(ALL, tokens))

    def _heads(self, x: Tensor, scale: Tensor, shift: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h = rearrange(_modulate(self.norm1(x), scale, shift), "b t n d -> b n t d")
        return self.attention.heads(h)  # [B, N, heads, T, d]

    def extend(
        self, x: Tensor, modulation: Sequence[Tensor], remember: Remember | None = None, last_only: bool = False
    ) -> Tensor:
        """Frames after the remembered ones, if there are any; ``last_only``: tokens of the last frame."""
        scale_a, scale_m, shift_a, shift_m, gate_a, gate_m = modulation
        q, k, v = self.attention.run(self._heads, x, scale_a, shift_a)
        if remember is not None:
            k, v = remember(k, v)
        if last_only:
            q, x, gate_a = q[..., -1:, :], x[:, -1:], gate_a[:, -1:]
            scale_m, shift_m, gate_m = scale_m[:, -1:], shift_m[:, -1:], gate_m[:, -1:]
        out = rearrange(self.attention.attend(q, k, v, causal=True), "b n t d -> b t n d")
        x = torch.addcmul(x, gate_a, out)
        return self.mlp(x, scale_m, shift_m, gate_m)


class SpatioTemporalTransformer(nn.Module):
    """Tokens ``[B, T, N, D]`` and a condition -> tokens ``[B, T, N, D]``; frame t sees frames 0..t only.

    Args:
        dim, num_layers, num_heads, dropout: As everywhere.
        max_frames: Longest sequence (size of the table of time embeddings).
        num_tokens: Tokens per frame (size of the table of token embeddings).
    """

    def __init__(self, *, dim: int, num_layers: int, num_heads: int, max_frames: int, num_tokens: int, dropout: float):
        super().__init__()
        self.max_frames = max_frames
        self.token_embedding = nn.Parameter(0.02 * torch.randn(num_tokens, dim))
        self.time_embedding = nn.Parameter(0.02 * torch.randn(max_frames, dim))
        self.spatial = nn.ModuleList(SpatialBlock(dim, num_heads, dropout) for _ in range(num_layers))
        self.temporal = nn.ModuleList(TemporalBlock(dim, num_heads, dropout) for _ in range(num_layers))
        self.norm_out = RMSNorm(dim)
        self.head_modulation = Linear(dim, 2 * dim)
        nn.init.zeros_(self.head_modulation.weight)
        nn.init.zeros_(self.head_modulation.bias)
        self.head = Linear(dim, dim)

    def projections(self) -> list[Linear]:
        """The AdaLN projections in order of use: spatial and temporal of every layer, then the head."""
        layers = zip(self.spatial, self.temporal, strict=True)
        return [*(half.modulation for pair in layers for half in pair), self.head_modulation]

    def project_condition(self, cond: Tensor) -> list[Tensor]:
        """What a condition ``[B, T, 1 or N, D]`` adds to every modulation, at whatever position."""
        return [linear(cond, projection.weight) for projection in self.projections()]

    def _modulation(
        self, index: int, cond: Tensor | None, projected: list[Tensor] | None, offset: int, frames: int
    ) -> Modulation:
        """The ``index``-th AdaLN projection of condition and embeddings, for ``frames`` frames from ``offset`` on."""
        projection, given = self.projections()[index], cond if projected is None else projected[index]
        count = projection.out_features // projection.in_features

        def rows(times: slice, tokens: slice) -> Sequence[Tensor]:
            of_token, of_time = self.token_embedding[tokens], self.time_embedding[offset : offset + frames][times]
            part = None if given is None else given[:, times, tokens if given.shape[2] > 1 else ALL]
            if projected is None and part is not None and part.shape[2] > 1:  # one product over all tokens is cheapest
                return projection(part + (of_token + of_time[:, None])).chunk(count, -1)
            table = projection(of_token) + linear(of_time, projection.weight)[:, None]
            if part is None:
                return table[None].chunk(count, -1)
            part = part if projected is not None else linear(part, projection.weight)
            return _apart(table, part, count) if part.shape[2] == 1 else (table + part).chunk(count, -1)

        return rows

    def forward(
        self,
        x: Tensor,
        cond: Tensor | None = None,
        *,
        memory: Memory | None = None,
        projected: list[Tensor] | None = None,
        last_only: bool = False,
    ) -> Tensor:
        """Transform tokens.

        Args:
            x: ``[B, T, N, D]``; with a memory, the frames that follow the remembered ones.
            cond: ``[B, T, 1 or N, D]`` or None (then only the embeddings modulate).
            memory: Updated in place with the keys and values of ``x``.
            projected: `project_condition` of the condition, in its place.
            last_only: Return the last frame only, ``[B, 1, N, D]``.
        """
        offset, frames = 0 if memory is None else memory.length, x.shape[1]
        if offset + frames > self.max_frames:
            raise ValueError(f"{offset + frames} frames do not fit the transformer's {self.max_frames}")
        modulations = [self._modulation(i, cond, projected, offset, frames) for i in range(2 * len(self.spatial) + 1)]
        final = len(self.temporal) - 1
        for layer, (spatial, temporal) in enumerate(zip(self.spatial, self.temporal, strict=True)):
            x = spatial(x, modulations[2 * layer])
            if memory is None and not last_only:
                x = temporal(x, modulations[2 * layer + 1])
                continue
            remember = None if memory is None else partial(memory.extend, layer, frames=frames, limit=self.max_frames)
            x = temporal.extend(x, modulations[2 * layer + 1](ALL, ALL), remember, last_only and layer == final)
        if memory is not None:
            memory.length += frames
        scale, shift = modulations[-1](slice(frames - x.shape[1], frames), ALL)
        return self.head(_modulate(self.norm_out(x), scale, shift))


def join_tokens(tokens: Tensor, extras: list[Tensor], cond: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Put further tokens behind those of every frame; a condition says nothing about them.

    Args:
        tokens: ``[B, T, N, D]``.
        extras: Tokens ``[B, T, L, D]`` or, the same for every frame, ``[B, L, D]`` or ``[L, D]``.
        cond: ``[B, T, 1 or N, D]`` or None.
    Returns:
        Tokens ``[B, T, N + L, D]`` and the condition for all of them (zeros for the extras), or None.
    """
    if not extras:
        return tokens, cond
    batch, time = tokens.shape[:2]
    shaped = [e if e.ndim == 4 else e.unsqueeze(-3).expand(batch, time, -1, -1) for e in extras]
    joined = torch.cat([tokens, *shaped], 2)
    if cond is not None:
        cond = F.pad(cond.expand(-1, -1, tokens.shape[2], -1), (0, 0, 0, joined.shape[2] - tokens.shape[2]))
    return joined, cond
