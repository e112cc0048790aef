"""From a map of features to a picture: residual convolutions, attention at the bottom, doubling in between.

Source: semantic-wm (arXiv:2605.06388), written from a description of the facts. Upstream's levels count on a map of
16 x 16, and have attention only at the innermost; so have these, whatever the map.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

EPS = 1e-6


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(min(32, channels), channels, eps=EPS)


class _Residual(nn.Module):
    """Norm, SiLU, convolution, twice; added to the input, which a 1x1 convolution brings to its width."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.norm1, self.conv1 = _norm(inputs), nn.Conv2d(inputs, outputs, 3, padding=1)
        self.norm2, self.conv2 = _norm(outputs), nn.Conv2d(outputs, outputs, 3, padding=1)
        self.skip = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        return self.skip(x) + self.conv2(F.silu(self.norm2(h)))


class _Attention(nn.Module):
    """Among all places of a map; added to the input."""

    def __init__(self, channels: int, num_heads: int):
        super().__init__()
        self.num_heads, self.norm = num_heads, _norm(channels)
        self.qkv, self.proj = nn.Conv2d(channels, 3 * channels, 1), nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        q, k, v = rearrange(self.qkv(self.norm(x)), "m (three h d) y x -> three m h (y x) d", three=3,
                            h=self.num_heads)
        out = rearrange(F.scaled_dot_product_attention(q, k, v), "m h (y x) d -> m (h d) y x", y=height, x=width)
        return x + self.proj(out)


class PixelDecoder(nn.Module):
    """Maps ``[B, T, C, h, w]`` -> pictures ``[B, T, outputs, h f, w f]`` in [0, 1], f = 2 to the levels but one.

    Args:
        inputs, outputs: Channels of maps and pictures.
        channels: Width of the outermost level.
        multipliers: Width of every level, outermost first, as a multiple of ``channels``.
        num_blocks: Residual blocks of a level.
        num_heads: Of the attentions at the bottom.
        doubles_time: Maps stand for two frames each: time is doubled first.
        level_attention: The innermost level ends with attention, besides that in the middle.
    Example:
        >>> net = PixelDecoder(4, 3, channels=8, multipliers=(1, 2), num_blocks=1, num_heads=2)
        >>> net(torch.randn(1, 2, 4, 6, 5)).shape
        torch.Size([1, 2, 3, 12, 10])
    """

    def __init__(self, inputs: int, outputs: int, *, channels: int, multipliers: Sequence[int], num_blocks: int,
                 num_heads: int, doubles_time: bool = False, level_attention: bool = True):
        super().__init__()
        widths = [channels * factor for factor in reversed(multipliers)]
        deep = widths[0]
        self.frames = nn.ConvTranspose1d(inputs, inputs, 4, stride=2, padding=1) if doubles_time else None
        self.inputs = nn.Conv2d(inputs, deep, 1)
        self.middle = nn.Sequential(_Residual(deep, deep), _Attention(deep, num_heads), _Residual(deep, deep))
        self.levels = nn.ModuleList(
            nn.ModuleList(_Residual(before if i == 0 else width, width) for i in range(num_blocks))
            for before, width in zip([deep, *widths], widths, strict=False)
        )
        self.attention = _Attention(deep, num_heads) if level_attention else nn.Identity()
        self.doubling = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for width in widths[:-1])
        self.norm, self.outputs = _norm(widths[-1]), nn.Conv2d(widths[-1], outputs, 3, padding=1)

    def forward(self, maps: Tensor) -> Tensor:
        if self.frames is not None:
            rows = rearrange(maps, "b t c h w -> (b h w) c t")
            maps = rearrange(self.frames(rows), "(b h w) c t -> b t c h w", b=maps.shape[0], h=maps.shape[-2])
        x = self.middle(self.inputs(maps.flatten(0, 1)))
        for i, level in enumerate(self.levels):
            for block in level:
                x = block(x)
            if i == 0:
                x = self.attention(x)
            if i < len(self.doubling):
                x = self.doubling[i](F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return torch.sigmoid(self.outputs(F.silu(self.norm(x)))).unflatten(0, maps.shape[:2])
