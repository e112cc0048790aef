"""The dreams behind imagined environments: where episodes begin, what actions mean, and who is stepped together."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from einops import rearrange
from gymnasium import spaces

from ..batch import Batch
from ..data import collate, open_dataset
from ..data.trained import as_trained
from ..distributions import ClipSampler, Sampler
from ..dreaming import Dream
from ..errors import ConfigError, NoDecoderError, ShapeError
from ..latents import Latent
from .controls import Controls, controls_of

HEADS = ("reward", "terminated")


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

    Args: see `worldkit.envs.imagination.as_env`.

    Attributes:
        controls: How the model is steered.
        observation_space: Of one environment.
        predicts: Heads among `HEADS` that the model has.
    """

    def __init__(self, model: Any, data: Any, *, context_frames: int | None, horizon: int, actions: str,
                 action_space: spaces.Space | None, conditions: Mapping[str, Any] | None, observation: str,
                 deterministic: bool, window: Any, drawn: bool = False):
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
        self.deterministic, self.window, self.drawn = deterministic, window, drawn
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
        self._advance(dream, np.zeros((1, *(told.space.shape or ()))), told)
        if self.controls.latent:
            assert dream.latent_action is not None  # the model has latent actions, or controls_of had refused
            shape, choices = tuple(dream.latent_action.shape[2:]), self.model.latent_action.choices
            space = spaces.Box(-np.inf, np.inf, shape, np.float32) if choices is None else spaces.Discrete(choices)
            self.controls = replace(self.controls, space=space)
        self.predicts = tuple(name for name in HEADS if name in dream.predictions)
        seen, pixels = self._observe(z, dream.before)[0], self.kind == "pixels"
        self.observation_space = (spaces.Box(0, 255, seen.shape, np.uint8) if pixels else
                                  spaces.Box(-np.inf, np.inf, seen.shape, np.float32))

    def begin(self, rows: Sequence[int], indices: Sequence[int], generators: Sequence[torch.Generator]) -> np.ndarray:
        """Begin episodes in these rows, at these beginnings; what is seen there, ``[len(rows), ...]``."""
        gone = set(rows)
        for cohort in self._cohorts:
            cohort.rows = np.array([-1 if row in gone else row for row in cohort.rows])
        dream, z = self._dream(indices, generators)
        self._cohorts = [c for c in self._cohorts if (c.rows >= 0).any()] + [_Cohort(np.array(rows), dream)]
        return self._observe(z, dream.before)

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
            seen = (z, cohort.dream.before)
            if len(alive) < len(cohort.rows):
                kept = torch.tensor(alive, device=self.device)
                seen = tuple(None if x is None else x[kept] for x in seen)
            parts.append(seen)
            where += mine
            for name in self.predicts:
                made[name][mine] = cohort.dream.predictions[name][alive, 0].float().cpu().numpy()
        order = np.argsort(where)
        if len(parts) == 1 or parts[0][1] is not None:  # histories differ in length
            seen = np.concatenate([self._observe(*part) for part in parts])
        else:
            seen = self._observe(type(parts[0][0]).cat([z for z, _ in parts], 0))
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
            dream = Dream(self.model, replace(start, conditions={}).to(self.device), conditions=told, sampler=sampler,
                          window=self.window, drawn=self.drawn)
        return dream, dream.latent

    @torch.no_grad()
    def _advance(self, dream: Dream, actions: np.ndarray, controls: Controls) -> Latent:
        conditions, latent_action = controls.tell(actions, self.device)
        return dream.step(conditions, latent_action=latent_action)

    @torch.no_grad()
    def _observe(self, z: Latent, before: Latent | None = None) -> np.ndarray:
        """What is seen of latents ``[B, 1]``."""
        if self.kind == "latent":
            return z.pack()[:, 0].float().cpu().numpy().copy()
        return self.draw(z, before)

    @torch.no_grad()
    def draw(self, z: Latent, before: Latent | None = None) -> np.ndarray:
        """Pictures of latents ``[B, 1]``, after those ``before``: uint8 ``[B, H, W, C]`` (``[B, V, H, W, C]``)."""
        with self.model._evaluating():
            video = self.model.decode(z, before=before).video[..., 0, :, :, :]
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
                           for name, x in self._clips.conditions.items()},
                          vectors={name: x[picked] for name, x in self._clips.vectors.items()})
        else:
            batch = collate([self._clips[int(i)] for i in indices])
        if batch.video.shape[-4] < self._frames:
            raise ConfigError(f"episodes begin with {self._frames} frames, but the data give {batch.video.shape[-4]}: "
                              f"as_env(..., context_frames={batch.video.shape[-4]}), or longer clips")
        if missing := [name for name in self._needed if name not in batch.conditions]:
            raise ConfigError(f"the data have no {', '.join(map(repr, missing))} for the transitions between the first "
                              f"{self._frames} frames: give data that have, or as_env(..., context_frames=1)")
        kept = {name: batch.conditions[name] for name in self._needed}
        return replace(batch.context(self._frames), first=None, conditions=kept)


def _starts(model: Any, data: Any, frames: int) -> _Starts:
    """Where episodes begin, whatever way it is given."""
    obs, columns = model.config.obs, model.config.columns
    moving = [name for name, c in model.conditioners.items() if c.per_frame] if frames > 1 else []
    if torch.is_tensor(data):
        data = Batch(data)
    elif isinstance(data, (str, bytes)) or hasattr(data, "__fspath__"):
        data = open_dataset(data, split="train", num_frames=frames, height=obs.height, width=obs.width,
                            conditions={name: columns[name] for name in moving}, vectors=model.config.vectors,
                            **as_trained(model.operator, os.fsdecode(data), {}))
    elif hasattr(data, "feeding"):
        data = data.feeding({name: columns[name] for name in moving}, vectors=model.config.vectors)
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
