"""A diffusion transformer over the tokens of one frame (DiT, arXiv:2212.09748).

Noise level and condition modulate every layer (AdaLN-zero). Frames of a clip are independent of one another here; what
is known of the past comes in as one context vector per token.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .attention import RMSNorm
from .products import Linear
from .transformer import SpatialBlock, join_tokens


class LevelEmbedding(nn.Module):
    """Noise level in [0, 1], any shape -> vectors ``[..., D]``: sines and cosines of many wavelengths, and an MLP."""

    def __init__(self, dim: int, frequencies: int = 64):
        super().__init__()
        rates = 1000 * torch.exp(-math.log(10_000) * torch.arange(frequencies) / frequencies)
        self.register_buffer("rates", rates, persistent=False)
        self.project = nn.Sequential(Linear(2 * frequencies, dim), nn.SiLU(), Linear(dim, dim))

    def forward(self, level: Tensor) -> Tensor:
        angles = level[..., None] * self.rates
        return self.project(torch.cat([angles.cos(), angles.sin()], -1))


class DiT(nn.Module):
    """Noisy tokens ``[B, T, N, width]`` -> the network's answer in the same shape.

    Args:
        width: Numbers per noisy token.
        dim, num_layers, num_heads, dropout: As everywhere.
        num_tokens: Tokens per frame.
    """

    def __init__(self, *, width: int, dim: int, num_layers: int, num_heads: int, num_tokens: int, dropout: float):
        super().__init__()
        self.embed = Linear(width, dim)
        self.token_embedding = nn.Parameter(0.02 * torch.randn(num_tokens, dim))
        self.level_embedding = LevelEmbedding(dim)
        self.blocks = nn.ModuleList(SpatialBlock(dim, num_heads, dropout) for _ in range(num_layers))
        self.norm_out = RMSNorm(dim)
        self.modulation_out = Linear(dim, 2 * dim)
        self.head = Linear(dim, width)
        for layer in (self.modulation_out, self.head):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(
        self, noisy: Tensor, level: Tensor, context: Tensor, cond: Tensor | None = None, memory: Tensor | None = None
    ) -> Tensor:
        """Predict.

        Args:
            noisy: ``[B, T, N, width]``.
            level: Noise level in [0, 1], ``[B, T]``.
            context: What is known of every token, ``[B, T, N, D]``.
            cond: ``[B, T, 1 or N, D]``, modulates like the noise level.
            memory: Further tokens to attend to, the same for every frame, ``[B, L, D]``.
        """
        tokens = noisy.shape[2]
        x = self.embed(noisy) + self.token_embedding + context
        x, cond = join_tokens(x, [] if memory is None else [memory], cond)
        steer = self.level_embedding(level)[:, :, None]
        steer = F.silu(steer if cond is None else steer + cond)  # [B, T, 1 or N (+ L), D]
        for block in self.blocks:
            rows = block.modulation(steer)
            x = block(x, lambda times, tokens, rows=rows: rows[:, times, tokens].chunk(6, -1))
        scale, shift = self.modulation_out(steer[:, :, :tokens]).chunk(2, -1)
        x = self.norm_out(x[:, :, :tokens])
        return self.head(torch.addcmul(x + shift, x, scale))
