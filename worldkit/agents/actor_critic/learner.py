"""`ActorCriticLearner`: one step of world model, actor and critic, in the order of each generation of Dreamer."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ...batch import Batch
from ...distributions import Sampler
from ...errors import ConfigError, TrainingError
from ...latents import Latent
from ...training.config import TrainConfig
from ..learner import Learner
from .behavior import BehaviorLosses

if TYPE_CHECKING:
    from .agent import ActorCriticAgent


class ActorCriticLearner(Learner):
    """Trains an actor-critic and its model together.

    Generation 3 sums all losses and steps once. Generation 1 has an optimiser each for model, actor and critic, which
    step on gradients of the same weights; in generation 2 the model has stepped before it imagines.

    Args:
        agent: The agent; it is trained in place.
        config: Its ``precision`` and ``device``; how it is optimised, the agent's own options say.
    Attributes:
        updates: How many were made.
        behavior: What the last update made of imagination.
    Raises:
        ConfigError: an objective of the model that does not share what it has perceived.
    """

    def __init__(self, agent: ActorCriticAgent, config: TrainConfig):
        self.agent, self.model, self.config, self.updates = agent, agent.model, config, 0
        objective = self.model.objective
        if not hasattr(objective, "parts"):
            raise ConfigError(
                f"an actor-critic trains its model on what both have perceived once, and objective "
                f"'{objective.config.name}' perceives by itself: create the model with objective='dreamer'")
        if config.precision == "fp16":
            raise ConfigError("an actor-critic scales no losses, which precision 'fp16' needs: take 'bf16' or 'no'")
        parts: dict[str, nn.Module] = {"model": self.model, "actor": agent.behavior.actor,
                                       "critic": agent.behavior.critic}
        learn = {name: [p for p in part.parameters() if p.requires_grad] for name, part in parts.items()}
        if "all" in agent.config.optimizers:
            learn = {"all": [p for parameters in learn.values() for p in parameters]}
        self.parameters = learn
        device = learn[next(iter(learn))][0].device
        self.optimizers = {name: options.make(learn[name], fused=device.type in ("cpu", "cuda"))
                           for name, options in agent.config.optimizers.items()}
        self.behavior: BehaviorLosses | None = None

    # -- one update

    def update(self, batch: Batch, sampler: Sampler, *, carry: Latent | None = None) -> dict[str, Tensor]:
        batch = batch.to(next(self.model.parameters()).device).as_float()
        self.agent.train()
        self.model.train()
        for optimizer in self.optimizers.values():
            optimizer.zero_grad(set_to_none=True)
        with self._autocast():
            seen = self.perceive(batch, sampler, carry)
            arrays = self.model.objective.parts(self.model, seen, batch, sampler=sampler, step=self.updates)
        scales = dict(self.model.objective.scales(self.model))
        metrics: dict[str, Tensor] = {}
        if self.agent.config.generation == 2:
            metrics |= self._descend(arrays, scales, ("model",))
            arrays, scales = {}, {}
        with self._autocast():
            self.behavior = self.agent.behavior.losses(self.model, seen, batch, sampler)
        arrays, scales = {**arrays, **self.behavior.arrays}, {**scales, **self.behavior.scales}
        before = metrics.get("loss", 0.0)
        metrics |= self._descend(arrays, scales, [n for n in self.optimizers if f"grad_norm_{n}" not in metrics])
        metrics["loss"] = before + metrics["loss"]
        self.agent.behavior.after_update(self.updates)
        self.updates += 1
        self.latent = seen.latent.detach()
        self.agent.eval()
        self.model.eval()
        return metrics | dict(self.behavior.metrics)

    def perceive(self, batch: Batch, sampler: Sampler, carry: Latent | None) -> Any:
        """What is seen in all frames; with ``carry``, in all but the first, whose state it is."""
        if carry is None:
            return self.model.perceive(batch, sampler)
        rest = replace(
            batch, video=batch.video[..., 1:, :, :, :],
            conditions={name: x[:, 1:] for name, x in batch.conditions.items()},
            masks={name: x[:, 1:] for name, x in batch.masks.items()}, targets={},
            first=None if batch.first is None else batch.first[:, 1:], done_mask=None,
            vectors={name: x[:, 1:] for name, x in batch.vectors.items()})
        return self.model.perceive(rest, sampler, last=carry.to(batch.video.device),
                                   last_action={name: x[:, :1] for name, x in batch.conditions.items()})

    def _descend(self, arrays: Mapping[str, Tensor], scales: Mapping[str, float], names: Any) -> dict[str, Tensor]:
        """Gradients of the sum of all losses, and a step of these optimisers."""
        means = {name: x.mean() for name, x in arrays.items()}
        terms = {name: scales.get(name, 1.0) * mean for name, mean in means.items()}
        total = torch.stack([*terms.values()]).sum()
        if not torch.isfinite(total):
            bad = [name for name, x in means.items() if not torch.isfinite(x)]
            raise TrainingError(
                f"the loss became {total.item()} in update {self.updates + 1}; parts that are not finite: "
                f"{', '.join(bad)}. Rewards or observations that are not finite are one cause; a lower lr of the "
                "agent's optimizers is the usual cure")
        policy = terms.pop("policy", None)
        if terms:
            torch.stack([*terms.values()]).sum().backward()
        if policy is not None:  # its graph may run through the model, which must not learn from it
            actor = list(self.agent.behavior.actor.parameters())
            for p, gradient in zip(actor, torch.autograd.grad(policy, actor), strict=True):
                p.grad = gradient
        metrics = {"loss": total.detach(), **{f"loss_{name}": x.detach() for name, x in means.items()}}
        for name in names:
            metrics[f"grad_norm_{name}"] = self._step(name)
        return metrics

    def _step(self, name: str) -> Tensor:
        options, optimizer = self.agent.config.optimizers[name], self.optimizers[name]
        learn = [p for p in self.parameters[name] if p.grad is not None]
        norm = torch.nn.utils.get_total_norm([p.grad for p in learn], foreach=True)
        if not torch.isfinite(norm):
            raise TrainingError(f"the gradients' norm became {norm.item()} in update {self.updates + 1}: a lower lr of "
                                "the agent's optimizers is the usual cure")
        if options.max_grad_norm is not None:
            torch.nn.utils.clip_grads_with_norm_(learn, options.max_grad_norm, norm, foreach=True)
        for group in optimizer.param_groups:
            group["lr"] = options.rate(self.updates)
        optimizer.step()
        return norm

    def _autocast(self) -> Any:
        if self.config.precision != "bf16":
            return contextlib.nullcontext()
        return torch.autocast(next(self.model.parameters()).device.type, torch.bfloat16)

    # -- going on

    def state_dict(self) -> dict[str, Any]:
        return {"updates": self.updates, "optimizers": {n: o.state_dict() for n, o in self.optimizers.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.updates = state["updates"]
        for name, optimizer in self.optimizers.items():
            optimizer.load_state_dict(state["optimizers"][name])
