"""`Explorer`: an agent with noise on what it does, to collect experience by."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..distributions import Sampler
from .actions import ActionSpec
from .base import Policy


class Explorer(Policy):
    """An agent that does something else at times; what it remembers is what was really done.

    Args:
        agent: Has ``decide(frame, carry, first=, sampler=, noise=)``: `Policy.act` with noise, see `noisy`.
        noise: How much.
    """

    def __init__(self, agent: Any, noise: float):
        self.agent, self.noise = agent, noise
        self.action, self.wants_goal, self.wants_vectors = agent.action, agent.wants_goal, agent.wants_vectors
        self.frame_shape = agent.frame_shape

    def start(self, batch_size: int, *, goal: Tensor | None = None) -> Any:
        return self.agent.start(batch_size, goal=goal)

    def act(self, frame: Tensor, carry: Any, *, first: Tensor, sampler: Sampler, **more: Any) -> tuple[Tensor, Any]:
        return self.agent.decide(frame, carry, first=first, sampler=sampler, noise=self.noise, **more)


def noisy(action: Tensor, spec: ActionSpec, amount: float, sampler: Sampler) -> Tensor:
    """Actions with exploration noise, within their bounds.

    Args:
        action: In the environment's units, ``[..., A]``; choices by number, ``[...]``.
        spec: What they are.
        amount: Deviation of Gaussian noise, in halves of the distance between the bounds; of choices, how often any of
            them is taken instead.
        sampler: Source of randomness, also if it is deterministic.
    Example:
        >>> sampler = Sampler(generator=torch.Generator().manual_seed(0))
        >>> noisy(torch.tensor([3, 3, 3, 3]), ActionSpec(num_actions=9), 0.5, sampler)
        tensor([8, 3, 2, 3])
        >>> noisy(torch.tensor([[2.0]]), ActionSpec(low=(-2,), high=(2,)), 0.3, sampler)
        tensor([[1.3493]])
    """
    drawn = {"generator": sampler.generator, "device": None if sampler.generator is None else sampler.generator.device}
    if not spec.discrete:
        noise = amount * torch.randn(action.shape, **drawn).to(action)
        return spec.unscaled(spec.scaled(action) + noise)
    other = torch.randint(spec.num_actions, action.shape, **drawn).to(action)
    return torch.where(torch.rand(action.shape, **drawn).to(action.device) < amount, other, action)
