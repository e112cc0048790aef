"""`ActorCritic`: actor, critic, slow critic and scale of returns, and what they learn from imagination."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ...batch import Batch
from ...distributions import Sampler
from ...latents import Latent, LatentSpec
from ..actions import ActionSpec
from .config import ActorCriticConfig
from .features import Arrivals, state_tokens, token_dim
from .losses import (
    Behavior,
    Imagined,
    first_generation,
    replayed_loss,
    replayed_returns,
    second_generation,
    third_generation,
)
from .networks import Actor, Critic
from .normalizer import Normalizer

if TYPE_CHECKING:
    from ...model import ComposedWorldModel


@dataclass(frozen=True)
class BehaviorLosses:
    """What actor and critic are to learn.

    Attributes:
        arrays: Losses by part, not averaged: ``"policy"`` reaches the actor, ``"value"`` the critic, and
            ``"replay_value"`` critic and model.
        scales: Their factors.
        metrics: Numbers for the log.
        made: Returns, weights and entropies behind them.
    """

    arrays: Mapping[str, Tensor]
    scales: Mapping[str, float]
    metrics: Mapping[str, Tensor]
    made: Behavior


class ActorCritic(nn.Module):
    """Behaviour in imagination; see `worldkit.agents.actor_critic.config.ActorCriticConfig`.

    Args:
        config: Options.
        spec: Of the model's latents.
        action: What actions are.
    Attributes:
        actor, critic: The networks.
        slow: The slow critic, None without one.
        returns_norm: The scale of returns.
    Example:
        >>> from worldkit.testing import example_latent, example_spec
        >>> spec = example_spec(kind="slots")
        >>> behavior = ActorCritic(ActorCriticConfig(), spec=spec, action=ActionSpec(num_actions=3))
        >>> action, _ = behavior.policy(example_latent(spec, batch=4, time=1), Sampler())
        >>> action.shape, action.sum(-1).unique().tolist()
        (torch.Size([4, 1, 3]), [1.0])
    """

    def __init__(self, config: ActorCriticConfig, *, spec: LatentSpec, action: ActionSpec):
        super().__init__()
        self.config, self.action = config, action
        width = token_dim(spec)
        self.actor = Actor(config.actor, feature_dim=width, action=action)
        self.critic = Critic(config.critic, feature_dim=width)
        self.slow = copy.deepcopy(self.critic).requires_grad_(False) if config.slow_every else None
        self.returns_norm = Normalizer(config.returns)

    def policy(self, z: Latent, sampler: Sampler) -> tuple[Tensor, dict[str, Tensor]]:
        """Actions at latents ``[N, 1]`` in the environment's units, choices one-hot: what `model.imagine` asks for."""
        action = self.actor(state_tokens(z).detach()).sample(sampler)
        return self.in_units(action), {"action": action}

    def in_units(self, action: Tensor) -> Tensor:
        """Vectors in units of their bounds -> in the environment's; unlike `ActionSpec.unscaled` it clips nothing."""
        if self.action.discrete or {*self.action.low, *self.action.high} == {-1.0, 1.0}:
            return action
        low, high = action.new_tensor(self.action.low), action.new_tensor(self.action.high)
        return low + (action + 1) / 2 * (high - low)

    def losses(self, model: ComposedWorldModel, seen: Any, batch: Batch, sampler: Sampler) -> BehaviorLosses:
        """Imagine from what was seen, and say how wrong actor and critic were.

        No gradient of ``policy`` and ``value`` reaches what was seen. Where the actor learns through the dynamics, the
        graph of ``policy`` runs through the model, whose weights are not to be changed by it: ask
        ``torch.autograd.grad`` for the actor's gradients alone.

        Args:
            model: Imagines; has a head ``reward`` (and ``terminated``).
            seen: What `ComposedWorldModel.perceive` found in the batch; of all frames, or of all but the first.
            batch: With its targets.
            sampler: Source of randomness.
        """
        config, z = self.config, seen.latent
        clips, frames = z.shape
        arrived = Arrivals.of(batch, frames)
        chosen = slice(-config.starts if config.starts else None, None)
        if config.generation == 1 and "terminated" in model.heads:  # the last frame may be the last of its episode
            chosen = slice(chosen.start, -1)
        z, terminal = z[:, chosen], arrived.terminal[:, chosen]
        start = z.detach().singles()
        imagined = self.imagine(model, start, sampler)
        if config.generation == 2:
            first = (1 - terminal.reshape(-1, 1)) * config.discount
            imagined = (imagined[0], Imagined(imagined[1].action, imagined[1].reward,
                                              torch.cat([first, imagined[1].discount[:, 1:]], 1)))
        made = self._learn(*imagined, inside=_inside(model))
        arrays = {"policy": made.policy, "value": made.value}
        scales = {"policy": 1.0, "value": 1.0}
        if config.generation == 3 and config.replay and z.shape[1] > 1:  # one frame tells of nothing that follows
            arrays["replay_value"] = self._replayed(z, made, arrived, chosen)
            scales["replay_value"] = config.replay
        metrics = {"return": made.returns.mean(), "weight": made.weight.mean(), "return_scale": self.returns_norm()[1]}
        if made.entropy is not None:
            metrics["entropy"] = made.entropy.mean()
        return BehaviorLosses(arrays, scales, {name: x.detach() for name, x in metrics.items()}, made)

    def imagine(self, model: ComposedWorldModel, start: Latent, sampler: Sampler) -> tuple[Tensor, Imagined]:
        """Tokens of the start and of what follows, ``[N, H + 1, K, D]``, and what is said of them."""
        grad, dynamics = self.config.gradient != "reinforce", model.require_dynamics()
        dream = model.imagine(start, self.policy, self.config.horizon, sampler=sampler, grad=grad,
                              predictions=not dynamics.filtering)
        heads = {name: model.heads[name] for name in ("reward", "terminated") if name in model.heads}
        with torch.set_grad_enabled(grad):
            if dynamics.filtering:  # states tell how they were reached, the start, too
                features = dynamics.state_features(dream.latents)
                said = {name: head(features) for name, head in heads.items()}
            else:
                blank = torch.zeros(start.shape, device=start.presence.device)
                said = {name: torch.cat([blank, dream.predictions[name]], 1) for name in heads}
            reward = said["reward"]
            going_on = 1 - said["terminated"] if "terminated" in said else torch.ones_like(reward)
        return state_tokens(dream.latents), Imagined(dream.logs["action"], reward, going_on)

    def _learn(self, tokens: Tensor, imagined: Imagined, *, inside: bool) -> Behavior:
        config, fixed = self.config, tokens.detach()
        factor = 1.0 if inside else config.discount
        if config.generation == 3:
            slow_critic = self.slow if self.slow is not None else self.critic
            with torch.no_grad():
                slow = slow_critic(fixed)
            ends = slow_critic if config.slow_target else self.critic
            return third_generation(
                imagined, self.actor(fixed[:, :-1]), self.critic, self.critic.read(fixed), slow, self.returns_norm,
                lam=config.lam, discount=factor, gradient=config.gradient, mix=config.mix, entropy=config.entropy,
                slow_weight=config.slow_weight if self.slow is not None else 0.0, slow_target=config.slow_target,
                value=None if config.gradient == "reinforce" else ends(tokens))
        discount = imagined.discount * factor
        if config.generation == 2:  # the first one was given as it is
            discount = torch.cat([imagined.discount[:, :1], discount[:, 1:]], 1)
        imagined = Imagined(imagined.action, imagined.reward, discount)
        if config.generation == 1:
            out = self.critic.read(fixed[:, 1:-1])
            return first_generation(imagined, self.critic(tokens), config.lam,
                                    lambda target: self.critic.nll(out, target))
        out = self.critic.read(fixed[:, :-1])
        return second_generation(
            imagined, self.actor(fixed[:, :-2]), self.slow(tokens), lam=config.lam, gradient=config.gradient,
            mix=config.mix, entropy=config.entropy, nll=lambda target: self.critic.nll(out, target))

    def _replayed(self, z: Latent, made: Behavior, arrived: Arrivals, chosen: slice) -> Tensor:
        config, tokens = self.config, state_tokens(z)
        reward, terminal, last = (x[:, chosen] for x in (arrived.reward, arrived.terminal, arrived.last))
        boot = made.returns[:, 0].reshape(z.shape)
        returns = replayed_returns(reward, terminal, last, boot, lam=config.lam, discount=config.discount)
        with torch.no_grad():
            slow = (self.slow if self.slow is not None else self.critic)(tokens)
        return replayed_loss(self.critic, self.critic.read(tokens), returns, slow, last,
                             slow_weight=config.slow_weight if self.slow is not None else 0.0)

    @torch.no_grad()
    def after_update(self, updates: int) -> None:
        """Move the slow critic, once an optimiser has stepped.

        Args:
            updates: Made before this one.
        """
        every = self.config.slow_every
        if self.slow is not None and updates % every == 0:
            torch._foreach_lerp_(list(self.slow.parameters()), list(self.critic.parameters()), self.config.slow_rate)


def _inside(model: ComposedWorldModel) -> bool:
    """Whether the head of the end has learned the discount factor, too."""
    return "terminated" in model.heads and getattr(model.heads["terminated"].config, "discount", 1.0) < 1
