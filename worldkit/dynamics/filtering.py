"""Dynamics that filter: what a frame is taken for depends on the frames and actions before it.

An encoder alone gives q(z_t | o_t). A recurrent state-space model gives q(s_t | h_t, o_t), where h_t has seen the past:
its dynamics re-describes the latent. Its ``spec`` is that of the STATE (an RSSM: "deterministic" and "stochastic");
groups of tokens, kind, grid and views are the encoder's, fields are replaced or added. The state holds everything, so
a rollout starts from the newest one alone, and `worldkit.dreaming.Loop` is the loop of these models, too.

Decoder, heads, planners, pictures, training and evaluation see states: `ComposedWorldModel.spec`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..conditions import Condition
from ..distributions import Sampler
from ..latents import Latent, LatentDist
from .base import Dynamics, Window
from .features import state_dim, state_tokens

if TYPE_CHECKING:
    from ..encoders.base import Encoding


@dataclass(frozen=True)
class Filtered:
    """What a clip was taken for, ``[B, T]``: index t is about frame t, in the spec of the dynamics.

    Attributes:
        latent: States, drawn from the posterior.
        posterior: What they are believed to be once the frame is seen.
        prior: What they were believed to be before: the dynamics' prediction from state t - 1 (of a frame that begins
            an episode, from the state of which nothing is known).
    """

    latent: Latent
    posterior: LatentDist
    prior: LatentDist


@dataclass
class State:
    """State of a rollout: the newest frame ``[B, 1]`` and nothing else, for it holds all that was."""

    latent: Latent


class FilteringDynamics(Dynamics):
    """A dynamics whose latent is a state: implement `filter`, and `prior` for states.

    ``prior(z, cond)`` is a transition of every state by itself: index t is p(s_{t+1} | s_t, cond_t). With what `filter`
    gave, ``prior(latent[:, :-1], cond.at(slice(1, None)))`` is ``filtered.prior[:, 1:]`` (of frames that begin no
    episode), and ``prior(blank(batch), cond.at(slice(0, 1)))`` is ``filtered.prior[:, :1]``.
    """

    filtering = True
    borders = True

    @abstractmethod
    def filter(
        self, seen: Encoding, cond: Condition, sampler: Sampler, *, first: Tensor, last: Latent | None = None
    ) -> Filtered:
        """See `worldkit.dynamics.base.Dynamics.filter`."""

    def blank(self, batch: int) -> Latent:
        """The state of which nothing is known, ``[batch, 1]``: zeros, what episodes begin from."""
        like = next(self.parameters())
        return Latent.build(self.spec, {
            (group.name, f.name): like.new_zeros(batch, 1, group.size, f.dim)
            for group in self.spec.groups for f in group.fields
        })

    def start(self, z: Latent, cond: Condition, *, window: Window = "exact") -> State:
        return State(z[:, -1:])

    def step(self, carry: State, cond: Condition) -> LatentDist:
        return self.prior(carry.latent, cond)

    def observe(self, carry: State, z: Latent) -> None:
        carry.latent = z

    def feature_dim(self) -> int:
        return state_dim(self.spec)

    def features(self, z: Latent, cond: Condition) -> Tensor:
        """Of every transition the state reached, ``[B, T - 1, N, D]``, which knows the action that led to it."""
        return self.state_features(z[:, 1:])

    def state_features(self, z: Latent) -> Tensor:
        """What heads, actors and critics read of states, ``[B, T, N, D]``."""
        return state_tokens(z)


def stacked(parts: Sequence[Any]) -> Any:
    """Latents or distributions of single frames ``[B, 1]`` one after the other, ``[B, T]``."""
    return type(parts[0]).cat(list(parts))


def kept(x: Tensor, first: Tensor) -> Tensor:
    """``x`` ``[B, ...]`` where an episode goes on, zeros where one begins: ``first`` is bool ``[B]``.

    Example:
        >>> kept(torch.ones(2, 3), torch.tensor([True, False])).sum(-1)
        tensor([0., 3.])
    """
    return torch.where(first.reshape(-1, *[1] * (x.ndim - 1)), torch.zeros_like(x), x)
