"""The loss of DLPv2 (single images) and DDLP (video): reconstruction and KL divergences, in stages.

The first ``num_static_frames`` frames are held against the encoder's constant prior, all later ones against the prior
that the dynamics predicts. Later frames join one after another while training goes on (`DDLP.ramp`). In the warm-up
only glimpses are reconstructed, then comes the noisy stage (`worldkit.nn.stages`); encoders that know no stages begin
with the full one. Stages and ramp exist in training only: a model in evaluation mode tells the whole loss.

Unlike in LPWM's `elbo`, KLs count for absent particles, too. Implicit dynamics and point latents: as there.

Reductions, as upstream: sum over pixels, tokens and frames; mean over clips; the total is divided by the number of
frames and, with VGG, multiplied by 0.001. Logged terms do not show the ramp.

Source: DDLP (arXiv:2306.05957) and DLPv2; upstream models.py @ 5686275, written from its description. Upstream defects,
on request: ``background_kl = "mean"`` and ``leaky_balance``. Differences: the balance concerns predicted frames; done
masks, latent actions, several views and other parts are ours.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.nn.functional as F
from einops import rearrange, reduce
from pydantic import Field
from torch import Tensor

from ..batch import Batch
from ..conditions import Condition
from ..config import ComponentConfig, Config
from ..distributions import Sampler
from ..errors import ConfigError
from ..latents import Key, LatentDist
from ..nn.stages import Stage, Staged
from .base import Loss, Objective
from .terms import (
    action_kl,
    by_field,
    detach_points,
    frame_weights,
    head_terms,
    implicit_terms,
    notes,
    place,
    presence,
    summary,
    vector_errors,
)
from .turns import Turns

if TYPE_CHECKING:
    from ..decoders import Decoded
    from ..encoders import Encoding
    from ..model import ComposedWorldModel

_WEAK = ("proposals", "depth", "features", "background")
"""Terms of the static KL that `DDLPWeights.features` weakens."""

_VGG_FACTOR, _VGG_SIDE = 0.12151, 32


class DDLPWeights(Config):
    """Weights of the terms.

    Attributes:
        reconstruction: Upstream beta_rec.
        kl: Static KL; upstream beta_kl.
        dynamics: KL to the predicted prior, and KL of latent actions; upstream beta_dyn.
        dynamics_reconstruction: Factor on the reconstruction of predicted frames; upstream beta_dyn_rec.
        features: Factor on what the static KL has of proposals, depth, features and background; upstream kl_balance.
    """

    reconstruction: float = Field(default=1.0, ge=0)
    kl: float = Field(default=0.1, ge=0)
    dynamics: float = Field(default=0.1, ge=0)
    dynamics_reconstruction: float = Field(default=1.0, ge=0)
    features: float = Field(default=1e-3, ge=0)


class DDLPConfig(ComponentConfig):
    """Options of the DDLP loss.

    Attributes:
        reconstruction: ``"mse"``: squared error. ``"vgg"``: squared error, and that of VGG16 features (needs weights).
        weights: See `DDLPWeights`.
        num_static_frames: First frames that are held against the static prior; upstream's burn-in tau.
        warmup_epochs: Epochs in which only glimpses are reconstructed; the one behind them is noisy.
        ramp_steps: Predicted frames join one after another, the last after ``max(1, warmup_epochs)`` times this many
            steps, or as many epochs if these are longer. 0: all count from the beginning.
        epoch_steps: What counts as an epoch here; None = an epoch of the training.
        frames_first: In this many first steps of a training the dynamics rests and every frame counts as a static one.
            A dynamics that learns while its latents still form ends as copying. Not upstream's.
        dynamics_turns: In the full stage, after every step that trains all parts, so many that train the dynamics (and
            latent actions) alone, on latents as they are: it learns slowest, and such steps are cheaper. Not
            upstream's.
        balance: Share of the posterior in the gradient of the predicted frames' KL, the rest is the prior's; 0.5: both
            get the whole.
        background_kl: ``"sum"`` over the background's numbers, as of all else. ``"mean"``: upstream's in video.
        leaky_balance: Upstream's defect where ``balance`` is not 0.5: the prior's share of the KL of Beta fields lets
            some gradient through to the posterior.
    """

    name: str = "ddlp"
    reconstruction: Literal["mse", "vgg"] = "mse"
    weights: DDLPWeights = DDLPWeights()
    num_static_frames: int = Field(default=4, gt=0)
    warmup_epochs: int = Field(default=1, ge=0)
    ramp_steps: int = Field(default=10_000, ge=0)
    epoch_steps: int | None = Field(default=None, gt=0)
    frames_first: int = Field(default=0, ge=0)
    dynamics_turns: int = Field(default=0, ge=0)
    balance: float = Field(default=0.5, ge=0, le=1)
    background_kl: Literal["sum", "mean"] = "sum"
    leaky_balance: bool = False


class DDLP(Turns, Objective):
    """Reconstruction and KL terms; see the module's docstring."""

    Config = DDLPConfig
    requires = frozenset({"decoder", "no-filtering"})

    def stage(self, step: int) -> Stage:
        """Stage of a training step; ``"full"`` outside of a training."""
        epoch = self._epoch()
        if epoch is None or step >= (self.config.warmup_epochs + 1) * epoch:
            return "full"
        return "warmup" if step < self.config.warmup_epochs * epoch else "noisy"

    def ramp(self, step: int, frames: int) -> Tensor:
        """How much each of the first predicted frames counts at a training step, ``[frames]`` in [0, 1].

        Args:
            step: From 0.
            frames: Predicted frames of a clip, those of the burn-in included: the last one joins last.
        """
        epoch = self._epoch()
        if epoch is None or not self.config.ramp_steps:
            return torch.ones(frames)
        whole = max(self.config.warmup_epochs, 1) * max(self.config.ramp_steps, epoch)
        return (step / (max(1, whole // frames) * torch.arange(1, frames + 1))).clamp(max=1)

    def _epoch(self) -> int | None:
        """Steps of an epoch; None if this is no training."""
        return (self.config.epoch_steps or self.steps_per_epoch) if self.training and self.steps_per_epoch else None

    def counts_steps(self) -> bool:
        return self._epoch() is not None

    def turns_from(self) -> int:
        """Behind the first two stages."""
        return max((self.config.warmup_epochs + 1) * (self._epoch() or 0), self.config.frames_first)

    def forward(self, model: ComposedWorldModel, batch: Batch, step: int, *, sampler: Sampler) -> Loss:
        stage, frames = self.stage(step) if isinstance(model.encoder, Staged) else "full", batch.video.shape[-4]
        options: dict[str, Any] = {"stage": stage} if isinstance(model.encoder, Staged) else {}
        moving = model.dynamics is not None and not self.in_frames_first(step)
        explicit = moving and model.dynamics.explicit_prior
        static = min(self.config.num_static_frames, frames) if explicit else frames
        alone = moving and self.is_dynamics_turn(step) and (static if explicit else 1) < frames
        with torch.no_grad() if alone else nullcontext():
            encoding = model.encoder.see(batch, sampler=sampler, **options)

        per_frame, looks = {}, summary(encoding.posterior)
        if not alone:
            per_frame, more = self._perception(model, batch, encoding, static, stage, sampler)
            looks |= more
        more, cond = self._prediction(model, batch, encoding, static, sampler) if moving else ({}, None)
        per_frame |= more
        heads, told = (0.0, {}) if cond is None else head_terms(model, batch, encoding.latent, cond)
        some = next(iter(per_frame.values()))
        counts = some.new_ones(frames)
        if static < frames:
            counts[static:] = self.ramp(step, frames - 1)[: frames - static].to(counts)
        share = frame_weights(batch.done_mask, some)
        terms, counted = ({k: (v * w).sum(2).mean() for k, v in per_frame.items()} for w in (share, share * counts))
        norm = (1e-3 if self.config.reconstruction == "vgg" else 1.0) / (1 if batch.done_mask is not None else frames)
        total = norm * sum(self._factors()[k] * v for k, v in self._sums(counted).items())
        terms = {k: v.detach() for k, v in {**terms, **self._sums(terms)}.items()}
        return Loss(total + heads, {**terms, **told, **looks}, partial=alone)

    def _perception(
        self, model: ComposedWorldModel, batch: Batch, encoding: Encoding, static: int, stage: Stage, sampler: Sampler
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """What trains encoder and decoder: terms ``[B, V, T]``, and numbers for logs."""
        z, drawn = encoding.latent, self._draw(model, encoding, stage, sampler)
        error = self._glimpses(model, encoding, drawn) if stage == "warmup" else self._images(model, batch, drawn)
        predicted = error.new_ones(z.shape[1])
        predicted[static:] = self.config.weights.dynamics_reconstruction
        told, looks = vector_errors(model, drawn, batch.vectors)
        if looks:
            error = error + told[:, None] / error.shape[1]
        per_frame = {"reconstruction": error * predicted}
        per_frame |= {f"kl/{k}": place(v, 0, z.shape[1]) for k, v in self._static_kl(model, encoding, static).items()}
        if stage != "warmup" and batch.video.numel():
            looks["psnr"] = -10 * torch.log10((batch.video - drawn.video.detach()).square().mean())
        if z.spec.find("transparency") is not None:
            looks["visible_particles"] = z.spec.sum_views(presence(z)).mean().detach()
        return per_frame, looks

    def _prediction(
        self, model: ComposedWorldModel, batch: Batch, encoding: Encoding, static: int, sampler: Sampler
    ) -> tuple[dict[str, Tensor], Condition | None]:
        """What trains the dynamics: terms ``[B, V, T]``, and the condition it was given."""
        frames, dynamic, action, cond, name = encoding.latent.shape[1], {}, None, None, "kl_dynamics"
        if not model.dynamics.explicit_prior:
            name = "dynamics"
            dynamic, action, cond = implicit_terms(model, batch, encoding.latent, sampler)
        elif static < frames:
            dynamic, action, cond = self._dynamic_kl(model, batch, encoding, static, sampler)
        found = {f"{name}/{k}": v for k, v in dynamic.items()}
        if action is not None:
            found["kl_latent_action"] = action
        return {k: place(v, frames - v.shape[2], frames) for k, v in found.items()}, cond

    def _factors(self) -> dict[str, float]:
        weights = self.config.weights
        return {"reconstruction": weights.reconstruction, "kl": weights.kl, "kl_dynamics": weights.dynamics,
                "kl_latent_action": weights.dynamics, "dynamics": 1.0}

    def _sums(self, terms: dict[str, Tensor]) -> dict[str, Tensor]:
        """What `_factors` are for: terms of one kind added up."""
        sums = {k: v for k, v in terms.items() if k in ("reconstruction", "kl_latent_action")}
        for name in ("kl", "kl_dynamics", "dynamics"):
            parts = {k.partition("/")[2]: v for k, v in terms.items() if k.startswith(f"{name}/")}
            if parts:
                weak = self.config.weights.features if name == "kl" else 1.0
                sums[name] = sum(v * (weak if k in _WEAK else 1.0) for k, v in parts.items())
        return sums

    def _draw(self, model: ComposedWorldModel, encoding: Encoding, stage: Stage, sampler: Sampler) -> Decoded:
        if stage != "full" and isinstance(model.decoder, Staged):
            return model.decoder(encoding.latent, stage=stage, sampler=sampler)
        return model.decode(encoding.latent)

    # -- reconstruction, [B, V, T]

    def _images(self, model: ComposedWorldModel, batch: Batch, drawn: Decoded) -> Tensor:
        predicted, video = drawn.video, batch.video
        if predicted.ndim == 5:
            predicted, video = predicted[:, None], video[:, None]
        error = self._error(model, video.flatten(0, 2), predicted.flatten(0, 2))
        return error.view(predicted.shape[:3])

    def _glimpses(self, model: ComposedWorldModel, encoding: Encoding, drawn: Decoded) -> Tensor:
        """Every particle's picture against what the encoder saw there: summed over particles; their mean for images."""
        seen, pictures = encoding.aux.glimpses, drawn.glimpses
        if pictures is None or pictures.shape[-2:] != seen.shape[-2:]:
            raise ConfigError(
                f"decoder '{model.decoder.config.name}' gives no glimpses of the size that encoder "
                f"'{model.encoder.config.name}' sees, which the warm-up compares: set objective.warmup_epochs = 0"
            )
        views = encoding.latent.spec.views
        seen = rearrange(seen, "(b v) t k c h w -> (b v t k) c h w", v=views)
        wanted = "b v t k c h w -> (b v t k) c h w" if views > 1 else "b t k c h w -> (b t k) c h w"
        pictures = rearrange(pictures[..., 1:, :, :], wanted)
        if self.config.reconstruction == "vgg" and min(seen.shape[-2:]) < _VGG_SIDE:
            seen, pictures = (F.interpolate(x, (_VGG_SIDE, _VGG_SIDE), mode="bilinear") for x in (seen, pictures))
        error = self._error(model, seen, pictures)
        time = encoding.latent.shape[1]
        error = rearrange(error, "(b v t k) -> b v t k", v=views, t=time, b=encoding.latent.shape[0])
        return error.sum(-1) if model.dynamics is not None else error.mean(-1)

    def _error(self, model: ComposedWorldModel, x: Tensor, y: Tensor) -> Tensor:
        """Error of images ``y`` ``[M, C, H, W]``, ``[M]``."""
        error = reduce((x - y).square(), "m c h w -> m", "sum")
        if self.config.reconstruction == "mse":
            return error
        return error + _VGG_FACTOR * model.perceptual().squared_features(x, y).to(error)

    # -- KL divergences, [B, V, frames]

    def _static_kl(self, model: ComposedWorldModel, encoding: Encoding, static: int) -> dict[str, Tensor]:
        spec, prior, terms = model.encoder.spec, model.encoder.static_prior(encoding), {}
        if prior is not None:
            terms = by_field(encoding.posterior[:, :static].kl(prior[:, :static]), spec)
        if self.config.background_kl == "mean" and "background" in terms:
            terms["background"] = terms["background"] / spec.group("background").fields[0].dim
        for name, value in model.encoder.regularizers(encoding).items():
            terms[name] = (rearrange(value[:, :static], "b t -> b 1 t") / spec.views).expand(-1, spec.views, -1)
        return terms

    def _dynamic_kl(
        self, model: ComposedWorldModel, batch: Batch, encoding: Encoding, static: int, sampler: Sampler
    ) -> tuple[dict[str, Tensor], Tensor | None, Condition]:
        """Field -> KL of the predicted frames, the KL of their latent actions, and the condition."""
        z, spec = detach_points(encoding.latent), model.encoder.spec
        steering = model.condition(z, batch, sampler=sampler)
        prior = model.predict_next(z, steering.cond)
        posterior = detach_points(encoding.posterior[:, static:])
        kl = balanced_kl(posterior, prior[:, static - 1:], self.config.balance, leaky=self.config.leaky_balance)
        return by_field(kl, spec), action_kl(steering, spec, static - 1), steering.cond

    def notes(self, model: ComposedWorldModel) -> list[str]:
        return notes(model)


def balanced_kl(
    posterior: LatentDist, prior: LatentDist, balance: float, *, leaky: bool = False
) -> dict[Key, Tensor]:
    """KL(posterior || prior) per field, ``[B, T, N]``, whose gradient is shared out.

    Args:
        posterior, prior: The distributions.
        balance: Factor on the gradient of the posterior, one minus it is that of the prior; 0.5: no factor for either.
        leaky: See `DDLPConfig.leaky_balance`.
    """
    if balance == 0.5:
        return posterior.kl(prior)
    learn, hold = posterior.detach().kl(prior), posterior.kl(prior.detach())
    mixed = {key: (1 - balance) * learn[key] + balance * hold[key] for key in learn}
    for key, params in posterior.params.items():
        if leaky and "beta" in posterior.spec.field(key).dist.properties:
            a = params.chunk(2, -1)[0]
            through = (a - a.detach()) * torch.digamma(a.detach() + 1e-5)
            mixed[key] = mixed[key] + (1 - balance) * through.sum(-1)
    return mixed
