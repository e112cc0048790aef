"""Model predictive path integral control as TD-MPC2 has it, for several starts at once.

Candidates are sequences of actions: some from the policy, which stay for all rounds, the others from a normal
distribution that moves to the elites, weighted by ``exp(temperature * value)``. What is done is the first action of an
elite drawn by weight, not the mean.

`worldkit.planning.MPPI` differs, so this is not it: there the temperature divides, the plan is the mean (or the best
candidate), and no policy proposes.

Source: TD-MPC2 (Hansen et al., 2024, arXiv:2310.16828), written from its description.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ...distributions import Sampler


@dataclass(frozen=True)
class Search:
    """How to search.

    Attributes:
        horizon: Actions of a plan.
        iterations: Rounds.
        candidates: Sequences that are weighed in a round, those of the policy among them.
        elites: The best of them, which the distribution moves to.
        temperature: Multiplies values; the higher, the more the best count.
        min_std, max_std: Bounds of the standard deviation; the first round has the greatest.
    """

    horizon: int
    iterations: int
    candidates: int
    elites: int
    temperature: float
    min_std: float
    max_std: float

    def __call__(self, value: Callable[[Tensor], Tensor], proposals: Tensor, before: Tensor, sampler: Sampler
                 ) -> Found:
        """Search for all starts at once.

        Args:
            value: Candidates ``[B, N, horizon, A]`` -> what they are worth ``[B, N]``.
            proposals: Of the policy, ``[B, P, horizon, A]``, P may be 0.
            before: Means of the plans of one step ago, ``[B, horizon, A]``; zeros at the start of an episode.
            sampler: Source of randomness.
        """
        mean = torch.cat([before[:, 1:], torch.zeros_like(before[:, :1])], 1)
        std = torch.full_like(mean, self.max_std)
        rest = (len(mean), self.candidates - proposals.shape[1], *mean.shape[1:])
        for _ in range(self.iterations):
            blank = mean.new_zeros(rest)
            drawn = mean[:, None] + std[:, None] * sampler.normal("candidates", blank, blank)
            actions = torch.cat([proposals, drawn.clamp(-1, 1)], 1)
            worth, best = value(actions).nan_to_num(0).topk(self.elites, 1)
            elites = actions.gather(1, best[..., None, None].expand(-1, -1, *actions.shape[2:]))
            weight = torch.exp(self.temperature * (worth - worth.amax(1, keepdim=True)))
            weight = weight / weight.sum(1, keepdim=True)
            spread = weight[..., None, None]
            total = spread.sum(1) + 1e-9
            mean = (spread * elites).sum(1) / total
            std = ((spread * (elites - mean[:, None]).square()).sum(1) / total).sqrt().clamp(self.min_std, self.max_std)
        chosen = sampler.categorical("elite", weight.log())
        return Found(mean, std, elites[torch.arange(len(mean), device=chosen.device), chosen])


@dataclass(frozen=True)
class Found:
    """What a search came to, ``[B, horizon, A]`` each: mean and standard deviation, and the elite that was drawn."""

    mean: Tensor
    std: Tensor
    elite: Tensor
