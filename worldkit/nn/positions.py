"""Where a token is, told by numbers that are not learned: sine-cosine tables, and rotations of queries and keys.

Two orders of axes are in use, and three rotations; each is a named option, since one passes for the other unnoticed.

- I-JEPA's table of two axes begins with the COLUMN, V-JEPA's (of two and of three) with time and row.
- V-JEPA 2 turns neighbouring channels as a pair, but tiles its angles over the channels, so that the two of a pair turn
  by different angles: no rotation, and what its weights expect.
- semantic-wm's is a true rotation (`axis_rotation`), of tokens' indices, or of places between -1 and 1.

Source: I-JEPA (arXiv:2301.08243), V-JEPA (arXiv:2404.08471), V-JEPA 2 (arXiv:2506.09985), semantic-wm (2605.06388),
written from their description.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor


def sincos_1d(dim: int, positions: Tensor) -> Tensor:
    """Sines of all frequencies, then cosines: ``[L]`` -> ``[L, dim]`` in float64; ``dim`` is even.

    Example:
        >>> sincos_1d(4, torch.arange(2))[0].tolist()
        [0.0, 0.0, 1.0, 1.0]
    """
    rates = 10000.0 ** -(torch.arange(dim // 2, dtype=torch.float64) / (dim / 2))
    angles = positions.to(torch.float64)[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], -1)


def sincos_2d(dim: int, height: int, width: int, *, first: Literal["row", "column"]) -> Tensor:
    """Table ``[height * width, dim]``, row by row, in float64: half of the channels say the row, half the column.

    Args:
        dim: A multiple of 4.
        height, width: Of the grid.
        first: What the first half says: ``"column"`` in I-JEPA and MAE, ``"row"`` in V-JEPA.
    Example:
        >>> table = sincos_2d(8, 2, 3, first="row")
        >>> bool((table[0, :4] == table[1, :4]).all()), table.shape  # one row
        (True, torch.Size([6, 8]))
    """
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    parts = [sincos_1d(dim // 2, x.flatten()) for x in (rows, columns)]
    return torch.cat(parts if first == "row" else parts[::-1], -1)


def sincos_3d(dim: int, frames: int, height: int, width: int, *, uniform: bool) -> Tensor:
    """Table ``[frames * height * width, dim]``, in float64: time, row, column.

    Args:
        dim: Channels; a multiple of 4, or of 2 if uniform.
        frames, height, width: Of the grid.
        uniform: Every axis gets ``2 * ceil(dim / 6)`` channels and what is too much is cut off at the end (the released
            V-JEPA models); else time gets half of them, row and column a quarter each.
    """
    axes = torch.meshgrid(*(torch.arange(n) for n in (frames, height, width)), indexing="ij")
    share = 2 * math.ceil(dim / 6)
    widths = (share, share, share) if uniform else (dim // 2, dim // 4, dim // 4)
    parts = [sincos_1d(width, x.flatten()) for width, x in zip(widths, axes, strict=True)]
    return torch.cat(parts, -1)[:, :dim]


@dataclass(frozen=True)
class Rotation:
    """Turns the first channels of queries and keys ``[..., L, d]`` by where their tokens are; see `tiled_rotation`.

    Attributes:
        cos, sin: ``[..., L, R]``, of the first R channels.
    """

    cos: Tensor
    sin: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        part = self.cos.shape[-1]
        turned = x if part == x.shape[-1] else x[..., :part]
        across = torch.stack([-turned[..., 1::2], turned[..., ::2]], -1).flatten(-2)
        turned = turned * self.cos + across * self.sin
        return turned if part == x.shape[-1] else torch.cat([turned, x[..., part:]], -1)


def tiled_rotation(positions: Tensor, head_dim: int, *, like: Tensor) -> Rotation:
    """V-JEPA 2's rotation for tokens in time, row and column: a third of the channels each, rounded down to even.

    Args:
        positions: ``[3, ..., L]``: time, row, column of every token; NaN: the token is nowhere on that axis, and what
            belongs to it is not turned.
        head_dim: Channels of an attention head, at least 12.
        like: Of the dtype and device that is wanted.
    Example:
        >>> x, where = torch.randn(5, 14), torch.zeros(3, 5)
        >>> torch.equal(tiled_rotation(where, 14, like=x)(x), x)  # nothing turns at 0, and the last two never do
        True
    """
    part = 2 * (head_dim // 3 // 2)
    angles = [tiled_angles(axis.to(like), part) for axis in positions]
    angle = torch.cat(angles, -1)
    still = angle.isnan()
    return Rotation(angle.cos().masked_fill(still, 1), angle.sin().masked_fill(still, 0))


def tiled_angles(positions: Tensor, dim: int) -> Tensor:
    """Angles ``[..., L, dim]``: channel j turns with frequency ``j mod dim / 2``."""
    rates = 10000.0 ** -(torch.arange(dim // 2, dtype=positions.dtype, device=positions.device) / (dim / 2))
    angles = positions[..., None] * rates
    return torch.cat([angles, angles], -1)


def places(indices: Tensor, grid: tuple[int, int]) -> Tensor:
    """Time, row and column of tokens on a grid that repeats in time: ``[..., L]`` -> ``[3, ..., L]``.

    Example:
        >>> places(torch.tensor([0, 5, 6]), (2, 3)).tolist()
        [[0, 0, 1], [0, 1, 0], [0, 2, 0]]
    """
    height, width = grid
    within = indices % (height * width)
    return torch.stack([indices // (height * width), within // width, within % width])


def index_rates(count: int, like: Tensor) -> Tensor:
    """Frequencies for whole numbers: 1 down to nearly 1 / 10,000."""
    return 10000.0 ** -(torch.arange(count, dtype=like.dtype, device=like.device) / max(1, count))


def pixel_rates(count: int, like: Tensor) -> Tensor:
    """Frequencies for `pixel_places`: pi to 128 pi, evenly."""
    return math.pi * torch.linspace(1, 128, count, dtype=like.dtype, device=like.device)


def pixel_places(count: int, like: Tensor) -> Tensor:
    """Places from -1 to 1, however many: for pictures of any size."""
    return torch.linspace(-1, 1, count, dtype=like.dtype, device=like.device)


def axis_rotation(
    positions: Sequence[Tensor], widths: Sequence[int], *, like: Tensor,
    rates: Callable[[int, Tensor], Tensor] = index_rates,
) -> Rotation:
    """A true rotation: the two channels of a pair turn by one angle; every axis turns channels of its own.

    Args:
        positions: Of every axis, where tokens are on it, ``[..., L]``.
        widths: Channels that each axis turns, even; what they leave of a head is not turned.
        like: Of the dtype and device that is wanted.
        rates: Frequencies, so many of them.
    Example:
        >>> x, where = torch.randn(3, 6, dtype=torch.float64), torch.arange(3)
        >>> turn = axis_rotation([where], [4], like=x)
        >>> torch.allclose(turn(x).norm(dim=-1), x.norm(dim=-1)), torch.equal(turn(x)[:, 4:], x[:, 4:])
        (True, True)
    """
    angles = []
    for where, width in zip(positions, widths, strict=True):
        angles.append((where.to(like)[..., None] * rates(width // 2, like)).repeat_interleave(2, -1))
    angle = torch.cat(angles, -1)
    return Rotation(angle.cos(), angle.sin())


def view_widths(head_dim: int) -> tuple[int, int, int]:
    """Channels that row, column and view turn (semantic-wm): the view a third, the others half of the rest, all even.

    Example:
        >>> view_widths(64), view_widths(72), view_widths(20)
        ((22, 22, 20), (24, 24, 24), (6, 8, 6))
    """
    view = head_dim // 3 - head_dim // 3 % 2
    row = (head_dim - view) // 2
    row -= row % 2
    return row, head_dim - view - row, view


def views_by_mistake(column: Tensor, view: Tensor, columns: int, views: int) -> tuple[Tensor, Tensor]:
    """Column and view of tokens as semantic-wm's code has them: pictures lie side by side, and are read as interleaved.

    Example:
        >>> column, view = torch.tensor([0, 1, 2, 0, 1, 2]), torch.tensor([0, 0, 0, 1, 1, 1])
        >>> [x.tolist() for x in views_by_mistake(column, view, 3, 2)]
        [[0, 0, 1, 1, 2, 2], [0, 1, 0, 1, 0, 1]]
    """
    place = view * columns + column
    return place // views, place % views
