"""Convolution stacks of DLPv2 / DDLP: replicate padding, GroupNorm, ReLU; bilinear doubling on the way up.

On a CPU inputs run in chunks, channels-last, see `worldkit.nn.conv`, and blocks in one step, see `worldkit.nn.fused`.

Reproduced defect: upstream names a level's second block after its width, so a level as wide as an earlier one replaces
that one's block instead of adding its own; `DownStack` loses the same blocks if asked to (``lost_layers``).

Architecture: DDLP, upstream modules/modules.py @ 5686275, written from its description.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import AfterValidator, Field
from torch import Tensor, nn

from .conv import Chunked
from .fused import conv_norm_relu, pad_border
from .norm import GroupNormReLU
from .replicated import replicate

EPS_NORM = 1e-4


def _check_widths(widths: tuple[int, ...]) -> tuple[int, ...]:
    for width in widths:
        if width < 1 or (width % 4 and width % 5):
            raise ValueError(f"channels are normalised in 4 or 5 groups, but {width} is no multiple of 4 or 5")
    return widths


Widths = Annotated[tuple[int, ...], Field(min_length=2), AfterValidator(_check_widths)]
"""Channels of a stack's levels, as an option of a configuration."""


class ConvReLU(nn.Module):
    """Convolution without bias, GroupNorm of 4 groups (5 where 4 do not divide), ReLU, doubling if asked for."""

    def __init__(self, inputs: int, outputs: int, *, kernel: int = 3, stride: int = 1, norm: bool = True,
                 double: bool = False):
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride=stride, bias=False)
        groups = 4 if outputs % 4 == 0 else 5
        self.norm = GroupNormReLU(groups, outputs, eps=EPS_NORM) if norm else nn.ReLU()
        self.normed, self.double, self.pad = norm, double, kernel // 2

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.conv(replicate(x, self.pad, self.pad)))
        return _double(x) if self.double else x


def _double(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)


class _Blocks(Chunked):
    """Blocks in a row and a 1x1 convolution at the end."""

    def __init__(self, blocks: Sequence[ConvReLU], outputs: int):
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        last = blocks[-1].conv.out_channels
        self.head = nn.Conv2d(last, outputs, 1)
        zoom, self._sizes = 1.0, [(blocks[0].conv.in_channels, 1.0)]
        for block in blocks:
            zoom = zoom / block.conv.stride[0] * (2 if block.double else 1)
            self._sizes.append((block.conv.out_channels, zoom))
        self.to(memory_format=torch.channels_last)

    def _layers(self, x: Tensor) -> Tensor:
        if not _in_one_step(x):
            x = x.contiguous(memory_format=torch.channels_last)
            for block in self.blocks:
                x = block(x)
            return self.head(x)
        x, double = pad_border(x, self.blocks[0].pad), False
        for block, following in zip(self.blocks, [*self.blocks[1:], None], strict=True):
            x = conv_norm_relu(x, block.conv.weight, block.norm if block.normed else None, double=double,
                               stride=block.conv.stride[0], pad=0 if following is None else following.pad)
            double = block.double
        return self.head(_double(x) if double else x)


def _in_one_step(x: Tensor) -> bool:
    """Whether blocks run as `worldkit.nn.fused` has them: on a CPU, in the precisions that it takes statistics in."""
    here = x.device.type == "cpu" and x.dtype in (torch.float32, torch.float64)
    return here and not (torch.compiler.is_compiling() or torch.is_autocast_enabled("cpu"))


class DownStack(_Blocks):
    """Image ``[M, inputs, h, w]`` -> map ``[M, outputs, ...]``; every level but the first halves the sides, upwards.

    Args:
        inputs: Channels of the image.
        channels: Width of every level, each a multiple of 4 or 5.
        outputs: Channels of the map.
        kernel: Side of the first convolution's kernel.
        lost_layers: As upstream, a level as wide as an earlier one (not the first) has no second block.

    Example:
        >>> stack = DownStack(3, (8, 16, 16), 5)
        >>> stack(torch.rand(2, 3, 16, 16)).shape, len(stack.blocks), DownStack.side(15, 3)
        (torch.Size([2, 5, 4, 4]), 6, 4)
        >>> len(DownStack(3, (8, 16, 16), 5, lost_layers=True).blocks)
        5
    """

    def __init__(self, inputs: int, channels: Sequence[int], outputs: int, *, kernel: int = 3,
                 lost_layers: bool = False):
        first = channels[0]
        blocks, seen = [ConvReLU(inputs, first, kernel=kernel), ConvReLU(first, first)], set()
        for before, width in zip(channels, channels[1:], strict=False):
            blocks.append(ConvReLU(before, width, stride=2))
            if not (lost_layers and width in seen):
                blocks.append(ConvReLU(width, width))
            seen.add(width)
        super().__init__(blocks, outputs)

    @staticmethod
    def side(side: int, levels: int) -> int:
        """Side of the map for a side of the image."""
        for _ in range(levels - 1):
            side = -(-side // 2)
        return side


class UpStack(_Blocks):
    """Map ``[M, C, h, w]`` -> image ``[M, outputs, ...]``.

    Args:
        blocks: As `ConvReLU`, which says where the sides are doubled.
        outputs: Channels of the image.
    """


def init_stacks(module: nn.Module) -> None:
    """Upstream's start: weights of 2-D convolutions N(0, 0.01), their biases 0; the rest keeps PyTorch's."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.normal_(part.weight, std=0.01)
            if part.bias is not None:
                nn.init.zeros_(part.bias)


def mlp_relu(*widths: int) -> nn.Sequential:
    """Linear layers with ReLU between them.

    Example:
        >>> mlp_relu(2, 8, 4)(torch.rand(3, 2)).shape
        torch.Size([3, 4])
    """
    layers: list[nn.Module] = []
    for inputs, outputs in zip(widths, widths[1:], strict=False):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers[:-1])
