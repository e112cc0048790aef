"""Backend ``crafter``: Crafter, as a Gymnasium environment whose seed decides everything.

Two things are put right. Crafter keeps the creatures of a region in a set, and draws one of them by its place in it:
the order of a set of objects depends on where they lie in memory, so the same seed gives other episodes; here the sets
keep their order. And its pictures of the night take noise from the generator of the world, so that looking changes what
happens, and so does the size of the picture; here the noise is a function of seed and step.
"""

from __future__ import annotations

import collections
import copy
from functools import partial
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from ...errors import require_extra
from ..registry import unknown_env

_IDS = {"crafter/reward": True, "crafter/no-reward": False}


class Crafter(gymnasium.Env):
    """Crafter. Observation: its picture, uint8 ``[H, W, 3]``.

    ``info`` holds what Crafter tells (inventory, achievements, where the player is, which thing every field holds).

    Args:
        reward: Whether achievements and health are rewarded.
        picture: Height and width of the picture that is observed.
        **options: Of ``crafter.Env``, such as ``length``.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}
    draw_size = (576, 576)

    def __init__(self, *, reward: bool = True, picture: int = 64, **options: Any):
        crafter = require_extra("crafter", "crafter", "Crafter")
        self.render_mode = "rgb_array"
        self._inner = crafter.Env(reward=reward, size=(picture, picture), seed=0, **options)
        self._inner.render = partial(self._render, self._inner.render)
        self.action_space = spaces.Discrete(self._inner.action_space.n)
        self.observation_space = spaces.Box(0, 255, (picture, picture, 3), np.uint8)

    def _render(self, render: Any, size: tuple[int, int] | None = None) -> np.ndarray:
        """Crafter's picture, with a generator of its own."""
        inner = self._inner
        world, inner._world.random = inner._world.random, np.random.RandomState([inner._seed, inner._step])
        try:
            return render(size)
        finally:
            inner._world.random = world

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        """A new world."""
        super().reset(seed=seed)
        inner = self._inner
        inner._seed, inner._episode = int(self.np_random.integers(2**31)), 0
        world, begin = inner._world, inner._world.reset

        def ordered(seed: int | None = None) -> None:
            begin(seed)
            world._chunks = collections.defaultdict(_OrderedSet)

        world.reset = ordered
        try:
            picture = inner.reset()
        finally:
            del world.reset
        return picture, {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        """One move; terminated when the player dies, truncated at the end of the time."""
        picture, reward, over, info = self._inner.step(int(action))
        dead = info["discount"] == 0
        return picture, float(reward), bool(dead), bool(over and not dead), copy.deepcopy(info)

    def draw(self, height: int, width: int) -> np.ndarray:
        """The view at a size, uint8 ``[H, W, 3]``; fields have a whole number of pixels, what is left over is black."""
        return self._inner.render((width, height))

    def render(self) -> np.ndarray:
        """The view."""
        return self.draw(*self.draw_size)


class _OrderedSet(dict):
    """What Crafter needs of a set, in the order in which things came."""

    def add(self, thing: Any) -> None:
        """Put in."""
        self[thing] = None

    def remove(self, thing: Any) -> None:
        """Take out."""
        del self[thing]


def ids() -> list[str]:
    """With rewards, and without."""
    require_extra("crafter", "crafter", "Crafter")
    return list(_IDS)


def make(env_id: str, **options: Any) -> gymnasium.Env:
    """``"crafter/reward"``, also as ``"crafter"`` or ``"CrafterReward-v1"``; ``"crafter/no-reward"``."""
    named = {"crafter": "crafter/reward", "CrafterReward-v1": "crafter/reward",
             "CrafterNoReward-v1": "crafter/no-reward"}.get(env_id, env_id)
    if named not in _IDS:
        raise unknown_env(env_id, list(_IDS), "crafter")
    return Crafter(reward=_IDS[named], **options)
