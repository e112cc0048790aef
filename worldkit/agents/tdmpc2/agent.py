"""TD-MPC2's agent: the frame's latent, a search among imagined futures, the first action of what was found.

Source: TD-MPC2 (Hansen et al., 2024, arXiv:2310.16828), written from its description.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from ...batch import Batch
from ...config import ComponentConfig
from ...distributions import MEANS, Sampler
from ...errors import ConfigError
from ...imagining import Imagined
from ...latents import Latent
from ...nn.symlog import SymlogBins
from ..base import Agent, Policy
from ..exploring import Explorer
from ..history import History
from .mppi import Found, Search
from .policy import SquashedPolicy
from .scale import RunningScale
from .values import Values

if TYPE_CHECKING:
    from ...training.config import TrainConfig
    from ..learner import Learner


class TDMPC2AgentConfig(ComponentConfig):
    """Options of the tdmpc2 agent.

    Attributes:
        hidden: Widths of the layers of policy and values.
        num_values: Networks that tell the value.
        num_bins, limit: Bins of the values, in symlog space.
        dropout: Of the first layer of the values.
        horizon, iterations, candidates, elites, temperature, min_std, max_std: Of the search, see `mppi.Search`.
            (With 20 numbers per action or more, two iterations are added.)
        proposals: Candidates that follow the policy.
        episode_length: Actions of an episode, which the discount follows from; see `discount_of`.
        discount: Instead, the discount itself.
        lr, encoder_lr: Learning rates of everything, and of the encoder.
        policy_eps: Adam's epsilon of the policy.
        clip: Largest norm of the gradients, of the policy and of the rest.
        value: Weight of the values' loss.
        entropy: Weight of the policy's scaled entropy.
        tau: Share of the way that slow copies and the running scale go in a step.
    """

    name: str = "tdmpc2"
    hidden: tuple[PositiveInt, ...] = (512, 512)
    num_values: int = Field(default=5, ge=2)
    num_bins: int = Field(default=101, ge=3)
    limit: float = Field(default=10.0, gt=0)
    dropout: float = Field(default=0.01, ge=0, lt=1)
    horizon: int = Field(default=3, gt=0)
    iterations: int = Field(default=6, gt=0)
    candidates: int = Field(default=512, gt=1)
    proposals: int = Field(default=24, ge=0)
    elites: int = Field(default=64, gt=0)
    temperature: float = Field(default=0.5, gt=0)
    min_std: float = Field(default=0.05, ge=0)
    max_std: float = Field(default=2.0, gt=0)
    episode_length: int = Field(default=500, gt=0)
    discount: float | None = Field(default=None, gt=0, lt=1)
    lr: float = Field(default=3e-4, gt=0)
    encoder_lr: float = Field(default=9e-5, gt=0)
    policy_eps: float = Field(default=1e-5, gt=0)
    clip: float = Field(default=20.0, gt=0)
    value: float = Field(default=0.1, ge=0)
    entropy: float = Field(default=1e-4, ge=0)
    tau: float = Field(default=0.01, gt=0, le=1)


def discount_of(episode_length: int) -> float:
    """The longer an episode, the further it looks ahead: a fifth of it, between 0.95 and 0.995.

    Example:
        >>> discount_of(50), discount_of(500), discount_of(5000)
        (0.95, 0.99, 0.995)
    """
    fifth = episode_length / 5
    return min(max((fifth - 1) / fifth, 0.95), 0.995)


@dataclass(frozen=True)
class Carry:
    """What it remembers of every environment.

    Attributes:
        seen: The newest frames, of encoders that look at several.
        before: Means of the last plan, ``[B, horizon, A]``, where the next one starts from.
    """

    seen: History
    before: Tensor


class TDMPC2Agent(Agent):
    """Plans with a model that is told actions and knows rewards; see the package's docstring.

    What it draws when the sampler is deterministic is drawn by a seed of its own, so that it acts the same again.
    """

    Config = TDMPC2AgentConfig
    config: TDMPC2AgentConfig
    needs_model, trains, trains_model = True, False, True

    def __init__(self, config: TDMPC2AgentConfig, **wiring: Any):
        super().__init__(config, **wiring)
        if self.action.discrete:
            raise ConfigError(f"agent 'tdmpc2' gives vectors of numbers, and here are {self.action.in_words()}: take a "
                              "Dreamer, worldkit list 'dreamer-*'")
        if config.elites > config.candidates or config.proposals >= config.candidates:
            raise ConfigError(f"elites={config.elites} and proposals={config.proposals} must be among "
                              f"candidates={config.candidates}")
        if self.model.dynamics is None or self.model.dynamics.filtering:
            raise ConfigError("agent 'tdmpc2' plans from what one frame shows, with a dynamics that does not filter: "
                              "take dynamics=latent-mlp, or agent=actor-critic")
        if "reward" not in self.model.heads:
            raise ConfigError("agent 'tdmpc2' plans for rewards, and this model predicts none: give it a head, "
                              "-o heads.reward=symlog-two-hot")
        spec, dim = self.model.dynamics.spec, self.action.width
        latent_dim = spec.num_tokens * spec.packed_dim
        self.policy = SquashedPolicy(latent_dim, dim, config.hidden)
        self.values = Values(latent_dim, dim, members=config.num_values, hidden=config.hidden, dropout=config.dropout,
                             bins=SymlogBins(config.num_bins, config.limit))
        self.scale = RunningScale(config.tau)
        self.search = Search(config.horizon, config.iterations + 2 * (dim >= 20), config.candidates, config.elites,
                             config.temperature, config.min_std, config.max_std)

    @property
    def discount(self) -> float:
        """What a reward one step later is worth."""
        return self.config.discount or discount_of(self.config.episode_length)

    # -- imagining

    def follow(self, z: Latent, actions: Tensor) -> Imagined:
        """What actions ``[N, H, A]`` lead to from latents ``[N, 1]``."""
        parts = iter(actions.split(1, 1))
        return self.model.imagine(z, lambda latent, sampler: (next(parts), {}), actions.shape[1], sampler=MEANS)

    def worth(self, z: Latent, actions: Tensor, sampler: Sampler) -> Tensor:
        """What candidates ``[B, N, horizon, A]`` from latents ``[B, 1]`` are worth, ``[B, N]``."""
        found = self.follow(_spread(z, actions.shape[1]), actions.flatten(0, 1))
        reward = found.predictions["reward"]
        weight = self.discount ** torch.arange(reward.shape[1] + 1, device=reward.device, dtype=reward.dtype)
        if "terminated" in found.predictions:
            goes_on = (found.predictions["terminated"] <= 0.5).cumprod(1)
            weight = weight * torch.cat([torch.ones_like(goes_on[:, :1]), goes_on], 1)
        last = flat(found.latents)[:, -1]
        value = self.values.mean(last, self.policy(last, sampler).action, sampler)
        worth = (weight * torch.cat([reward, value[:, None]], 1)).sum(1)
        return worth.unflatten(0, actions.shape[:2])

    def propose(self, z: Latent, sampler: Sampler) -> Tensor:
        """What the policy would do from latents ``[B, 1]``: ``[B, proposals, horizon, A]``."""
        count, horizon = self.config.proposals, self.config.horizon
        if not count:
            return flat(z).new_zeros(z.shape[0], 0, horizon, self.action.width)

        def choose(latent: Latent, means: Sampler) -> tuple[Tensor, dict[str, Tensor]]:
            return self.policy(flat(latent)[:, 0], sampler).action[:, None], {}

        found = self.model.imagine(_spread(z, count), choose, horizon, sampler=MEANS, predictions=False)
        return found.actions.unflatten(0, (z.shape[0], count))

    def plan(self, z: Latent, before: Tensor, sampler: Sampler) -> Found:
        """Search from latents ``[B, 1]``, starting from the last plans' means ``[B, horizon, A]``."""
        return self.search(lambda actions: self.worth(z, actions, sampler), self.propose(z, sampler), before, sampler)

    def first(self, found: Found, sampler: Sampler, *, noise: float = 0.0) -> Tensor:
        """What is done of a search, ``[B, A]`` in [-1, 1]; with noise, in standard deviations of the last round."""
        action = found.elite[:, 0]
        if noise:
            blank = torch.zeros_like(action)
            action = action + noise * found.std[:, 0] * sampler.normal("explore", blank, blank)
        return action.clamp(-1, 1)

    # -- acting

    def start(self, batch_size: int, *, goal: Tensor | None = None) -> Carry:
        blank = torch.zeros(batch_size, self.config.horizon, self.action.width)
        return Carry(History.empty(batch_size), blank)

    def act(self, frame: Tensor, carry: Carry, *, first: Tensor, sampler: Sampler,
            vectors: Mapping[str, Tensor] | None = None) -> tuple[Tensor, Carry]:
        return self.decide(frame, carry, first=first, sampler=sampler, vectors=vectors)

    @torch.no_grad()
    def decide(self, frame: Tensor, carry: Carry, *, first: Tensor, sampler: Sampler, noise: float = 0.0,
               vectors: Mapping[str, Tensor] | None = None) -> tuple[Tensor, Carry]:
        """As `act`, with noise on what it does, in standard deviations of the last round."""
        self.check_frame(frame)
        device = next(self.parameters()).device
        sampler = Sampler(generator=torch.Generator(device).manual_seed(0)) if sampler.deterministic else sampler.on(
            device)
        seen = carry.seen.add(frame, first, keep=self._stack)
        z = self._look(seen, vectors or {}, device)
        begun = carry.before.masked_fill(first.cpu()[:, None, None], 0)
        found = self.plan(z, begun.to(device), sampler)
        action = self.first(found, sampler, noise=noise)
        return self.action.unscaled(action.cpu()), Carry(seen, found.mean.cpu())

    def explorer(self) -> Policy:
        return Explorer(self, 1.0)

    @property
    def _stack(self) -> int:
        return getattr(self.model.encoder, "stack", 1)

    def _look(self, seen: History, vectors: Mapping[str, Tensor], device: torch.device) -> Latent:
        """Latents of the newest frames, ``[B, 1]``."""
        rows, found = [], []
        for chosen, clip in seen.groups():
            told = {name: x[chosen][:, None].to(device) for name, x in vectors.items()}
            batch = Batch(clip.to(device) if self._stack > 1 else clip[:, -1:].to(device), vectors=told)
            found.append(self.model.perceive(batch).latent[:, -1:])
            rows.append(chosen)
        order = torch.cat(rows).argsort()
        return type(found[0]).cat(found, 0).map(lambda x: x[order.to(x.device)])

    def learner(self, config: TrainConfig) -> Learner:
        """Trains model, values and policy together; options of learning are this agent's own."""
        from .learner import TDMPC2Learner

        return TDMPC2Learner(self)


def flat(z: Latent) -> Tensor:
    """``[B, T, D]``."""
    return z.pack().flatten(2)


def _spread(z: Latent, count: int) -> Latent:
    """Every row ``count`` times, one after the other."""
    return z.map(lambda x: x.repeat_interleave(count, 0))
