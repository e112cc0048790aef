"""Second stage of two: a dynamics learns on the latents of an encoder that is already trained, and stays as it is.

An explicit dynamics is given ``burn_in`` frames and rolls the rest of the clip out by itself, fed with the means of its
own predictions and never with true frames; gradients flow through the whole rollout. Every predicted frame is held
against its latent (squared error of point latents, negative log-likelihood of others) and, drawn by the frozen
decoder, against its image. Fields of a token count as much as the token is present, as in the ELBO. A latent action's
posterior, which has seen the outcome, drives the rollout; its KL to the prior is added, and so is what it learns by on
its own (`LatentAction.losses`).

An implicit dynamics (diffusion) is not unrolled: it learns by its own loss on the latents (`TwoStage.notes` says so).

Reductions: all terms are MEANS over the numbers of a latent, pixels, tokens, frames and clips. Images are in [-1, 1].

Source: SlotFormer (arXiv:2210.05861); upstream slotformer/video_prediction @ 10a6d9b, written from its description.
Differences: the encoder runs in the loop (upstream extracts slots beforehand; the numbers are the same); actions,
distributions and implicit dynamics are ours.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal

import torch
from einops import reduce
from pydantic import Field, model_validator
from torch import Tensor

from ..batch import Batch
from ..conditions import Condition
from ..config import ComponentConfig
from ..distributions import Sampler
from ..errors import ShapeError
from ..latents import Latent, LatentDist
from .base import Loss, Objective
from .remembered import Remembered
from .terms import action_terms, head_terms, psnr, vector_errors

if TYPE_CHECKING:
    from ..dynamics import Dynamics
    from ..model import ComposedWorldModel


class TwoStageConfig(ComponentConfig):
    """Options of the two-stage objective.

    Attributes:
        burn_in: First frames of a clip, which are given; None = half of the clip. More than the dynamics' window are
            no use.
        num_frames: Frames of a training clip; None = one more than the dynamics' window. A rollout may leave the
            window.
        latent_weight: Of the latents' loss, and of an implicit dynamics' own.
        image_weight: Of the decoded images' mean squared error; 0 saves the decoder's work.
        kl_weight: Of the latent actions' KL, nats per token and transition. The default is about LPWM's balance: 0.1
            on a sum over tokens beside a sum over pixels.
        remember: Training clips whose latents are kept in memory, so that they are encoded once only. It pays where
            clips come again soon: with ``train.clips=tile``.
        actions: Latent actions ``"learn"``, by their own losses and their KL, beside the dynamics, or are ``"frozen"``:
            they come trained (objective ``latent-action``) and stay as they are.
        decay: Factor on the latents' loss from one predicted frame to the next; weights average 1 (as upstream).
    """

    name: str = "two-stage"
    burn_in: int | None = Field(default=None, gt=0)
    num_frames: int | None = Field(default=None, gt=1)
    latent_weight: float = Field(default=1.0, ge=0)
    image_weight: float = Field(default=1.0, ge=0)
    kl_weight: float = Field(default=1e-3, ge=0)
    decay: float = Field(default=1.0, gt=0, le=1)
    remember: int = Field(default=0, ge=0)
    actions: Literal["learn", "frozen"] = "learn"

    @model_validator(mode="after")
    def _check_lengths(self) -> TwoStageConfig:
        if self.burn_in is not None and self.num_frames is not None and self.num_frames <= self.burn_in:
            raise ValueError(f"num_frames {self.num_frames} leaves nothing to predict after burn_in {self.burn_in}")
        return self


class TwoStage(Objective):
    """Rollout in the latents of a frozen encoder; see the module's docstring."""

    Config = TwoStageConfig
    requires = frozenset({"decoder", "dynamics", "no-filtering"})
    frozen = frozenset({"encoder", "decoder"})
    action_losses = True

    def __init__(self, config: TwoStageConfig):
        super().__init__(config)
        if config.actions == "frozen":
            self.frozen = self.frozen | {"latent_action"}
        self._remembered = Remembered(config.remember)

    def study(self, model: ComposedWorldModel, batches: Iterable[Batch]) -> None:
        self._remembered.fill(model.encoder, batches)

    def forward(self, model: ComposedWorldModel, batch: Batch, step: int, *, sampler: Sampler) -> Loss:
        z = self._remembered.means(model.encoder, batch)
        steering = model.condition(z, batch, sampler=sampler)
        cond = steering.cond
        valid = _valid(batch.done_mask)
        if model.dynamics.explicit_prior:
            total, terms = self._rollout_loss(model, z, cond, batch, valid)
        else:
            losses = {k: _mean(v, valid, 1) for k, v in model.dynamics.loss(z, cond, sampler).items()}
            dynamics = sum(losses.values())
            total, terms = self.config.latent_weight * dynamics, {"dynamics": dynamics}
            terms |= {f"dynamics/{k}": v for k, v in losses.items()}
        if steering.posterior is not None and "latent_action" not in self.frozen:
            told, logged = action_terms(model.latent_action, steering, valid)
            kl = _mean(steering.posterior.kl(steering.prior).mean(2), valid, 1)
            total, terms = total + told + self.config.kl_weight * kl, terms | logged | {"kl_latent_action": kl}
        heads, told = head_terms(model, batch, z, cond)
        total, terms = total + heads, terms | told
        return Loss(total, {name: value.detach() for name, value in terms.items()})

    def _rollout_loss(
        self, model: ComposedWorldModel, z: Latent, cond: Condition, batch: Batch, valid: Tensor | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of an explicit dynamics' own rollout, and its terms."""
        start = self._burn_in(z.shape[1])
        predicted = unroll(model.dynamics, z, cond, start)
        per_frame = latent_loss(predicted, z[:, start:])
        weights = self.config.decay ** torch.arange(per_frame.shape[1], device=per_frame.device)
        terms = {"latent": _mean(per_frame * (weights / weights.mean()), valid, start)}
        total = self.config.latent_weight * terms["latent"]
        if self.config.image_weight:
            drawn, video = model.decode(predicted.mode()), batch.video[..., start:, :, :, :]
            told, logged = vector_errors(model, drawn, {k: v[:, start:] for k, v in batch.vectors.items()})
            if logged:
                terms |= logged
                total = total + self.config.image_weight * _mean(told, valid, start)
            if video.numel():
                squares = reduce((drawn.video - video).square(), "b ... t c h w -> b t", "mean")
                squared = _mean(squares, valid, start)  # [-1, 1] is twice as wide as [0, 1]
                terms |= {"image": 4 * squared, "psnr": psnr(squared)}
                total = total + self.config.image_weight * terms["image"]
        return total, terms

    def _burn_in(self, frames: int) -> int:
        start = max(1, frames // 2) if self.config.burn_in is None else self.config.burn_in
        if start >= frames:
            raise ShapeError(
                f"a clip of {frames} frames leaves nothing to predict after {start} given ones; set objective.burn_in "
                f"below {frames}, or objective.num_frames above {start}"
            )
        return start

    def notes(self, model: ComposedWorldModel) -> list[str]:
        if model.dynamics is None or model.dynamics.explicit_prior:
            return []
        return [
            f"dynamics '{model.dynamics.config.name}' has no explicit prior: it learns by its own loss on the frozen "
            "encoder's latents, one transition at a time; burn_in, decay and image_weight have no part in that"
        ]


def unroll(dynamics: Dynamics, z: Latent, cond: Condition, burn_in: int) -> LatentDist:
    """Predictions of the frames from ``burn_in`` on, each made from the given frames and the means of those before.

    Args:
        dynamics: One with an explicit prior.
        z: Latents ``[B, T]``, of which the first ``burn_in`` are given.
        cond: Conditions of the T - 1 transitions.
        burn_in: Frames that are given, at least 1 and fewer than T.
    Returns:
        ``[B, T - burn_in]``.
    """
    state = dynamics.start(z[:, :burn_in], cond.at(slice(0, burn_in - 1)))
    predicted = []
    for t in range(burn_in - 1, z.shape[1] - 1):  # transition t leads to frame t + 1
        if predicted:
            dynamics.observe(state, predicted[-1].mode())
        predicted.append(dynamics.step(state, cond.at(slice(t, t + 1))))
    return LatentDist.cat(predicted)


def latent_loss(prediction: LatentDist, z: Latent) -> Tensor:
    """How far predictions are from latents, ``[B, T]``: mean over all numbers of a frame.

    Squared error of point fields, negative log-likelihood in nats of others. Fields of a token count as much as the
    token is present.
    """
    total, spec = 0.0, z.spec
    for (group, field), value in prediction.nll(z).items():
        if spec.field((group, field)).dist.point:
            value = 2 * value  # its likelihood is half the squared distance
        gate = z.values.get((group, "transparency"))
        if gate is not None and field != "transparency":
            value = value * gate[..., 0]
        total = total + value.sum(-1)
    return total / sum(group.size * f.dim for group in spec.groups for f in group.fields)


def _valid(done_mask: Tensor | None) -> Tensor | None:
    """``[B, T]``; with a mask per view ``[B, V, T]``, the share of views inside the episode."""
    if done_mask is None:
        return None
    return (done_mask if done_mask.ndim == 2 else done_mask.float().mean(1)).float()


def _mean(value: Tensor, valid: Tensor | None, start: int) -> Tensor:
    """Mean of ``[B, T']`` over clips and frames; those from ``start`` on that lie inside their episode."""
    if valid is None:
        return value.mean()
    return (value * valid[:, start:]).sum() / valid[:, start:].sum().clamp(min=1)
