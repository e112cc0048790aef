"""One episode of an environment as entries of a data set."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces

from ..errors import ConfigError
from .policies import Policy, name_of


def check_env(env: Any) -> None:
    """Whether its episodes can be stored: pixels, and actions that are a number or a vector.

    Raises:
        ConfigError: saying what it has instead.
    """
    space = env.observation_space
    pixels = space.spaces.get("pixels") if isinstance(space, spaces.Dict) else space
    if not (isinstance(pixels, spaces.Box) and pixels.dtype == np.uint8 and len(pixels.shape) == 3):
        raise ConfigError(f"{name_of(env)} gives no pixels, which a data set consists of: make it with "
                          "worldkit.make_env(..., observation='dict')")
    known = (spaces.Discrete, spaces.Box, spaces.MultiDiscrete, spaces.MultiBinary)
    if not isinstance(env.action_space, known):
        raise ConfigError(f"{name_of(env)} takes actions {env.action_space}: only numbers and vectors can be stored")


def play_episode(env: Any, policy: Policy, *, seed: int | None = None, max_steps: int | None = None) -> dict[str, Any]:
    """An episode, whole or up to a number of steps.

    Index t of actions, rewards and flags concerns the transition from frame t to frame t + 1, so the last entry leads
    nowhere: its action and its reward are 0, its flags those of the end.

    Args:
        env: An environment of `worldkit.envs.make_env`.
        policy: Who acts.
        seed: Of the environment and of its action space.
        max_steps: After which the episode is cut off, which is a truncation.
    Returns:
        ``"video"`` uint8 ``[T, 3, H, W]``; ``"action"`` float32 ``[T, A]``, or int64 ``[T]`` for discrete ones;
        ``"state"``: ``"reward"`` float32 ``[T]``, ``"terminated"`` and ``"truncated"`` bool ``[T]``, and
        ``"observation"`` float32 ``[T, S]`` and ``"masks"`` uint8 ``[T, H, W]`` (which thing a pixel shows) where the
        environment has them.
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
    masks = env.get_wrapper_attr("masks") if env.has_wrapper_attr("masks") else None
    frames, states, segments = [], [], []
    actions: list[np.ndarray] = []
    rewards, ends = [], []

    def look() -> None:
        pixels = observation["pixels"] if isinstance(observation, dict) else observation
        frames.append(pixels)
        if isinstance(observation, dict) and "state" in observation:
            states.append(np.ravel(observation["state"]).astype(np.float32))
        if masks is not None:
            segments.append(masks(*pixels.shape[:2]))

    look()
    ended = False
    while not ended and (max_steps is None or len(actions) < max_steps):
        action = policy(observation, info)
        observation, reward, terminated, truncated, info = env.step(action)
        actions.append(_plain(action))
        rewards.append(reward)
        ends.append((terminated, truncated))
        ended = terminated or truncated
        look()
    if not ended:
        ends[-1] = (False, True)
    terminated, truncated = np.array([*ends, ends[-1]], bool).T
    state = {"reward": np.array([*rewards, 0], np.float32), "terminated": terminated, "truncated": truncated}
    if states:
        state["observation"] = np.stack(states)
    if segments:
        state["masks"] = np.stack(segments)
    video = np.ascontiguousarray(np.stack(frames).transpose(0, 3, 1, 2))
    return {"video": video, "action": np.stack([*actions, np.zeros_like(actions[0])]), "state": state}


def _plain(action: Any) -> np.ndarray:
    """int64 for a number of a discrete space, else a float32 vector."""
    array = np.asarray(action)
    return array.astype(np.int64) if array.ndim == 0 and array.dtype.kind in "iu" else array.ravel().astype(np.float32)
