"""Convolution stacks: image -> map, map -> image, and the bridges between a map and a flat latent.

Unusual here: on a CPU, inputs run in chunks so that no activation exceeds 16 MiB (larger temporaries are mapped,
page-faulted and unmapped by every operation), all in channels-last layout, with norms of our own (`nn.norm`);
nearest-neighbour doubling followed by a 3x3 convolution runs as ONE transposed convolution with the same result.

Architecture: LPWM / DLPv3, upstream lpwm modules/modules.py @ 4cf53c4, written from its description.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from ..config import Config
from ..errors import ConfigError
from .checkpoint import Checkpointed
from .chunks import at_a_time
from .norm import GroupNormGELU
from .products import Linear
from .replicated import replicated_conv

Padding = Literal["zeros", "replicate"]
_CHUNK_BYTES = 2**24 - 1


class ConvConfig(Config):
    """A convolution stack.

    Attributes:
        base_channels: Channels of the first layer.
        channel_multipliers: Channels of each level, times ``base_channels``; every level but one halves (or doubles)
            the side, so ``len - 1`` is the number of resolution changes.
        latent_channels: Channels of the low-resolution end.
        num_blocks: Blocks per level (decoders use one more).
        block: ``"conv"``: conv, GroupNorm(4), GELU; ``"resnet"``: pre-activation residual block.
        mid_blocks: Two further blocks at the lowest resolution.
    """

    base_channels: int = Field(default=32, gt=0, multiple_of=4)
    channel_multipliers: tuple[PositiveInt, ...] = Field(default=(1, 4, 8), min_length=1)
    latent_channels: int = Field(default=32, gt=0)
    num_blocks: int = Field(default=1, gt=0)
    block: Literal["conv", "resnet"] = "conv"
    mid_blocks: bool = False

    @property
    def downsampling(self) -> int:
        """Side at the high-resolution end over side at the low-resolution end."""
        return 2 ** (len(self.channel_multipliers) - 1)


class _Conv3(nn.Conv2d):
    """conv3x3 that keeps the size of the image."""

    def __init__(self, inputs: int, outputs: int, padding: Padding):
        super().__init__(inputs, outputs, 3, padding=1, padding_mode=padding)

    def forward(self, x: Tensor) -> Tensor:
        if self.padding_mode == "zeros":
            return super().forward(x)
        return replicated_conv(x, self.weight, self.bias)


class ConvBlock(nn.Module):
    """conv3x3 -> GroupNorm(4) -> GELU."""

    def __init__(self, inputs: int, outputs: int, padding: Padding):
        super().__init__()
        self.conv = _Conv3(inputs, outputs, padding)
        self.norm = GroupNormGELU(4, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x))


class ResnetBlock(nn.Module):
    """Pre-activation residual block, with a 1x1 shortcut where the width changes."""

    def __init__(self, inputs: int, outputs: int, padding: Padding):
        super().__init__()
        self.norm1, self.conv1 = GroupNormGELU(4, inputs), _Conv3(inputs, outputs, padding)
        self.norm2, self.conv2 = GroupNormGELU(4, outputs), _Conv3(outputs, outputs, padding)
        self.shortcut = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.shortcut(x) + self.conv2(self.norm2(self.conv1(self.norm1(x))))


class Downsample(nn.Module):
    """Pad right and bottom by one, conv3x3 with stride 2."""

    def __init__(self, channels: int, padding: Padding):
        super().__init__()
        self.padding = padding
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        if self.padding == "zeros":
            return self.conv(F.pad(x, (0, 1, 0, 1)))
        return replicated_conv(x, self.conv.weight, self.conv.bias, before=0, stride=2)


class Upsample(nn.Module):
    """Nearest-neighbour doubling, then conv3x3 with replicate padding; computed as one 4x4 transposed convolution.

    Every output pixel of the pair sees only a 2x2 neighbourhood of the small map, so the nine taps add up to four; this
    needs 4/9 of the multiplications and never stores the doubled map. Same result up to rounding.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        w = self.conv.weight
        rows = torch.stack([w[:, :, 2], w[:, :, 1] + w[:, :, 2], w[:, :, 0] + w[:, :, 1], w[:, :, 0]], 2)
        kernel = torch.stack([rows[..., 2], rows[..., 1] + rows[..., 2], rows[..., 0] + rows[..., 1], rows[..., 0]], -1)
        return replicated_conv(x, kernel.transpose(0, 1), self.conv.bias, stride=2, padding=3, transposed=True)


class _Level(nn.Module):
    def __init__(self, blocks: Sequence[nn.Module], resample: nn.Module | None):
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.resample = resample if resample is not None else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return self.resample(x)


class Chunked(Checkpointed):
    """A stack of layers over images, worked on in chunks that stay small on a CPU; see the module's docstring."""

    _sizes: list[tuple[int, float]]
    """Of every activation: channels, and side over the input's side."""

    def _layers(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def _chunk(self, x: Tensor) -> int:
        """Inputs that fit one chunk; every activation may be padded by one pixel all around."""
        widest = max(channels * (x.shape[-1] * zoom + 2) * (x.shape[-2] * zoom + 2) for channels, zoom in self._sizes)
        return at_a_time(_CHUNK_BYTES, widest * x.element_size())

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type != "cpu":
            return self.run(self._layers, x)
        most = self._chunk(x)
        if most == sys.maxsize:  # undivided
            return self.run(self._layers, x)
        chunks = max(1, -(-x.shape[0] // most))  # of one size: a single input takes slower paths
        parts = [self.run(self._layers, part) for part in x.tensor_split(chunks)]
        return parts[0] if len(parts) == 1 else torch.cat(parts)


class _Stack(Chunked):
    """What encoder and decoder stacks share: order of layers and layout."""

    def __init__(self, conv_in: nn.Module, mid: nn.Module, levels: Sequence[nn.Module], *, last: int, outputs: int,
                 config: ConvConfig, padding: Padding, mid_first: bool):
        super().__init__()
        self.conv_in, self.mid, self.levels = conv_in, mid, nn.ModuleList(levels)
        self.norm_out = GroupNormGELU(4, last) if config.block == "resnet" else nn.Identity()
        self.conv_out = _Conv3(last, outputs, padding)
        self._mid_first = mid_first
        self.to(memory_format=torch.channels_last)

    def _layers(self, x: Tensor) -> Tensor:
        x = self.conv_in(x.contiguous(memory_format=torch.channels_last))
        if self._mid_first:
            x = self.mid(x)
        for level in self.levels:
            x = level(x)
        if not self._mid_first:
            x = self.mid(x)
        return self.conv_out(self.norm_out(x))


def _make_block(config: ConvConfig) -> Callable[[int, int, Padding], nn.Module]:
    return ConvBlock if config.block == "conv" else ResnetBlock


def _mid(config: ConvConfig, channels: int, padding: Padding) -> nn.Module:
    if not config.mid_blocks:
        return nn.Identity()
    block = _make_block(config)
    return nn.Sequential(block(channels, channels, padding), block(channels, channels, padding))


class ConvEncoder(_Stack):
    """Image ``[M, inputs, S, S]`` -> map ``[M, outputs, S / downsampling, S / downsampling]``."""

    def __init__(self, config: ConvConfig, *, inputs: int = 3, outputs: int | None = None, padding: Padding = "zeros"):
        block, channels, levels = _make_block(config), config.base_channels, []
        for index, multiplier in enumerate(config.channel_multipliers):
            width, blocks = config.base_channels * multiplier, []
            for _ in range(config.num_blocks):
                blocks.append(block(channels, width, padding))
                channels = width
            final = index == len(config.channel_multipliers) - 1
            levels.append(_Level(blocks, None if final else Downsample(channels, padding)))
        super().__init__(
            _Conv3(inputs, config.base_channels, padding), _mid(config, channels, padding), levels, last=channels,
            outputs=config.latent_channels if outputs is None else outputs, config=config, padding=padding,
            mid_first=False,
        )
        self._sizes = [(config.base_channels * m, 0.5**i) for i, m in enumerate(config.channel_multipliers)]
        self._sizes.append((config.base_channels, 1))


class ConvDecoder(_Stack):
    """Map ``[M, inputs, s, s]`` -> image ``[M, outputs, s * 2^ups, s * 2^ups]``; always replicate padding.

    Uses the first ``ups + 1`` channel multipliers, the last of them at the lowest resolution.
    """

    def __init__(self, config: ConvConfig, *, inputs: int, outputs: int, ups: int):
        multipliers = config.channel_multipliers[: ups + 1]
        if len(multipliers) != ups + 1:
            raise ConfigError(
                f"a decoder that doubles the side {ups} times needs {ups + 1} channel_multipliers, got "
                f"{list(config.channel_multipliers)}"
            )
        block, levels = _make_block(config), []
        channels = config.base_channels * multipliers[-1]
        lowest = channels
        for index in reversed(range(ups + 1)):
            width, blocks = config.base_channels * multipliers[index], []
            for _ in range(config.num_blocks + 1):
                blocks.append(block(channels, width, "replicate"))
                channels = width
            levels.append(_Level(blocks, Upsample(channels) if index else None))
        super().__init__(
            _Conv3(inputs, lowest, "replicate"), _mid(config, lowest, "replicate"), levels,
            last=channels, outputs=outputs, config=config, padding="replicate", mid_first=True,
        )
        self._sizes = [(config.base_channels * m, 2 ** (ups - max(i - 1, 0))) for i, m in enumerate(multipliers)]


def init_convs(module: nn.Module, std: float) -> None:
    """Convolution weights N(0, std), biases 0 (upstream's init_conv_fg_std / init_conv_bg_std)."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.normal_(part.weight, std=std)
            nn.init.zeros_(part.bias)


def zero_linear_biases(module: nn.Module) -> None:
    """Linear biases 0; weights keep PyTorch's default."""
    for part in module.modules():
        if isinstance(part, nn.Linear) and part.bias is not None:
            nn.init.zeros_(part.bias)


def mlp(inputs: int, hidden: int, outputs: int, *, bias: bool = True) -> nn.Sequential:
    """Linear, GELU, Linear; ``bias`` concerns the last layer."""
    return nn.Sequential(Linear(inputs, hidden), nn.GELU(), Linear(hidden, outputs, bias=bias))


class MapToLatent(nn.Module):
    """Feature map ``[M, C, h, w]`` -> flat latent ``[M, dim]``.

    If ``h * w`` divides ``dim``, a 1x1 convolution spreads the latent over the map ("fcn"); else an MLP ("fc").
    """

    def __init__(self, channels: int, size: tuple[int, int], hidden: int, dim: int):
        super().__init__()
        area = size[0] * size[1]
        self.spatial = dim % area == 0
        self.project = nn.Conv2d(channels, dim // area, 1) if self.spatial else mlp(channels * area, hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        if self.spatial:
            return rearrange(self.project(x), "m c h w -> m (c h w)")
        return self.project(rearrange(x, "m c h w -> m (c h w)"))


class LatentToMap(nn.Module):
    """Flat latent ``[M, dim]`` -> feature map ``[M, channels, h, w]``; ``channels`` is an attribute.

    If ``h * w`` divides ``dim``, the latent IS the map; else an MLP with ``latent_channels`` channels.
    """

    def __init__(self, dim: int, size: tuple[int, int], hidden: int, latent_channels: int):
        super().__init__()
        area = size[0] * size[1]
        self.size = size
        self.spatial = dim % area == 0
        self.channels = dim // area if self.spatial else latent_channels
        self.project = nn.Identity() if self.spatial else mlp(dim, hidden, latent_channels * area)

    def forward(self, x: Tensor) -> Tensor:
        return rearrange(self.project(x), "m (c h w) -> m c h w", h=self.size[0], w=self.size[1])


def doublings(small: int, large: int) -> int:
    """How often ``small`` must be doubled to reach ``large``: floor(log2) of both, as upstream."""
    return max(int(math.log2(large)) - int(math.log2(small)), 0)
