"""The agent ``controller``: sees a frame, remembers, and lets one linear layer decide."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ...batch import Batch
from ...distributions import Sampler
from ...errors import ConfigError
from ...latents import Latent
from ..actor_critic.agent import check_model
from ..base import Agent, Policy
from .config import ControllerConfig
from .evolution import Evolution

if TYPE_CHECKING:
    from ...training.config import TrainConfig
    from .learner import ControllerLearner

OUTPUT, MEMORY = "output", "memory"
"""Fields of the state that an LSTM gives and keeps, see `worldkit.dynamics.mdn_rnn`."""


@dataclass(frozen=True)
class Carry:
    """What is remembered between frames.

    Attributes:
        state: Of the newest frame, ``[B, 1]``; None before the first.
        action: What was done then, as the model is told actions, ``[B, 1, ...]``.
        candidate: Who decides in every environment, ``[B]``; None: the controller itself.
        generation: Which generation that one is of, ``[B]``.
    """

    state: Latent | None = None
    action: Tensor | None = None
    candidate: Tensor | None = None
    generation: Tensor | None = None


class ControllerAgent(Agent):
    """Acts by a linear layer on the latent of the newest frame and on what an LSTM remembers of those before.

    Attributes:
        weights: Of the layer, ``[size]``: a row of inputs for every output, then the biases.
        evolution: What its weights are found by, while it is trained; else None.
    Raises:
        ConfigError: a model that is told no actions or other ones, or remembers nothing.
    """

    Config = ControllerConfig
    config: ControllerConfig
    needs_model, trains_model = True, True

    def __init__(self, config: ControllerConfig, **wiring: Any):
        super().__init__(config, **wiring)
        check_model(self.model, self.action, self.frame_shape, rewards=False)
        spec = self.model.spec
        if spec.find(OUTPUT) is None:
            raise ConfigError("a controller reads what an LSTM remembers, and this model has none: -o "
                              "dynamics=mdn-rnn, or agent=actor-critic")
        if config.thresholds and not self.action.discrete:
            raise ConfigError(f"agent.thresholds tells choices apart, and here are {self.action.in_words()}")
        self.inputs = sum(g.size * (spec.flat_dim(g.name) + (1 + config.reads_memory) * g.field(OUTPUT).dim)
                          for g in spec.groups)
        self.outputs = 1 if config.thresholds else self.action.width
        self.weights = nn.Parameter(torch.zeros(self.outputs * (self.inputs + config.bias)), requires_grad=False)
        self.evolution: Evolution | None = None

    def explorer(self) -> Policy:
        """In the environment, candidates act while it is trained there; in dreams it learns by itself."""
        return Candidates(self, self.evolution) if self.evolution and self.config.where == "env" else self

    def learner(self, config: TrainConfig) -> ControllerLearner:
        from .learner import ControllerLearner

        return ControllerLearner(self)

    def loss(self, batch: Any) -> Tensor:
        raise ConfigError("agent 'controller' learns by acting, in its environment or in dreams: worldkit train-agent "
                          "PRESET --env ENVIRONMENT")

    def features(self, z: Latent) -> Tensor:
        """What the layer reads of states ``[B, 1]``: ``[B, inputs]``."""
        parts = [z.flat(group.name) for group in z.spec.groups]
        for name in (OUTPUT, MEMORY)[: 1 + self.config.reads_memory]:
            parts += [z.values[group.name, name] for group in z.spec.groups]
        return torch.cat([part[:, 0].flatten(1) for part in parts], -1)

    def decide(self, z: Latent, weights: Tensor) -> Tensor:
        """What to do in states ``[B, 1]``, in the environment's units, ``[B, A]`` or int64 ``[B]``.

        Args:
            z: States.
            weights: Of every row's layer, ``[B, size]``, or of that of equally many rows in a row, ``[P, size]``.
        """
        x = self.features(z).unflatten(0, (len(weights), -1))  # [P, rows, inputs]
        rows = weights[:, : self.outputs * self.inputs].unflatten(1, (self.outputs, self.inputs))
        out = torch.einsum("pri,poi->pro", x, rows)
        if self.config.bias:
            out = out + weights[:, None, self.outputs * self.inputs :]
        out = out.flatten(0, 1)
        if not self.action.discrete:
            return self.action.unscaled(torch.tanh(out))
        if not self.config.thresholds:
            return out.argmax(-1)
        choices = self.action.num_actions
        return ((torch.tanh(out[:, 0]) + 1) / 2 * choices).long().clamp(max=choices - 1)

    def start(self, batch_size: int, *, goal: Tensor | None = None) -> Carry:
        return Carry()

    @torch.no_grad()
    def act(self, frame: Tensor, carry: Carry, *, first: Tensor, sampler: Sampler) -> tuple[Tensor, Carry]:
        state = self.look(frame, carry, first=first, sampler=sampler)
        action = self.decide(state, self.weights[None])
        return action.cpu(), Carry(state, action[:, None])

    @torch.no_grad()
    def look(self, frame: Tensor, carry: Carry, *, first: Tensor, sampler: Sampler) -> Latent:
        """What the newest frames are taken for, ``[B, 1]``."""
        self.check_frame(frame)
        device = self.weights.device
        batch, sampler = Batch(frame[:, None].to(device)), sampler.on(device)
        if carry.state is None:
            return self.model.perceive(batch, sampler).latent
        return self.model.perceive(batch, sampler, first=first[:, None].to(device), last=carry.state,
                                   last_action={"action": carry.action}).latent


class Candidates(Policy):
    """Every episode is acted by a candidate, and its return is that one's score.

    Who acts is told by the carry and by the scores so far alone, so a run goes on exactly.

    Args:
        agent: Whose weights they are.
        evolution: Where they come from.
    """

    def __init__(self, agent: ControllerAgent, evolution: Evolution):
        self.agent, self.evolution = agent, evolution
        self.action, self.frame_shape = agent.action, agent.frame_shape

    def start(self, batch_size: int, *, goal: Tensor | None = None) -> Carry:
        nobody = torch.full((batch_size,), -1)
        return Carry(candidate=nobody, generation=nobody)

    @torch.no_grad()
    def act(self, frame: Tensor, carry: Carry, *, first: Tensor, sampler: Sampler) -> tuple[Tensor, Carry]:
        state = self.agent.look(frame, carry, first=first, sampler=sampler)
        evolution, now = self.evolution, self.evolution.generation
        goes_on = (carry.generation == now) & ~first
        chosen = carry.candidate.masked_fill(~goes_on, -1).tolist()
        for row in first.nonzero()[:, 0].tolist():
            chosen[row] = evolution.next([x for x in chosen if x >= 0])
        begun = torch.where(first | goes_on, now, -1)
        # whose generation ended meanwhile acts on as any of this one, and that episode does not count
        weights = evolution.candidates[[max(x, 0) for x in chosen]].to(self.agent.weights)
        action = self.agent.decide(state, weights)
        return action.cpu(), Carry(state, action[:, None], torch.tensor(chosen), begun)

    def ended(self, row: int, total: float, carry: Carry) -> None:
        if carry.candidate is None or carry.generation[row] != self.evolution.generation:
            return
        if self.evolution.tell(int(carry.candidate[row]), total):
            self.agent.weights.copy_(self.evolution.mean)

