"""V-JEPA 2-AC's cross-entropy method for a robot's hand: three numbers of place and the grip are searched, turns are 0.

Mean and deviation keep a share of what they were, the grip a share of its own; the mean is no candidate. A planned grip
that is too small to mean anything becomes 0.

Source: V-JEPA 2-AC (arXiv:2506.09985; facebookresearch/vjepa2 @ c2963a4), written from its description. (Its box of
steps is one a coordinate; the paper speaks of an L1 ball.)
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import ConfigError
from .base import Elites, Generator
from .cem import CEM, Gaussian, moments
from .objective import Objective

SEARCHED = [0, 1, 2, 6]
"""Numbers of an action that are searched: x, y, z, grip."""
_GRIP, _IDLE_GRIP = 0.75, 0.25


@dataclass(frozen=True)
class ArmCEM(CEM):
    """Plans actions of seven numbers (`worldkit.nn.pose`); defaults are those of upstream's wrapper.

    Attributes:
        reach: Largest step along an axis, and the first deviation.
        momentum, momentum_std: Shares of old mean and deviation of the place that stay.
        grip_momentum, grip_momentum_std: Those of the grip.
    Example:
        >>> from worldkit.planning import Continuous, FunctionObjective
        >>> near = FunctionObjective(lambda a: (a[..., :3] - 0.02).square().sum((-1, -2)), 1,
        ...                          Continuous((-1,) * 7, (1,) * 7))
        >>> plan = ArmCEM().solve(near, horizon=1, generator=torch.Generator().manual_seed(0))
        >>> [round(x, 2) for x in plan.actions[0, 0, :6].tolist()]
        [0.02, 0.02, 0.02, 0.0, 0.0, 0.0]
    """

    LEAST = CEM.LEAST | {"reach": 0.0, "momentum": 0.0, "momentum_std": 0.0, "grip_momentum": 0.0,
                         "grip_momentum_std": 0.0}

    candidates: int = 400
    iterations: int = 10
    elites: int = 10
    reach: float = 0.05
    momentum: float = 0.15
    momentum_std: float = 0.15
    grip_momentum: float = 0.15
    grip_momentum_std: float = 0.15

    def begin(self, objective: Objective, horizon: int, initial: Tensor | None) -> Gaussian:
        if objective.space.dim != 7:
            raise ConfigError(f"ArmCEM plans actions of 7 numbers (place, turn, grip), and these have "
                              f"{objective.space.dim}: take CEM")
        mean = torch.zeros(objective.problems, horizon, len(SEARCHED), device=objective.device)
        if initial is not None:
            mean[:, : initial.shape[1]] = initial[..., SEARCHED]
        std = torch.tensor([self.reach] * 3 + [1.0], device=objective.device)
        return Gaussian(mean, std.expand_as(mean))

    def propose(self, state: Gaussian, objective: Objective, generator: Generator) -> Tensor:
        problems, *rest = state.mean.shape
        found = self.noise((problems, self.candidates, *rest), generator, state.mean.device)
        found = found * state.std[:, None] + state.mean[:, None]
        bound = torch.tensor([self.reach] * 3 + [_GRIP], device=found.device, dtype=found.dtype)
        return objective.space.clip(_whole(found.clamp(-bound, bound)))

    def learn(self, state: Gaussian, elites: Elites) -> Gaussian:
        chosen = Elites(elites.actions[..., SEARCHED], elites.keys, elites.chosen)
        mean, std = moments(chosen, state)
        stay = mean.new_tensor([self.momentum] * 3 + [self.grip_momentum])
        stay_std = mean.new_tensor([self.momentum_std] * 3 + [self.grip_momentum_std])
        return Gaussian(stay * state.mean + (1 - stay) * mean, stay_std * state.std + (1 - stay_std) * std)

    def answer(self, state: Gaussian, objective: Objective) -> Tensor:
        grip = state.mean[..., 3:]
        mean = torch.cat([state.mean[..., :3], grip.where(grip.abs() >= _IDLE_GRIP, torch.zeros_like(grip))], -1)
        return objective.space.clip(_whole(mean))


def _whole(searched: Tensor) -> Tensor:
    """``[..., 4]`` -> ``[..., 7]``, turns 0."""
    return torch.cat([searched[..., :3], torch.zeros_like(searched[..., :3]), searched[..., 3:]], -1)
