"""A trained world model as an environment: `as_env` gives a `gymnasium.Env`, or a `VectorEnv` for many in one batch.

An episode begins with frames of data and goes on in the model's imagination, with its caches kept
(`worldkit.dreaming`), until it is ``horizon`` steps long or the model's head says that it is over. Environment ``i`` of
a batch that was seeded with ``s`` dreams what a single one seeded with ``s + i`` does, up to rounding.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.error import ResetNeeded
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from ..dreaming import Dream
from ..errors import ConfigError
from .dreams import HEADS, Imagination

_LONGEST = 2**62  # seeds


def as_env(
    model: Any,
    data: Any,
    *,
    num_envs: int | None = None,
    context_frames: int | None = None,
    horizon: int = 50,
    actions: str = "auto",
    action_space: spaces.Space | None = None,
    conditions: Mapping[str, Any] | None = None,
    observation: str = "pixels",
    deterministic: bool = False,
    window: str = "exact",
    drawn: bool = False,
    autoreset_mode: AutoresetMode = AutoresetMode.NEXT_STEP,
) -> ImaginedEnv | ImaginedVectorEnv:
    """A world model as an environment.

    Args:
        model: A model with a dynamics.
        data: Where episodes begin: what `worldkit.data.open_dataset` opens (its name or path, split "train"), a data
            set of clips, a `Batch`, or video ``[N, T, C, H, W]``.
        num_envs: None: a `gymnasium.Env`. A number: so many in one batch, a `gymnasium.vector.VectorEnv`.
        context_frames: Frames of data that the model sees first; default: half its window.
        horizon: Steps until an episode is truncated.
        actions: ``"auto"``: the model's action condition if it has one, else its latent actions. ``"latent"``; the
            name of an action condition; ``"none"``: one action that says nothing, latent actions are drawn.
        action_space: Of the environment that the data come from. Default: from -1 to 1, or the model's choices.
        conditions: Further conditions (language, goals): condition -> value of one clip, with its batch axis.
        observation: ``"pixels"``: uint8 ``[H, W, C]`` (``[V, H, W, C]``). ``"latent"``: all tokens, ``[N, D]``, as
            `worldkit.Latent.pack` gives them; no decoder is needed.
        deterministic: Follow means: of the policy where latent actions are not given, of latents in models without any.
        window: As for `worldkit.WorldModel.rollout`.
        drawn: Rewards and ends are drawn from what the heads say, as IRIS and DIAMOND do; otherwise rewards are what is
            expected, and an end is what is likelier than not.
        autoreset_mode: Of a batch; as in Gymnasium.
    Returns:
        The environment. Rewards and ends are those of the model's heads "reward" and "terminated"; without them,
        rewards are 0 and nothing ends (a warning says so).
    Raises:
        WorldkitError: the model has no dynamics.
        NoDecoderError: it has no decoder, and pixels are asked for.
        ConfigError: an option out of range, or actions that the model does not have.
    Example:
        >>> import worldkit as wk
        >>> warnings.simplefilter("ignore")
        >>> env = wk.create_model("lpwm-push-mini", pretrained=True).as_env("push-32", horizon=20)
        >>> observation, info = env.reset(seed=0)
        >>> observation, reward, terminated, truncated, info = env.step(env.action_space.sample())
        >>> observation.shape, reward, env.action_space
        ((32, 32, 3), 0.0, Box(-1.0, 1.0, (2,), float32))
    """
    imagination = Imagination(model, data, context_frames=context_frames, horizon=horizon, actions=actions,
                              action_space=action_space, conditions=conditions, observation=observation,
                              deterministic=deterministic, window=window, drawn=drawn)
    if missing := [name for name in HEADS if name not in imagination.predicts]:
        say = {"reward": "rewards are 0", "terminated": "no episode ends before its horizon"}
        warnings.warn(f"this model has no head {' and no head '.join(map(repr, missing))}: "
                      f"{' and '.join(say[name] for name in missing)}", stacklevel=3)
    if num_envs is None:
        return ImaginedEnv(imagination)
    if not isinstance(num_envs, int) or num_envs < 1:
        raise ConfigError(f"num_envs must be a whole number of at least 1, or None for a single one, got {num_envs!r}")
    return ImaginedVectorEnv(imagination, num_envs, AutoresetMode(autoreset_mode))


def _new_episode(random: np.random.Generator, imagination: Imagination, options: Mapping[str, Any] | None
                 ) -> tuple[int, torch.Generator]:
    """Which beginning, and the dream's randomness; all of it from the environment's generator."""
    index = int(random.integers(len(imagination)))
    generator = torch.Generator(imagination.device).manual_seed(int(random.integers(_LONGEST)))
    asked = (options or {}).get("index")
    if asked is not None:
        if not 0 <= int(asked) < len(imagination):
            raise ConfigError(f"options index={asked}: there are {len(imagination)} beginnings, 0 to "
                              f"{len(imagination) - 1}")
        index = int(asked)
    return index, generator


class ImaginedEnv(gymnasium.Env):
    """One dream at a time; see `as_env`. ``reset(options={"index": i})`` begins with clip ``i`` of the data."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}

    def __init__(self, imagination: Imagination):
        self.imagination, self.render_mode = imagination, "rgb_array"
        self.observation_space, self.action_space = imagination.observation_space, imagination.controls.space
        self._steps: int | None = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode with frames of the data."""
        super().reset(seed=seed)
        index, generator = _new_episode(self.np_random, self.imagination, options)
        self._steps = 0
        return self.imagination.begin([0], [index], [generator])[0], {"index": index}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """What the model predicts after an action."""
        if self._steps is None:
            raise ResetNeeded("no episode has begun: env.reset() first")
        made = self.imagination.step(np.array([0]), np.asarray(action)[None])
        self._steps += 1
        return (made.observation[0], float(made.reward[0]), bool(made.terminated[0]),
                self._steps >= self.imagination.horizon, {})

    def render(self) -> np.ndarray:
        """The newest picture, uint8 ``[H, W, C]``; of several views, the first."""
        if self._steps is None:
            raise ResetNeeded("no episode has begun: env.reset() first")
        picture = self.imagination.draw(self.dream.latent)[0]
        return picture[0] if picture.ndim == 4 else picture

    @property
    def dream(self) -> Dream:
        """What is stepped."""
        return self.imagination.cohorts[0].dream


class ImaginedVectorEnv(VectorEnv):
    """Many dreams in one batch; see `as_env`. Those that began together are stepped together.

    ``reset(options={"reset_mask": mask})`` begins anew where the mask is True, ``{"index": i}`` with clip ``i``.
    """

    def __init__(self, imagination: Imagination, num_envs: int, autoreset_mode: AutoresetMode):
        self.imagination, self.num_envs, self.render_mode = imagination, num_envs, "rgb_array"
        self.metadata = {**ImaginedEnv.metadata, "autoreset_mode": autoreset_mode}
        self.single_observation_space = imagination.observation_space
        self.single_action_space = imagination.controls.space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._mode = autoreset_mode
        self._randoms: list[Any] = []  # generators; None: not seeded yet
        self._steps = np.full(num_envs, -1)  # -1: no episode
        self._over = np.zeros(num_envs, bool)
        self._seen: Any = np.zeros(self.observation_space.shape or (), self.observation_space.dtype)

    def reset(self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
              ) -> tuple[Any, dict[str, Any]]:
        """Begin episodes; with a seed ``s`` environment ``i`` is seeded with ``s + i``."""
        options = dict(options or {})
        mask = np.asarray(options.pop("reset_mask", np.ones(self.num_envs, bool)))
        if mask.shape != (self.num_envs,) or mask.dtype != bool or not mask.any():
            raise ConfigError(f"reset_mask must be {self.num_envs} bools, one of them True, got {mask!r}")
        seeds: list[Any] = ([None] * self.num_envs if seed is None else
                            [seed + i for i in range(self.num_envs)] if isinstance(seed, int) else list(seed))
        if len(seeds) != self.num_envs:
            raise ConfigError(f"seed must be one number or {self.num_envs}, got {len(seeds)}")
        self._randoms = self._randoms or [None] * self.num_envs
        for row in np.flatnonzero(mask):
            if seeds[row] is not None or self._randoms[row] is None:
                self._randoms[row], _ = seeding.np_random(seeds[row])
        return self._begin(mask, options)

    def _begin(self, mask: np.ndarray, options: Mapping[str, Any]) -> tuple[np.ndarray, dict[str, Any]]:
        rows = np.flatnonzero(mask)
        begun = [_new_episode(self._randoms[row], self.imagination, options) for row in rows]
        self._seen = self._seen.copy()
        self._seen[rows] = self.imagination.begin(rows.tolist(), [i for i, _ in begun], [g for _, g in begun])
        self._steps[rows], self._over[rows] = 0, False
        index = np.zeros(self.num_envs, np.int64)
        index[rows] = [i for i, _ in begun]
        return self._seen.copy(), {"index": index, "_index": mask.copy()}

    def step(self, actions: Any) -> tuple[Any, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """One step of all; what happens to those that are over is the autoreset mode's."""
        if (self._steps < 0).any():
            raise ResetNeeded("no episode has begun: env.reset() first")
        actions, infos, wanted = np.asarray(actions), dict[str, Any](), self.action_space.shape or ()
        if actions.shape != wanted:
            raise ConfigError(f"actions must be {list(wanted)}, got {list(actions.shape)}")
        again = self._over.copy()
        if again.any() and self._mode is AutoresetMode.DISABLED:
            raise ResetNeeded(f"episodes {np.flatnonzero(again).tolist()} are over: reset(options={{'reset_mask': "
                              "mask}) begins others, or make the environment with another autoreset_mode")
        reward, terminated, live = np.zeros(self.num_envs), np.zeros(self.num_envs, bool), np.flatnonzero(~again)
        if again.any():
            _, infos = self._begin(again, {})
        self._seen = self._seen.copy()
        if len(live):
            made = self.imagination.step(live, actions[live])
            self._seen[live], reward[live], terminated[live] = made.observation, made.reward, made.terminated
            self._steps[live] += 1
        truncated = self._steps >= self.imagination.horizon
        self._over = terminated | truncated
        if self._mode is AutoresetMode.SAME_STEP and self._over.any():
            infos = self._final(infos)
        return self._seen.copy(), reward, terminated, truncated, infos

    def _final(self, infos: dict[str, Any]) -> dict[str, Any]:
        """Begin anew where it is over, and tell the last observations."""
        over, last = self._over.copy(), np.full(self.num_envs, None, dtype=object)
        for row in np.flatnonzero(over):
            last[row] = self._seen[row].copy()
        _, begun = self._begin(over, {})
        return {**infos, **begun, "final_obs": last, "_final_obs": over, "final_info": {}, "_final_info": over.copy()}

    def render(self) -> tuple[np.ndarray, ...]:
        """The newest pictures, one for each."""
        pictures: list[Any] = [None] * self.num_envs
        for cohort in self.imagination.cohorts:
            for row, picture in zip(cohort.rows, self.imagination.draw(cohort.dream.latent), strict=True):
                if row >= 0:
                    pictures[row] = picture[0] if picture.ndim == 4 else picture
        return tuple(pictures)
