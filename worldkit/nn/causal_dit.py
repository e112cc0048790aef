"""A transformer that denoises the frames of a clip, every frame at a noise level of its own: semantic-wm's causal DiT.

A layer is two blocks: a spatial one, in which the tokens of a frame see one another, and a temporal one, in which a
token sees itself in earlier frames (``"factored"``) or all tokens of all frames up to its own (``"joint"``). Each has
norms that are shifted, scaled and gated by the frame's noise level and action. Tokens know where they are by rotations:
of row and column, with several cameras also of the view; of time.

What a frame's answer depends on lies in it and in the frames before it, so these can be kept (`worldkit.nn.memory`).

Source: semantic-wm (arXiv:2605.06388), written from a description of the facts. Unusual, as there: a frame's action is
ADDED to its noise level; the wide head (after DDT, arXiv:2504.05741) is told the level and not the action.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ..distributions import full_precision
from ..errors import ConfigError
from .memory import Memory
from .positions import Rotation, axis_rotation, pixel_places, pixel_rates, view_widths, views_by_mistake
from .products import Linear
from .vit import frames_mask

Temporal = Literal["factored", "joint"]
EPS, FREQUENCIES = 1e-6, 128


class LevelTokens(nn.Module):
    """Noise levels ``[...]``, 0 to 1000 -> vectors ``[..., dim]``: cosines, sines, and an MLP."""

    def __init__(self, dim: int):
        super().__init__()
        self.mlp = nn.Sequential(Linear(2 * FREQUENCIES, dim), nn.SiLU(), Linear(dim, dim))

    @staticmethod
    def waves(level: Tensor) -> Tensor:
        """``[..., 256]``."""
        steps = torch.arange(FREQUENCIES, dtype=level.dtype, device=level.device)
        angles = level[..., None] * torch.exp(-math.log(10_000) * steps / FREQUENCIES)
        return torch.cat([angles.cos(), angles.sin()], -1)

    def forward(self, level: Tensor) -> Tensor:
        return self.mlp(self.waves(level))


class _Attention(nn.Module):
    """Multi-head attention over ``[M, L, D]``; queries and keys of every head are normed, without learned gains."""

    def __init__(self, dim: int, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        self.qkv, self.proj = Linear(dim, 3 * dim, bias=False), Linear(dim, dim)

    def heads(self, x: Tensor, rotation: Rotation) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values ``[M, heads, L, d]``."""
        q, k, v = rearrange(self.qkv(x), "m l (three h d) -> three m h l d", three=3, h=self.num_heads)
        q, k = (F.rms_norm(y, y.shape[-1:]) for y in (q, k))
        return rotation(q), rotation(k), v

    def mix(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """``[M, L, D]``."""
        out = F.scaled_dot_product_attention(q.to(v.dtype), k.to(v.dtype), v, attn_mask=mask)
        return self.proj(rearrange(out, "m h l d -> m l (h d)"))


class _SwiGLU(nn.Module):
    """``out(silu(a) * b)``; a and b are the halves of one layer."""

    def __init__(self, dim: int):
        super().__init__()
        hidden = int(8 * dim / 3)
        self.inputs, self.outputs = Linear(dim, 2 * hidden), Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.inputs(x).chunk(2, -1)
        return self.outputs(F.silu(a) * b)


def _norm(x: Tensor) -> Tensor:
    return F.rms_norm(x, x.shape[-1:], eps=EPS)


class _Block(nn.Module):
    """Attention and SwiGLU on ``[B, T, N, D]``, moved by the vectors of frames ``[B, T, 1, D]``."""

    def __init__(self, dim: int, num_heads: int):
        super().__init__()
        self.modulation = Linear(dim, 6 * dim)
        self.attention, self.feed_forward = _Attention(dim, num_heads), _SwiGLU(dim)

    def parts(self, frames: Tensor) -> tuple[Tensor, ...]:
        """Shift, scale and gate of both halves; ``frames`` have gone through SiLU."""
        return self.modulation(frames).chunk(6, -1)


class SpatialBlock(_Block):
    """Tokens of a frame see one another."""

    def forward(self, x: Tensor, frames: Tensor, rotation: Rotation) -> Tensor:
        shift1, scale1, gate1, shift2, scale2, gate2 = self.parts(frames)
        y = (_norm(x) * (1 + scale1) + shift1).flatten(0, 1)
        x = x + gate1 * self.attention.mix(*self.attention.heads(y, rotation), None).unflatten(0, x.shape[:2])
        return x + gate2 * self.feed_forward(_norm(x) * (1 + scale2) + shift2)


class TemporalBlock(_Block):
    """Tokens see earlier frames: themselves (rows are tokens), or all tokens (``joint``)."""

    def __init__(self, dim: int, num_heads: int, *, joint: bool):
        super().__init__(dim, num_heads)
        self.joint = joint

    def forward(self, x: Tensor, frames: Tensor, rotation: Rotation, mask: Tensor | None, layer: int,
                memory: Memory | None, limit: int) -> Tensor:
        shift1, scale1, gate1, shift2, scale2, gate2 = self.parts(frames)
        clips, count = x.shape[0], x.shape[1]
        y = _norm(x) * (1 + scale1) + shift1
        y = rearrange(y, "b t n d -> b (t n) d") if self.joint else rearrange(y, "b t n d -> (b n) t d")
        q, k, v = self.attention.heads(y, rotation)
        if memory is not None:
            k, v = memory.extend(layer, k, v, frames=count, limit=limit)
        mixed = self.attention.mix(q, k, v, mask)
        way = "b (t n) d -> b t n d" if self.joint else "(b n) t d -> b t n d"
        x = x + gate1 * rearrange(mixed, way, **({"t": count} if self.joint else {"b": clips}))
        return x + gate2 * self.feed_forward(_norm(x) * (1 + scale2) + shift2)


class _Head(nn.Module):
    """Norm, moved by a vector, and a linear layer."""

    def __init__(self, dim: int, outputs: int):
        super().__init__()
        self.modulation, self.linear = Linear(dim, 2 * dim), Linear(dim, outputs)

    def forward(self, x: Tensor, told: Tensor) -> Tensor:
        shift, scale = self.modulation(F.silu(told)).chunk(2, -1)
        return self.linear(_norm(x) * (1 + scale) + shift)


class CausalDiT(nn.Module):
    """Noisy frames, their noise levels and actions -> the velocity of every number.

    Args:
        channels: Numbers of a token.
        grid: Rows and columns of tokens of one view.
        views: Cameras; tokens are view-major.
        patch_size: So many tokens to a side become one inside.
        dim, num_layers, num_heads: Of the transformer.
        action_dim: Numbers of an action; 0: there are none.
        head_dim: Width of the wide head; None: the narrow one.
        temporal: See the module's docstring.
        learned_null: What stands for "no action" is a vector of its own; else an action of zeros whose last entry is 1.
        pixel_positions: Places in a frame are between -1 and 1, for grids of any size; of one view.
        mixed_views: Columns and views are numbered as upstream's code does by mistake (`views_by_mistake`).
        limit: Most frames there will be in memory.
    Raises:
        ConfigError: sizes that do not fit.
    Example:
        >>> net = CausalDiT(channels=4, grid=(2, 3), dim=24, num_layers=1, num_heads=2, action_dim=2)
        >>> net(torch.randn(1, 5, 6, 4), torch.rand(1, 5) * 1000, torch.zeros(1, 5, 2)).shape
        torch.Size([1, 5, 6, 4])
    """

    def __init__(
        self, *, channels: int, grid: tuple[int, int], dim: int, num_layers: int, num_heads: int, action_dim: int,
        views: int = 1, patch_size: int = 1, head_dim: int | None = 2048, temporal: Temporal = "factored",
        learned_null: bool = True, pixel_positions: bool = False, mixed_views: bool = False, limit: int = 16,
    ):
        super().__init__()
        _check(grid, dim, num_heads, patch_size, temporal)
        self.channels, self.grid, self.views, self.patch_size = channels, grid, views, patch_size
        self.head_width, self.temporal, self.limit = dim // num_heads, temporal, limit
        self.pixel_positions, self.mixed_views = pixel_positions, mixed_views
        self.rows, self.columns = grid[0] // patch_size, grid[1] // patch_size
        self.patches = nn.Conv2d(channels, dim, patch_size, stride=patch_size)
        self.levels = LevelTokens(dim)
        self.actions = Linear(action_dim, dim) if action_dim else None
        self.null = nn.Parameter(0.02 * torch.randn(dim)) if action_dim and learned_null else None
        self.spatial = nn.ModuleList(SpatialBlock(dim, num_heads) for _ in range(num_layers))
        self.temporal_blocks = nn.ModuleList(
            TemporalBlock(dim, num_heads, joint=temporal == "joint") for _ in range(num_layers))
        outputs = patch_size**2 * channels
        self.projector = None if head_dim is None else Linear(dim, head_dim)
        self.head = _Head(head_dim or dim, outputs)
        self._draw_weights()

    def _draw_weights(self) -> None:
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Conv2d)):
                nn.init.xavier_uniform_(module.weight.flatten(1))
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for layer in (self.levels.mlp[0], self.levels.mlp[2]):
            nn.init.normal_(layer.weight, std=0.02)
        blocks = (*self.spatial, *self.temporal_blocks)
        for layer in (*(block.modulation for block in blocks), self.head.modulation, self.head.linear):
            nn.init.zeros_(layer.weight)

    def told(self, actions: Tensor, given: Tensor | None = None) -> Tensor | None:
        """Vectors of actions ``[B, T, D]``; None if the network takes none.

        Args:
            actions: ``[B, T, A]``.
            given: Bool ``[B, T]``, False where "no action" stands in; None: all are.
        """
        if self.actions is None:
            return None
        if self.null is not None:
            told = self.actions(actions)
            return told if given is None else torch.where(given[..., None], told, self.null.to(told))
        if given is not None:
            none = torch.zeros_like(actions[0, 0])
            none[-1] = 1
            actions = torch.where(given[..., None], actions, none)
        return self.actions(actions)

    def _places(self, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Row, column and view of the tokens of a frame, ``[N]`` each."""
        where = torch.meshgrid(*(torch.arange(n, device=like.device) for n in (self.views, self.rows, self.columns)),
                               indexing="ij")
        view, row, column = (x.flatten() for x in where)
        return row, column, view

    def _spatial_rotation(self, like: Tensor) -> Rotation:
        row, column, view = self._places(like)
        if self.pixel_positions:
            row, column = (pixel_places(n, like)[x] for n, x in ((self.rows, row), (self.columns, column)))
            return axis_rotation([row, column], [self.head_width // 2] * 2, like=like, rates=pixel_rates)
        if self.views > 1:
            if self.mixed_views:
                column, view = views_by_mistake(column, view, self.columns, self.views)
            return axis_rotation([row, column, view], view_widths(self.head_width), like=like)
        return axis_rotation([row, column], [self.head_width // 2] * 2, like=like)

    def _temporal_rotation(self, first: int, frames: int, like: Tensor) -> Rotation:
        time = torch.arange(first, first + frames, device=like.device)
        if self.temporal == "factored":
            return axis_rotation([time], [self.head_width], like=like)
        row, column, view = self._places(like)
        width, column = self.head_width // 6 * 2, view * self.columns + column  # views side by side
        where = [time.repeat_interleave(len(row)), row.repeat(frames), column.repeat(frames)]
        return axis_rotation(where, [width] * 3, like=like)

    def embed(self, frames: Tensor) -> Tensor:
        """Tokens ``[B, T, N, C]`` -> ``[B, T, N / patch_size^2, D]``."""
        maps = rearrange(frames, "b t (v h w) c -> (b t v) c h w", v=self.views, h=self.grid[0])
        return rearrange(self.patches(maps), "(b t v) d h w -> b t (v h w) d", b=frames.shape[0], v=self.views)

    def forward(self, frames: Tensor, level: Tensor, actions: Tensor | None = None, given: Tensor | None = None, *,
                memory: Memory | None = None) -> Tensor:
        """Velocities ``[B, T, N, C]``.

        Args:
            frames: Noisy tokens ``[B, T, N, C]``.
            level: Of every frame, 0 to 1000, ``[B, T]``.
            actions, given: As of `told`.
            memory: Keys and values of the frames before these; those of these are added behind them. Its ``length`` is
                the caller's to set.
        """
        time = self.levels(level)
        told = None if actions is None else self.told(actions, given)
        cond = time if told is None else time + told
        steer = F.silu(cond)[:, :, None]
        x = self.embed(frames)
        before, count = 0 if memory is None else memory.length, x.shape[1]
        here = self._spatial_rotation(x)
        then = self._temporal_rotation(before, count, x)
        mask = frames_mask(count, x.shape[2] if self.temporal == "joint" else 1, before, x.device)
        for layer, (spatial, temporal) in enumerate(zip(self.spatial, self.temporal_blocks, strict=True)):
            x = spatial(x, steer, here)
            x = temporal(x, steer, then, mask, layer, memory, self.limit)
        if self.projector is not None:
            x = self.projector(F.silu(x + time[:, :, None]))
            out = self.head(x, x.mean(2, keepdim=True))
        else:
            out = self.head(x, cond[:, :, None])
        return rearrange(full_precision(out), "b t (v h w) (p q c) -> b t (v h p w q) c", v=self.views, h=self.rows,
                         p=self.patch_size, q=self.patch_size)


def _check(grid: tuple[int, int], dim: int, heads: int, patch: int, temporal: Temporal) -> None:
    if grid[0] % patch or grid[1] % patch:
        fits = [str(p) for p in range(1, min(grid) + 1) if not grid[0] % p and not grid[1] % p]
        raise ConfigError(f"patches of dynamics.patch_size {patch} do not divide a grid of {grid[0]} x {grid[1]} "
                          f"tokens; patch sizes that do: {', '.join(fits)}")
    if dim % heads or dim // heads % 4 or (temporal == "joint" and dim // heads < 6):
        raise ConfigError(f"dynamics.dim {dim} must divide into dynamics.num_heads {heads} heads of a multiple of 4 "
                          f"channels{' (at least 8)' if temporal == 'joint' else ''}, for rotations of two axes")
