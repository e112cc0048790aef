"""Segments of episodes that may reach over their ends, as IRIS and DIAMOND draw them: what lies outside is padding.

Lengths are counted in transitions. A row is a frame and the transition that leaves it; the frame that the last one
reached stands behind it where the segment goes on, and counts as padding, for nothing is done there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol

import numpy as np
import torch
from pydantic import Field, field_validator

from ...batch import Batch
from ...config import Config
from ...errors import DataError

TARGETS = ("reward", "terminated", "truncated")


class SegmentsConfig(Config):
    """Which segments are drawn.

    Attributes:
        count: Of a batch.
        length: Rows.
        anchor: ``"start"``: it begins at any row of an episode (IRIS's model); ``"end"``: it ends behind any row
            (IRIS's dreams); ``"before"``: any row is in it, and it ends with the episode at the latest (DIAMOND's
            frames); ``"around"``: any row is in it, wherever (DIAMOND's rewards).
        weights: Episodes, in the order in which they were played, are cut into so many groups of one size (the last
            one takes the rest), each drawn with this weight, and evenly inside. Fewer episodes than groups: by their
            lengths.
        pad: Brightness of padding, 0 to 1. Other than 0 makes pictures float.
        reached: The frame that the last transition reached is no padding. Otherwise only rows that an action leaves are
            none (as upstream has it).
    """

    count: int = Field(default=32, gt=0)
    length: int = Field(default=20, gt=0)
    anchor: Literal["start", "end", "before", "around"] = "start"
    weights: tuple[float, ...] = Field(default=(1.0,), min_length=1)
    pad: float = Field(default=0.0, ge=0, le=1)
    reached: bool = False

    @field_validator("weights")
    @classmethod
    def _positive(cls, weights: tuple[float, ...]) -> tuple[float, ...]:
        if min(weights) < 0 or sum(weights) <= 0:
            raise ValueError(f"weights are not negative, and one is above 0; got {weights}")
        return weights


class Draws(Protocol):
    """Where choices come from; `numpy.random.Generator` is one."""

    def choice(self, a: int, size: int, *, p: Any) -> Any:
        """Numbers below ``a``, by probabilities."""

    def integers(self, low: Any, high: Any, size: int) -> Any:
        """Whole numbers from ``low`` up to below ``high``."""


class Episode(Protocol):
    """Rows of one episode, by column; `worldkit.online.replay.Track` is one."""

    def __len__(self) -> int:
        """Frames."""

    def __getitem__(self, column: str) -> np.ndarray:
        """``[rows, ...]``."""


def chances(lengths: Sequence[int], weights: Sequence[float]) -> np.ndarray:
    """How likely each episode is drawn.

    Args:
        lengths: In transitions.
        weights: See `SegmentsConfig`.
    Example:
        >>> chances([5, 5, 5], (0.25, 0.75)).tolist(), chances([1, 3], (1.0, 1.0, 2.0)).tolist()
        ([0.25, 0.375, 0.375], [0.25, 0.75])
    """
    count, groups = len(lengths), len(weights)
    if count < groups:
        return np.asarray(lengths, np.float64) / sum(lengths)
    size = count // groups
    sizes = [size] * (groups - 1) + [count - size * (groups - 1)]
    shares = np.asarray(weights, np.float64) / sum(weights)
    return np.concatenate([np.full(n, share / n) for n, share in zip(sizes, shares, strict=True)])


def places(lengths: Sequence[int], config: SegmentsConfig, random: Draws) -> np.ndarray:
    """Where segments lie: rows (episode, start, stop), int64 ``[count, 3]``; what is outside 0..length is padding.

    Episodes are drawn first, then places in them, then how far the segment reaches from there.

    Args:
        lengths: Of the episodes, in transitions.
        config: Options.
        random: Source of the choices.
    Example:
        >>> found = places([3, 9], SegmentsConfig(count=4, length=5, anchor="end"), np.random.default_rng(0))
        >>> (found[:, 2] - found[:, 1]).tolist(), bool((found[:, 2] >= 1).all())
        ([5, 5, 5, 5], True)
    """
    known, size = np.asarray(lengths), config.count
    episode = np.asarray(random.choice(len(known), size, p=chances(lengths, config.weights)))
    length, reach = known[episode], config.length
    if config.anchor == "start":
        start = np.asarray(random.integers(0, length, size))
    elif config.anchor == "end":
        start = np.asarray(random.integers(1, length + 1, size)) - reach
    else:
        row, offset = np.asarray(random.integers(0, length, size)), np.asarray(random.integers(0, reach, size))
        start = row - offset if config.anchor == "around" else np.minimum(length, row + 1 + offset) - reach
    return np.stack([episode, start, start + reach], 1)


def cut(episodes: Sequence[Episode], where: np.ndarray, *, columns: Mapping[str, str], pad: float = 0.0,
        reached: bool = False) -> Batch:
    """The segments at some `places`.

    Args:
        episodes: All.
        where: ``[count, 3]``.
        columns: Condition -> column.
        pad: Brightness of padding.
        reached: See `SegmentsConfig`.
    Returns:
        Video, conditions, targets and ``done_mask``: False in padding.
    """
    count, length = len(where), int(where[0, 2] - where[0, 1])
    names = ["video", *TARGETS, *columns.values()]
    like = episodes[int(where[0, 0])]
    found = {name: np.zeros((count, length, *like[name].shape[1:]), like[name].dtype) for name in dict.fromkeys(names)}
    if pad:
        found["video"] = np.full(found["video"].shape, pad, np.float32)
    inside = np.zeros((count, length), bool)
    for i, (number, start, stop) in enumerate(where.tolist()):
        episode = episodes[number]
        first, last = max(0, start), min(len(episode), stop)
        rows = slice(first - start, last - start)
        for name, column in found.items():
            values = episode[name][first:last]
            column[i, rows] = values / np.float32(255) if name == "video" and pad else values
        inside[i, first - start : min(len(episode) - (not reached), stop) - start] = True
    tensors = {name: torch.from_numpy(column) for name, column in found.items()}
    return Batch(tensors["video"], conditions={name: tensors[column] for name, column in columns.items()},
                 targets={name: tensors[name] for name in TARGETS}, done_mask=torch.from_numpy(inside))


def draw(episodes: Sequence[Episode], config: SegmentsConfig, random: Draws, *, columns: Mapping[str, str]) -> Batch:
    """A batch of segments of episodes in which something was done.

    Args:
        episodes: In the order in which they were played.
        config: Options.
        random: Source of the choices.
        columns: Condition -> column.
    Raises:
        DataError: there is none.
    """
    usable = [episode for episode in episodes if len(episode) > 1]
    if not usable:
        raise DataError("nothing was done yet, so there is nothing to learn from: act for more steps first "
                        "(-o online.prefill=...)")
    where = places([len(episode) - 1 for episode in usable], config, random)
    return cut(usable, where, columns=columns, pad=config.pad, reached=config.reached)
