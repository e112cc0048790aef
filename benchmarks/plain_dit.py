"""semantic-wm's causal DiT in the straightforward way of the paper, to be measured beside worldkit's.

There is no public code that may be used, so this is ours, as short as it can be written: PyTorch's own layers, and a
sampler that shows all frames of the window to the network at every denoising step. It computes with worldkit's weights
and gives the same numbers.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

Weights = dict[str, Tensor]


def turned(x: Tensor, angle: Tensor) -> Tensor:
    """Pairs of channels of ``[..., L, d]`` turned by ``[L, d / 2]``."""
    a, b, cos, sin = x[..., ::2], x[..., 1::2], angle.cos(), angle.sin()
    return torch.stack([a * cos - b * sin, a * sin + b * cos], -1).flatten(-2)


def angles(places: Tensor, width: int) -> Tensor:
    """``[L, width / 2]``."""
    return places[:, None] * 10_000.0 ** -(torch.arange(width // 2) / (width / 2))


class PlainDiT:
    """Frames ``[B, T, N, C]``, levels ``[B, T]``, actions ``[B, T, A]`` -> velocities; factored, wide head, patch 1."""

    def __init__(self, weights: Weights, *, layers: int, heads: int, grid: tuple[int, int]):
        self.w, self.layers, self.heads, self.grid = weights, layers, heads, grid

    def linear(self, name: str, x: Tensor) -> Tensor:
        return F.linear(x, self.w[f"{name}.weight"], self.w.get(f"{name}.bias"))

    def attention(self, name: str, x: Tensor, angle: Tensor, *, causal: bool) -> Tensor:
        q, k, v = self.linear(f"{name}.qkv", x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        q, k = (turned(F.rms_norm(y, y.shape[-1:]), angle) for y in (q, k))
        out = F.scaled_dot_product_attention(q, k, v, is_causal=causal)
        return self.linear(f"{name}.proj", out.transpose(1, 2).flatten(2))

    def block(self, name: str, x: Tensor, cond: Tensor, angle: Tensor, *, time: bool) -> Tensor:
        """``x`` is ``[B, T, N, D]``, ``cond`` ``[B, T, 1, D]``."""
        b, t, n, _ = x.shape
        shift1, scale1, gate1, shift2, scale2, gate2 = self.linear(f"{name}.modulation", F.silu(cond)).chunk(6, -1)
        y = F.rms_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale1) + shift1
        y = y.transpose(1, 2).flatten(0, 1) if time else y.flatten(0, 1)
        y = self.attention(f"{name}.attention", y, angle, causal=time)
        y = y.unflatten(0, (b, n)).transpose(1, 2) if time else y.unflatten(0, (b, t))
        x = x + gate1 * y
        y = F.rms_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale2) + shift2
        one, two = self.linear(f"{name}.feed_forward.inputs", y).chunk(2, -1)
        return x + gate2 * self.linear(f"{name}.feed_forward.outputs", F.silu(one) * two)

    def __call__(self, frames: Tensor, level: Tensor, actions: Tensor) -> Tensor:
        waves = level[..., None] * torch.exp(-math.log(10_000) * torch.arange(128) / 128)
        time = torch.cat([waves.cos(), waves.sin()], -1)
        time = self.linear("levels.mlp.2", F.silu(self.linear("levels.mlp.0", time)))[:, :, None]
        cond = time + self.linear("actions", actions)[:, :, None]
        kernel = self.w["patches.weight"]
        x = F.linear(frames, kernel[..., 0, 0], self.w["patches.bias"])
        width = x.shape[-1] // self.heads
        where = torch.meshgrid(*map(torch.arange, self.grid), indexing="ij")
        row, column = (axis.flatten().float() for axis in where)
        here = torch.cat([angles(row, width // 2), angles(column, width // 2)], -1)
        then = angles(torch.arange(x.shape[1]).float(), width)
        for layer in range(self.layers):
            x = self.block(f"spatial.{layer}", x, cond, here, time=False)
            x = self.block(f"temporal_blocks.{layer}", x, cond, then, time=True)
        x = self.linear("projector", F.silu(x + time))
        shift, scale = self.linear("head.modulation", F.silu(x.mean(2, keepdim=True))).chunk(2, -1)
        return self.linear("head.linear", F.rms_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale) + shift)

    @torch.no_grad()
    def sample(self, seen: Tensor, actions: Tensor, noise: Tensor, steps: int, shift: float) -> Tensor:
        """Frames that follow on ``seen`` ``[B, T0, N, C]``, from their noise; Euler's method, frame by frame.

        ``actions`` ``[B, T0 + F, A]`` are what each frame carries; given frames are told as a little noisy (level 10).
        """
        stops = torch.linspace(1, 0, steps + 1, dtype=torch.float64)
        stops = (shift * stops / (1 + (shift - 1) * stops)).tolist()
        for n in range(noise.shape[1]):
            x = noise[:, n : n + 1]
            for now, then in zip(stops, stops[1:], strict=False):
                level = torch.full((len(seen), seen.shape[1] + 1), 10.0)
                level[:, -1] = 1000 * now
                answer = self(torch.cat([seen, x], 1), level, actions[:, : seen.shape[1] + 1])
                x = x + (then - now) * answer[:, -1:]
            seen = torch.cat([seen, x], 1)
        return seen[:, -noise.shape[1] :]
