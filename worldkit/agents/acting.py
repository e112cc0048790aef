"""Policies in environments: whether they fit, and `Acting`, a policy as `worldkit.collecting` calls one."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..distributions import Sampler
from ..errors import ConfigError
from .actions import ActionSpec
from .base import Agent, Policy


def name_of(env: Any) -> str:
    """An environment's id, or its class."""
    return env.spec.id if env.spec is not None else type(env.unwrapped).__name__


def frame_shape_of(env: Any) -> tuple[int, int, int]:
    """``(C, H, W)`` of an environment's pixels.

    Raises:
        ConfigError: if it gives none.
    """
    from gymnasium import spaces

    space = env.observation_space
    pixels = space.spaces.get("pixels") if isinstance(space, spaces.Dict) else space
    if not isinstance(pixels, spaces.Box) or pixels.dtype != np.uint8 or len(pixels.shape) != 3:
        raise ConfigError(f"environment '{name_of(env)}' gives no pixels, which agents act on: make it with "
                          "worldkit.make_env(..., observation='dict')")
    height, width, channels = pixels.shape
    return (channels, height, width)


def frame_of(observation: Any) -> Tensor:
    """The picture of an observation, uint8 ``[C, H, W]``."""
    pixels = observation["pixels"] if isinstance(observation, dict) else observation
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))


def check_fits(policy: Policy, env: Any) -> None:
    """Refuse a policy that cannot act in an environment.

    Args:
        policy: Any; of agents, frames and the environment are checked, too.
        env: An environment of `worldkit.make_env`.
    Raises:
        ConfigError: if actions, frames or the environment are others.
    """
    if (different := policy.action.differs(ActionSpec.of_space(env.action_space))) is not None:
        raise ConfigError(f"the actions of environment '{name_of(env)}' are others than this policy's: it gives "
                          f"{different.replace(', not', ', the environment takes')}")
    if isinstance(policy, Agent):
        policy.check_frame(torch.empty(1, *frame_shape_of(env)), f"environment '{name_of(env)}'")
        if policy.environment is not None and policy.environment != name_of(env):
            raise ConfigError(f"agent '{policy.config.name}' was trained to act in '{policy.environment}', not in "
                              f"'{name_of(env)}': take that environment, or train another agent")


def require_goal_picture(env: Any) -> None:
    """Refuse an environment that has no picture of what its own task wants to see.

    Raises:
        ConfigError: saying what to give.
    """
    if not env.has_wrapper_attr("draw_goal"):
        raise ConfigError(f"environment '{name_of(env)}' has no picture of its goal, which this agent acts towards: "
                          "give one, goal=PICTURE; of worldkit control, --goals reach")


def goal_picture(env: Any) -> Tensor:
    """What an environment's own task wants to see, uint8 ``[C, H, W]``: what its ``draw_goal(height, width)`` gives.

    Raises:
        ConfigError: if it has no such picture.
    """
    require_goal_picture(env)
    _, height, width = frame_shape_of(env)
    return frame_of(env.get_wrapper_attr("draw_goal")(height, width))


class Acting:
    """A policy in one environment, as `worldkit.collecting.collect` takes them.

    Args:
        policy: Who acts.
        env: Where.
        goal: Picture ``[C, H, W]`` of what is to be reached; default: the environment's own, if the policy wants one.
        deterministic: No randomness.
    Example:
        >>> from worldkit.agents import RandomPolicy
        >>> from worldkit.envs import make_env
        >>> from worldkit.collecting import play_episode
        >>> env = make_env("games/catch", size=16)
        >>> len(play_episode(env, Acting(RandomPolicy(ActionSpec.of_space(env.action_space)), env), seed=0)["video"])
        151
    """

    def __init__(self, policy: Policy, env: Any, *, goal: Tensor | None = None, deterministic: bool = False):
        check_fits(policy, env)
        self.policy, self.env, self._given, self._deterministic = policy, env, goal, deterministic
        if policy.wants_goal and goal is None:
            require_goal_picture(env)
        self.begin(None)

    def begin(self, seed: int | None) -> None:
        """An episode begins; the same seed acts the same."""
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        self._sampler = Sampler(deterministic=self._deterministic, generator=generator)
        self._carry: Any = None
        self._first = True

    def __call__(self, observation: Any, info: dict[str, Any]) -> Any:
        """What to do now."""
        if self._first:
            goal = self._given
            if self.policy.wants_goal and goal is None:
                goal = goal_picture(self.env)
            self._carry = self.policy.start(1, goal=None if goal is None else goal[None])
        action, self._carry = self.policy.act(frame_of(observation)[None], self._carry,
                                              first=torch.tensor([self._first]), sampler=self._sampler)
        self._first = False
        return self.policy.action.for_env(action[0], self.env.action_space)
