"""The cross-entropy method over a few choices per step."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .base import Elites, Generator, SamplingPlanner, draw
from .objective import Objective
from .spaces import Discrete


@dataclass(frozen=True)
class CategoricalCEM(SamplingPlanner):
    """Draw choices, count those of the best candidates, again.

    Attributes:
        momentum: Share of the old probabilities that stays.
        smoothing: Share of every new distribution that is uniform, so that no choice dies out.
    Example:
        >>> from worldkit.planning import Discrete, FunctionObjective
        >>> left = FunctionObjective(lambda a: (a - 2).abs().float().sum(-1), 1, Discrete(5))
        >>> CategoricalCEM(iterations=5).solve(left, 4, generator=torch.Generator().manual_seed(0)).actions
        tensor([[2, 2, 2, 2]])
    """

    SPACES = Discrete
    LEAST = SamplingPlanner.LEAST | {"momentum": 0.0, "smoothing": 0.0}

    momentum: float = 0.1
    smoothing: float = 0.02

    def begin(self, objective: Objective, horizon: int, initial: Tensor | None) -> Tensor:
        """Probabilities ``[problems, horizon, choices]``; the warm start is drawn half of the time."""
        n = objective.space.n
        probability = torch.full((objective.problems, horizon, n), 1 / n, device=objective.device)
        if initial is not None:
            told = F.one_hot(initial, n).float()
            probability[:, : initial.shape[1]] = 0.5 * probability[:, : initial.shape[1]] + 0.5 * told
        return probability

    def propose(self, state: Tensor, objective: Objective, generator: Generator) -> Tensor:
        problems, horizon, n = state.shape
        noise = draw(torch.rand, (problems, self.candidates, horizon, n), generator, state.device)
        gumbel = -(-noise.clamp(min=1e-20).log()).log()
        actions = (state[:, None].log() + gumbel).argmax(-1)
        actions[:, 0] = state.argmax(-1)
        return actions

    def learn(self, state: Tensor, elites: Elites) -> Tensor:
        weight = elites.usable[:, :, None, None].float()
        share = (F.one_hot(elites.actions, state.shape[-1]) * weight).sum(1) / weight.sum(1).clamp(min=1)
        share = (1 - self.smoothing) * share + self.smoothing / state.shape[-1]
        new = self.momentum * state + (1 - self.momentum) * share
        return torch.where(elites.usable.any(1)[:, None, None], new, state)

    def answer(self, state: Tensor, objective: Objective) -> Tensor:
        return state.argmax(-1)
