"""An environment in a process of its own, for ``gymnasium.vector.AsyncVectorEnv``.

Gymnasium's vector environments lose tracebacks, cannot be used after an error, and begin episodes by themselves, with a
step between that belongs to none. `Worker` is made for ``autoreset_mode="Disabled"``: what goes wrong travels to the
caller like an observation, and an episode that is over stands still until it is begun anew, with a seed of its own.
"""

from __future__ import annotations

import multiprocessing
import pickle
import signal
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import gymnasium

from ..errors import EnvError
from .observe import masks_of

SLIP = "slip"
"""Under this name ``info`` holds a `Slip`; Gymnasium hands objects that it does not know through as they are."""


@dataclass(frozen=True)
class Failure:
    """An exception that was raised in a worker.

    Attributes:
        error: The exception, or None if it cannot be sent to another process.
        text: Its kind and message.
        trace: Its traceback as text.
    """

    error: BaseException | None
    text: str
    trace: str

    @classmethod
    def of(cls, error: BaseException) -> Failure:
        """What there is to tell about an exception that was just caught."""
        try:
            sent = pickle.loads(pickle.dumps(error))
            whole = sent if type(sent) is type(error) and str(sent) == str(error) else None
        except Exception:  # who knows what an exception of a package does when it is pickled
            whole = None
        return cls(whole, f"{type(error).__name__}: {error}", traceback.format_exc())

    def exception(self, where: str) -> BaseException:
        """The exception to raise: of the kind that it was, where possible, with its traceback as a note."""
        error = self.error or EnvError(f"{where}: {self.text}")
        error.add_note(f"raised in {where}; there:\n{self.trace}")
        return error


@dataclass(frozen=True)
class Slip:
    """What comes with an observation: ``info`` as the environment gave it, and what only the worker can tell."""

    info: dict[str, Any]
    masks: Any = None
    scripted: Any = None
    goal: Any = None
    failure: Failure | None = None


class Worker(gymnasium.Env):
    """An environment that is made at its first ``reset``, so in the process that plays it.

    Args:
        make: Makes the environment, one of `worldkit.envs.make_env`.
        observation_space: Of the environment.
        action_space: Of the environment.
        max_steps: Cut episodes off after so many steps.
        scripted: Tell what the environment's ``scripted_action()`` would do.
    """

    metadata = {"render_modes": []}

    def __init__(self, make: Callable[[], gymnasium.Env], observation_space: Any, action_space: Any, *,
                 max_steps: int | None = None, scripted: bool = False):
        self.observation_space, self.action_space = observation_space, action_space
        self._make, self._max_steps, self._scripted = make, max_steps, scripted
        self._env: gymnasium.Env | None = None
        self._steps, self._over, self._seen = 0, True, None
        if multiprocessing.parent_process() is not None:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to all; the caller ends its workers

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode."""
        try:
            if self._env is None:
                self._env = self._make()
            self._seen, info = self._env.reset(seed=seed)
            self._steps, self._over = 0, False
            goal = None
            if self._env.has_wrapper_attr("draw_goal"):
                pixels = self._seen["pixels"] if isinstance(self._seen, dict) else self._seen
                goal = self._env.get_wrapper_attr("draw_goal")(*pixels.shape[:2])
            return self._seen, {SLIP: replace(self._slip(info), goal=goal)}
        except Exception as error:
            return self._failed(error)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """One step; nothing where the episode is over."""
        if self._over:
            return self._seen, 0.0, False, False, {}
        try:
            self._seen, reward, terminated, truncated, info = self._env.step(action)
            self._steps += 1
            truncated = truncated or (self._steps == self._max_steps and not terminated)
            self._over = terminated or truncated
            return self._seen, reward, terminated, truncated, {SLIP: self._slip(info)}
        except Exception as error:
            seen, info = self._failed(error)
            return seen, 0.0, False, False, info

    def _slip(self, info: dict[str, Any]) -> Slip:
        masks = masks_of(self._env, self._seen)
        act = self._scripted and not self._over
        return Slip(info, masks, self._env.get_wrapper_attr("scripted_action")() if act else None)

    def _failed(self, error: Exception) -> tuple[Any, dict[str, Any]]:
        self._over, self._seen = True, self.observation_space.sample()
        return self._seen, {SLIP: Slip({}, failure=Failure.of(error))}

    def close(self) -> None:
        """Close the environment."""
        if self._env is not None:
            self._env.close()
