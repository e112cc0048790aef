"""A trained world model as an environment: `as_env` gives a `gymnasium.Env`, or a `VectorEnv` for many in one batch.

An episode begins with frames of data and goes on in the model's imagination, with its caches kept
(`worldkit.dreaming`), until it is ``horizon`` steps long or the model's head says that it is over. Environment ``i`` of
a batch that was seeded with ``s`` dreams what a single one seeded with ``s + i`` does, up to rounding.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import gymnasium
import numpy as np
import torch
from einops import rearrange
from gymnasium import spaces
from gymnasium.error import ResetNeeded
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from ..batch import Batch
from ..data import collate, open_dataset
from ..distributions import ClipSampler, Sampler
from ..dreaming import Dream
from ..errors import ConfigError, NoDecoderError, ShapeError
from ..latents import Latent
from .controls import Controls, controls_of

HEADS = ("reward", "terminated")
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
                              deterministic=deterministic, window=window)
    if missing := [name for name in HEADS if name not in imagination.predicts]:
        say = {"reward": "rewards are 0", "terminated": "no episode ends before its horizon"}
        warnings.warn(f"this model has no head {' and no head '.join(map(repr, missing))}: "
                      f"{' and '.join(say[name] for name in missing)}", stacklevel=3)
    if num_envs is None:
        return ImaginedEnv(imagination)
    if not isinstance(num_envs, int) or num_envs < 1:
        raise ConfigError(f"num_envs must be a whole number of at least 1, or None for a single one, got {num_envs!r}")
    return ImaginedVectorEnv(imagination, num_envs, AutoresetMode(autoreset_mode))


class _PerEnv(ClipSampler):
    """Every environment of a batch draws from its own generator, whoever else is in it."""

    def __init__(self, generators: Sequence[torch.Generator], deterministic: bool):
        super().__init__(0, 0, ())
        self.generators, self.deterministic = list(generators), deterministic


@dataclass
class _Cohort:
    """Environments that began together, so that one dream steps them all."""

    rows: np.ndarray
    dream: Dream


@dataclass(frozen=True)
class Step:
    """What a step gave, for all environments: observations ``[n, ...]``, rewards and ends ``[n]``."""

    observation: np.ndarray
    reward: np.ndarray
    terminated: np.ndarray


class Imagination:
    """What both kinds of environments share: where episodes begin, what actions mean, and the dreams themselves.

    Args: see `as_env`.

    Attributes:
        controls: How the model is steered.
        observation_space: Of one environment.
        predicts: Heads among `HEADS` that the model has.
    """

    def __init__(self, model: Any, data: Any, *, context_frames: int | None, horizon: int, actions: str,
                 action_space: spaces.Space | None, conditions: Mapping[str, Any] | None, observation: str,
                 deterministic: bool, window: str):
        model.require_dynamics()
        for name, value in (("horizon", horizon), ("context_frames", context_frames)):
            if value is not None and (not isinstance(value, int) or value < 1):
                raise ConfigError(f"{name} must be a whole number of at least 1, got {value!r}")
        if observation not in ("pixels", "latent"):
            raise ConfigError(f"observation must be 'pixels' or 'latent', got {observation!r}")
        if observation == "pixels" and model.decoder is None:
            raise NoDecoderError("this model has no decoder, so its dreams have no pixels: as_env(..., "
                                 "observation='latent') gives what it predicts")
        self.model, self.horizon, self.kind = model, horizon, observation
        self.deterministic, self.window = deterministic, window
        self.context_frames = context_frames or max(1, model.config.timestep_horizon // 2)
        self.controls = controls_of(model, actions, action_space)
        self._standing = dict(conditions or {})
        self._starts = _starts(model, data, self.context_frames)
        self._cohorts: list[_Cohort] = []
        self._look()

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    def __len__(self) -> int:
        """How many beginnings there are."""
        return len(self._starts)

    @property
    def cohorts(self) -> Sequence[_Cohort]:
        """The dreams, and whose they are."""
        return self._cohorts

    def _look(self) -> None:
        """One step, to see what there is to observe and, of latent actions, how large they are."""
        dream, z = self._dream([0], [torch.Generator(self.device).manual_seed(0)])
        self.spec = z.spec
        told = self.controls if not self.controls.latent else Controls(spaces.Discrete(1))
        self._advance(dream, np.zeros((1, *told.space.shape)), told)
        if self.controls.latent:
            shape = tuple(dream.latent_action.shape[2:])
            self.controls = replace(self.controls, space=spaces.Box(-np.inf, np.inf, shape, np.float32))
        self.predicts = tuple(name for name in HEADS if name in dream.predictions)
        seen, pixels = self._observe(z)[0], self.kind == "pixels"
        self.observation_space = (spaces.Box(0, 255, seen.shape, np.uint8) if pixels else
                                  spaces.Box(-np.inf, np.inf, seen.shape, np.float32))

    def begin(self, rows: Sequence[int], indices: Sequence[int], generators: Sequence[torch.Generator]) -> np.ndarray:
        """Begin episodes in these rows, at these beginnings; what is seen there, ``[len(rows), ...]``."""
        gone = set(rows)
        for cohort in self._cohorts:
            cohort.rows = np.array([-1 if row in gone else row for row in cohort.rows])
        dream, z = self._dream(indices, generators)
        self._cohorts = [c for c in self._cohorts if (c.rows >= 0).any()] + [_Cohort(np.array(rows), dream)]
        return self._observe(z)

    def step(self, rows: np.ndarray, actions: np.ndarray) -> Step:
        """One step of the episodes in these rows (sorted), each with its action, ``[len(rows), ...]``."""
        place = {row: i for i, row in enumerate(rows)}
        parts, where, made = [], [], {name: np.zeros(len(rows)) for name in HEADS}
        for cohort in self._cohorts:
            alive = [i for i, row in enumerate(cohort.rows) if row in place]
            if not alive:
                continue
            mine = [place[row] for row in cohort.rows if row in place]
            told = np.zeros((len(cohort.rows), *actions.shape[1:]), actions.dtype)
            told[alive] = actions[mine]  # who has left the cohort is dreamed on, and nobody looks
            z = self._advance(cohort.dream, told, self.controls)
            parts.append(z if len(alive) == len(cohort.rows) else z[torch.tensor(alive, device=self.device)])
            where += mine
            for name in self.predicts:
                made[name][mine] = cohort.dream.predictions[name][alive, 0].float().cpu().numpy()
        order = np.argsort(where)
        seen = self._observe(parts[0] if len(parts) == 1 else type(parts[0]).cat(parts, 0))
        seen = seen if len(parts) == 1 and (np.diff(order) == 1).all() else seen[order]
        return Step(seen, made["reward"].astype(np.float64), made["terminated"] > 0.5)

    def _dream(self, indices: Sequence[int], generators: Sequence[torch.Generator]) -> tuple[Dream, Latent]:
        """A dream that begins at these beginnings, and the newest latent there, ``[B, 1]``."""
        start = self._starts[list(indices)]
        one = len(generators) == 1
        sampler: Sampler = (Sampler(deterministic=self.deterministic, generator=generators[0]) if one else
                            _PerEnv(generators, self.deterministic))
        told = {name: x.to(self.device) if torch.is_tensor(x) else x for name, x in start.conditions.items()}
        told |= {name: _spread(name, x, len(indices), self.device) for name, x in self._standing.items()}
        with torch.no_grad():
            dream = Dream(self.model, start.video.to(self.device), conditions=told, sampler=sampler,
                          window=self.window)
        return dream, dream.latent

    @torch.no_grad()
    def _advance(self, dream: Dream, actions: np.ndarray, controls: Controls) -> Latent:
        conditions, latent_action = controls.tell(actions, self.device)
        return dream.step(conditions, latent_action=latent_action)

    @torch.no_grad()
    def _observe(self, z: Latent) -> np.ndarray:
        """What is seen of latents ``[B, 1]``."""
        if self.kind == "latent":
            return z.pack()[:, 0].float().cpu().numpy().copy()
        return self.draw(z)

    @torch.no_grad()
    def draw(self, z: Latent) -> np.ndarray:
        """Pictures of latents ``[B, 1]``: uint8 ``[B, H, W, C]`` (``[B, V, H, W, C]``)."""
        with self.model._evaluating():
            video = self.model.decode(z).video[..., 0, :, :, :]
        pictures = (video.clamp(0, 1) * 255).round().to(torch.uint8)
        return np.ascontiguousarray(rearrange(pictures, "... c h w -> ... h w c").cpu().numpy())


class _Starts:
    """Beginnings of episodes: clips of a data set, or a `Batch` of them; indexed by lists."""

    def __init__(self, clips: Any, frames: int, needed: Sequence[str]):
        self._clips, self._frames, self._needed = clips, frames, needed
        self[[0]]  # what is wrong is said now, not when an episode begins

    def __len__(self) -> int:
        return self._clips.batch_size if isinstance(self._clips, Batch) else len(self._clips)

    def __getitem__(self, indices: Sequence[int]) -> Batch:
        if isinstance(self._clips, Batch):
            picked = torch.tensor(indices)
            batch = Batch(self._clips.video[picked],
                          {name: x[picked] if torch.is_tensor(x) else [x[i] for i in indices]
                           for name, x in self._clips.conditions.items()})
        else:
            batch = collate([self._clips[int(i)] for i in indices])
        if batch.video.shape[-4] < self._frames:
            raise ConfigError(f"episodes begin with {self._frames} frames, but the data give {batch.video.shape[-4]}: "
                              f"as_env(..., context_frames={batch.video.shape[-4]}), or longer clips")
        if missing := [name for name in self._needed if name not in batch.conditions]:
            raise ConfigError(f"the data have no {', '.join(map(repr, missing))} for the transitions between the first "
                              f"{self._frames} frames: give data that have, or as_env(..., context_frames=1)")
        kept = {name: batch.conditions[name] for name in self._needed}
        return Batch(batch.video[..., : self._frames, :, :, :], kept)


def _starts(model: Any, data: Any, frames: int) -> _Starts:
    """Where episodes begin, whatever way it is given."""
    obs, columns = model.config.obs, model.config.columns
    moving = [name for name, c in model.conditioners.items() if c.per_frame] if frames > 1 else []
    if torch.is_tensor(data):
        data = Batch(data)
    elif isinstance(data, (str, bytes)) or hasattr(data, "__fspath__"):
        data = open_dataset(data, split="train", num_frames=frames, height=obs.height, width=obs.width,
                            conditions={name: columns[name] for name in moving})
    elif hasattr(data, "feeding"):
        data = data.feeding({name: columns[name] for name in moving})
    elif not isinstance(data, Batch) and not hasattr(data, "__getitem__"):
        raise ShapeError("episodes begin with frames of data: the name or path of a data set, a data set of clips, a "
                         f"Batch or video [N, T, C, H, W], got {type(data).__name__}")
    return _Starts(data, frames, moving)


def _spread(name: str, value: Any, count: int, device: torch.device) -> Any:
    """A condition of one clip, for ``count`` of them."""
    if len(value) != 1:
        raise ConfigError(f"conditions: '{name}' holds for all episodes, so it is given for one clip, with a first "
                          f"axis of 1; got {len(value)}")
    return value.to(device).expand(count, *value.shape[1:]) if torch.is_tensor(value) else list(value) * count


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
        self._randoms: list[np.random.Generator] = []
        self._steps = np.full(num_envs, -1)  # -1: no episode
        self._over = np.zeros(num_envs, bool)
        self._seen = np.zeros(self.observation_space.shape, self.observation_space.dtype)

    def reset(self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
              ) -> tuple[Any, dict[str, Any]]:
        """Begin episodes; with a seed ``s`` environment ``i`` is seeded with ``s + i``."""
        options = dict(options or {})
        mask = np.asarray(options.pop("reset_mask", np.ones(self.num_envs, bool)))
        if mask.shape != (self.num_envs,) or mask.dtype != bool or not mask.any():
            raise ConfigError(f"reset_mask must be {self.num_envs} bools, one of them True, got {mask!r}")
        seeds = [seed + i for i in range(self.num_envs)] if isinstance(seed, int) else seed
        if seeds is None:
            seeds = [None] * self.num_envs
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
        actions, infos = np.asarray(actions), {}
        if actions.shape != self.action_space.shape:
            raise ConfigError(f"actions must be {list(self.action_space.shape)}, got {list(actions.shape)}")
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
