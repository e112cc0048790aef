"""The diffusion transformer of images (DiT): a noisy map, cut into patches, -> the network's answer for every place.

The number of the step and the class modulate every layer (adaLN-zero): norms without weights are shifted and scaled,
and what a layer adds begins at zero, so that an untrained block changes nothing and an untrained network answers zeros.
Positions are fixed sines and cosines of both axes.

Source: Peebles and Xie, "Scalable diffusion models with transformers" (arXiv:2212.09748), written from the paper; the
positions are those of MAE (2111.06377). The sizes S, B, L and XL have the paper's numbers of parameters.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from .checkpoint import Checkpointed
from .products import Linear

FREQUENCIES = 256
"""Numbers that stand for a step before the network learns what to make of them."""


def sincos_2d(height: int, width: int, dim: int) -> Tensor:
    """Fixed positions ``[height * width, dim]``, row by row: half the numbers tell the column, half the row.

    Args:
        height, width: Of the grid.
        dim: A multiple of 4.
    Example:
        >>> sincos_2d(2, 3, 8).shape, sincos_2d(1, 1, 4).tolist()
        (torch.Size([6, 8]), [[0.0, 1.0, 0.0, 1.0]])
    """
    rates = 10_000 ** (-torch.arange(dim // 4, dtype=torch.float64, device="cpu") / (dim // 4))

    def along(place: Tensor) -> Tensor:
        angles = place[:, None] * rates
        return torch.cat([angles.sin(), angles.cos()], -1)

    rows, columns = (along(torch.arange(n, dtype=torch.float64, device="cpu")) for n in (height, width))
    return torch.cat([columns.repeat(height, 1), rows.repeat_interleave(width, 0)], -1).float()


class StepEmbedding(nn.Module):
    """Number of a step ``[M]`` -> vectors ``[M, D]``: cosines and sines of many wavelengths, and two layers."""

    def __init__(self, dim: int):
        super().__init__()
        half = FREQUENCIES // 2
        self.register_buffer("rates", torch.exp(-math.log(10_000) * torch.arange(half) / half), persistent=False)
        self.layers = nn.Sequential(Linear(FREQUENCIES, dim), nn.SiLU(), Linear(dim, dim))
        for layer in (self.layers[0], self.layers[2]):
            nn.init.normal_(layer.weight, std=0.02)

    def forward(self, number: Tensor) -> Tensor:
        angles = number[:, None].to(self.rates.dtype) * self.rates
        return self.layers(torch.cat([angles.cos(), angles.sin()], -1))


def modulated(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """A norm without weights over the last axis of ``[M, L, D]``, then shift and scale ``[M, D]``."""
    return torch.addcmul(shift[:, None], F.layer_norm(x, x.shape[-1:], eps=1e-6), 1 + scale[:, None])


class DiTBlock(Checkpointed):
    """Attention and a feed-forward layer over tokens ``[M, L, D]``, both modulated by a vector ``[M, D]``."""

    when = frozenset({"all"})

    def __init__(self, dim: int, num_heads: int, mlp_ratio: int = 4):
        super().__init__()
        self.num_heads = num_heads
        self.qkv, self.proj = Linear(dim, 3 * dim), Linear(dim, dim)
        self.feed_forward = nn.Sequential(
            Linear(dim, mlp_ratio * dim), nn.GELU(approximate="tanh"), Linear(mlp_ratio * dim, dim))
        self.modulation = Linear(dim, 6 * dim)
        for layer in (self.qkv, self.proj, self.feed_forward[0], self.feed_forward[2]):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
        for parameter in self.modulation.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor, steer: Tensor) -> Tensor:
        """``steer``: after its SiLU."""
        return self.run(self._block, x, steer)

    def _block(self, x: Tensor, steer: Tensor) -> Tensor:
        shift, scale, gate, shift2, scale2, gate2 = self.modulation(steer).chunk(6, -1)
        x = torch.addcmul(x, gate[:, None], self._attend(modulated(x, shift, scale)))
        return torch.addcmul(x, gate2[:, None], self.feed_forward(modulated(x, shift2, scale2)))

    def _attend(self, x: Tensor) -> Tensor:
        q, k, v = rearrange(self.qkv(x), "m l (s h d) -> s m h l d", s=3, h=self.num_heads)
        return self.proj(rearrange(F.scaled_dot_product_attention(q, k, v), "m h l d -> m l (h d)"))


class ImageDiT(nn.Module):
    """Noisy maps ``[M, C, H, W]`` after a step, of a class or of none, -> ``[M, outputs, H, W]``.

    Args:
        height, width: Of the maps; multiples of ``patch_size``.
        channels, outputs: Of what comes in and out.
        patch_size: Side of a token.
        dim, num_layers, num_heads: As everywhere; ``dim`` is a multiple of 4 and of ``num_heads``.
        num_classes: Classes that can be told; 0: there are none.
        null_class: One more stands for "any class".
    Example:
        >>> net = ImageDiT(8, 12, channels=3, outputs=6, patch_size=4, dim=16, num_layers=2, num_heads=2)
        >>> net(torch.randn(5, 3, 8, 12), torch.arange(5)).shape
        torch.Size([5, 6, 8, 12])
    """

    def __init__(self, height: int, width: int, *, channels: int, outputs: int, patch_size: int, dim: int,
                 num_layers: int, num_heads: int, num_classes: int = 0, null_class: bool = True):
        super().__init__()
        self.patch_size, self.rows, self.columns = patch_size, height // patch_size, width // patch_size
        self.num_classes = num_classes
        self.embed = Linear(channels * patch_size**2, dim)
        nn.init.xavier_uniform_(self.embed.weight)
        nn.init.zeros_(self.embed.bias)
        self.register_buffer("positions", sincos_2d(self.rows, self.columns, dim), persistent=False)
        self.step_embedding = StepEmbedding(dim)
        self.classes = None
        if num_classes:
            self.classes = nn.Embedding(num_classes + null_class, dim)
            nn.init.normal_(self.classes.weight, std=0.02)
        self.blocks = nn.ModuleList(DiTBlock(dim, num_heads) for _ in range(num_layers))
        self.modulation_out, self.out = Linear(dim, 2 * dim), Linear(dim, outputs * patch_size**2)
        for layer in (self.modulation_out, self.out):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, noisy: Tensor, number: Tensor, label: Tensor | None = None) -> Tensor:
        """Predict.

        Args:
            noisy: ``[M, C, H, W]``.
            number: Of the step, from 0, ``[M]``.
            label: Classes, int64 ``[M]``; ``num_classes`` means any. None: of all of them any.
        """
        p = self.patch_size
        x = self.embed(rearrange(noisy, "m c (h p) (w q) -> m (h w) (c p q)", p=p, q=p)) + self.positions
        steer = self.step_embedding(number)
        if self.classes is not None:
            steer = steer + self.classes(torch.full_like(number, self.num_classes) if label is None else label)
        steer = F.silu(steer)
        for block in self.blocks:
            x = block(x, steer)
        x = self.out(modulated(x, *self.modulation_out(steer).chunk(2, -1)))
        return rearrange(x, "m (h w) (c p q) -> m c (h p) (w q)", h=self.rows, p=p, q=p)
