"""Policies that learn nothing: any action, and what an environment's own script says."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..distributions import Sampler
from ..errors import ConfigError
from .actions import ActionSpec, stack
from .base import Policy


class RandomPolicy(Policy):
    """Any action of the space, each as likely.

    Example:
        >>> policy = RandomPolicy(ActionSpec(num_actions=3))
        >>> action, _ = policy.act(torch.zeros(5, 3, 8, 8), None, first=torch.ones(5, dtype=bool), sampler=Sampler())
        >>> action.shape, action.dtype
        (torch.Size([5]), torch.int64)
    """

    def __init__(self, action: ActionSpec):
        self.action = action

    def start(self, batch_size: int, *, goal: Tensor | None = None) -> None:
        return None

    def act(self, frame: Tensor, carry: Any, *, first: Tensor, sampler: Sampler) -> tuple[Tensor, Any]:
        if self.action.discrete:
            return sampler.categorical("action", torch.zeros(len(frame), self.action.width)), None
        drawn = sampler.uniform("action", torch.zeros(len(frame), self.action.width))
        return self.action.unscaled(2 * drawn - 1), None


class ScriptedPolicy(Policy):
    """What the environments' own ``scripted_action()`` say; row i of a batch is the i-th environment.

    Args:
        envs: Environments of `worldkit.make_env`, all of one kind.
    Raises:
        ConfigError: if they have no script.
    """

    def __init__(self, envs: Sequence[Any]):
        if not all(env.has_wrapper_attr("scripted_action") for env in envs):
            name = envs[0].spec.id if envs[0].spec is not None else type(envs[0].unwrapped).__name__
            raise ConfigError(f"environment '{name}' has no scripted policy: leave 'scripted' out")
        self.action = ActionSpec.of_space(envs[0].action_space)
        self._scripts = [env.get_wrapper_attr("scripted_action") for env in envs]

    def start(self, batch_size: int, *, goal: Tensor | None = None) -> None:
        return None

    def act(self, frame: Tensor, carry: Any, *, first: Tensor, sampler: Sampler) -> tuple[Tensor, Any]:
        if len(frame) > len(self._scripts):
            raise ConfigError(f"scripts of {len(self._scripts)} environments cannot act for {len(frame)} frames")
        return stack([script() for script in self._scripts[: len(frame)]], discrete=self.action.discrete), None

