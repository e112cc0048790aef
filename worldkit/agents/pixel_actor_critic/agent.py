"""The agent ``pixel-actor-critic``: sees every frame as its model draws it, and remembers the episode in an LSTM."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...distributions import Sampler
from ...errors import ConfigError
from ..actor_critic.agent import check_model
from ..base import Agent, Policy
from ..exploring import Explorer, noisy
from .config import PixelActorCriticConfig
from .dreams import as_drawn
from .networks import Memory, PixelNetwork

if TYPE_CHECKING:
    from ...training.config import TrainConfig
    from .learner import PixelLearner


@dataclass(frozen=True)
class Remembered:
    """What is remembered between frames.

    Attributes:
        memory: Of the network, ``[B, D]`` each.
    """

    memory: Memory


class PixelActorCriticAgent(Agent):
    """Acts by pictures: IRIS's and DIAMOND's actor-critics, which differ in their options.

    Its weights are those of `network`; the model is trained with it, part by part.

    Raises:
        ConfigError: actions that are no choices, or a model that is told none or other ones, draws nothing, filters,
            has no head of the reward, or sees other frames.
    """

    Config = PixelActorCriticConfig
    config: PixelActorCriticConfig
    needs_model, trains_model = True, True

    def __init__(self, config: PixelActorCriticConfig, **wiring: Any):
        super().__init__(config, **wiring)
        if not self.action.discrete:
            raise ConfigError(f"agent '{config.name}' gives one of a few choices, and here are "
                              f"{self.action.in_words()}: take a Dreamer, worldkit list 'dreamer-*'")
        check_model(self.model, self.action, self.frame_shape)
        if self.model.decoder is None:
            raise ConfigError(f"agent '{config.name}' sees what its model draws, and this one has no decoder: create "
                              "it with one")
        if self.model.decoder.history:
            raise ConfigError(f"agent '{config.name}' sees frame by frame what its model draws of each, and decoder "
                              f"'{self.model.config.decoder.name}' looks back on frames before: take another one")
        if self.model.require_dynamics().filtering:
            raise ConfigError(f"agent '{config.name}' sees frame by frame what its model draws of each, and the states "
                              f"of dynamics '{self.model.config.dynamics.name}' depend on what was before: take "
                              "agent.name=actor-critic")
        self.network = PixelNetwork(config.network, frame_shape=self.frame_shape, num_actions=self.action.num_actions)

    def explorer(self) -> Policy:
        return Explorer(self, self.config.explore)

    def learner(self, config: TrainConfig) -> PixelLearner:
        from .learner import PixelLearner

        return PixelLearner(self)

    def loss(self, batch: Any) -> Tensor:
        raise ConfigError(f"agent '{self.config.name}' learns by acting, in dreams, not from what others did: worldkit "
                          "train-agent PRESET --env ENVIRONMENT")

    def start(self, batch_size: int, *, goal: Tensor | None = None) -> Remembered:
        return Remembered(self.network.begin(batch_size))

    def act(self, frame: Tensor, carry: Remembered, *, first: Tensor, sampler: Sampler) -> tuple[Tensor, Remembered]:
        return self.decide(frame, carry, first=first, sampler=sampler)

    @torch.no_grad()
    def decide(self, frame: Tensor, carry: Remembered, *, first: Tensor, sampler: Sampler, noise: float | None = None
               ) -> tuple[Tensor, Remembered]:
        """`act`; with ``noise`` as experience is collected: at another temperature, and any action so often."""
        self.check_frame(frame)
        device = self.network.lstm.weight_hh.device
        sampler, begun = sampler.on(device), first.to(device)[:, None]
        _, seen = as_drawn(self.model, frame[:, None].to(device))
        said = self.network(seen[:, 0], tuple(x.masked_fill(begun, 0) for x in carry.memory))
        temperature = self.config.eval_temperature if noise is None else self.config.temperature
        done = sampler.categorical("action", said.logits / temperature)
        if noise:
            done = noisy(done, self.action, noise, sampler)
        return done.cpu(), Remembered(said.memory)
