"""Networks of G-SWM: layer stacks with CELU, what looks at frames and glimpses, what draws them.

Unusual: CELU everywhere but in the image encoder, whose trunk is a ResNet-18 without max-pooling and fourth stage, with
batch norm over ONE frame of the batch; maps are doubled by pixel shuffling; norms have one group for 16 channels.

Source: G-SWM (arXiv:2006.02940); github.com/zhixuan-lin/G-SWM @ 1423553, written from its description.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ..distributions import full_precision

MIN_STD = 1e-4
"""Added to every standard deviation."""


def std_of(raw: Tensor) -> Tensor:
    """Network output -> standard deviation, softplus + 1e-4."""
    return F.softplus(raw) + MIN_STD


def celu_mlp(*widths: int) -> nn.Sequential:
    """Linear layers with CELU between them, none at the end: ``[..., widths[0]]`` -> ``[..., widths[-1]]``.

    Example:
        >>> celu_mlp(4, 8, 2)(torch.zeros(3, 5, 4)).shape
        torch.Size([3, 5, 2])
    """
    layers: list[nn.Module] = []
    for inputs, outputs in zip(widths, widths[1:]):  # noqa: B905 - one shorter on purpose
        layers += [nn.Linear(inputs, outputs), nn.CELU()]
    return nn.Sequential(*layers[:-1])


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(math.gcd(channels, max(1, channels // 16)), channels)


class _Block(nn.Module):
    """Residual block of two 3x3 convolutions, a 1x1 shortcut where size or width changes."""

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs)
        self.conv2, self.norm2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs)
        changes = stride != 1 or inputs != outputs
        self.shortcut = nn.Sequential(
            nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)) if changes else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x))))) + self.shortcut(x))


class ImageEncoder(nn.Module):
    """Frames beside their difference to the background ``[B, 2C, S, S]`` -> a map of cells ``[B, outputs, G, G]``.

    Args:
        inputs: Channels.
        channels: Of the first layer; stages have 1, 2 and 4 times as many.
        outputs: Channels of the map.
        stride: Of the last layer, after eightfold reduction: S / (8 G).
    """

    def __init__(self, inputs: int, *, channels: int, outputs: int, stride: int):
        super().__init__()
        self.first, self.norm = nn.Conv2d(inputs, channels, 7, 2, 3, bias=False), nn.BatchNorm2d(channels)
        self.stages = nn.ModuleList(
            nn.Sequential(_Block(before, after, step), _Block(after, after, 1))
            for before, after, step in ((channels, channels, 1), (channels, 2 * channels, 2),
                                        (2 * channels, 4 * channels, 2)))
        self.last = nn.Conv2d(4 * channels, outputs, 3, stride, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d) and module.bias is None:
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.first(x)))
        for stage in self.stages:
            x = stage(x)
        return self.last(x)


class PictureEncoder(nn.Module):
    """Pictures ``[M, C, side, side]`` -> ``[M, outputs]``; every convolution halves the side.

    Args:
        inputs, outputs: Channels of a picture, numbers that come out.
        side: Of a picture, pixels.
        channels: Of the convolutions.
        kernel: Of the first one (glimpses 3, whole frames 7); the others have 3.
    """

    def __init__(self, inputs: int, *, side: int, channels: Sequence[int], outputs: int, kernel: int = 3):
        super().__init__()
        layers: list[nn.Module] = []
        for before, after in zip((inputs, *channels), channels, strict=False):
            layers += [nn.Conv2d(before, after, kernel, 2, kernel // 2), nn.CELU(), _norm(after)]
            side, kernel = -(-side // 2), 3
        self.convs = nn.Sequential(*layers)
        self.out = nn.Linear(channels[-1] * side * side, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.convs(x).flatten(1))


def _doublings(widths: Sequence[int]) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for before, after in zip(widths, widths[1:]):  # noqa: B905
        layers += [nn.Conv2d(before, 4 * after, 3, 1, 1), nn.PixelShuffle(2), nn.CELU(), _norm(after)]
    return layers


class MapDecoder(nn.Module):
    """Vectors ``[M, inputs]`` -> pictures ``[M, outputs, side, side]`` in (0, 1), by doubling a map of side / 16.

    Args:
        inputs, outputs: Numbers of a vector, channels of a picture.
        side: Of the picture, a multiple of 16.
        channels: Of the map, then after each of three doublings; a fourth one makes the picture.
        activated: CELU behind the linear layer (the glimpse decoder has it, the background's has not).
    """

    def __init__(self, inputs: int, *, side: int, channels: Sequence[int], outputs: int, activated: bool):
        super().__init__()
        self.side, self.activated = side // 16, activated
        self.project = nn.Linear(inputs, channels[0] * self.side**2)
        self.convs = nn.Sequential(*_doublings(channels), nn.Conv2d(channels[-1], 4 * outputs, 3, 1, 1),
                                   nn.PixelShuffle(2))

    def forward(self, x: Tensor) -> Tensor:
        x = self.project(x)
        x = F.celu(x) if self.activated else x
        x = rearrange(x, "m (c h w) -> m c h w", h=self.side, w=self.side)
        return torch.sigmoid(self.convs(x))


class CellHead(nn.Module):
    """Maps of cells ``[B, C, G, G]`` -> numbers of every cell, row by row, ``[B, G * G, outputs]``."""

    def __init__(self, inputs: int, *, hidden: int, outputs: int):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(inputs, hidden, 1), nn.CELU(), _norm(hidden), nn.Conv2d(hidden, hidden, 1), nn.CELU(),
            _norm(hidden), nn.Conv2d(hidden, outputs, 1))

    def forward(self, x: Tensor) -> Tensor:
        return full_precision(rearrange(self.layers(x), "b c h w -> b (h w) c"))
