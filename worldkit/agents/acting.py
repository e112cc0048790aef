"""Policies in environments: whether they fit, and `Acting`, a policy as `worldkit.collecting` calls one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..data.vectors import as_vector
from ..distributions import Sampler
from ..errors import ConfigError, EnvError
from ..names import VectorColumn
from .actions import ActionSpec
from .base import Agent, Policy

STATE = "observation"
"""What the key "state" of an observation is called in data sets, and so as a vector."""


def name_of(env: Any) -> str:
    """An environment's id, or its class."""
    return env.spec.id if env.spec is not None else type(env.unwrapped).__name__


def frame_shape_of(env: Any) -> tuple[int, int, int]:
    """``(C, H, W)`` of an environment's pixels; ``(3, 0, 0)`` of one that gives vectors alone, under names.

    Raises:
        ConfigError: if it gives neither.
    """
    from gymnasium import spaces

    space = env.observation_space
    if isinstance(space, spaces.Dict) and "pixels" not in space.spaces and space.spaces:
        return (3, 0, 0)
    pixels = space.spaces.get("pixels") if isinstance(space, spaces.Dict) else space
    if not isinstance(pixels, spaces.Box) or pixels.dtype != np.uint8 or len(pixels.shape) != 3:
        raise ConfigError(f"environment '{name_of(env)}' gives no pixels, which agents act on: make it with "
                          "worldkit.make_env(..., observation='dict')")
    height, width, channels = pixels.shape
    return (channels, height, width)


def frame_of(observation: Any) -> Tensor:
    """The picture of an observation, uint8 ``[C, H, W]``; ``[3, 0, 0]`` of one without."""
    if isinstance(observation, dict) and "pixels" not in observation:
        return torch.zeros(3, 0, 0, dtype=torch.uint8)
    pixels = observation["pixels"] if isinstance(observation, dict) else observation
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))


def observed_in(env: Any) -> dict[str, dict[str, int]]:
    """What an environment lets a model observe beside the picture: ``{"vectors": widths, "discrete": classes}``.

    Named as data sets name it: the keys of an environment made with ``observation="keys"``, else "observation".

    Example:
        >>> from worldkit.envs import make_env
        >>> observed_in(make_env("games/catch", size=16))
        {'vectors': {'observation': 4}, 'discrete': {}}
    """
    from gymnasium import spaces

    space = env.observation_space
    parts = {name: part for name, part in space.spaces.items() if name != "pixels"} if isinstance(
        space, spaces.Dict) else {}
    found: dict[str, dict[str, int]] = {"vectors": {}, "discrete": {}}
    for key, part in parts.items():
        name = STATE if key == "state" else key
        if isinstance(part, spaces.Discrete) and key != "state":
            found["discrete"][name] = int(part.n)
        else:
            found["vectors"][name] = int(np.prod(part.shape)) if part.shape else 1
    return found


def vectors_of(observation: Any, wanted: Mapping[str, VectorColumn], where: str = "the environment") -> dict[
        str, Tensor]:
    """The vectors of an observation that a policy wants (`Policy.wants_vectors`), float ``[S]``, classes int64 ``[]``.

    Args:
        observation: As an environment of `worldkit.make_env` gives it.
        wanted: Vector -> column of the data; environments have it under the same key ("observation" is their state).
        where: What is observed, for messages.
    Raises:
        ConfigError: one is missing; the keys that are there are named.
        EnvError: one is not finite.
        DataError: one has another width than the model reads.
    """
    parts = {STATE if key == "state" else key: value for key, value in observation.items() if key != "pixels"} if (
        isinstance(observation, dict)) else {}
    found = {}
    for name, column in wanted.items():
        key = column.column.removeprefix("state.")
        if key not in parts:
            raise ConfigError(
                f"this agent observes the vector '{name}' (from '{key}'), which {where} does not give; it gives: "
                f"{', '.join(parts) or 'pixels only'}. Make it with observation='keys' (every key by itself) or 'dict' "
                f"(one vector, '{STATE}'), or let the model read another key, obs.columns.{name}=KEY"
            )
        value = np.asarray(parts[key]).reshape(1, -1)
        if not (value < np.inf).all():
            raise EnvError(f"{where} observed {name} = {value[0].tolist()[:8]}, which is not finite: nothing can be "
                           "learned from that, or done; correct the environment (a value that is missing is -inf)")
        found[name] = as_vector(value, name, column, where)[0]
    return found


def perceived(policy: Policy, observations: Sequence[Any]) -> tuple[Tensor, dict[str, dict[str, Tensor]]]:
    """What `Policy.act` is given of observations, one per environment.

    Returns:
        Frames ``[B, C, H, W]``, and ``{"vectors": {name: [B, S] or [B]}}``, or an empty table for policies that want
        none.
    """
    frames = torch.stack([frame_of(observation) for observation in observations])
    if getattr(policy, "frame_shape", (3, 1, 1))[1:] == (0, 0):  # it does not look
        frames = frames[:, :, :0, :0]
    if not policy.wants_vectors:
        return frames, {}
    each = [vectors_of(observation, policy.wants_vectors) for observation in observations]
    return frames, {"vectors": {name: torch.stack([one[name] for one in each]) for name in policy.wants_vectors}}


def check_fits(policy: Policy, env: Any) -> None:
    """Refuse a policy that cannot act in an environment.

    Args:
        policy: Any; of agents, frames and the environment are checked, too.
        env: An environment of `worldkit.make_env`.
    Raises:
        ConfigError: if actions, frames or the environment are others.
    """
    if (different := policy.action.differs(ActionSpec.of_space(env.action_space))) is not None:
        scaled = len(policy.action.low) == len(ActionSpec.of_space(env.action_space).low) > 0 and (
            {*policy.action.low, *policy.action.high} == {-1.0, 1.0})
        raise ConfigError(f"the actions of environment '{name_of(env)}' are others than this policy's: it gives "
                          f"{different.replace(', not', ', the environment takes')}"
                          + (". Make it with actions='scaled' (-o actions=scaled)" if scaled else ""))
    if policy.wants_vectors:
        vectors_of(env.observation_space.sample(), {name: column._replace(classes=None) for name, column in
                                                    policy.wants_vectors.items()}, f"environment '{name_of(env)}'")
    if isinstance(policy, Agent):
        if policy.frame_shape[1:] != (0, 0):  # else it does not look
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
        frames, beside = perceived(self.policy, [observation])
        action, self._carry = self.policy.act(frames, self._carry, first=torch.tensor([self._first]),
                                              sampler=self._sampler, **beside)
        self._first = False
        return self.policy.action.for_env(action[0], self.env.action_space)
