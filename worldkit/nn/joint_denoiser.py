"""DiffuseDDLP's denoiser: packed tokens of a few frames and a step of the diffusion -> the network's answer.

A token becomes a vector, the step is added to all of them, and the transformer of DDLP's dynamics mixes them
(`worldkit.nn.joint_transformer`). Upstream's code shares that transformer as it is, so frame t sees frames 0..t only
although all frames are denoised together; ``causal=False`` lets all see all.

Source: DDLP (arXiv:2306.05957); upstream github.com/taldatech/ddlp @ 5686275, written from its description.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from .joint_transformer import JointTransformer
from .products import Linear


class StepEmbedding(nn.Module):
    """Number of a step, any shape -> vectors ``[..., D]``: D / 2 sines and as many cosines, and an MLP; D even."""

    def __init__(self, dim: int):
        super().__init__()
        half = dim // 2
        rates = torch.exp(-math.log(10_000) / max(1, half - 1) * torch.arange(half))
        self.register_buffer("rates", rates, persistent=False)
        self.project = nn.Sequential(Linear(2 * half, 4 * dim), nn.GELU(), Linear(4 * dim, dim))

    def waves(self, number: Tensor) -> Tensor:
        """Sines and cosines of many wavelengths, ``[..., D]``."""
        angles = number[..., None] * self.rates
        return torch.cat([angles.sin(), angles.cos()], -1)

    def forward(self, number: Tensor) -> Tensor:
        return self.project(self.waves(number))


class JointDenoiser(nn.Module):
    """Noisy tokens ``[B, T, N, width]`` -> the network's answer in the same shape.

    Args:
        width: Numbers per noisy token.
        dim, num_layers, num_heads, dropout: As everywhere.
        max_frames, num_tokens: T and N.
        causal: A frame sees itself and earlier ones only.
    Example:
        >>> net = JointDenoiser(width=5, dim=8, num_layers=1, num_heads=2, max_frames=4, num_tokens=3, dropout=0.0)
        >>> net(torch.randn(2, 4, 3, 5), torch.tensor([7, 0])).shape
        torch.Size([2, 4, 3, 5])
    """

    def __init__(
        self, *, width: int, dim: int, num_layers: int, num_heads: int, max_frames: int, num_tokens: int,
        dropout: float, causal: bool = True,
    ):
        super().__init__()
        self.step = StepEmbedding(dim)
        self.embed = nn.Sequential(Linear(width, dim), nn.GELU(), Linear(dim, dim))
        self.transformer = JointTransformer(
            dim=dim, num_layers=num_layers, num_heads=num_heads, max_frames=max_frames, num_tokens=num_tokens,
            dropout=dropout, causal=causal,
        )
        self.head = nn.Sequential(Linear(dim, dim), nn.GELU(), Linear(dim, width))

    def forward(self, noisy: Tensor, number: Tensor) -> Tensor:
        """Predict.

        Args:
            noisy: ``[B, T, N, width]``.
            number: Of the step, ``[B]``.
        """
        tokens = self.embed(noisy) + self.step(number.to(noisy.dtype))[:, None, None]
        return self.head(self.transformer(tokens))
