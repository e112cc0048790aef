"""What actor and critic learn from imagination, in the three generations of Dreamer: pure functions of tensors.

Axes: N starts, H imagined transitions, so H + 1 states: index 0 is the start, ``action[:, t]`` leads from state t to
t + 1. The generations differ in what a state is worth (v1, v2: with the reward of arriving in it; v3: without), in
whose value ends a return, in what the advantage is measured against, and in what teaches the actor.

Sources: danijar/dreamer @ 56d4d44, dreamerv2 @ 07d906e, dreamerv3 @ e3f0224, written from their descriptions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from .actions import ActionDistribution
from .networks import Critic
from .normalizer import Normalizer
from .returns import lambda_returns

Gradient = Literal["reinforce", "dynamics", "both"]


@dataclass(frozen=True)
class Imagined:
    """What was imagined, and what is said of it. Where the actor learns through the dynamics it carries a graph.

    Attributes:
        action: ``[N, H, A]``, in units of the bounds, one-hot if discrete.
        reward: ``[N, H + 1]``, of arriving in each state.
        discount: ``[N, H + 1]``: what the time after arriving in each state counts (probability that the episode goes
            on, and the discount factor).
    """

    action: Tensor
    reward: Tensor
    discount: Tensor


@dataclass(frozen=True)
class Behavior:
    """Losses, and what is worth a look.

    Attributes:
        policy, value: Losses ``[N, ...]``, weighted, not yet averaged.
        returns: ``[N, H]`` (v1: H - 1), without a graph.
        weight: ``[N, H + 1]``: how much each state counts.
        entropy: ``[N, ...]`` of the policy; None if nothing asked for it.
    """

    policy: Tensor
    value: Tensor
    returns: Tensor
    weight: Tensor
    entropy: Tensor | None = None


def weights(discount: Tensor) -> Tensor:
    """How much each state counts: the discounts of the states before it. ``[N, H + 1]`` -> ``[N, H + 1]``."""
    return torch.cat([torch.ones_like(discount[:, :1]), discount[:, :-1]], 1).cumprod(1)


# -- version 1


def first_generation(imagined: Imagined, value: Tensor, lam: float, nll: Callable[[Tensor], Tensor]) -> Behavior:
    """The start is left out; returns carry the gradient to the actor, through reward, value and dynamics.

    Args:
        imagined: With a graph.
        value: ``[N, H + 1]``, of states with a graph.
        lam: Of the lambda return.
        nll: Returns ``[N, H - 1]`` of states 1..H-1 -> ``[N, H - 1]``, of a critic that reads states without a graph.
    """
    reward, value, discount = imagined.reward[:, 1:], value[:, 1:], imagined.discount[:, 1:]
    returns = lambda_returns(reward[:, :-1], value[:, 1:], discount[:, :-1], lam, value[:, -1])
    weight = weights(discount)[:, :-1].detach()
    fixed = returns.detach()
    return Behavior(-weight * returns, weight * nll(fixed), fixed, weight)


# -- version 2


def second_generation(
    imagined: Imagined, policy: ActionDistribution, slow: Tensor, *, lam: float, gradient: Gradient, mix: float,
    entropy: float, nll: Callable[[Tensor], Tensor],
) -> Behavior:
    """Values include the reward of their own state; the slow critic ends returns.

    The advantage is measured against the value of the state BEFORE the one that the return belongs to, as upstream.

    Args:
        imagined: With a graph, unless the gradient is ``"reinforce"``.
        policy: Of states 0..H-2, read without a graph.
        slow: ``[N, H + 1]``, values by the slow critic, with a graph to the states.
        lam: Of the lambda return.
        gradient: What teaches the actor.
        mix: Share of the dynamics' gradient in ``"both"``.
        entropy: Factor.
        nll: Returns ``[N, H]`` of states 0..H-1 -> ``[N, H]``.
    """
    returns = lambda_returns(imagined.reward[:, :-1], slow[:, 1:], imagined.discount[:, :-1], lam, slow[:, -1])
    weight, fixed = weights(imagined.discount).detach(), returns.detach()
    ahead = returns[:, 1:]
    if gradient == "dynamics":
        objective = ahead
    else:
        advantage = fixed[:, 1:] - slow[:, :-2].detach()
        objective = policy.log_prob(imagined.action[:, :-1].detach()) * advantage
        objective = objective if gradient == "reinforce" else mix * ahead + (1 - mix) * objective
    spread = policy.entropy()
    return Behavior(-weight[:, :-2] * (objective + entropy * spread), weight[:, :-1] * nll(fixed), fixed, weight,
                    spread)


# -- version 3


def third_generation(
    imagined: Imagined, policy: ActionDistribution, critic: Critic, out: Tensor, slow: Tensor, returns_norm: Normalizer,
    *, lam: float, discount: float, gradient: Gradient, mix: float, entropy: float, slow_weight: float,
    slow_target: bool, value: Tensor | None = None, value_norm: Normalizer | None = None,
    advantage_norm: Normalizer | None = None,
) -> Behavior:
    """Values begin with the next reward; advantages are in units of the returns' percentiles.

    The normalisers take this batch into account before they are used.

    Args:
        imagined: Its ``discount`` is the probability that the episode goes on, which holds the discount factor, too, if
            the head has learned it with that inside.
        policy: Of states 0..H-1, read without a graph.
        critic: The critic.
        out: Its answer for states 0..H, read without a graph: ``[N, H + 1, ...]``.
        slow: ``[N, H + 1]``, values by the slow critic.
        returns_norm: Scale of returns.
        lam: Of the lambda return.
        discount: Factor besides ``imagined.discount``; 1 if that is inside.
        gradient, mix: What teaches the actor.
        entropy: Factor.
        slow_weight: Factor of the critic's loss against the slow critic's values.
        slow_target: The slow critic ends returns, not the critic itself.
        value: ``[N, H + 1]``, values of states with a graph, by whichever critic ends returns; for an actor that learns
            through the dynamics.
        value_norm, advantage_norm: Further scales; upstream has them switched off.
    """
    shift, size = value_norm() if value_norm is not None else (0.0, 1.0)
    ends = value if value is not None else slow if slow_target else critic.value(out).detach()
    ends = ends * size + shift
    live = imagined.discount[:, 1:] * discount
    returns = lambda_returns(imagined.reward[:, 1:], ends[:, 1:], live, lam, ends[:, -1])
    fixed = returns.detach()
    weight = (imagined.discount * discount).cumprod(1).detach() / discount
    returns_norm.update(fixed)
    _, scale = returns_norm()
    advantage = (fixed - ends[:, :-1].detach()) / scale
    if advantage_norm is not None:
        advantage_norm.update(advantage)
        offset, spread = advantage_norm()
        advantage = (advantage - offset) / spread
    entropies = policy.entropy()
    if gradient == "dynamics":
        objective = returns / scale
    else:
        objective = policy.log_prob(imagined.action.detach()) * advantage
        objective = objective if gradient == "reinforce" else mix * returns / scale + (1 - mix) * objective
    if value_norm is not None:
        value_norm.update(fixed)
        shift, size = value_norm()
    target = (fixed - shift) / size
    loss = critic.nll(out[:, :-1], target, also=(slow_weight, slow[:, :-1].detach()))
    return Behavior(-weight[:, :-1] * (objective + entropy * entropies), weight[:, :-1] * loss, fixed, weight,
                    entropies)


def replayed_returns(
    reward: Tensor, terminal: Tensor, last: Tensor, imagined: Tensor, *, lam: float, discount: float
) -> Tensor:
    """Returns of states that were really seen, which at every step lean on the return that was imagined from there.

    Args:
        reward: ``[B, K]``, of arriving in each state.
        terminal: ``[B, K]``, 1 where the episode ended by itself in this state.
        last: ``[B, K]``, 1 where it ended, or was cut off.
        imagined: ``[B, K]``, the return that was imagined from each state.
        lam, discount: As ever.
    Returns:
        ``[B, K - 1]``.
    """
    live = (1 - terminal[:, 1:]) * discount
    going_on = (1 - last[:, 1:]) * lam
    return lambda_returns(reward[:, 1:], imagined[:, 1:], live, going_on, imagined[:, -1])


def replayed_loss(critic: Critic, out: Tensor, returns: Tensor, slow: Tensor, last: Tensor, *, slow_weight: float
                  ) -> Tensor:
    """The critic's loss on states that were really seen, ``[B, K - 1]``.

    Args:
        critic: The critic.
        out: Its answer ``[B, K, ...]``; gradients reach the model through it if it was read with a graph.
        returns: ``[B, K - 1]``, see `replayed_returns`.
        slow: ``[B, K]``, values by the slow critic.
        last: ``[B, K]``, 1 at the last frame of an episode, after which nothing is known.
        slow_weight: See `third_generation`.
    """
    slow = slow[:, :-1].detach()
    return (1 - last[:, :-1]) * critic.nll(out[:, :-1], returns.detach(), also=(slow_weight, slow))
