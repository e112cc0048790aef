"""One object, one colour over time: which things of a frame are those of the frames before."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..latents import Particles
from .boxes import PALETTE
from .images import MUTED, Color


def link(frames: Sequence[Tensor], similarity: Callable[[Tensor, Tensor], Tensor]) -> list[list[int]]:
    """Number things over time: the most similar pairs of a frame and what was seen before are the same thing.

    Args:
        frames: Frame -> its things, ``[M, D]``; M may change.
        similarity: (things ``[K, D]`` as seen last, things ``[M, D]``) -> ``[K, M]``; 0 or less: not the same.
    Returns:
        Frame -> number of each of its things, counted from 0 in the order of their first appearance.
    Example:
        >>> near = lambda a, b: 1 - torch.cdist(a, b)
        >>> link([torch.tensor([[0.0], [5.0]]), torch.tensor([[5.5], [9.0], [0.1]])], near)
        [[0, 1], [1, 2, 0]]
    """
    last: list[Tensor] = []
    numbers = []
    for found in frames:
        own = [-1] * len(found)
        if last and len(found):
            scores = similarity(torch.stack(last), found).clone()
            while scores.max() > 0:
                thing, place = divmod(int(scores.argmax()), len(found))
                own[place] = thing
                scores[thing], scores[:, place] = 0, 0
        for place, things in enumerate(found):
            if own[place] < 0:
                own[place] = len(last)
                last.append(things)
            last[own[place]] = things
        numbers.append(own)
    return numbers


def particle_colors(latent: Particles, presence: float) -> list[list[Color]]:
    """Frame -> colour of every particle; all particles of a thing share one, particles of no thing are grey.

    Things are linked by place, size and look. Those that cover most of the clip get the clearest colours.

    Args:
        latent: One clip, one view, ``[1, T, N, .]``.
        presence: Transparency above which a particle counts.
    """
    things = [latent.objects(frame=t, presence=presence) for t in range(latent.shape[1])]
    firsts = [torch.tensor([tokens[0] for tokens in found], dtype=torch.long) for found in things]
    rows = torch.cat([latent.position, latent.size, latent.features], -1)[0]
    numbers = link([rows[t, first] for t, first in enumerate(firsts)], _alike)
    covered: dict[int, float] = {}
    for t, (own, first) in enumerate(zip(numbers, firsts, strict=True)):
        for number, area in zip(own, latent.size[0, t, first].prod(-1).tolist(), strict=True):
            covered[number] = covered.get(number, 0.0) + area
    ranked = {number: rank for rank, number in enumerate(sorted(covered, key=lambda n: -covered[n]))}
    colors = []
    for found, own in zip(things, numbers, strict=True):
        row: list[Color] = [MUTED] * rows.shape[1]
        for tokens, number in zip(found, own, strict=True):
            for token in tokens:
                row[token] = thing_color(ranked[number])
        colors.append(row)
    return colors


def mask_colors(masks: Tensor) -> list[list[Color]]:
    """Frame -> colour of every mask of ``[T, K, H, W]``: by overlap with the masks before, the same place preferred."""
    same = 0.25 * torch.eye(masks.shape[1])

    def overlap(a: Tensor, b: Tensor) -> Tensor:
        both = torch.minimum(a[:, None], b[None]).sum(-1)
        score = both / torch.maximum(a[:, None], b[None]).sum(-1).clamp(min=1e-6)
        return score + same[: len(a)] if len(a) <= len(same) else score

    numbers = link(list(masks.flatten(2)), overlap)
    return [[thing_color(number) for number in own] for own in numbers]


def thing_color(rank: int) -> Color:
    """Colour of a thing: the palette, then the palette in pale.

    Example:
        >>> thing_color(0), thing_color(11)
        ((230, 25, 75), (242, 140, 165))
    """
    color = PALETTE[rank % len(PALETTE)]
    if rank // len(PALETTE) % 2 == 0:
        return color
    return tuple((c + 255) // 2 for c in color)  # type: ignore[return-value]


def _alike(a: Tensor, b: Tensor) -> Tensor:
    """Rows (y, x, box height, width, features...) -> how much alike, ``[K, M]``: 1 = the same, 0 = a box apart."""
    a, b = a[:, None], b[None]
    side = torch.maximum(a[..., 2:4], b[..., 2:4]) * 2  # positions span 2, sides 1
    near = 1 - ((a[..., :2] - b[..., :2]) / side).norm(dim=-1)
    size = (torch.minimum(a[..., 2:4], b[..., 2:4]) / torch.maximum(a[..., 2:4], b[..., 2:4])).prod(-1)
    look = 1 / (1 + (a[..., 4:] - b[..., 4:]).abs().mean(-1))
    return near * size * look
