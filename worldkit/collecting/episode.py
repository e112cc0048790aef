"""One episode of an environment as entries of a data set."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces

from ..envs.observe import masks_of
from ..errors import ConfigError
from .policies import Policy, begin, name_of

_OURS = ("reward", "terminated", "truncated", "segmentation")


def check_env(env: Any) -> None:
    """Whether its episodes can be stored: pixels or named numbers, and actions that are a number or a vector.

    Raises:
        ConfigError: saying what it has instead.
    """
    if isinstance(env, str):
        raise ConfigError(f"an environment is wanted, not the name of one: worldkit.make_env({env!r})")
    space = env.observation_space
    parts = dict(space.spaces) if isinstance(space, spaces.Dict) else {"pixels": space}
    pixels = parts.pop("pixels", None)
    picture = isinstance(pixels, spaces.Box) and pixels.dtype == np.uint8 and len(pixels.shape) == 3
    if not picture and (pixels is not None or not parts):
        raise ConfigError(f"{name_of(env)} gives no pixels, which a data set consists of, nor numbers under names: "
                          "make it with worldkit.make_env(..., observation='dict') or 'keys' (size=0: numbers alone)")
    if taken := sorted({"state": "observation"}.get(name, name) for name in parts
                       if {"state": "observation"}.get(name, name) in _OURS):
        raise ConfigError(f"{name_of(env)} observes '{taken[0]}', under which name data sets keep something else: make "
                          "it with worldkit.make_env(..., observation='dict'), where all numbers are in one vector")
    known = (spaces.Discrete, spaces.Box, spaces.MultiDiscrete, spaces.MultiBinary)
    if not isinstance(env.action_space, known):
        raise ConfigError(f"{name_of(env)} takes actions {env.action_space}: only numbers and vectors can be stored")


_NOTHING = np.zeros((0, 0, 3), np.uint8)
"""The picture of an environment that shows none."""


class Recording:
    """What was seen and done in an episode, from its first observation on."""

    def __init__(self, observation: Any, masks: np.ndarray | None):
        self._frames: list[np.ndarray] = []
        self._states: dict[str, list[np.ndarray]] = {}
        self._masks: list[np.ndarray] = []
        self._actions: list[np.ndarray] = []
        self._rewards: list[float] = []
        self._ends: list[tuple[bool, bool]] = []
        self._look(observation, masks)

    def __len__(self) -> int:
        """Steps so far."""
        return len(self._actions)

    def _look(self, observation: Any, masks: np.ndarray | None) -> None:
        parts = dict(observation) if isinstance(observation, dict) else {"pixels": observation}
        self._frames.append(parts.pop("pixels", _NOTHING))
        for name, value in parts.items():
            name, value = ("observation", np.ravel(value)) if name == "state" else (name, value)
            self._states.setdefault(name, []).append(_plain(value))
        if masks is not None:
            self._masks.append(masks)

    def step(self, action: Any, reward: float, ends: tuple[bool, bool], observation: Any, masks: Any) -> None:
        """A step: what was done, what it gave, whether it terminated and whether it was truncated, what is seen."""
        self._actions.append(_plain(action))
        self._rewards.append(reward)
        self._ends.append(ends)
        self._look(observation, masks)

    @property
    def last_reward(self) -> float:
        """Of the newest step."""
        return self._rewards[-1]

    @property
    def total(self) -> float:
        """Sum of the rewards so far."""
        return float(np.sum(self._rewards))

    @property
    def actions(self) -> np.ndarray:
        """What was done, ``[T, A]`` or ``[T]``."""
        return np.stack(self._actions)

    @property
    def newest(self) -> np.ndarray:
        """The frame that is seen now, ``[H, W, C]``."""
        return self._frames[-1]

    def entries(self, start: int = 0) -> dict[str, Any]:
        """The episode, as `play_episode` gives it, from frame ``start`` on; one that did not end was cut off."""
        ends = self._ends if any(self._ends[-1]) else [*self._ends[:-1], (False, True)]
        terminated, truncated = np.array([*ends[start:], ends[-1]], bool).T
        state = {"reward": np.array([*self._rewards[start:], 0], np.float32), "terminated": terminated,
                 "truncated": truncated}
        state |= {name: np.stack(values[start:]) for name, values in self._states.items()}
        if self._masks:
            state["segmentation"] = np.stack(self._masks[start:])
        video = np.ascontiguousarray(np.stack(self._frames[start:]).transpose(0, 3, 1, 2))
        actions = np.stack([*self._actions[start:], np.zeros_like(self._actions[0])])
        return {"video": video, "action": actions, "state": state}


def play_episode(env: Any, policy: Policy, *, seed: int | None = None, max_steps: int | None = None) -> dict[str, Any]:
    """An episode, whole or up to a number of steps.

    Index t of actions, rewards and flags concerns the transition from frame t to frame t + 1, so the last entry leads
    nowhere: its action and its reward are 0, its flags those of the end.

    Args:
        env: An environment of `worldkit.envs.make_env`.
        policy: Who acts. If it has a method ``begin(seed)``, that is called before the first action.
        seed: Of the environment and of its action space.
        max_steps: After which the episode is cut off, which is a truncation.
    Returns:
        ``"video"`` uint8 ``[T, 3, H, W]``; ``"action"`` float32 ``[T, A]``, or int64 ``[T]`` for discrete ones;
        ``"state"``: ``"reward"`` float32 ``[T]``, ``"terminated"`` and ``"truncated"`` bool ``[T]``, and
        ``"observation"`` float32 ``[T, S]`` (of environments made with ``observation="keys"`` every key, classes as
        int64 ``[T]``) and ``"segmentation"`` uint8 ``[T, H, W]`` (masks: which thing a pixel shows) where the
        environment has them. Of environments without pixels the video is empty, ``[T, 3, 0, 0]``.
    Example:
        >>> from worldkit.envs import make_env
        >>> from worldkit.collecting import make_policy, play_episode
        >>> env = make_env("games/catch", size=16)
        >>> episode = play_episode(env, make_policy("scripted", env), seed=0)
        >>> episode["video"].shape, float(episode["state"]["reward"].sum())
        ((151, 3, 16, 16), 10.0)
    """
    env.action_space.seed(seed)
    observation, info = env.reset(seed=seed)
    begin(policy, seed)
    episode, ended = Recording(observation, masks_of(env, observation)), False
    while not ended and (max_steps is None or len(episode) < max_steps):
        action = policy(observation, info)
        observation, reward, terminated, truncated, info = env.step(action)
        episode.step(action, reward, (terminated, truncated), observation, masks_of(env, observation))
        ended = terminated or truncated
    return episode.entries()


def _plain(value: Any) -> np.ndarray:
    """int64 for a number of a discrete space, else a float32 vector."""
    array = np.asarray(value)
    return array.astype(np.int64) if array.ndim == 0 and array.dtype.kind in "iu" else array.ravel().astype(np.float32)
