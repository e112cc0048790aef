"""How a model and its controller are trained: V, then M, then generations of candidates."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...batch import Batch
from ...distributions import Sampler
from ...dreaming import Dream
from ...errors import ConfigError, TrainingError
from ...latents import Latent
from ..learner import Learner
from .evolution import Evolution

if TYPE_CHECKING:
    from .agent import ControllerAgent


class ControllerLearner(Learner):
    """Trains an agent of `ControllerAgent` and its model.

    The first updates train V, the next M, as its options say; those behind are a generation of candidates each, in
    dreams that begin in states of the batch. In the environment candidates act on their own (`agent.Candidates`), and
    what follows trains V and M in turns, if anything is to be learned still.

    Args:
        agent: Trained in place.
    Raises:
        ConfigError: the model does not learn in turns, or is to dream without heads.
    """

    def __init__(self, agent: ControllerAgent):
        self.agent, self.model, config = agent, agent.model, agent.config
        objective, self.updates = self.model.objective, 0
        if getattr(objective, "turns", ()) != ("vision", "memory"):
            raise ConfigError(f"agent 'controller' trains vision and memory in turns, and objective "
                              f"'{objective.config.name}' has no such: -o objective=world-models")
        if config.where == "dream" and not {"reward", "terminated"} & {*self.model.heads}:
            raise ConfigError("a controller learns in dreams from predicted rewards or ends: give the model heads, -o "
                              "heads.terminated=bernoulli, or agent.where=env")
        self.model.requires_grad_(True)
        self.parameters = {part: objective.turn_parameters(self.model, part) for part in objective.turns}
        rates = {"vision": config.vision_lr, "memory": config.memory_lr}
        self.optimizers = {part: torch.optim.Adam(self.parameters[part], lr=rate) for part, rate in rates.items()}
        self.evolution = agent.evolution = Evolution(
            agent.weights.numel(), population=config.population, sigma=config.sigma, episodes=config.episodes,
            seed=config.seed)

    def turn(self) -> str:
        """What the next update trains: ``"vision"``, ``"memory"`` or ``"controller"``."""
        config = self.agent.config
        if self.updates < config.vision_updates:
            return "vision"
        beyond = self.updates - config.vision_updates - config.memory_updates
        if beyond < 0:
            return "memory"
        if config.where == "dream":
            return "controller"
        return ("memory", "vision")[beyond % 2]

    def update(self, batch: Batch, sampler: Sampler, *, carry: Latent | None = None) -> dict[str, Tensor]:
        part = self.turn()
        batch, self.updates = batch.as_float(), self.updates + 1
        return self._dream(batch, sampler) if part == "controller" else self._learn(part, batch, sampler)

    def _pictures(self, batch: Batch, sampler: Sampler) -> Batch:
        """Some frames of a batch, each as a clip of its own."""
        views = batch.video.ndim - 5
        frames = batch.video.movedim(1 + views, 1).flatten(0, 1).unsqueeze(1 + views)
        like = frames.new_zeros(min(self.agent.config.vision_frames, len(frames)))
        return Batch(frames[(sampler.uniform("picture", like) * len(frames)).long()])

    def _learn(self, part: str, batch: Batch, sampler: Sampler) -> dict[str, Tensor]:
        self.model.train()
        if part == "vision":
            batch = self._pictures(batch, sampler)
        loss = self.model.objective.turn_loss(self.model, batch, part, sampler=sampler)
        if not torch.isfinite(loss.total):
            bad = [name for name, x in loss.terms.items() if not torch.isfinite(x)]
            raise TrainingError(f"the loss of {part} became {loss.total.item()} in update {self.updates}; terms that "
                                f"are not finite: {', '.join(bad)}. A lower rate is the usual cure: -o "
                                f"agent.{part}_lr=...")
        optimizer = self.optimizers[part]
        optimizer.zero_grad(set_to_none=True)
        loss.total.backward()
        if part == "memory":
            torch.nn.utils.clip_grad_value_(self.parameters[part], self.agent.config.clip)
        optimizer.step()
        self.model.eval()
        return {f"loss_{part}": loss.total.detach(), **loss.terms}

    # -- dreams

    @torch.no_grad()
    def _dream(self, batch: Batch, sampler: Sampler) -> dict[str, Tensor]:
        """A generation of candidates in dreams; all of them begin in the same states of the batch."""
        config, evolution = self.agent.config, self.evolution
        seen = self.model.perceive(batch, sampler).latent.singles()
        count = seen.shape[0]
        drawn = (sampler.uniform("start", seen.presence.new_zeros(config.episodes)) * count).long()
        starts = seen.map(lambda x: x[drawn].repeat(evolution.population, *[1] * (x.ndim - 1)))
        returns, lengths = self.dreamed(starts, evolution.candidates.to(self.agent.weights), sampler)
        scores = returns.unflatten(0, (evolution.population, -1))
        for number, each in enumerate(scores.tolist()):
            for score in each:
                ended = evolution.tell(number, score)
        assert ended  # every candidate was given all its episodes
        self.agent.weights.copy_(evolution.mean)
        return {"dreamed_return": scores.mean(), "dreamed_best": scores.mean(1).max(), "dreamed_steps": lengths.mean()}

    def dreamed(self, starts: Latent, weights: Tensor, sampler: Sampler) -> tuple[Tensor, Tensor]:
        """What layers come to in dreams.

        Args:
            starts: States ``[P * E, 1]``: E of each layer, one layer after the other.
            weights: Of the layers, ``[P, size]``.
            sampler: What comes next, rewards and ends are drawn by.
        Returns:
            Returns and numbers of steps, ``[P * E]`` each. Without a head of the reward a step is worth 1.
        """
        agent, dynamics = self.agent, self.model.dynamics
        alive = starts.presence.new_ones(starts.shape[0])
        returns, lengths = torch.zeros_like(alive), torch.zeros_like(alive)
        was, dynamics.temperature = dynamics.temperature, agent.config.temperature or dynamics.temperature
        try:
            dream = Dream(self.model, starts, sampler=sampler, drawn=True)
            for _ in range(agent.config.horizon):
                dream.step({"action": agent.decide(dream.latent, weights)[:, None]})
                told = dream.predictions
                lengths += alive
                returns += alive * (told["reward"][:, 0] if "reward" in told else 1)
                if "terminated" in told:
                    alive = alive * (told["terminated"][:, 0] <= 0.5)
                    if not alive.any():
                        break
        finally:
            dynamics.temperature = was
        return returns, lengths

    # -- going on

    def state_dict(self) -> dict[str, Any]:
        return {"updates": self.updates, "evolution": self.evolution.state_dict(),
                **{part: optimizer.state_dict() for part, optimizer in self.optimizers.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.updates = state["updates"]
        self.evolution.load_state_dict(state["evolution"])
        for part, optimizer in self.optimizers.items():
            optimizer.load_state_dict(state[part])
