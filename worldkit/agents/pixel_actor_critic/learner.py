"""`PixelLearner`: the parts of a model and the behaviour, each with its own segments and optimiser, in turns."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from ...batch import Batch
from ...distributions import Sampler
from ...errors import ConfigError, TrainingError
from ...latents import Latent
from ..learner import Learner
from .config import BEHAVIOR
from .dreams import LastingDreams, Lived, live_afresh
from .losses import Dreamed, actor_critic_losses, told
from .returns import inside_returns, lasting_returns
from .segments import SegmentsConfig, draw

if TYPE_CHECKING:
    from .agent import PixelActorCriticAgent

WHOLE = "model"
"""The part of models whose objective trains everything at once."""


class PixelLearner(Learner):
    """Trains an agent of `PixelActorCriticAgent` and its model.

    An objective that names ``turns`` trains one part of the model at a time: ``turn_loss(model, batch, part,
    sampler=)`` and ``turn_parameters(model, part)``. Others are one part, ``"model"``.

    Args:
        agent: Trained in place.
    Attributes:
        parts: Of the model, then the behaviour, in the order of their turns.
        updates: That were asked for; every ``config.turn`` of them all parts learn so many times.
        dreams: That go on, None of agents whose dreams are fresh.
    Raises:
        ConfigError: the options name other parts than the model has.
    """

    draws = True

    def __init__(self, agent: PixelActorCriticAgent):
        self.agent, self.model, self.updates = agent, agent.model, 0
        config, objective = agent.config, self.model.objective
        turns = tuple(getattr(objective, "turns", (WHOLE,)))
        self.parts = (*turns, BEHAVIOR)
        if {*self.parts} != {*config.optimizers}:
            raise ConfigError(f"objective '{objective.config.name}' trains {', '.join(turns)}, and this agent has "
                              f"optimizers and segments of {', '.join(config.optimizers)}: name the same parts, and "
                              f"'{BEHAVIOR}'")
        self.parameters: dict[str, list[nn.Parameter]] = {}
        for part in turns:
            own = objective.turn_parameters(self.model, part) if part != WHOLE else self.model.parameters()
            self.parameters[part] = [p for p in own if p.requires_grad]
        self.parameters[BEHAVIOR] = list(agent.network.parameters())
        self.optimizers = {}
        for part in self.parts:
            device = self.parameters[part][0].device
            self.optimizers[part] = config.optimizers[part].make(
                self.parameters[part], fused=device.type in ("cpu", "cuda"),
                module=agent.network if part == BEHAVIOR else self.model)
        self.made = dict.fromkeys(self.parts, 0)  # updates of each part
        self.dreams = LastingDreams(self.model, agent.network, context=config.context, length=config.length) if (
            config.dreams == "lasting") else None

    # -- turns

    def learn(self, replay: Any, random: np.random.Generator, sampler: Sampler) -> dict[str, Tensor]:
        config, found = self.agent.config, dict[str, list[Tensor]]()
        self.updates += 1
        if self.updates % config.turn:
            return {}
        sampler = sampler.on(next(self.agent.network.parameters()).device)
        for part in self.parts:
            for number in range(self.updates - config.turn, self.updates):
                if config.waits.get(part, 0) <= number < config.stops.get(part, number + 1):
                    for name, x in self.train(part, replay, random, sampler).items():
                        found.setdefault(name, []).append(x.detach())
        return {name: torch.stack(each).mean() for name, each in found.items()}

    def train(self, part: str, replay: Any, random: np.random.Generator, sampler: Sampler) -> dict[str, Tensor]:
        """One update of a part; what is worth a line of a log."""
        config = self.agent.config

        def segments(count: int) -> Batch:
            options = config.segments[part].model_copy(update={"count": count})
            return self._drawn(replay, options, random)

        self.model.train(part != BEHAVIOR)
        self.agent.train(part == BEHAVIOR)
        self.optimizers[part].zero_grad(set_to_none=True)
        terms = self._behave(segments, sampler) if part == BEHAVIOR else self._model(part, segments, sampler)
        self.model.eval()
        self.agent.eval()
        self.made[part] += 1
        return terms

    def update(self, batch: Batch, sampler: Sampler, *, carry: Latent | None = None) -> dict[str, Tensor]:
        raise ConfigError(f"agent '{self.agent.config.name}' draws its own segments: learner.learn(replay, random, "
                          "sampler)")

    def _drawn(self, replay: Any, options: SegmentsConfig, random: np.random.Generator) -> Batch:
        batch = draw(replay.episodes, options, random, columns=replay.conditions)
        return batch.to(self.parameters[BEHAVIOR][0].device).as_float()

    def _model(self, part: str, segments: Callable[[int], Batch], sampler: Sampler) -> dict[str, Tensor]:
        """An update of a part of the model."""
        batch, objective = segments(self.agent.config.segments[part].count), self.model.objective
        if part == WHOLE:
            loss = self.model.loss(batch, self.made[part], sampler=sampler)
        else:
            loss = objective.turn_loss(self.model, batch, part, sampler=sampler)
        norm = self._step(part, loss.total, loss.terms)
        if hasattr(objective, "after_step"):
            objective.after_step(self.model, self.made[part])
        return {f"loss_{part}": loss.total, **loss.terms, f"grad_norm_{part}": norm}

    def _behave(self, segments: Callable[[int], Batch], sampler: Sampler) -> dict[str, Tensor]:
        """An update of policy and value."""
        config = self.agent.config
        count = config.segments[BEHAVIOR].count
        if self.dreams is not None:
            lived = self.dreams.live(config.horizon, segments, count, sampler)
        else:
            lived = live_afresh(self.model, self.agent.network, segments(count), sampler, horizon=config.horizon,
                                context=config.context)
        dreamed = self.judged(lived)
        losses = actor_critic_losses(dreamed, entropy=config.entropy, value=config.value)
        norm = self._step(BEHAVIOR, torch.stack([*losses.values()]).sum(), losses)
        return told(losses, dreamed) | {"grad_norm_behavior": norm, "dreamed_reward": lived.reward.mean(),
                                        "dreamed_end": lived.ended.mean()}

    def judged(self, lived: Lived) -> Dreamed:
        """The steps that count, with their returns."""
        config = self.agent.config
        if config.dreams == "lasting":
            returns = lasting_returns(lived.reward, lived.ended, lived.cut, lived.following, discount=config.discount,
                                      lam=config.lam)
            return Dreamed(lived.logits, lived.action, lived.value, returns)
        returns = inside_returns(lived.reward, lived.ended, lived.value, discount=config.discount, lam=config.lam)
        return Dreamed(lived.logits[:, :-1], lived.action[:, :-1], lived.value[:, :-1], returns[:, :-1])

    def _step(self, part: str, total: Tensor, terms: Mapping[str, Tensor]) -> Tensor:
        options, optimizer = self.agent.config.optimizers[part], self.optimizers[part]
        if not torch.isfinite(total):
            bad = [name for name, x in terms.items() if not torch.isfinite(x)]
            raise TrainingError(f"the loss of part '{part}' became {total.item()} in its update {self.made[part] + 1}; "
                                f"terms that are not finite: {', '.join(bad) or 'none'}. A lower lr is the usual cure: "
                                f"-o agent.optimizers.{part}.lr=...")
        total.backward()
        learn = [p for p in self.parameters[part] if p.grad is not None]
        norm = torch.nn.utils.get_total_norm([p.grad for p in learn], foreach=True)
        if not torch.isfinite(norm):
            raise TrainingError(f"the gradients' norm of part '{part}' became {norm.item()} in its update "
                                f"{self.made[part] + 1}: a lower lr is the usual cure, "
                                f"-o agent.optimizers.{part}.lr=...")
        if options.max_grad_norm is not None:
            torch.nn.utils.clip_grads_with_norm_(learn, options.max_grad_norm, norm, foreach=True)
        for group in optimizer.param_groups:
            group["lr"] = options.rate(self.made[part])
        optimizer.step()
        return norm

    # -- going on

    def state_dict(self) -> dict[str, Any]:
        return {"updates": self.updates, "made": dict(self.made),
                "optimizers": {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()},
                "dreams": {} if self.dreams is None else self.dreams.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.updates, self.made = state["updates"], dict(state["made"])
        for name, optimizer in self.optimizers.items():
            optimizer.load_state_dict(state["optimizers"][name])
        if self.dreams is not None:
            self.dreams.load_state_dict(state["dreams"])
