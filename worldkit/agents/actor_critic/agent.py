"""The agent ``actor-critic``: filters frame by frame, and does what its actor says of the state."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...batch import Batch
from ...distributions import Sampler
from ...errors import ConfigError
from ...latents import Latent
from ..actions import ActionSpec
from ..base import Agent, Policy
from ..exploring import Explorer, noisy
from .behavior import ActorCritic
from .config import ActorCriticConfig
from .features import state_tokens

if TYPE_CHECKING:
    from ...training.config import TrainConfig
    from .learner import ActorCriticLearner


@dataclass(frozen=True)
class Filtering:
    """What is remembered between frames.

    Attributes:
        state: Of the newest frame, ``[B, 1]``; None before the first.
        action: What was done then, as the model is told actions, ``[B, 1, ...]``.
    """

    state: Latent | None = None
    action: Tensor | None = None


class ActorCriticAgent(Agent):
    """Acts by what the model takes the newest frame for, given all frames and actions of its episode.

    Its weights are actor, critic, slow critic and scale of returns (`behavior`); the model is trained with it.

    Raises:
        ConfigError: a model that is told no actions or other ones, has no head of the reward, or sees other frames.
    """

    Config = ActorCriticConfig
    config: ActorCriticConfig
    needs_model, trains_model = True, True

    def __init__(self, config: ActorCriticConfig, **wiring: Any):
        super().__init__(config, **wiring)
        check_model(self.model, self.action, self.frame_shape)
        self.behavior = ActorCritic(config, spec=self.model.spec, action=self.action)

    @property
    def eval_by_mode(self) -> bool:  # type: ignore[override]
        return self.config.eval_by_mode

    def explorer(self) -> Policy:
        return Explorer(self, self.config.noise) if self.config.noise else self

    def learner(self, config: TrainConfig) -> ActorCriticLearner:
        from .learner import ActorCriticLearner

        return ActorCriticLearner(self, config)

    def loss(self, batch: Any) -> Tensor:
        raise ConfigError("agent 'actor-critic' learns by acting, in imagination, not from what others did: worldkit "
                          "train-agent PRESET --env ENVIRONMENT")

    def start(self, batch_size: int, *, goal: Tensor | None = None) -> Filtering:
        return Filtering()

    def act(self, frame: Tensor, carry: Any, *, first: Tensor, sampler: Sampler,
            vectors: Mapping[str, Tensor] | None = None) -> tuple[Tensor, Any]:
        return self.decide(frame, carry, first=first, sampler=sampler, vectors=vectors)

    @torch.no_grad()
    def decide(self, frame: Tensor, carry: Filtering, *, first: Tensor, sampler: Sampler,
               vectors: Mapping[str, Tensor] | None = None, noise: float = 0.0) -> tuple[Tensor, Filtering]:
        """`act`, with noise on what is done."""
        self.check_frame(frame)
        sampler = sampler.on(next(self.behavior.parameters()).device)
        state = self.look(frame, carry, first=first, sampler=sampler, vectors=vectors)
        chosen = self.behavior.actor(state_tokens(state)).sample(sampler)
        # what is done is what the model is told was done: the environment's bounds hold for both
        done = chosen.argmax(-1) if self.action.discrete else self.action.unscaled(chosen)
        if noise:
            done = noisy(done, self.action, noise, sampler)
        return done[:, 0].cpu(), Filtering(state, done)

    @torch.no_grad()
    def look(self, frame: Tensor, carry: Filtering, *, first: Tensor, sampler: Sampler,
             vectors: Mapping[str, Tensor] | None = None) -> Latent:
        """What the newest frames are taken for, ``[B, 1]``."""
        device = next(self.behavior.parameters()).device
        batch = Batch(frame[:, None].to(device), vectors={k: x[:, None].to(device) for k, x in (vectors or {}).items()})
        model = self.model
        if carry.state is None or not model.require_dynamics().filtering:
            return model.perceive(batch, sampler).latent
        return model.perceive(batch, sampler, first=first[:, None].to(device), last=carry.state,
                              last_action={"action": carry.action}).latent


def check_model(model: Any, action: ActionSpec, frame_shape: tuple[int, int, int], *, rewards: bool = True) -> None:
    """Refuse a model that an actor-critic cannot act and learn in.

    Args:
        model, action, frame_shape: As of an agent.
        rewards: It must predict them.
    Raises:
        ConfigError: saying what to change.
    """
    conditioners, heads, obs = model.config.conditioners, model.config.heads, model.config.obs
    told = conditioners.get("action")
    if told is None:
        raise ConfigError("an actor-critic acts in a model that is told actions (condition 'action'), and this one is "
                          f"told {', '.join(conditioners) or 'nothing'}: create it with conditioners.action="
                          "transition-action")
    choices = getattr(told, "num_actions", None)
    if choices != action.num_actions or (choices is None and told.dim != action.width):
        takes = f"one of {choices} choices" if choices is not None else f"vectors of {told.dim} numbers"
        raise ConfigError(f"this agent gives {action.in_words()}, and its model is told {takes}: they were made for "
                          "different environments; create both for one, create_agent(PRESET, env=ENVIRONMENT)")
    if others := sorted({*conditioners} - {"action"}):
        raise ConfigError(f"an actor-critic tells its model actions only; this one needs {', '.join(others)} too")
    if rewards and "reward" not in heads:
        raise ConfigError(f"an actor-critic learns from predicted rewards, and this model has "
                          f"{'no heads' if not heads else 'heads of ' + ', '.join(heads) + ' only'}: create it with "
                          "heads.reward=two-hot")
    if tuple(frame_shape) != (obs.channels, obs.height, obs.width):
        raise ConfigError(f"the model sees frames {[obs.channels, obs.height, obs.width]}, the agent is made for "
                          f"{list(frame_shape)}")
