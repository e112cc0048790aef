"""Latent actions and a dynamics learn from each other on the features of a frozen tokenizer: FLAM's loss.

Every next frame of a clip is predicted from true frames and from the latent action that was read off what really came
next; what is minimised is the squared error of its features, and the KL of the latent actions to their prior:

    L = mean (z_{t+1} - z'_{t+1})^2 + kl_weight * sum_i KL(q(a_t^i) || N(0, I))

Nothing else shapes slots: there is no reconstruction of pixels and no loss on slots. The tokenizer comes trained
(``-o train.init_from=RUN``).

The first steps may be ``quiet``: actions without noise and without KL. A model that is noisy from the start may settle
on what can be told without actions before it has found any.

Source: FLAM (arXiv:2602.16229); AdaWorld (arXiv:2503.18938) has the same loss with one action. Known: the two terms
and kl_weight 2e-4 (1e-5 to 1e-3 made no difference, 1e-2 lost the actions). Not known, and chosen here as AdaWorld's
code has it: the squared error is a mean over numbers, the KL a sum over numbers and factors. Quiet steps and
``change_weight`` are ours.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from pydantic import Field
from torch import Tensor

from ..batch import Batch
from ..config import ComponentConfig
from ..distributions import MEANS, Sampler
from ..latents import Latent, LatentDist
from .base import Loss, Objective
from .terms import action_terms

if TYPE_CHECKING:
    from ..model import ComposedWorldModel


class InverseForwardConfig(ComponentConfig):
    """Options of the loss.

    Attributes:
        num_frames: Frames of a training clip; None = one more than the model's horizon.
        kl_weight: Of the KL, nats per transition, summed over factors.
        quiet_steps: First steps of a training without noise in the actions and without KL.
        kl_steps: Steps behind these in which the KL's weight grows to what it is.
        change_weight: How much more a token weighs that changes from frame t to t + 1: by this times its squared change
            over the mean of that. 0 (the paper): all weigh the same.
    """

    name: str = "inverse-forward"
    num_frames: int | None = Field(default=None, gt=1)
    kl_weight: float = Field(default=2e-4, ge=0)
    quiet_steps: int = Field(default=0, ge=0)
    kl_steps: int = Field(default=0, ge=0)
    change_weight: float = Field(default=0.0, ge=0)


class InverseForward(Objective):
    """Forward and inverse dynamics on frozen features; see the module's docstring."""

    Config = InverseForwardConfig
    requires = frozenset({"dynamics", "no-filtering"})
    frozen = frozenset({"encoder", "decoder"})
    action_losses = True
    config: InverseForwardConfig

    def forward(self, model: ComposedWorldModel, batch: Batch, step: int, *, sampler: Sampler) -> Loss:
        config = self.config
        with torch.no_grad():
            z = model.encoder.see(batch, sampler=MEANS).latent
        valid = _inside(batch.done_mask)
        factors = model.dynamics.factors(z) if model.dynamics.factorizes else None
        quiet = step < config.quiet_steps
        steering = model.condition(z, batch, sampler=MEANS if quiet else sampler, factors=factors)
        if model.dynamics.explicit_prior:
            predicted = model.predict_next(z, steering.cond, factors=factors)
            squared = next_error(predicted, z, change_weight=config.change_weight)
            total = _mean(squared, valid)
            terms = {"next": total}
        else:
            losses = {k: _mean(v, valid) for k, v in model.dynamics.loss(z, steering.cond, sampler).items()}
            total = torch.stack(list(losses.values())).sum()
            terms = {"next": total} | {f"dynamics/{k}": v for k, v in losses.items()}
        if steering.posterior is not None:
            kl = _mean(steering.posterior.kl(steering.prior).sum(2), valid)
            grown = min(1.0, (step - config.quiet_steps + 1) / max(1, config.kl_steps))
            told, logged = action_terms(model.latent_action, steering, None if batch.done_mask is None else
                                        batch.done_mask.float())
            terms |= {"kl_latent_action": kl} | logged
            total = total + told + (0.0 if quiet else grown * config.kl_weight) * kl
        return Loss(total, {name: value.detach() for name, value in terms.items()})


def next_error(predicted: LatentDist, z: Latent, *, change_weight: float = 0.0) -> Tensor:
    """How far predictions of frames 1..T-1 are from what came, ``[B, T - 1]``: mean over all numbers of a frame.

    Squared error of point fields, negative log-likelihood of others.

    Args:
        predicted: ``[B, T - 1]``.
        z: The T frames.
        change_weight: As in `InverseForwardConfig`; of fields with a density it has no say.
    """
    total, count = 0.0, sum(group.size * f.dim for group in z.spec.groups for f in group.fields)
    for key, error in predicted.nll(z[:, 1:]).items():
        if z.spec.field(key).dist.point:
            error = 2 * error  # its likelihood is half the squared distance
            if change_weight:
                change = (z.values[key][:, 1:] - z.values[key][:, :-1]).square().sum(-1)
                error = error * (1 + change_weight * change / change.mean().clamp(min=1e-8))
        total = total + error.sum(-1)
    return total / count  # type: ignore[return-value]  # a latent has at least one field


def _inside(done_mask: Tensor | None) -> Tensor | None:
    """Which transitions lead to frames inside their episode, ``[B, T - 1]``."""
    if done_mask is None:
        return None
    inside = done_mask if done_mask.ndim == 2 else done_mask.float().mean(1)
    return inside[:, 1:].float()


def _mean(value: Tensor, valid: Tensor | None) -> Tensor:
    return value.mean() if valid is None else (value * valid).sum() / valid.sum().clamp(min=1)
