"""What planners minimise: candidate actions in, costs out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import ShapeError
from .spaces import Space, as_space


@dataclass(frozen=True)
class Score:
    """What candidates are worth.

    Attributes:
        cost: ``[problems, candidates]``; smaller is better.
        violation: ``[problems, candidates]``, 0 where all constraints hold; None without constraints.
    """

    cost: Tensor
    violation: Tensor | None = None


class Objective(ABC):
    """Several problems of one kind, solved at once.

    Attributes:
        problems: How many.
        space: What an action is.
        device: Where actions are made.
    """

    problems: int
    space: Space
    device: torch.device = torch.device("cpu")

    @abstractmethod
    def score(self, actions: Tensor) -> Score:
        """Of candidates ``[problems, candidates, horizon, *action]``."""


class FunctionObjective(Objective):
    """A function of the actions alone.

    Args:
        function: ``[problems, candidates, horizon, *action]`` -> costs ``[problems, candidates]``.
        problems: How many there are.
        space: See `as_space`.
        constraints: More such functions; each holds where it gives at most 0.
    Example:
        >>> from worldkit.planning import CEM, Continuous
        >>> near = FunctionObjective(lambda a: (a - 0.5).square().sum((-1, -2)), 2, Continuous((-1,), (1,)))
        >>> CEM(iterations=10).solve(near, horizon=3, generator=torch.Generator().manual_seed(0)).cost.max() < 1e-3
        tensor(True)
    """

    def __init__(self, function: Callable[[Tensor], Tensor], problems: int, space: Any, *,
                 constraints: tuple[Callable[[Tensor], Tensor], ...] = (), device: torch.device | str = "cpu"):
        self.function, self.problems, self.space = function, problems, as_space(space)
        self.constraints, self.device = constraints, torch.device(device)

    def score(self, actions: Tensor) -> Score:
        return Score(self.function(actions), total_violation([g(actions) for g in self.constraints]))


def total_violation(values: list[Tensor]) -> Tensor | None:
    """How far all constraints are violated together; None without any."""
    return torch.stack(values).clamp(min=0).sum(0) if values else None


def check_score(score: Score, actions: Tensor) -> Score:
    """A score as it is, if it has a cost for every candidate.

    Raises:
        ShapeError: it has not.
    """
    wanted = list(actions.shape[:2])
    for name in ("cost", "violation"):
        x = getattr(score, name)
        if x is not None and (not torch.is_tensor(x) or list(x.shape) != wanted):
            got = list(x.shape) if torch.is_tensor(x) else type(x).__name__
            raise ShapeError(f"{name} must be [problems, candidates] = {wanted}, got {got}")
    return score
