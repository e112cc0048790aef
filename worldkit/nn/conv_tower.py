"""Dreamer's convolution stacks: a picture to one vector, and a small map or one vector to a picture.

Unusual: v3 pools AFTER its convolution but BEFORE norm and activation; flattening is by rows, columns, channels, as
TensorFlow has it; where a nearest-neighbour doubling is followed by a convolution, both are one smaller convolution on
the small map (`Doubled`), which gives the same numbers for a third of the work.

Source: danijar/dreamerv3 @ e3f0224, danijar/dreamerv2 @ 07d906e, danijar/dreamer @ 56d4d44, written from their
description.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from .checkpoint import Checkpointed
from .dense import ACTIVATIONS, init_weight_, make_norm

Shrink = Literal["pool", "stride", "none"]
Padding = Literal["same", "valid"]


def init_conv_(conv: nn.Conv2d | nn.ConvTranspose2d, init: str) -> None:
    """Dreamer's initial weights, bias 0."""
    area = conv.kernel_size[0] * conv.kernel_size[1]
    init_weight_(conv.weight, init, fan_in=area * conv.in_channels, fan_out=area * conv.out_channels)
    nn.init.zeros_(conv.bias)


class MapNorm(nn.Module):
    """Norm over the channels of every pixel, then activation: maps ``[M, C, h, w]``."""

    def __init__(self, channels: int, norm: str, activation: str, eps: float):
        super().__init__()
        self.norm, self.activation = make_norm(norm, channels, eps), ACTIVATIONS[activation]

    def forward(self, x: Tensor) -> Tensor:
        if isinstance(self.norm, nn.Identity):
            return self.activation(x)
        return self.activation(self.norm(x.permute(0, 2, 3, 1))).permute(0, 3, 1, 2)


class ShrinkingConv(nn.Module):
    """Convolution to half the side: [pool], norm, activation.

    Args:
        inputs, outputs: Channels.
        kernel_size: Side of the kernel.
        shrink: ``"pool"`` (maximum of 2 x 2), ``"stride"``, or ``"none"``.
        padding: ``"same"`` (zeros; with a stride as TensorFlow pads, more below than above) or ``"valid"``.
        norm, activation, eps, init: See `worldkit.nn.dense`.
    """

    def __init__(
        self, inputs: int, outputs: int, *, kernel_size: int, shrink: str, padding: str, norm: str, activation: str,
        eps: float, init: str,
    ):
        super().__init__()
        stride = 2 if shrink == "stride" else 1
        spare = kernel_size - stride if padding == "same" else 0
        self.pads = (spare // 2, spare - spare // 2)
        even = self.pads[0] == self.pads[1]
        self.conv = nn.Conv2d(inputs, outputs, kernel_size, stride, self.pads[0] if even else 0)
        self.pool, self.even, self.stride, self.same = shrink == "pool", even, stride, padding == "same"
        init_conv_(self.conv, init)
        self.after = MapNorm(outputs, norm, activation, eps)

    def size(self, side: int) -> int:
        """Side of the map of a picture of this side; 0 or less: none. A side that pooling cannot halve gives -1."""
        side = -(-side // self.stride) if self.same else (side - self.conv.kernel_size[0]) // self.stride + 1
        if not self.pool:
            return side
        return -1 if side % 2 else side // 2

    def forward(self, x: Tensor) -> Tensor:
        if not self.even:
            rows, columns = (self._pad(side) for side in x.shape[-2:])
            x = F.pad(x, (*columns, *rows))
        x = self.conv(x)
        return self.after(F.max_pool2d(x, 2) if self.pool else x)

    def _pad(self, side: int) -> tuple[int, int]:
        """As TensorFlow: just enough that ``ceil(side / stride)`` outputs fit."""
        spare = max((-(-side // self.stride) - 1) * self.stride + self.conv.kernel_size[0] - side, 0)
        return spare // 2, spare - spare // 2


class Doubled(nn.Module):
    """A map doubled (nearest) and convolved (same size, zeros around): ``[M, C, h, w]`` -> ``[M, O, 2 h, 2 w]``.

    Every 2 x 2 pixels of the result see the same few pixels of the small map, each with weights of its own: one
    convolution with the weights of equal neighbours added up.

    Example:
        >>> layer, x = Doubled(3, 5, 5), torch.rand(2, 3, 4, 6)
        >>> large = F.interpolate(x, scale_factor=2)
        >>> torch.allclose(layer(x), F.conv2d(large, layer.weight, layer.bias, padding=2), atol=1e-6)
        True
    """

    def __init__(self, inputs: int, outputs: int, kernel_size: int, *, init: str = "truncated-normal"):
        super().__init__()
        conv = nn.Conv2d(inputs, outputs, kernel_size)
        init_conv_(conv, init)
        self.weight, self.bias = conv.weight, conv.bias
        half = kernel_size // 2
        reach = (half + 1) // 2  # of the small map's pixels to each side
        taps = torch.zeros(2, kernel_size, 2 * reach + 1)
        for phase in range(2):
            for tap in range(kernel_size):
                taps[phase, tap, (phase + tap - half) // 2 + reach] = 1
        self.reach = reach
        self.register_buffer("taps", taps, persistent=False)

    def small(self) -> tuple[Tensor, Tensor]:
        """Weights ``[4 O, C, k', k']`` and biases of the one convolution: phase of row, phase of column, channel."""
        taps = self.taps.to(self.weight.dtype)
        weight = torch.einsum("akl,bms,oikm->aboils", taps, taps, self.weight)
        return weight.flatten(0, 2), self.bias.repeat(4)

    def phases(self, x: Tensor) -> Tensor:
        """The result before its pixels are put in order: ``[M, h, w, 2, 2, O]``."""
        made = F.conv2d(x, *self.small(), padding=self.reach).permute(0, 2, 3, 1)
        return made.unflatten(-1, (2, 2, -1))

    def forward(self, x: Tensor) -> Tensor:
        return rearrange(self.phases(x), "m h w a b o -> m o (h a) (w b)")


class GrowingConv(nn.Module):
    """`Doubled`, norm over channels, activation: ``[M, C, h, w]`` -> ``[M, O, 2 h, 2 w]``, channels-last."""

    def __init__(
        self, inputs: int, outputs: int, *, kernel_size: int, norm: str, activation: str, eps: float, init: str
    ):
        super().__init__()
        self.conv = Doubled(inputs, outputs, kernel_size, init=init)
        self.norm, self.activation = make_norm(norm, outputs, eps), ACTIVATIONS[activation]

    def forward(self, x: Tensor) -> Tensor:
        made = self.activation(self.norm(self.conv.phases(x)))
        return rearrange(made, "m h w a b o -> m (h a) (w b) o").permute(0, 3, 1, 2)


class ConvTower(Checkpointed):
    """Picture ``[M, C, H, W]`` -> vector ``[M, width]``.

    Args:
        inputs: Channels of the picture.
        size: (height, width) of the picture.
        channels: Of every layer.
        keep_first: The first layer does not shrink.
        shrink, **options: See `ShrinkingConv`.
    Attributes:
        sizes: (height, width) before the first and after every layer; with numbers below 1 where none is left.
    """

    def __init__(
        self, inputs: int, size: tuple[int, int], channels: Sequence[int], *, shrink: str, keep_first: bool = False,
        **options,
    ):
        super().__init__()
        widths, layers, self.sizes = [inputs, *channels], [], [tuple(size)]
        for index, (before, after) in enumerate(zip(widths, widths[1:])):  # noqa: B905 - one shorter on purpose
            layer = ShrinkingConv(before, after, shrink="none" if keep_first and not index else shrink, **options)
            self.sizes.append(tuple(layer.size(side) if side > 0 else side for side in self.sizes[-1]))
            layers.append(layer)
        self.layers = nn.Sequential(*layers)
        self.width = self.sizes[-1][0] * self.sizes[-1][1] * widths[-1]

    def forward(self, x: Tensor) -> Tensor:
        return self.run(self._encoded, x)

    def _encoded(self, x: Tensor) -> Tensor:
        return self.layers(x.contiguous(memory_format=torch.channels_last)).permute(0, 2, 3, 1).flatten(1)


class TransposedTower(nn.Module):
    """Vector ``[M, inputs]`` -> picture ``[M, C, S, S]`` by a linear layer and transposed convolutions of stride 2.

    Args:
        inputs: Width of the vector.
        start: Channels of the one pixel that the linear layer makes.
        channels: Of every transposed convolution, the picture's last.
        kernel_sizes: Likewise; the side grows from s to 2 (s - 1) + kernel size.
        norm, activation, eps, init: See `worldkit.nn.dense`; not after the last.
    """

    def __init__(
        self, inputs: int, start: int, channels: Sequence[int], kernel_sizes: Sequence[int], *, norm: str,
        activation: str, eps: float, init: str,
    ):
        super().__init__()
        self.start = nn.Linear(inputs, start)
        init_weight_(self.start.weight, init, fan_in=inputs, fan_out=start)
        nn.init.zeros_(self.start.bias)
        widths = [start, *channels]
        self.convs = nn.ModuleList(nn.ConvTranspose2d(a, b, k, 2) for a, b, k in zip(
            widths[:-1], channels, kernel_sizes, strict=True))
        for conv in self.convs:
            init_conv_(conv, init)
        self.after = nn.ModuleList(MapNorm(c, norm, activation, eps) for c in channels[:-1])

    @staticmethod
    def size(kernel_sizes: Sequence[int]) -> int:
        """Side of the picture.

        Example:
            >>> TransposedTower.size((5, 5, 6, 6))
            64
        """
        side = 1
        for kernel in kernel_sizes:
            side = 2 * (side - 1) + kernel
        return side

    def forward(self, x: Tensor) -> Tensor:
        x = self.start(x)[..., None, None]
        for conv, after in zip(self.convs, [*self.after, nn.Identity()], strict=True):
            x = after(conv(x))
        return x
