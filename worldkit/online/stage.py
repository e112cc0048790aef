"""Where an agent acts while it learns: environments here, one after the other, or each in a process of its own.

Both are used alike: slots are given the number and the seed of an episode, `begin` begins it, `step` does every slot's
action. How an episode comes out does not depend on which of them plays it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Protocol

from ..collecting.episode import Recording
from ..collecting.policies import name_of
from ..collecting.pool import IDLE, Pool, Slot
from ..envs.observe import masks_of
from ..envs.worker import Slip
from ..errors import EnvError


class Stage(Protocol):
    """Environments; see `worldkit.collecting.pool.Pool`, which is one."""

    slots: list[Slot]

    def begin(self, slots: list[Slot]) -> None:
        """Begin the episodes that slots were given."""

    def step(self) -> list[Slot]:
        """Do every slot's action; gives the slots whose episodes are over."""


class Here:
    """Environments in this process, used in a ``with``, at whose end they are closed.

    Args:
        make: Makes one.
        count: How many.
        max_steps: Cut episodes off after so many steps.
    """

    def __init__(self, make: Callable[[], Any], count: int, *, max_steps: int | None = None):
        self._envs: list[Any] = []
        self._max_steps = max_steps
        try:
            for _ in range(count):
                self._envs.append(make())
        except BaseException:
            self.__exit__()
            raise
        self.slots = [Slot(env) for env in self._envs]

    def __enter__(self) -> Here:
        return self

    def __exit__(self, *_: object) -> None:
        for env in self._envs:
            env.close()

    def begin(self, slots: list[Slot]) -> None:
        """Begin the episodes that slots were given."""
        for slot in slots:
            env = self._envs[self.slots.index(slot)]
            slot.observation, info = env.reset(seed=slot.seed)
            slot.slip = Slip(info, masks_of(env, slot.observation))
            slot.action_space.seed(slot.seed)
            slot.episode = Recording(slot.observation, slot.slip.masks)

    def step(self) -> list[Slot]:
        """Do every slot's action; gives the slots whose episodes are over."""
        over = []
        for slot, env in zip(self.slots, self._envs, strict=True):
            if slot.number == IDLE:
                continue
            slot.observation, reward, terminated, truncated, info = env.step(slot.action)
            slot.slip = Slip(info, masks_of(env, slot.observation))
            truncated = truncated or (len(slot.episode) + 1 == self._max_steps and not terminated)
            slot.episode.step(slot.action, reward, (terminated, truncated), slot.observation, slot.slip.masks)
            if terminated or truncated:
                over.append(slot)
        return over


def make_stage(make: Callable[[], Any], count: int, *, processes: bool, max_steps: int | None) -> Here | Pool:
    """Environments to act in.

    Args:
        make: Makes one.
        count: How many.
        processes: Each in a process of its own.
        max_steps: Cut episodes off after so many steps.
    Raises:
        ConfigError: for processes, if it cannot be told how to make the environment once more.
    """
    if not processes:
        return Here(make, count, max_steps=max_steps)
    with make() as env:
        return Pool(env, count, max_steps=max_steps)


def check_reward(slot: Slot) -> None:
    """Refuse a reward that is no number, before anything learns from it.

    Raises:
        EnvError: naming the environment, the episode and the step.
    """
    reward = slot.episode.last_reward
    if not math.isfinite(reward):
        raise EnvError(f"{name_of(slot)} gave the reward {reward} at step {len(slot.episode)} of episode {slot.number} "
                       f"(seed {slot.seed}): nothing can be learned from that, correct the environment. What was "
                       "collected before is kept; the same command goes on from the last checkpoint")
