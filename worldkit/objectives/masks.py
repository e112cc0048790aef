"""Which patches training by masks shows, and which it asks for: the multi-block masks of I-JEPA and of V-JEPA.

Sizes of blocks are common to a batch and come from a generator seeded with the number of the batch, as upstream's;
where blocks lie comes from `Pick`s, one per picture or clip. All are pure functions of both.

Unusual, as upstream: I-JEPA draws scale and aspect ratio from ONE uniform number, makes blocks smaller than the grid,
and places them so that none ever touches the last row or column; with its own options (context blocks of 0.85 to 1 of
a grid of 14 or 16) the context block is always the same. Masks of a batch are cut to the shortest, which keeps what is
topmost, about three quarters of the context.

Source: I-JEPA (arXiv:2301.08243), V-JEPA (arXiv:2404.08471), V-JEPA 2 (arXiv:2506.09985), written from their
description.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import AfterValidator, Field
from torch import Tensor

from ..config import Config
from ..distributions import Sampler
from ..errors import ConfigError

Pick = Callable[[int], int]
"""``pick(n)``: a whole number below ``n``."""
_TRIES = 20


def _ordered(ends: tuple[float, float]) -> tuple[float, float]:
    if not 0 < ends[0] <= ends[1]:
        raise ValueError(f"the smallest and the largest one, above 0, in this order; got {ends[0]:g}, {ends[1]:g}")
    return ends


def _share(ends: tuple[float, float]) -> tuple[float, float]:
    if ends[1] > 1:
        raise ValueError(f"shares, at most 1 (all of it); got {ends[0]:g}, {ends[1]:g}")
    return ends


Between = Annotated[tuple[float, float], AfterValidator(_ordered)]
"""The smallest and the largest of what is drawn, above 0."""
Shares = Annotated[Between, AfterValidator(_share)]
"""The same, of shares of a whole."""


class ImageMaskConfig(Config):
    """Options of I-JEPA's masks; defaults are those of all released models.

    Attributes:
        context_scale, target_scale: Smallest and largest share of the grid that a block covers.
        target_aspect: Smallest and largest height over width of a target block; context blocks are square.
        num_contexts, num_targets: Blocks per picture.
        min_keep: Masks have more patches than this.
        overlap: Context may show what targets ask for.
    """

    context_scale: Shares = (0.85, 1.0)
    target_scale: Shares = (0.15, 0.2)
    target_aspect: Between = (0.75, 1.5)
    num_contexts: int = Field(default=1, gt=0)
    num_targets: int = Field(default=4, gt=0)
    min_keep: int = Field(default=10, ge=0)
    overlap: bool = False


class ClipMaskConfig(Config):
    """Options of one kind of V-JEPA's masks; a training has several.

    Attributes:
        num_blocks: Blocks that are hidden, and asked for: their union.
        spatial_scale: Smallest and largest share of a frame that a block covers.
        temporal_scale: Of the clip's length.
        aspect: Smallest and largest height over width.
        context_share: Only the first so much of the clip is shown; later patches are asked for, too.
        max_keep: Most patches that are shown.
        complement: Ask for everything that is not shown, also for what was cut from the context.
    """

    num_blocks: int = Field(default=8, gt=0)
    spatial_scale: Shares = (0.15, 0.15)
    temporal_scale: Shares = (1.0, 1.0)
    aspect: Between = (0.75, 1.5)
    context_share: float = Field(default=1.0, gt=0, le=1)
    max_keep: int | None = Field(default=None, gt=0)
    complement: bool = False


@dataclass(frozen=True)
class Masks:
    """Numbers of patches, ascending.

    Attributes:
        context: Shown, ``[E, B, K]``: E of them per picture or clip.
        targets: Asked for, ``[M, B, J]``.
    """

    context: Tensor
    targets: Tensor


def picks(sampler: Sampler, like: Tensor) -> list[Pick]:
    """A `Pick` for every picture of a batch, all of whose choices follow from one number of a sampler.

    Args:
        sampler: Where randomness comes from.
        like: Its first axis is the batch.
    """
    numbers = sampler.uniform("masks", torch.zeros(len(like), dtype=torch.float64, device=like.device))
    generators = [torch.Generator().manual_seed(int(u * 2**53)) for u in numbers.tolist()]
    return [lambda n, g=g: int(torch.randint(0, n, (1,), generator=g)) for g in generators]


def _between(ends: Sequence[float], u: float) -> float:
    return ends[0] + u * (ends[1] - ends[0])


def _uniform(generator: torch.Generator) -> float:
    return torch.rand(1, generator=generator).item()


def image_block(grid: tuple[int, int], scale: Sequence[float], aspect: Sequence[float], u: float) -> tuple[int, int]:
    """Height and width of a block, from one number in [0, 1); always smaller than the grid.

    Example:
        >>> image_block((16, 16), (0.85, 1.0), (1.0, 1.0), 0.3)
        (15, 15)
    """
    count = int(grid[0] * grid[1] * _between(scale, u))
    ratio = _between(aspect, u)
    sides = round(math.sqrt(count * ratio)), round(math.sqrt(count / ratio))
    return min(sides[0], grid[0] - 1), min(sides[1], grid[1] - 1)


def image_sizes(config: ImageMaskConfig, grid: tuple[int, int], number: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """Sizes of target and context blocks of batch ``number``."""
    generator = torch.Generator().manual_seed(number)
    target = image_block(grid, config.target_scale, config.target_aspect, _uniform(generator))
    return target, image_block(grid, config.context_scale, (1.0, 1.0), _uniform(generator))


def image_masks(config: ImageMaskConfig, grid: tuple[int, int], number: int, pick: Sequence[Pick]) -> Masks:
    """I-JEPA's masks of a batch.

    Args:
        config: Options.
        grid: Rows and columns of patches.
        number: Of the batch.
        pick: One for each picture.
    Raises:
        ConfigError: blocks are too small for ``min_keep``, or leave no context.
    Example:
        >>> choose = picks(Sampler(generator=torch.Generator().manual_seed(0)), torch.zeros(2))
        >>> masks = image_masks(ImageMaskConfig(min_keep=4), (8, 8), 0, choose)
        >>> masks.targets.shape[:2], bool(torch.isin(masks.context[0, 0], masks.targets[:, 0]).any())
        (torch.Size([4, 2]), False)
    """
    target, context = image_sizes(config, grid, number)
    if target[0] * target[1] <= config.min_keep:
        raise ConfigError(
            f"target blocks of {target[0]} x {target[1]} patches have no more than objective.image.min_keep "
            f"{config.min_keep}: the grid is {grid[0]} x {grid[1]}; lower it, take smaller patches or larger pictures"
        )
    contexts, targets = [], []
    for choose in pick:
        hidden, shown = [], []
        for _ in range(config.num_targets):
            hidden.append(_block(grid, target, choose))
        for _ in range(config.num_contexts):
            shown.append(_context(config, grid, context, hidden, choose))
        targets.append([block.nonzero()[:, 0] for block in hidden])
        contexts.append(shown)
    return Masks(_cut(contexts), _cut(targets))


def _block(grid: tuple[int, int], size: tuple[int, int], choose: Pick) -> Tensor:
    """Bool ``[N]``."""
    block = torch.zeros(grid, dtype=torch.bool)
    top, left = choose(grid[0] - size[0]), choose(grid[1] - size[1])
    block[top : top + size[0], left : left + size[1]] = True
    return block.flatten()


def _context(
    config: ImageMaskConfig, grid: tuple[int, int], size: tuple[int, int], hidden: Sequence[Tensor], choose: Pick
) -> Tensor:
    """Numbers of the patches of a context block that no target asks for; after many failures more and more targets,
    the last ones first, may overlap."""
    for spared in range(len(hidden) + 1):
        for _ in range(_TRIES):
            block = _block(grid, size, choose)
            for other in () if config.overlap else hidden[: len(hidden) - spared]:
                block = block & ~other
            if block.sum() > config.min_keep:
                return block.nonzero()[:, 0]
    raise ConfigError(
        f"masks leave no context: blocks of {size[0]} x {size[1]} patches have no more than objective.image.min_keep "
        f"{config.min_keep}; lower it, raise objective.image.context_scale, or take smaller patches"
    )


def _cut(masks: Sequence[Sequence[Tensor]]) -> Tensor:
    """Masks of pictures, all as long as the shortest: ``[number of them, B, K]``."""
    shortest = min(len(mask) for found in masks for mask in found)
    return torch.stack([torch.stack([mask[:shortest] for mask in found]) for found in masks], 1)


def clip_size(config: ClipMaskConfig, grid: tuple[int, int, int], number: int) -> tuple[int, int, int]:
    """Duration, height and width of the blocks of batch ``number``, in patches."""
    generator = torch.Generator().manual_seed(number)
    time, space, aspect = (_between(ends, _uniform(generator))
                           for ends in (config.temporal_scale, config.spatial_scale, config.aspect))
    count = int(grid[1] * grid[2] * space)
    height, width = round(math.sqrt(count * aspect)), round(math.sqrt(count / aspect))
    return max(1, int(grid[0] * time)), min(height, grid[1]), min(width, grid[2])


def clip_masks(config: ClipMaskConfig, grid: tuple[int, int, int], number: int, pick: Sequence[Pick]) -> Masks:
    """V-JEPA's masks of a batch of clips, of one kind.

    Args:
        config: Options.
        grid: Tubelets, rows and columns of patches.
        number: Of the batch.
        pick: One for each clip.
    Raises:
        ConfigError: blocks leave nothing to show.
    Example:
        >>> choose = picks(Sampler(generator=torch.Generator().manual_seed(0)), torch.zeros(3))
        >>> masks = clip_masks(ClipMaskConfig(num_blocks=2), (2, 6, 6), 0, choose)
        >>> masks.context.shape[:2], masks.targets.shape[:2]
        (torch.Size([1, 3]), torch.Size([1, 3]))
    """
    size = clip_size(config, grid, number)
    shown, hidden = [], []
    for choose in pick:
        context = _clip_context(config, grid, size, choose)
        shown.append(context.nonzero()[:, 0])
        hidden.append((~context).nonzero()[:, 0])
    least = min(map(len, shown))
    least = least if config.max_keep is None else min(least, config.max_keep)
    context = torch.stack([x[:least] for x in shown])
    if config.complement:
        everything = torch.ones(len(pick), math.prod(grid), dtype=torch.bool).scatter(1, context, False)
        return Masks(context[None], everything.nonzero()[:, 1].reshape(1, len(pick), -1))
    most = min(map(len, hidden))
    return Masks(context[None], torch.stack([x[:most] for x in hidden])[None])


def _clip_context(
    config: ClipMaskConfig, grid: tuple[int, int, int], size: tuple[int, int, int], choose: Pick
) -> Tensor:
    """What is shown, bool ``[N]``."""
    keep = max(1, int(grid[0] * config.context_share))
    for _ in range(50 * _TRIES):
        shown = torch.ones(grid, dtype=torch.bool)
        for _ in range(config.num_blocks):
            top, left = choose(grid[1] - size[1] + 1), choose(grid[2] - size[2] + 1)
            start = choose(grid[0] - size[0] + 1)
            shown[start : start + size[0], top : top + size[1], left : left + size[2]] = False
        shown[keep:] = False
        if shown.any():
            return shown.flatten()
    raise ConfigError(
        f"masks leave nothing to show: {config.num_blocks} blocks of {size[0]} x {size[1]} x {size[2]} patches cover "
        f"the grid of {grid[0]} x {grid[1]} x {grid[2]}; lower num_blocks or spatial_scale of objective.clips, or take "
        "smaller patches"
    )
