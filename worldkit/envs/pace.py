"""How an environment is acted in: actions that are held for several steps, and actions in units of their bounds."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs

from ..errors import ConfigError

ACTIONS = ("own", "scaled")


def paced(env: gymnasium.Env, *, repeat: int, actions: str) -> gymnasium.Env:
    """An environment as `worldkit.envs.make_env` was told to act in it.

    Raises:
        ConfigError: for another number or word.
    """
    if isinstance(repeat, bool) or not isinstance(repeat, int) or repeat < 1:
        raise ConfigError(f"repeat is how many steps an action is held for, 1 or more, got {repeat!r}")
    if actions not in ACTIONS:
        raise ConfigError(f"actions must be {' or '.join(map(repr, ACTIONS))}, got {actions!r}")
    env = env if repeat == 1 else Repeat(env, repeat)
    if actions == "own" or not (isinstance(env.action_space, spaces.Box) and env.action_space.is_bounded()):
        return env
    low, high = env.action_space.low, env.action_space.high
    return env if (low == -1).all() and (high == 1).all() else Scaled(env)


class Repeat(gymnasium.Wrapper, RecordConstructorArgs):
    """Every action is held for several steps, or until the episode is over; rewards are summed.

    Args:
        env: Any environment.
        repeat: How many steps.
    """

    def __init__(self, env: gymnasium.Env, repeat: int):
        RecordConstructorArgs.__init__(self, repeat=repeat)
        super().__init__(env)
        self._repeat = repeat

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Several steps."""
        total = 0.0
        for _ in range(self._repeat):
            observation, reward, terminated, truncated, info = unpack_step(self.env, self.env.step(action))
            total += float(reward)
            if terminated or truncated:
                break
        return observation, total, terminated, truncated, info


class Scaled(gymnasium.ActionWrapper, RecordConstructorArgs):
    """Actions run from -1 to 1, whatever their bounds are.

    Args:
        env: One whose actions are a bounded box.
    Example:
        >>> class Half(gymnasium.Env):
        ...     action_space, observation_space = spaces.Box(0, 2, (1,)), spaces.Box(0, 1, (1,))
        >>> Scaled(Half()).action(np.array([-1.0], np.float32)).tolist()
        [0.0]
    """

    def __init__(self, env: gymnasium.Env):
        RecordConstructorArgs.__init__(self)
        super().__init__(env)
        own = env.action_space
        self._low, self._range = own.low.astype(np.float64), own.high.astype(np.float64) - own.low
        self.action_space = spaces.Box(-1, 1, own.shape, own.dtype if own.dtype.kind == "f" else np.float32)

    def action(self, action: np.ndarray) -> np.ndarray:
        """As the environment takes it."""
        own = self.env.action_space
        return np.clip(self._low + (np.asarray(action, np.float64) + 1) / 2 * self._range, own.low, own.high).astype(
            own.dtype)

    def has_wrapper_attr(self, name: str) -> bool:
        """Its script is there where the environment's is."""
        return self.env.has_wrapper_attr(name) if name == "scripted_action" else super().has_wrapper_attr(name)

    def scripted_action(self) -> np.ndarray:
        """What the environment's own script does."""
        own = np.asarray(self.env.get_wrapper_attr("scripted_action")(), np.float64)
        return (2 * (own - self._low) / self._range - 1).astype(self.action_space.dtype)


def unpack_step(env: gymnasium.Env, found: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
    """What ``step`` gave, if it is what Gymnasium asks for.

    Raises:
        ConfigError: for the four entries of old Gym, saying what to do.
    """
    if isinstance(found, tuple) and len(found) == 5:
        return found
    given = f"{len(found)} values" if isinstance(found, tuple) else type(found).__name__
    raise ConfigError(
        f"step() of {env} gave {given}; Gymnasium's gives five: observation, reward, terminated, truncated, info"
        + (". Four are old Gym's: split its done into terminated (the task is over) and truncated (the time is), or "
           "wrap it: shimmy.GymV21CompatibilityV0(env=...)" if given == "4 values" else ""))


def unpack_reset(env: gymnasium.Env, found: Any) -> tuple[Any, dict[str, Any]]:
    """What ``reset`` gave, if it is what Gymnasium asks for.

    Raises:
        ConfigError: for a bare observation, as old Gym gives it.
    """
    if isinstance(found, tuple) and len(found) == 2 and isinstance(found[1], dict):
        return found
    raise ConfigError(f"reset() of {env} gave {type(found).__name__}; Gymnasium's gives two: observation and info (a "
                      "dict). Old Gym gives the observation alone: return observation, {}, or wrap it: "
                      "shimmy.GymV21CompatibilityV0(env=...)")
