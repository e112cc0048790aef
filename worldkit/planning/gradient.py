"""Planning by the gradient of the cost with respect to the actions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import WorldkitError
from .base import Elites, Generator, Plan, Planner, Round, begin_mean, better, draw
from .objective import Objective, Score, check_score


@dataclass(frozen=True)
class GradientPlanner(Planner):
    """Adam on several candidates at once, inside the bounds; the best candidate of all rounds is the plan.

    Attributes:
        candidates: Starts: the warm start itself, and others around it.
        iterations: Steps.
        lr: Step of Adam, in halves of the distance between the bounds.
        std: Of the other starts around the first, in the same units.
        penalty: How fast a constraint that is violated gains weight.
    Example:
        >>> from worldkit.planning import Continuous, FunctionObjective
        >>> near = FunctionObjective(lambda a: (a - 0.5).square().sum((-1, -2)), 2, Continuous((-1,), (1,)))
        >>> GradientPlanner(candidates=1).solve(near, horizon=3).cost.max() < 1e-2
        tensor(True)
    """

    LEAST = {"candidates": 1, "iterations": 1, "lr": 0.0, "std": 0.0, "penalty": 0.0}

    candidates: int = 16
    iterations: int = 30
    lr: float = 0.1
    std: float = 0.5
    penalty: float = 1.0

    def _solve(self, objective: Objective, horizon: int, initial: Tensor | None, generator: Generator,
               watch: Callable[[Round], Any]) -> Plan:
        space, device = objective.space, objective.device
        middle, reach = space.middle(device), space.reach(device)
        mean = begin_mean(space, objective.problems, horizon, initial, device)
        shape = (objective.problems, self.candidates, horizon, space.dim)
        noise = draw(torch.randn, shape, generator, device)
        noise[:, 0] = 0
        start = space.clip(mean[:, None] + self.std * reach * noise)
        unit = ((start - middle) / reach).requires_grad_(True)  # the middle is 0, the bounds are -1 and 1
        optimizer, multiplier = torch.optim.Adam([unit], lr=self.lr), torch.zeros(shape[:2], device=device)
        best, history = None, []
        for number in range(self.iterations + 1):  # the last step is scored, too
            with torch.enable_grad():
                actions = middle + reach * unit
                score = check_score(objective.score(actions), actions)
                wanted = score.cost if score.violation is None else score.cost + multiplier * score.violation
            now = Elites.of(actions.detach(), _detached(score), 1).best(_detached(score))
            best = better(best, now)
            history.append(now.cost)
            watch(Round(number, actions.detach().clone(), _detached(score)))
            if number < self.iterations:
                if score.violation is not None:
                    multiplier = multiplier + self.penalty * score.violation.detach()
                self._step(optimizer, unit, wanted, lambda x: (space.clip(middle + reach * x) - middle) / reach)
        assert best is not None
        return Plan(best.actions, best.cost, best.violation, torch.stack(history, 1))

    def _step(self, optimizer: torch.optim.Optimizer, unit: Tensor, cost: Tensor, clip: Callable[[Tensor], Tensor]
              ) -> None:
        """One step of every candidate whose gradient is finite."""
        if not cost.requires_grad:
            raise WorldkitError(
                "the cost does not depend on the actions in a way that has gradients: CEM, ICEM and MPPI need none"
            )
        (gradient,) = torch.autograd.grad(torch.nan_to_num(cost, 0.0, 0.0, 0.0).sum(), unit)
        unit.grad = torch.nan_to_num(gradient, 0.0, 0.0, 0.0)
        optimizer.step()
        with torch.no_grad():
            unit.copy_(clip(unit))


def _detached(score: Score) -> Score:
    return Score(score.cost.detach(), None if score.violation is None else score.violation.detach())
