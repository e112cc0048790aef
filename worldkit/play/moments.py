"""A future as a row of moments: step on, look back, branch off, and change things on the way.

Nothing that was is written over. A moment's dream is never stepped; whoever goes on copies it, so the same moment leads
to the same future as often as one likes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from ..batch import Batch
from ..counterfactual import drawn
from ..distributions import Sampler
from ..dreaming import Dream
from ..errors import WorldkitError
from ..latents import Latent
from ..model import ComposedWorldModel
from ..scene import Scene

KEEP = 1000
"""Moments of a future that can be looked back to, at most."""
KEEP_BYTES = 100_000_000
"""What the dreams of these moments may hold, at most."""


@dataclass(frozen=True)
class Held:
    """Tokens that stay as they are, and how they are (``[1, 1]``)."""

    tokens: tuple[int, ...]
    z: Latent


@dataclass(frozen=True)
class Moment:
    """A frame of a future.

    Attributes:
        t: Steps since the data; 0: the last frame of the data.
        dream: What to go on from; copy it before stepping.
        recent: Latents of the newest frames, ``[1, n]``, as many as the context had.
        told: Conditions of the ``n - 1`` transitions between them.
        held: What is frozen.
    """

    t: int
    dream: Dream = field(repr=False)
    recent: Latent = field(repr=False)
    told: tuple[Mapping[str, Tensor], ...] = field(repr=False)
    held: tuple[Held, ...] = field(default=(), repr=False)

    @torch.no_grad()
    def next(self, conditions: Mapping[str, Tensor], latent_action: Tensor | None, *, means: bool) -> Moment:
        """The moment after a step."""
        dream = self.dream.copy()
        dream.sampler.deterministic = means
        z = dream.step(conditions, latent_action=latent_action)
        if self.held:
            dream.latent = z = hold(z, self.held)
        recent = type(z).cat([self.recent[:, 1:], z]) if self.recent.shape[1] > 1 else z
        told = (*self.told, dict(conditions))[1:] if self.told else ()
        return replace(self, t=self.t + 1, dream=dream, recent=recent, told=told)

    def scene(self) -> Scene:
        """What there is to see and pick."""
        with torch.no_grad():
            shares = None
            if self.recent.spec.find("position") is None and self.recent.spec.grid is None:
                masks = self.dream.model.decode(self.recent, masks=True).masks
                shares = None if masks is None else tuple(masks[0].mean((0, 2, 3, 4)).tolist())
        return Scene(self.dream.model, self.recent, self.recent.shape[1] - 1, shares)

    def moved(self, tokens: Sequence[int], by: Sequence[float]) -> Moment:
        """What if the thing of these tokens lay elsewhere? In all recent frames, so that it keeps its velocity."""
        scene = self.scene()
        return self._edited(scene.z.edit(scene.everywhere(tokens), delta_position=by))._thawed(tokens)

    def without(self, tokens: Sequence[int]) -> Moment:
        """What if the thing of these tokens were not there?"""
        scene, z = self.scene(), self.recent
        for t, found in scene.everywhere(tokens).items():
            z = type(z).cat([z[:, :t], scene.without(z[:, t : t + 1], found), z[:, t + 1 :]])
        return self._edited(z)._thawed(tokens)

    def freezing(self, tokens: Sequence[int]) -> Moment:
        """From here on the thing of these tokens stays as it is."""
        return replace(self, held=(*self.held, Held(tuple(tokens), self.recent[:, -1:])))

    def thawed(self) -> Moment:
        """Nothing is frozen."""
        return replace(self, held=())

    def _thawed(self, tokens: Sequence[int]) -> Moment:
        return replace(self, held=tuple(h for h in self.held if not {*tokens} & {*h.tokens}))

    def resampled(self, generator: torch.Generator) -> Moment:
        """The same moment with other randomness ahead."""
        dream = self.dream.copy()
        dream.sampler.generator = generator
        return replace(self, dream=dream)

    @torch.no_grad()
    def _edited(self, z: Latent) -> Moment:
        """The same moment with other recent frames; particles that keep to places are seen anew (as `what_if`)."""
        model, sampler = self.dream.model, self.dream.copy().sampler
        conditioners: Any = model.conditioners
        told = {name: torch.cat([t[name] for t in self.told], conditioners[name].time_axis)
                for name in (self.told[0] if self.told else ())}
        conditions = {**self.dream.standing, **told}
        if "position" in model.encoder.anchors():
            z = model.encode(drawn(model, z), conditions=conditions)
        seen = None if getattr(model.latent_action, "reads", "latent") == "latent" else drawn(model, z)
        dream = Dream(model, z, conditions=conditions, sampler=sampler, window=self.dream.window, video=seen)
        return replace(self, dream=dream, recent=z)


def hold(z: Latent, held: Sequence[Held]) -> Latent:
    """A frame ``[1, 1]`` with what is frozen as it was."""
    key = z.spec.find("position")
    group = key[0] if key else z.spec.groups[0].name
    values = dict(z.values)
    for name in (f.name for f in z.spec.group(group).fields):
        values[group, name] = values[group, name].clone()
        for part in held:
            values[group, name][:, :, list(part.tokens)] = part.z.values[group, name][:, :, list(part.tokens)]
    return Latent.build(z.spec, values, score=z.score)


def first_moment(model: ComposedWorldModel, seen: Batch, conditions: Mapping[str, Any], sampler: Sampler) -> Moment:
    """The moment at which data end and the dream begins.

    Args:
        model: A model with a dynamics and a decoder.
        seen: Frames of data, and vectors, of one clip (`Batch.context`).
        conditions: Of the clip, see `Dream`.
        sampler: Source of randomness.
    """
    with torch.no_grad():
        z = model.encode(seen, conditions=conditions)
        dream = Dream(model, z, conditions=conditions, sampler=sampler, video=seen.video)
    moving = {name: c.time_axis for name, c in model.conditioners.items() if c.per_frame}
    told = tuple({name: conditions[name].narrow(axis, t, 1) for name, axis in moving.items()}
                 for t in range(z.shape[1] - 1))
    return Moment(0, dream, z, told)


class Future:
    """Moments one after the other, and the one that is looked at; the oldest are forgotten (`KEEP`, `KEEP_BYTES`)."""

    def __init__(self, first: Moment):
        self.moments, self._at = [first], 0

    @property
    def now(self) -> Moment:
        """The moment that is looked at."""
        return self.moments[self._at]

    @property
    def span(self) -> tuple[int, int]:
        """First and last moment that can be looked at, in steps since the data."""
        return self.moments[0].t, self.moments[-1].t

    def push(self, moment: Moment) -> None:
        """What comes after the moment that is looked at; another future that was there is gone."""
        room = max(2, min(KEEP, KEEP_BYTES // max(1, moment.dream.nbytes)))
        self.moments = [*self.moments[: self._at + 1], moment][-room:]
        self._at = len(self.moments) - 1

    def put(self, moment: Moment) -> None:
        """Another moment in the place of the one that is looked at; what came after it is gone."""
        self.moments = [*self.moments[: self._at], moment]

    def look(self, t: int) -> None:
        """Look at the moment nearest to ``t``."""
        first, last = self.span
        self._at = min(max(t, first), last) - first

    @property
    def ahead(self) -> bool:
        """Whether there are moments after the one that is looked at."""
        return self._at + 1 < len(self.moments)

    def branch(self, moment: Moment) -> Future:
        """Another future that goes on with ``moment`` instead of the one that is looked at."""
        if moment.t != self.now.t:
            raise WorldkitError(f"a branch at step {self.now.t} cannot go on at step {moment.t}")
        twin = Future(moment)
        twin.moments = [*self.moments[: self._at], moment]
        twin._at = self._at
        return twin
