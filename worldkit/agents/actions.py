"""`ActionSpec`: the actions that an agent gives, and whether they are those of an environment."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import ConfigError


@dataclass(frozen=True)
class ActionSpec:
    """Actions as data sets and models have them: a vector of numbers between bounds, or one of a few choices.

    Attributes:
        low, high: Bounds of every number; empty for discrete actions.
        num_actions: Choices, numbered from 0; None for vectors.
    Example:
        >>> ActionSpec(low=(-1.0, -1.0), high=(1.0, 1.0))
        ActionSpec(2 numbers from -1 to 1)
        >>> ActionSpec(num_actions=3)
        ActionSpec(3 choices)
    """

    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    num_actions: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "low", tuple(float(x) for x in self.low))
        object.__setattr__(self, "high", tuple(float(x) for x in self.high))
        if self.num_actions is not None:
            if self.low or self.high or self.num_actions < 1:
                raise ConfigError(f"discrete actions have a number of choices and no bounds, got {self.to_dict()}")
        elif (not self.low or len(self.low) != len(self.high) or not all(map(np.less, self.low, self.high))
              or not np.isfinite([*self.low, *self.high]).all()):
            raise ConfigError(f"a vector of actions has a lower and a higher bound per number, got {self.to_dict()}")

    @classmethod
    def of_space(cls, space: Any) -> ActionSpec:
        """The actions of an environment.

        Args:
            space: Its action space; as data sets store them, boxes are vectors.
        Raises:
            ConfigError: for other spaces, and boxes without bounds.
        """
        from gymnasium import spaces

        if isinstance(space, spaces.Discrete) and space.start == 0:
            return cls(num_actions=int(space.n))
        if isinstance(space, spaces.Box) and space.is_bounded():
            return cls(tuple(np.ravel(space.low).tolist()), tuple(np.ravel(space.high).tolist()))
        raise ConfigError(f"agents give bounded vectors or choices numbered from 0, not actions of {space}")

    @property
    def discrete(self) -> bool:
        """Whether an action is one of a few choices."""
        return self.num_actions is not None

    @property
    def width(self) -> int:
        """Numbers that describe an action: of a vector its length, otherwise one score per choice."""
        return len(self.low) if self.num_actions is None else self.num_actions

    def scaled(self, action: Tensor) -> Tensor:
        """Vectors in the environment's units -> in units of the bounds, from -1 to 1; ``[..., A]``."""
        low, high = self._bounds(action)
        return 2 * (action - low) / (high - low) - 1

    def unscaled(self, action: Tensor) -> Tensor:
        """The reverse of `scaled`; what leaves the bounds is clipped."""
        low, high = self._bounds(action)
        return low + (action.clamp(-1, 1) + 1) / 2 * (high - low)

    def _bounds(self, like: Tensor) -> tuple[Tensor, Tensor]:
        return like.new_tensor(self.low), like.new_tensor(self.high)

    def for_env(self, action: Tensor, space: Any) -> Any:
        """One action as an environment takes it: a whole number, or an array of its space's shape.

        Args:
            action: ``[A]``, or a whole number without axes.
            space: The environment's.
        """
        if self.discrete:
            return space.dtype.type(int(action))
        array = action.detach().cpu().numpy().astype(np.float64).reshape(space.shape)
        return np.clip(array, space.low, space.high).astype(space.dtype)

    def differs(self, other: ActionSpec) -> str | None:
        """What is another here than there, in words; None if they are the same."""
        same = self == other or (self.num_actions is None and other.num_actions is None
                                 and np.allclose(self.low, other.low) and np.allclose(self.high, other.high)
                                 if len(self.low) == len(other.low) else False)
        return None if same else f"{self.in_words()}, not {other.in_words()}"

    def in_words(self) -> str:
        """``"2 numbers from -1 to 1"``, ``"3 choices"``."""
        if self.num_actions is not None:
            return f"{self.num_actions} choices"
        bounds = {*zip(self.low, self.high, strict=True)}
        among = f"from {self.low[0]:.4g} to {self.high[0]:.4g}" if len(bounds) == 1 else f"{_list(bounds)}"
        return f"{len(self.low)} number{'s' * (len(self.low) > 1)} {among}"

    def __repr__(self) -> str:
        return f"ActionSpec({self.in_words()})"

    def to_dict(self) -> dict[str, Any]:
        """Plain values; ``ActionSpec(**spec.to_dict())`` is the same again."""
        return {"num_actions": self.num_actions} if self.num_actions is not None else {
            "low": list(self.low), "high": list(self.high)}

    def check_column(self, actions: Tensor) -> None:
        """Refuse actions of a data set that are others.

        Args:
            actions: float ``[..., A]``, or int64 ``[...]``.
        Raises:
            ConfigError: saying what they are.
        """
        discrete = not actions.is_floating_point()
        width = "choices" if discrete else f"{actions.shape[-1]} numbers"
        fits = discrete == self.discrete and (discrete or actions.shape[-1] == len(self.low))
        if not fits:
            raise ConfigError(f"the agent gives {self.in_words()}, the data hold actions of {width}: train it on data "
                              "of its environment")
        if discrete and actions.numel() and int(actions.max()) >= self.num_actions:
            raise ConfigError(f"the agent has {self.in_words()}, the data hold action {int(actions.max())}")


def spec_of_text(text: str) -> ActionSpec:
    """The actions of a space that was written down: ``str(env.action_space)``, as ``worldkit collect`` notes it.

    Raises:
        ConfigError: if it is neither choices from 0 nor a bounded box.
    Example:
        >>> spec_of_text("Box(-1.0, 1.0, (2,), float32)"), spec_of_text("Discrete(3)")
        (ActionSpec(2 numbers from -1 to 1), ActionSpec(3 choices))
    """
    if found := re.fullmatch(r"Discrete\((\d+)\)", text):
        return ActionSpec(num_actions=int(found[1]))
    found = re.fullmatch(r"Box\((\[.*?\]|\S+), (\[.*?\]|\S+), \(([\d, ]+)\), \w+\)", text, re.DOTALL)
    if found is None or "inf" in found[1] + found[2]:
        raise ConfigError(f"agents give bounded vectors or choices numbered from 0, not actions of {text}")
    size = int(np.prod([int(n) for n in found[3].split(",") if n.strip()]))
    low, high = (np.array([float(x) for x in found[i].strip("[]").replace(",", " ").split()]) for i in (1, 2))
    return ActionSpec(tuple(np.broadcast_to(low, size)), tuple(np.broadcast_to(high, size)))


def _list(bounds: set[tuple[float, float]]) -> str:
    return "within " + ", ".join(f"[{a:.4g}, {b:.4g}]" for a, b in sorted(bounds))


def stack(actions: Sequence[Any], *, discrete: bool) -> Tensor:
    """Actions of several environments as one tensor, ``[B]`` or ``[B, A]``."""
    if discrete:
        return torch.tensor([int(a) for a in actions])
    return torch.from_numpy(np.stack([np.ravel(a) for a in actions]).astype(np.float32))
