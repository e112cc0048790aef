"""Model predictive path integral control: elites weigh by what they cost.

Williams et al. (2017, arXiv:1509.01149); the standard deviation is learned, too, as in TD-MPC2 (Hansen et al., 2024,
arXiv:2310.16828). Written from their descriptions.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .base import Elites, Generator, SamplingPlanner
from .cem import CEM, Gaussian
from .objective import Objective


@dataclass(frozen=True)
class MPPI(CEM):
    """CEM whose elites weigh as ``exp(-cost / temperature)``.

    Attributes:
        temperature: In units of the cost. Low: only the best count; high: all elites alike.
        min_std, max_std: Bounds of the standard deviation, in the units of ``std``. Equal to ``std``, both fix it.
    """

    LEAST = SamplingPlanner.LEAST | {"std": 0.0, "temperature": 1e-12, "min_std": 0.0, "max_std": 0.0}

    temperature: float = 0.5
    min_std: float = 0.05
    max_std: float = 2.0

    def learn(self, state: Gaussian, elites: Elites) -> Gaussian:
        excess = (elites.keys - elites.keys[:, :1]).where(elites.usable, torch.inf)
        excess[:, 0] = 0
        weight = torch.softmax(-excess / self.temperature, 1)[:, :, None, None]
        mean = (weight * elites.actions).sum(1)
        std = (weight * (elites.actions - mean[:, None]).square()).sum(1).sqrt()
        some = elites.usable.any(1)[:, None, None]
        return Gaussian(torch.where(some, mean, state.mean), torch.where(some, std, state.std))

    def propose(self, state: Gaussian, objective: Objective, generator: Generator) -> Tensor:
        reach = objective.space.reach(state.std.device)
        bounded = torch.maximum(torch.minimum(state.std, self.max_std * reach), self.min_std * reach)
        return super().propose(Gaussian(state.mean, bounded), objective, generator)
