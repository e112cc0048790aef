"""Backend ``multi``: several agents at once, MPE2 and PettingZoo, as one environment whose action is that of all.

The joint action holds one number per agent where their actions are numbers (MultiDiscrete), else their vectors, one
behind the other (Box); the reward is the sum, and ``info["rewards"]`` says whose. The agents stay in the order of
``possible_agents``; of one that is gone the observation is 0, and its action is not read.

Some keep things of the episode before, so each has an environment of its own; and some draw into pygame's one window,
and take pygame down when they are closed, whoever else draws with it: here they draw into pictures of their own.
"""

from __future__ import annotations

import contextlib
import copy
import importlib
import pkgutil
import re
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from ...errors import ConfigError, MissingExtraError, install_hint, require_extra
from ..observe import is_picture
from ..registry import unknown_env

_PLACES = {"mpe2": ("mpe2",), "pettingzoo": ("pettingzoo.butterfly", "pettingzoo.sisl")}


def _modules(package: str) -> dict[str, str]:
    """The environments of a package, and where they are."""
    require_extra(package, "multi", f"an environment of '{package}'")
    found = {}
    for place in _PLACES[package]:
        names = [module.name for module in pkgutil.iter_modules(importlib.import_module(place).__path__)]
        found.update({f"{package}/{name}": f"{place}.{name}" for name in names if re.search(r"_v\d+$", name)})
    return found


def ids() -> list[str]:
    """``mpe2/simple_spread_v3``, ``pettingzoo/pistonball_v6``, ...: those whose agents act at the same time."""
    return [name for package in _PLACES for name in _modules(package)]


def make(env_id: str, **options: Any) -> gymnasium.Env:
    """A parallel environment as one.

    Raises:
        UnknownComponentError: for a name that is none; games in turns (``pettingzoo.classic``) are not among them.
        MissingExtraError: if a package is missing.
    """
    package = env_id.partition("/")[0]
    known = _modules(package) if package in _PLACES else {}
    if env_id not in known:
        raise unknown_env(env_id, list(known) or ids(), "multi")
    try:
        module = importlib.import_module(known[env_id])
    except ModuleNotFoundError as error:
        raise MissingExtraError(f"environment '{env_id}' needs {error.name}. {install_hint('multi')}") from error
    return Joint(partial(module.parallel_env, render_mode="rgb_array", **options), env_id)


@contextlib.contextmanager
def _no_window() -> Iterator[None]:
    """Inside, who asks pygame for its window is given a picture, and nobody takes pygame down."""
    import pygame

    def nothing(*_: Any, **__: Any) -> None:
        return None

    def picture(size: Any, *_: Any, **__: Any) -> Any:
        return pygame.Surface(size)

    new = {(pygame.display, name): nothing for name in ("init", "quit", "flip", "update", "set_caption")}
    new |= {(pygame.display, "set_mode"): picture, (pygame, "quit"): nothing, (pygame.event, "pump"): nothing}
    old = {(owner, name): getattr(owner, name) for owner, name in new}
    try:
        for (owner, name), value in new.items():
            setattr(owner, name, value)
        yield
    finally:
        for (owner, name), value in old.items():
            setattr(owner, name, value)


class Joint(gymnasium.Env):
    """A parallel environment of PettingZoo as one Gymnasium environment.

    Args:
        make: Makes the parallel environment.
        name: For messages.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}

    def __init__(self, make: Callable[[], Any], name: str):
        self._make = _no_window()(make)
        self._inner = env = self._make()
        self.render_mode, self.agents = "rgb_array", list(env.possible_agents)
        actions = [env.action_space(agent) for agent in self.agents]
        self._parts: list[int] | None = None
        if all(isinstance(space, spaces.Discrete) and space.start == 0 for space in actions):
            self.action_space = spaces.MultiDiscrete([space.n for space in actions])
        elif all(isinstance(space, spaces.Box) for space in actions):
            self.action_space = spaces.Box(np.concatenate([space.low.ravel() for space in actions]),
                                           np.concatenate([space.high.ravel() for space in actions]), dtype=np.float32)
            self._parts = np.cumsum([int(np.prod(space.shape)) for space in actions])[:-1].tolist()
        else:
            raise ConfigError(f"environment '{name}' mixes kinds of actions ({', '.join(map(str, actions))}): only "
                              "all Discrete or all Box can be one joint action")
        self._actions = dict(zip(self.agents, actions, strict=True))
        self._spaces = {agent: env.observation_space(agent) for agent in self.agents}
        self._own = {agent: space for agent, space in self._spaces.items() if not is_picture(space)}
        count = sum(spaces.flatdim(space) for space in self._own.values())
        # where the agents see pictures: which of them are there
        self.observation_space = spaces.Box(-np.inf, np.inf, (count or len(self.agents),), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        """Begin an episode; without a seed one that the seed before decides."""
        super().reset(seed=seed)
        self.close()
        self._inner = self._make()
        with _no_window():
            seen, infos = self._inner.reset(seed=int(self.np_random.integers(2**31)), options=options)
        return self._join(seen), {"infos": copy.deepcopy(infos), "agents": list(self._inner.agents)}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        """All agents act."""
        if self._parts is None:
            each = [int(number) for number in action]
        else:
            each = [part.reshape(self._actions[agent].shape) for agent, part in
                    zip(self.agents, np.split(np.asarray(action, np.float32), self._parts), strict=True)]
        given = {agent: part for agent, part in zip(self.agents, each, strict=True) if agent in self._inner.agents}
        with _no_window():
            seen, rewards, _, truncations, infos = self._inner.step(given)
        over, cut = not self._inner.agents, any(truncations.values())
        info = {"infos": copy.deepcopy(infos), "agents": list(self._inner.agents), "rewards": dict(rewards)}
        return self._join(seen), float(sum(rewards.values())), over and not cut, over and cut, info

    def _join(self, seen: dict[str, Any]) -> np.ndarray:
        if not self._own:
            return np.array([agent in self._inner.agents for agent in self.agents], np.float32)
        parts = [spaces.flatten(space, seen[agent]) if agent in seen else np.zeros(spaces.flatdim(space))
                 for agent, space in self._own.items()]
        return np.concatenate(parts).astype(np.float32)

    def render(self) -> np.ndarray:
        """The whole of it, uint8 ``[H, W, 3]``."""
        with _no_window():
            return np.array(self._inner.render())

    def close(self) -> None:
        """Close the environment."""
        with _no_window():
            self._inner.close()
