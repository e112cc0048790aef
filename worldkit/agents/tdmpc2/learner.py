"""One training step of TD-MPC2: the model and the values together, then the policy, then the slow copies."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...batch import Batch
from ...distributions import Sampler
from ...errors import TrainingError
from ...latents import Latent
from ...objectives.tdmpc2 import Unrolled
from ..learner import Learner
from .agent import TDMPC2Agent, flat


class TDMPC2Learner(Learner):
    """Trains an agent of `TDMPC2Agent` and the model it acts through."""

    def __init__(self, agent: TDMPC2Agent):
        self.agent, self.model, config = agent, agent.model, agent.config
        encoder = list(self.model.encoder.parameters())
        inside = {id(p) for p in encoder}
        others = [p for p in self.model.parameters() if id(p) not in inside] + list(agent.values.nets.parameters())
        self.optimizer = torch.optim.Adam([{"params": encoder, "lr": config.encoder_lr}, {"params": others}],
                                          lr=config.lr, fused=True)
        self.policy_optimizer = torch.optim.Adam(agent.policy.parameters(), lr=config.lr, eps=config.policy_eps,
                                                 fused=True)
        self.model.train()
        agent.train()
        self._learning = [m for part in (self.model, agent) for m in part.modules() if m.training]
        self._training(False)

    def _training(self, mode: bool) -> None:
        """Training or evaluation mode of everything that has both; ``module.train()`` takes as long as a small loss."""
        for module in self._learning:
            module.__dict__["training"] = mode

    def update(self, batch: Batch, sampler: Sampler, *, carry: Latent | None = None) -> dict[str, Tensor]:
        """Train on one batch.

        Returns:
            Loss terms and norms, without gradients.
        """
        agent, model, config = self.agent, self.model, self.agent.config
        sampler = sampler.on(next(agent.parameters()).device)
        self._training(True)
        unrolled = model.objective.unroll(model, batch, sampler=sampler)
        target = self._target(unrolled, sampler)
        total, terms = model.objective.terms(model, unrolled)
        actions = unrolled.batch.conditions["action"][:, : target.shape[1]]
        logits = agent.values(flat(unrolled.latents[:, :-1]), actions)
        terms["value"] = unrolled.mean(agent.values.loss(logits, target))
        loss = total + config.value * terms["value"]
        self.optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_([p for group in self.optimizer.param_groups for p in group["params"]],
                                              config.clip)
        if not torch.isfinite(norm):
            bad = [name for name, term in terms.items() if not torch.isfinite(term)]
            raise TrainingError(f"the gradient became {norm.item()}; terms that are not finite: "
                                f"{', '.join(bad) or 'none'}. A lower learning rate is the usual cure: -o agent.lr=...")
        self.optimizer.step()
        told = self._improve(flat(unrolled.latents.detach()), sampler)
        agent.values.follow(config.tau)
        self._training(False)
        return {"loss": loss.detach(), **{name: term.detach() for name, term in terms.items()}, "grad_norm": norm,
                **told}

    @torch.no_grad()
    def _target(self, unrolled: Unrolled, sampler: Sampler) -> Tensor:
        """Reward, and the lesser value of what was reached, ``[B, H]``."""
        agent, batch, seen = self.agent, unrolled.batch, flat(unrolled.seen)
        steps = seen.shape[1]
        value = agent.values.least(seen, agent.policy(seen, sampler).action, sampler)
        ends = batch.targets.get("terminated")
        going = 1 if ends is None else 1 - ends[:, :steps].to(value.dtype)
        return batch.targets["reward"][:, :steps].to(value.dtype) + agent.discount * going * value

    def _improve(self, z: Tensor, sampler: Sampler) -> dict[str, Tensor]:
        """A step of the policy on latents ``[B, H + 1, D]``; the values get no gradients."""
        agent, config = self.agent, self.agent.config
        choice = agent.policy(z, sampler)
        value = agent.values.mean(z, choice.action, sampler)
        agent.scale.update(value[:, 0])
        rho = self.model.objective.config.rho ** torch.arange(z.shape[1], device=z.device, dtype=z.dtype)
        gain = config.entropy * choice.scaled_entropy + agent.scale(value)
        loss = -(gain.mean(0) * rho).mean()
        parameters = list(agent.policy.parameters())
        self.policy_optimizer.zero_grad()
        for parameter, grad in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
            parameter.grad = grad
        norm = torch.nn.utils.clip_grad_norm_(parameters, config.clip)
        self.policy_optimizer.step()
        return {"policy": loss.detach(), "policy_grad_norm": norm, "entropy": choice.entropy.detach().mean(),
                "scaled_entropy": choice.scaled_entropy.detach().mean(), "value_scale": agent.scale.value.clone()}

    def state_dict(self) -> dict[str, Any]:
        """The optimisers; weights belong to the agent and its model."""
        return {"model": self.optimizer.state_dict(), "policy": self.policy_optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.optimizer.load_state_dict(state["model"])
        self.policy_optimizer.load_state_dict(state["policy"])
