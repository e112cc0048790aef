"""A U-Net of residual blocks that are told a condition by their norms, as DIAMOND has it; and the way down alone.

Unusual: norms are without parameters of their own, scale and shift come from the condition through ONE linear layer
for all blocks (`ConditionedBlocks.modulate`), so that a sampler asks it once for all its steps. Attention replaces its
input by the norm of it, and adds to that (``residual="normed"``: at initialisation it is a norm, not the identity);
what models of one's own may choose is ``residual="input"``. On the way up every block takes a map of the way down
beside its input, the last one that of the level's own input.

On a CPU everything is channels-last (convolutions 64 -> 64 are 1.4 to 1.7 times as fast), norm, scale, shift and SiLU
are one step (`worldkit.nn.adagn`), and doubling followed by a convolution is one transposed convolution.

Source: DIAMOND (arXiv:2405.12399), eloialonso/diamond @ 5bcd159, written from its description.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from pydantic import Field, model_validator
from torch import Tensor, nn

from ..config import Config
from .adagn import EPS, LAST, norm_silu, num_groups
from .doubling import Double
from .products import plus_linear

Residual = Literal["normed", "input"]
_HEAD = 8  # channels of an attention head


class BlocksConfig(Config):
    """Levels of residual blocks.

    Attributes:
        channels: Of every level; every level but the first halves the sides.
        depths: Residual blocks of every level (on the way up one more).
        attention: Whether blocks of a level attend, over all places of the map; the middle always does.
        residual: What attention adds to: ``"normed"``, the norm of its input, as upstream, or ``"input"``.
        patch: Squares of so many pixels a side are one place of the first level, their pixels its channels: a square as
            many convolutions cheaper. 1, as upstream: every pixel is one.
    """

    channels: tuple[int, ...] = Field(default=(64, 64, 64, 64), min_length=1)
    depths: tuple[int, ...] = (2, 2, 2, 2)
    attention: tuple[bool, ...] = (False, False, False, False)
    residual: Residual = "normed"
    patch: int = Field(default=1, gt=0)

    @model_validator(mode="after")
    def _check(self) -> BlocksConfig:
        lengths = [len(self.channels), len(self.depths), len(self.attention)]
        if len(set(lengths)) != 1:
            raise ValueError(f"channels, depths and attention have one entry per level, got {lengths} of them")
        for width in self.channels:
            if width < 1 or width % num_groups(width) or width % min(_HEAD, width):
                raise ValueError(f"channels are normalised in groups of 32 and attend in heads of {_HEAD}, which "
                                 f"{width} does not allow; take multiples of 32, or of {_HEAD} below 64")
        if any(depth < 1 for depth in self.depths):
            raise ValueError(f"every level has at least one block, got depths {list(self.depths)}")
        return self


class _Attention(nn.Module):
    """Self-attention over the places of a map, heads of 8 channels."""

    def __init__(self, channels: int, residual: Residual):
        super().__init__()
        self.norm = nn.GroupNorm(num_groups(channels), channels, eps=EPS)
        self.qkv, self.proj = nn.Conv2d(channels, 3 * channels, 1), nn.Conv2d(channels, channels, 1)
        self.residual = residual
        nn.init.zeros_(self.proj.weight)
        nn.init.zeros_(self.proj.bias)

    def forward(self, x: Tensor) -> Tensor:
        normed = self.norm(x.contiguous()).contiguous(memory_format=LAST)  # whose channels-last sums are inaccurate
        heads = max(1, x.shape[1] // _HEAD)
        q, k, v = rearrange(self.qkv(normed), "b (three n c) h w -> three b n (h w) c", three=3, n=heads)
        seen = F.scaled_dot_product_attention(q, k, v)
        seen = rearrange(seen, "b n (h w) c -> b (n c) h w", h=x.shape[2])
        return (normed if self.residual == "normed" else x) + self.proj(seen)


class _Block(nn.Module):
    """Residual block; its norms take scale and shift of ``told``, ``2 (inputs + outputs)`` numbers."""

    def __init__(self, inputs: int, outputs: int, attention: bool, residual: Residual):
        super().__init__()
        self.inputs, self.outputs = inputs, outputs
        self.conv1, self.conv2 = nn.Conv2d(inputs, outputs, 3, padding=1), nn.Conv2d(outputs, outputs, 3, padding=1)
        self.shortcut = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()
        self.attention = _Attention(outputs, residual) if attention else nn.Identity()
        nn.init.zeros_(self.conv2.weight)

    @property
    def told(self) -> tuple[int, ...]:
        return 2 * self.inputs, 2 * self.outputs

    def forward(self, x: Tensor, told: Iterator[Tensor]) -> Tensor:
        before, after = (next(told).chunk(2, -1) for _ in range(2))
        out = self.conv1(norm_silu(x, *before, num_groups(self.inputs)))
        return self.attention(self._added(norm_silu(out, *after, num_groups(self.outputs)), x))

    def _added(self, out: Tensor, x: Tensor) -> Tensor:
        """``conv2(out) + shortcut(x)``; on a CPU the shortcut is one product of all places that is added at once."""
        conv, short = self.conv2, self.shortcut
        if isinstance(short, nn.Identity):
            return conv(out).add_(x)
        if x.device.type != "cpu" or torch.compiler.is_compiling():
            return conv(out) + short(x)
        out = F.conv2d(out, conv.weight, conv.bias + short.bias, padding=1)
        rows, places = (rearrange(maps, "b c h w -> (b h w) c") for maps in (out, x))
        rows = plus_linear(rows, places, short.weight.flatten(1))
        return rearrange(rows, "(b h w) c -> b c h w", b=out.shape[0], h=out.shape[2])


class _Down(nn.Conv2d):
    """Halve the sides: conv3x3 of stride 2, orthogonal at the start."""

    def __init__(self, channels: int):
        super().__init__(channels, channels, 3, stride=2, padding=1)
        nn.init.orthogonal_(self.weight)


class _Level(nn.Module):
    """Blocks at one size, and what comes before them."""

    def __init__(self, blocks: Sequence[_Block], resample: nn.Module | None):
        super().__init__()
        self.resample = nn.Identity() if resample is None else resample
        self.blocks = nn.ModuleList(blocks)


class ConditionedBlocks(nn.Module):
    """The way down and the middle: maps ``[B, inputs, H, W]`` -> ``[B, channels[-1], H / 2^(levels - 1), ...]``.

    Args:
        config: Its levels.
        inputs: Channels of the maps.
        dim: Width of the condition.
    Example:
        >>> config = BlocksConfig(channels=(8, 16), depths=(1, 1), attention=(False, False))
        >>> blocks = ConditionedBlocks(config, inputs=3, dim=5)
        >>> blocks(torch.randn(2, 3, 8, 6), blocks.modulate(torch.randn(2, 5))).shape
        torch.Size([2, 16, 4, 3])
    """

    def __init__(self, config: BlocksConfig, *, inputs: int, dim: int):
        super().__init__()
        self.config, channels, residual = config, config.channels, config.residual
        self.conv_in = nn.Conv2d(inputs * config.patch**2, channels[0], 3, padding=1)
        before = (channels[0], *channels[:-1])
        self.down = nn.ModuleList(
            _Level([_Block(a if j == 0 else b, b, attends, residual) for j in range(depth)], _Down(a) if i else None)
            for i, (a, b, depth, attends) in enumerate(zip(before, channels, config.depths, config.attention,
                                                           strict=True))
        )
        self.middle = nn.ModuleList(_Block(channels[-1], channels[-1], True, residual) for _ in range(2))
        self.up = nn.ModuleList(self._ups())
        self._sizes = [size for block in self.blocks() for size in block.told]
        self.modulate = nn.Linear(dim, sum(self._sizes))
        self.to(memory_format=LAST)

    def _ups(self) -> Iterator[_Level]:
        yield from ()

    def blocks(self) -> Iterator[_Block]:
        """All blocks in the order in which they run; `modulate` has rows for one after the other."""
        for level in (*self.down, self.middle, *self.up):
            yield from getattr(level, "blocks", level)

    def rows(self) -> Iterator[tuple[_Block, slice, slice]]:
        """Every block, and the rows of `modulate` that speak to its two norms."""
        start = 0
        for block in self.blocks():
            first, second = block.told
            yield block, slice(start, start + first), slice(start + first, start + first + second)
            start += first + second

    def _told(self, modulation: Tensor) -> Iterator[Tensor]:
        return iter(modulation.split(self._sizes, -1))

    def _descend(self, x: Tensor, told: Iterator[Tensor]) -> tuple[Tensor, list[list[Tensor]]]:
        kept = []
        for level in self.down:
            x = level.resample(x)
            kept.append([x])
            for block in level.blocks:
                x = block(x, told)
                kept[-1].append(x)
        for block in self.middle:
            x = block(x, told)
        return x, kept

    def forward(self, x: Tensor, modulation: Tensor) -> Tensor:
        """Maps, and ``modulate(condition)`` ``[B, ...]`` -> maps."""
        return self._descend(self._enter(x), self._told(modulation))[0]

    def _enter(self, x: Tensor) -> Tensor:
        """Pictures ``[B, inputs, H, W]`` -> maps of the first level."""
        patch = self.config.patch
        if patch > 1:
            height, width = x.shape[-2:]
            x = F.pixel_unshuffle(F.pad(x, (0, -width % patch, 0, -height % patch)), patch)
        return self.conv_in(x.contiguous(memory_format=LAST))


class UNet(ConditionedBlocks):
    """Down and up again: maps ``[B, inputs, H, W]`` -> ``[B, outputs, H, W]``, any sides.

    Args:
        config: Its levels.
        inputs, outputs: Channels of the maps.
        dim: Width of the condition.
    Example:
        >>> config = BlocksConfig(channels=(8, 16), depths=(1, 1), attention=(False, False))
        >>> net = UNet(config, inputs=15, outputs=3, dim=5)
        >>> net(torch.randn(2, 15, 7, 9), net.modulate(torch.randn(2, 5))).shape
        torch.Size([2, 3, 7, 9])
    """

    def __init__(self, config: BlocksConfig, *, inputs: int, outputs: int, dim: int):
        super().__init__(config, inputs=inputs, dim=dim)
        first = config.channels[0]
        self.norm_out = nn.GroupNorm(num_groups(first), first, eps=EPS)
        self.conv_out = nn.Conv2d(first, outputs * config.patch**2, 3, padding=1)
        nn.init.zeros_(self.conv_out.weight)
        self.to(memory_format=LAST)

    def _ups(self) -> Iterator[_Level]:
        config, channels = self.config, self.config.channels
        for i in reversed(range(len(channels))):
            above, width, depth = channels[max(0, i - 1)], channels[i], config.depths[i]
            blocks = [_Block(2 * width, width, config.attention[i], config.residual) for _ in range(depth)]
            blocks.append(_Block(above + width, above, config.attention[i], config.residual))
            yield _Level(blocks, Double(width) if i < len(channels) - 1 else None)

    def forward(self, x: Tensor, modulation: Tensor) -> Tensor:
        sides = x.shape[-2:]
        unit, told = 2 ** (len(self.down) - 1), self._told(modulation)
        x = self._enter(x)
        height, width = x.shape[-2:]
        if height % unit or width % unit:
            x = F.pad(x, (0, -width % unit, 0, -height % unit))
        x, kept = self._descend(x, told)
        for level in self.up:
            x, beside = level.resample(x), kept.pop()
            for block in level.blocks:
                x = block(torch.cat([x, beside.pop()], 1), told)
        x = x[..., :height, :width]
        bias, weight = (p.expand(x.shape[0], -1) for p in (self.norm_out.bias, self.norm_out.weight))
        x = norm_silu(x.contiguous(memory_format=LAST), weight - 1, bias, self.norm_out.num_groups)
        x = self.conv_out(x)
        return x if self.config.patch == 1 else F.pixel_shuffle(x, self.config.patch)[..., : sides[0], : sides[1]]
