"""Convolution stacks of VQGAN (arXiv:2012.09841) as IRIS has them: image -> map at a fraction of its side, and back.

Levels of residual blocks, with attention among all places where a map has a given side and always at the bottom; half
the side from one level to the next. Unusual: a norm always has 32 groups (widths are multiples of 32) and eps 1e-6;
going down pads right and bottom only; attention has one head as wide as the map; the last layer is not squashed.

On a CPU maps are channels-last, and doubling followed by a convolution is one (`worldkit.nn.doubling`). Queries, keys
and values are one layer.

Source: IRIS (arXiv:2209.00588), written from a description of it.
"""

from __future__ import annotations

from typing import Self

import torch
import torch.nn.functional as F
from pydantic import Field, PositiveInt, model_validator
from torch import Tensor, nn

from ..config import ComponentConfig
from ..errors import ConfigError
from .doubling import Double
from .dropout import Dropout
from .norm import GroupNormSiLU
from .patch_mlp import PatchDown, PatchUp

EPS_NORM = 1e-6
LAST = torch.channels_last


class StackConfig(ComponentConfig):
    """Options that encoder and decoder share.

    Attributes:
        channels: Width of the first level.
        multipliers: Width of every level, as a multiple of ``channels``; the image is halved between levels.
        num_blocks: Residual blocks of a level; the decoder has one more.
        attention: Sides (of the longer edge) at which every block is followed by attention.
        map_channels: Width of the map at the end, before codes and after them.
        groups: Of all norms; widths are multiples of it.
        dropout: Inside residual blocks.
        patch: Squares of so many pixels a side are one place of the first level, their pixels its channels: a square as
            many convolutions cheaper. 1, IRIS's: every pixel is one.
        local: A place knows its own square alone (`worldkit.nn.patch_mlp`, ``num_blocks`` hidden layers of
            ``channels``): no convolutions, norms and attention, and one multiplier.
    """

    channels: int = Field(default=64, gt=0)
    multipliers: tuple[PositiveInt, ...] = Field(default=(1, 1, 1, 1, 1), min_length=1)
    num_blocks: int = Field(default=2, gt=0)
    attention: tuple[PositiveInt, ...] = (8, 16)
    map_channels: int = Field(default=512, gt=0)
    groups: int = Field(default=32, gt=0)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    patch: int = Field(default=1, gt=0)
    local: bool = False

    @model_validator(mode="after")
    def _one_level(self) -> Self:
        if self.local and len(self.multipliers) > 1:
            raise ValueError(f"squares by themselves (local) are not halved: give one multiplier, not "
                             f"{list(self.multipliers)}, and the side of a square as patch")
        return self

    @property
    def widths(self) -> list[int]:
        """Of every level."""
        return [self.channels * factor for factor in self.multipliers]

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """The map's sides.

        Raises:
            ConfigError: the image cannot be halved so often, or a width does not divide into groups.
        """
        for wide in () if self.local else (self.channels, *self.widths):
            if wide % self.groups:
                raise ConfigError(f"norms have {self.groups} groups (encoder.groups), which {wide} channels do not "
                                  "divide into; choose channels and multipliers so that widths are multiples of it")
        factor = self.patch * 2 ** (len(self.multipliers) - 1)
        if height % factor or width % factor:
            near = [max(factor, round(side / factor) * factor) for side in (height, width)]
            raise ConfigError(
                f"images are {f'cut into squares of {self.patch} pixels and ' if self.patch > 1 else ''}halved "
                f"{len(self.multipliers) - 1} times (one less than multipliers has entries), which "
                f"{height} x {width} pixels do not allow: take sides that are multiples of {factor}, as {near[0]} x "
                f"{near[1]} (-o obs.height={near[0]} -o obs.width={near[1]}), or fewer multipliers"
            )
        return height // factor, width // factor


class ResBlock(nn.Module):
    """Norm, SiLU, convolution, twice; added to the input, which a 1x1 convolution widens where it must."""

    def __init__(self, inputs: int, outputs: int, *, groups: int, dropout: float):
        super().__init__()
        self.norm1, self.conv1 = GroupNormSiLU(groups, inputs, eps=EPS_NORM), nn.Conv2d(inputs, outputs, 3, padding=1)
        self.norm2, self.dropout = GroupNormSiLU(groups, outputs, eps=EPS_NORM), Dropout(dropout)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.shortcut = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(self.norm1(x))
        return self.conv2(self.dropout(self.norm2(h))).add_(self.shortcut(x))  # in place: no fresh memory


class MapAttention(nn.Module):
    """Attention among all places of a map, one head; added to the input."""

    def __init__(self, channels: int, *, groups: int):
        super().__init__()
        self.norm = nn.GroupNorm(groups, channels, eps=EPS_NORM)
        self.qkv, self.proj = nn.Linear(channels, 3 * channels), nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        images, channels, height, width = x.shape
        tokens = self.norm(x).permute(0, 2, 3, 1).reshape(images, height * width, channels)
        q, k, v = self.qkv(tokens)[:, None].chunk(3, -1)
        mixed = self.proj(F.scaled_dot_product_attention(q, k, v)[:, 0])
        return x + mixed.view(images, height, width, channels).permute(0, 3, 1, 2)


class _Level(nn.Module):
    """Residual blocks, each followed by attention if ``attend``; then a convolution that halves or doubles."""

    def __init__(self, inputs: int, outputs: int, *, blocks: int, attend: bool, config: StackConfig, then: str):
        super().__init__()
        shared = {"groups": config.groups, "dropout": config.dropout}
        self.blocks = nn.ModuleList(ResBlock(inputs if i == 0 else outputs, outputs, **shared) for i in range(blocks))
        self.attentions = nn.ModuleList(
            MapAttention(outputs, groups=config.groups) for _ in range(blocks if attend else 0)
        )
        self.then = then
        if then == "down":
            self.conv = nn.Conv2d(outputs, outputs, 3, stride=2)
        elif then == "up":
            self.conv = Double(outputs)

    def forward(self, x: Tensor) -> Tensor:
        for i, block in enumerate(self.blocks):
            x = block(x)
            if len(self.attentions):
                x = self.attentions[i](x)
        if self.then == "down":
            return self.conv(F.pad(x, (0, 1, 0, 1)))
        return self.conv(x) if self.then == "up" else x


class _Middle(nn.Module):
    """The bottom: residual block, attention, residual block."""

    def __init__(self, channels: int, config: StackConfig):
        super().__init__()
        shared = {"groups": config.groups, "dropout": config.dropout}
        self.block1 = ResBlock(channels, channels, **shared)
        self.attention = MapAttention(channels, groups=config.groups)
        self.block2 = ResBlock(channels, channels, **shared)

    def forward(self, x: Tensor) -> Tensor:
        return self.block2(self.attention(self.block1(x)))


class _Out(nn.Module):
    """Norm, SiLU, convolution."""

    def __init__(self, inputs: int, outputs: int, config: StackConfig):
        super().__init__()
        self.norm = GroupNormSiLU(config.groups, inputs, eps=EPS_NORM)
        self.conv = nn.Conv2d(inputs, outputs, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.norm(x))


def down_stack(config: StackConfig, inputs: int, side: int) -> nn.Module:
    """What makes a map of images: `DownStack`, or, if ``config.local``, `worldkit.nn.patch_mlp.PatchDown`."""
    if not config.local:
        return DownStack(config, inputs, side)
    return PatchDown(inputs, patch=config.patch, hidden=config.channels, layers=config.num_blocks,
                     outputs=config.map_channels)


def up_stack(config: StackConfig, outputs: int, side: int) -> nn.Module:
    """What makes images of a map: `UpStack`, or, if ``config.local``, `worldkit.nn.patch_mlp.PatchUp`."""
    if not config.local:
        return UpStack(config, outputs, side)
    return PatchUp(config.map_channels, patch=config.patch, hidden=config.channels, layers=config.num_blocks,
                   outputs=outputs)


class DownStack(nn.Module):
    """Images ``[M, C, H, W]`` -> maps ``[M, map_channels, H / f, W / f]``.

    Args:
        config: Sizes.
        inputs: Channels of the images.
        side: Longer edge of the images.
    Example:
        >>> DownStack(StackConfig(name="vq", multipliers=(1, 1), map_channels=8), 3, 16)(torch.rand(2, 3, 16, 16)).shape
        torch.Size([2, 8, 8, 8])
    """

    def __init__(self, config: StackConfig, inputs: int, side: int):
        super().__init__()
        widths = config.widths
        self.patch, side = config.patch, side // config.patch
        self.conv_in = nn.Conv2d(inputs * self.patch**2, config.channels, 3, padding=1)
        self.levels = nn.ModuleList()
        for i, wide in enumerate(widths):
            before = config.channels if i == 0 else widths[i - 1]
            self.levels.append(_Level(
                before, wide, blocks=config.num_blocks, attend=side // 2**i in config.attention, config=config,
                then="down" if i + 1 < len(widths) else "",
            ))
        self.middle = _Middle(widths[-1], config)
        self.out = _Out(widths[-1], config.map_channels, config)
        self.to(memory_format=LAST)

    def forward(self, x: Tensor) -> Tensor:
        if self.patch > 1:
            x = F.pixel_unshuffle(x, self.patch)
        x = self.conv_in(x.contiguous(memory_format=LAST))
        for level in self.levels:
            x = level(x)
        return self.out(self.middle(x))


class UpStack(nn.Module):
    """Maps ``[M, map_channels, h, w]`` -> images ``[M, C, h f, w f]``; ``levels`` counts from full resolution.

    Args:
        config: Sizes.
        outputs: Channels of the images.
        side: Longer edge of the images.
    Example:
        >>> UpStack(StackConfig(name="vq", multipliers=(1, 1), map_channels=8), 3, 16)(torch.rand(2, 8, 8, 8)).shape
        torch.Size([2, 3, 16, 16])
    """

    def __init__(self, config: StackConfig, outputs: int, side: int):
        super().__init__()
        widths, self.patch, side = config.widths, config.patch, side // config.patch
        self.conv_in = nn.Conv2d(config.map_channels, widths[-1], 3, padding=1)
        self.middle = _Middle(widths[-1], config)
        self.levels = nn.ModuleList(
            _Level(
                widths[min(i + 1, len(widths) - 1)], wide, blocks=config.num_blocks + 1,
                attend=side // 2**i in config.attention, config=config, then="up" if i else "",
            )
            for i, wide in enumerate(widths)
        )
        self.out = _Out(widths[0], outputs * self.patch**2, config)
        self.to(memory_format=LAST)

    def forward(self, x: Tensor) -> Tensor:
        x = self.middle(self.conv_in(x.contiguous(memory_format=LAST)))
        for level in reversed(self.levels):
            x = level(x)
        x = self.out(x)
        return x if self.patch == 1 else F.pixel_shuffle(x, self.patch)
