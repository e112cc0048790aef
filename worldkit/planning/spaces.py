"""What actions there are: vectors within bounds, or one of a few choices."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import ConfigError, ShapeError


@dataclass(frozen=True)
class Continuous:
    """Vectors of ``dim`` numbers between bounds.

    Attributes:
        low, high: ``dim`` numbers each; infinite where there is no bound.
    Raises:
        ConfigError: no numbers, of different count, NaN, or a lower bound that is not below the upper one.
    Example:
        >>> Continuous((-1.0, 0.0), (1.0, 4.0)).middle()
        tensor([0., 2.])
    """

    low: tuple[float, ...]
    high: tuple[float, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "low", tuple(map(float, self.low)))
        object.__setattr__(self, "high", tuple(map(float, self.high)))
        if not self.low or len(self.low) != len(self.high):
            raise ConfigError(f"low and high must be as many numbers as an action has, got {self.low} and {self.high}")
        if not all(low < high for low, high in zip(self.low, self.high, strict=True)):
            raise ConfigError(f"low must be below high for every number of an action, got {self.low} and {self.high}")

    @property
    def dim(self) -> int:
        """Numbers of an action."""
        return len(self.low)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one action."""
        return (self.dim,)

    def bounds(self, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
        """Lower and upper bounds, ``[dim]`` each."""
        return torch.tensor(self.low, device=device), torch.tensor(self.high, device=device)

    def clip(self, actions: Tensor) -> Tensor:
        """Actions ``[..., dim]`` inside the bounds."""
        if {*map(abs, self.low), *map(abs, self.high)} == {math.inf}:
            return actions
        low, high = self.bounds(actions.device)
        return actions.clamp(low.to(actions), high.to(actions))

    def middle(self, device: torch.device | str = "cpu") -> Tensor:
        """``[dim]``: half-way between the bounds; without two of them 0, or the bound that 0 would violate."""
        low, high = self.bounds(device)
        return torch.where(torch.isfinite(high - low), (low + high) / 2, torch.zeros_like(low).clamp(low, high))

    def reach(self, device: torch.device | str = "cpu") -> Tensor:
        """``[dim]``: half the distance of the bounds; 1 without two of them. What standard deviations are parts of."""
        low, high = self.bounds(device)
        return torch.where(torch.isfinite(high - low), (high - low) / 2, torch.ones_like(low))


@dataclass(frozen=True)
class Discrete:
    """Whole numbers from 0 to ``n - 1``."""

    n: int

    def __post_init__(self) -> None:
        if not isinstance(self.n, int) or isinstance(self.n, bool) or self.n < 1:
            raise ConfigError(f"a discrete space has at least 1 action, got {self.n!r}")

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one action."""
        return ()


Space = Continuous | Discrete


def as_space(space: Any) -> Space:
    """The space of a `gymnasium.Env` (``env.action_space``: a Box of one axis or a Discrete), or one of ours.

    Raises:
        ConfigError: any other space; what to do is said.
    Example:
        >>> import gymnasium
        >>> as_space(gymnasium.spaces.Discrete(3)), as_space(gymnasium.spaces.Box(-1, 1, (2,))).dim
        (Discrete(n=3), 2)
    """
    if isinstance(space, (Continuous, Discrete)):
        return space
    if hasattr(space, "low") and hasattr(space, "high"):
        if len(space.shape) != 1:
            raise ConfigError(
                f"planning takes actions of one axis, and this space has the shape {tuple(space.shape)}: "
                "gymnasium.wrappers.RescaleAction and FlattenAction change actions, env.single_action_space is the "
                "space of one of several environments"
            )
        return Continuous(tuple(space.low.tolist()), tuple(space.high.tolist()))
    if hasattr(space, "n"):
        start = int(getattr(space, "start", 0))
        if start:
            raise ConfigError(f"models number actions from 0, this space begins at {start}: wrap the environment in "
                              "gymnasium.wrappers.TransformAction")
        return Discrete(int(space.n))
    raise ConfigError(
        f"planning takes a Box of one axis, a Discrete, worldkit.planning.Continuous(low, high) or Discrete(n), got "
        f"{space!r}"
    )


def check_actions(actions: Tensor, space: Space, leading: Sequence[int], *, name: str) -> None:
    """Refuse actions of another shape or kind than ``[*leading, *space.shape]``.

    Args:
        actions: Any tensor.
        space: What they should be of.
        leading: Sizes of the first axes; -1 for any.
        name: What they are called in the message.
    Raises:
        ShapeError: naming what was expected.
    """
    wanted = [*leading, *space.shape]
    kind = "whole numbers" if isinstance(space, Discrete) else "floats"
    found = list(getattr(actions, "shape", ()))
    fits = torch.is_tensor(actions) and len(found) == len(wanted) and all(
        size in (-1, got) for size, got in zip(wanted, found, strict=True))
    if not fits or actions.is_floating_point() == isinstance(space, Discrete):
        shown = ", ".join("any" if size == -1 else str(size) for size in wanted)
        got = f"{actions.dtype} {found}" if torch.is_tensor(actions) else type(actions).__name__
        raise ShapeError(f"{name} must be {kind} [{shown}], got {got}")
