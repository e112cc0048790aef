"""Several environments at once, each in a process of its own, through Gymnasium's vector API.

An episode is begun with the seed of its number, by us: nothing begins by itself, so no step belongs to two episodes,
and who played an episode is not seen in it. `worldkit.envs.worker` is what runs in the processes.
"""

from __future__ import annotations

import copy
import signal
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AsyncVectorEnv
from gymnasium.vector.utils import iterate

from ..envs.worker import SLIP, Slip, Worker
from ..errors import ConfigError, EnvError
from .episode import Recording
from .policies import Policy, begin, name_of

IDLE = -1


class Slot:
    """One of the environments, as a policy sees it, and the episode that it plays.

    Attributes:
        number: Of the episode; `IDLE` while there is none.
        seed: Of the episode.
        action_space: A copy of its own.
        observation_space, spec, unwrapped: Of the environment, as it is here.
    """

    def __init__(self, env: gymnasium.Env):
        self.action_space, self.spec, self.unwrapped = copy.deepcopy(env.action_space), env.spec, env.unwrapped
        self.observation_space = env.observation_space
        self._tells = [name for name in ("scripted_action", "draw_goal") if env.has_wrapper_attr(name)]
        self.number, self.seed = IDLE, 0
        self.observation: Any = None
        self.slip = Slip({})
        self.action = self.action_space.sample()
        self.episode: Recording

    def has_wrapper_attr(self, name: str) -> bool:
        """Whether the environment has something that a policy may ask for."""
        return name in self._tells

    def get_wrapper_attr(self, name: str) -> Any:
        """What a policy may ask for."""
        if not self.has_wrapper_attr(name):
            raise AttributeError(f"an environment in another process tells no {name}")
        return (lambda: self.slip.scripted) if name == "scripted_action" else lambda height, width: self.slip.goal


class Pool:
    """Environments in processes of their own, to be used in a ``with``, at whose end they are gone.

    Args:
        env: One of them; it stays here, and is asked for its spaces only.
        count: How many.
        max_steps: Cut episodes off after so many steps.
        scripted: Whether the policy is the environment's ``scripted_action()``.
    Raises:
        ConfigError: if it cannot be told how to make the environment once more.
        EnvError: if a process ends at once.
    """

    def __init__(self, env: gymnasium.Env, count: int, *, max_steps: int | None = None, scripted: bool = False):
        if env.spec is None:
            raise ConfigError(f"{name_of(env)} cannot be made in another process, as there is no telling how it was "
                              "made: make it by its id, with worldkit.make_env(id), or register it "
                              "(worldkit.envs.register_env_backend); or leave out num_envs")
        self.slots = [Slot(env) for _ in range(count)]
        self._name = name_of(env)
        make = partial(Worker, env.spec.make, env.observation_space, env.action_space, max_steps=max_steps,
                       scripted=scripted)
        try:
            # spawned: a fork would share the OpenGL contexts and threads of this process
            self._pool = AsyncVectorEnv([make] * count, copy=False, context="spawn", autoreset_mode="Disabled")
        except (EOFError, OSError) as error:
            raise EnvError(f"a process for {self._name} ended before it began; what it said is above. A script that "
                           'collects with several environments must do so under `if __name__ == "__main__":`'
                           ) from error

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_: object) -> None:
        """End the processes, whatever they are at."""
        for process in self._pool.processes:
            process.kill()
        for process in self._pool.processes:
            process.join()
        for pipe in filter(None, self._pool.parent_pipes):
            pipe.close()
        self._pool.closed = True

    def begin(self, slots: list[Slot]) -> None:
        """Begin the episodes that the slots were given.

        Raises:
            EnvError: if a process died.
            Exception: what an environment raised, with the traceback there as a note.
        """
        mask = np.array([slot in slots for slot in self.slots])
        observations, infos = self._ask(partial(self._pool.reset, seed=[slot.seed for slot in self.slots],
                                                options={"reset_mask": mask}))
        for slot, observation in self._seen(slots, observations, infos):
            slot.action_space.seed(slot.seed)
            slot.episode = Recording(observation, slot.slip.masks)

    def step(self) -> list[Slot]:
        """Do every slot's action; gives the slots whose episodes are over.

        Raises:
            EnvError: if a process died.
            Exception: what an environment raised, with the traceback there as a note.
        """
        actions = np.stack([slot.action for slot in self.slots])
        observations, rewards, terminated, truncated, infos = self._ask(partial(self._pool.step, actions))
        playing = [slot for slot in self.slots if slot.number != IDLE]
        for slot, observation in self._seen(playing, observations, infos):
            number = self.slots.index(slot)
            ends = bool(terminated[number]), bool(truncated[number])
            slot.episode.step(slot.action, float(rewards[number]), ends, observation, slot.slip.masks)
        return [slot for slot in playing if (terminated | truncated)[self.slots.index(slot)]]

    def _seen(self, slots: list[Slot], observations: Any, infos: dict[str, Any]) -> Iterator[tuple[Slot, Any]]:
        """Give slots what they see; nothing in it is shared with what will be seen next."""
        everyone = list(iterate(self._pool.observation_space, observations))
        for slot in slots:
            number = self.slots.index(slot)
            slot.slip = infos[SLIP][number]
            if slot.slip.failure is not None:
                raise slot.slip.failure.exception(self._where(slot))
            slot.observation = copy.deepcopy(everyone[number])
            yield slot, slot.observation

    def _where(self, slot: Slot) -> str:
        place = f"{self._name}, number {self.slots.index(slot) + 1} of {len(self.slots)}"
        return place if slot.number == IDLE else f"{place}, in episode {slot.number} (seed {slot.seed})"

    def _ask(self, call: Callable[[], Any]) -> Any:
        try:
            return call()
        except (EOFError, OSError) as error:  # the end of a pipe: environments' own errors come as slips
            raise EnvError(self._obituary()) from error

    def _obituary(self) -> str:
        for slot, process in zip(self.slots, self._pool.processes, strict=True):
            process.join(0.5)
            if process.exitcode is not None:
                code = process.exitcode
                how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
                more = ", as systems do that run out of memory: fewer environments take less" if code == -9 else ""
                return f"the process of {self._where(slot)} {how}{more}"
        return f"a process of {self._name} does not answer any more"


def play_episodes(pool: Pool, act: Callable[[Slot], Policy], jobs: Iterable[tuple[int, int]]
                  ) -> Iterator[tuple[int, dict[str, Any]]]:
    """Episodes, each when it is over.

    Args:
        pool: Who plays.
        act: Gives the policy of a slot.
        jobs: Numbers of the episodes and their seeds.
    Yields:
        The number of an episode, and the episode as `worldkit.collecting.play_episode` gives it.
    """
    policies = {slot: act(slot) for slot in pool.slots}
    todo, free = iter(jobs), list(pool.slots)
    while True:
        for slot in free:
            slot.number, slot.seed = next(todo, (IDLE, 0))
        begun = [slot for slot in free if slot.number != IDLE]
        if begun:
            pool.begin(begun)
        for slot in begun:
            begin(policies[slot], slot.seed)
        playing = [slot for slot in pool.slots if slot.number != IDLE]
        if not playing:
            return
        for slot in playing:
            slot.action = policies[slot](slot.observation, slot.slip.info)
        free = pool.step()
        for slot in free:
            yield slot.number, slot.episode.entries()
