"""The evidence lower bound of DLPv3 (images) and LPWM (video).

Reconstruction of every frame, plus KL divergences: static frames against the encoder's constant prior, dynamic frames
against the prior that the dynamics predicts from the frames before, latent actions against their policy. KLs of a token
count as much as the token is present: its sampled transparency is a differentiable weight.

Some parts have no such KL, and the objective says so (`ELBO.notes`):

- An implicit dynamics (diffusion) has no prior to hold the posterior against. All frames are then static, and the
  dynamics learns from detached latents by its own loss, logged as ``dynamics/...``: a denoising loss that reached the
  encoder would be minimised by shrinking the latents.
- A dynamics that filters predicts every frame, the first one from the state of which nothing is known: posterior and
  prior of all states are held against each other, and the encoder has no KL of its own. It does not wait for
  ``frames_first`` or ``warmup_epochs``, and takes no turns alone: there is no decomposition without it.
- A point-mass latent (slots) has no density. Its term is half the squared distance of the prediction to the latent,
  both of them DETACHED from the encoder, which reconstruction alone trains: an encoder that the term reached could make
  itself predictable by collapsing, and no entropy would hold against it.

Reductions, as upstream: sum over pixels, tokens and frames; mean over clips (and views); the total is divided by the
number of frames and multiplied by 0.1 (MSE) or 0.01 (VGG).

Source: LPWM (arXiv:2603.04553); upstream models.py calc_dyn_elbo / calc_static_elbo @ 4cf53c4, written from their
description. Difference: upstream's training script never passes the done mask that its loss supports; here a mask in
the batch is used.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Literal

import torch
from einops import rearrange, reduce
from pydantic import Field
from torch import Tensor

from ..batch import Batch
from ..conditions import Condition
from ..config import ComponentConfig, Config
from ..distributions import Sampler
from ..latents import Latent, LatentDist
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
    psnr,
    summary,
    vector_errors,
)
from .turns import Turns

if TYPE_CHECKING:
    from ..model import ComposedWorldModel
    from ..perception import Seen


_APPEARANCE = ("features", "background")
"""Terms of the static KL that `ELBOWeights.features` weakens."""


class ELBOWeights(Config):
    """Weights of the ELBO's terms.

    Attributes:
        reconstruction: Upstream beta_rec.
        kl: Static KL; upstream beta_kl.
        dynamics: KL to the predicted prior, and KL of latent actions; upstream beta_dyn.
        dynamics_reconstruction: Factor on the reconstruction of dynamic frames; upstream beta_dyn_rec.
        transparency: Squared sum of transparencies on static frames; upstream beta_obj.
        features: Factor on the features' share of the static KL; upstream kl_balance.
    """

    reconstruction: float = Field(default=1.0, ge=0)
    kl: float = Field(default=0.08, ge=0)
    dynamics: float = Field(default=0.2, ge=0)
    dynamics_reconstruction: float = Field(default=1.0, ge=0)
    transparency: float = Field(default=0.08, ge=0)
    features: float = Field(default=0.01, ge=0)


class ELBOConfig(ComponentConfig):
    """Options of the ELBO.

    Attributes:
        reconstruction: ``"mse"``: squared error. ``"vgg"``: squared error + 0.1 LPIPS (VGG16; needs weights).
        weights: See `ELBOWeights`.
        num_static_frames: First frames that are held against the static prior.
        warmup_epochs: In these epochs only the last two frames count as dynamic, and done masks are ignored. Counted
            as 0.8 of an epoch each, as upstream; needs the trainer's number of steps per epoch.
        frames_first: In this many first steps of a training the dynamics rests and every frame is held against the
            static prior: the decomposition is learned before anything has to be predicted. Not upstream's.
        dynamics_turns: After every step that trains all parts, so many that train the dynamics (and latent actions)
            alone, on latents as they are: it is the part that learns slowest, and such a step costs half. Not
            upstream's.
    """

    name: str = "elbo"
    reconstruction: Literal["mse", "vgg"] = "mse"
    weights: ELBOWeights = ELBOWeights()
    num_static_frames: int = Field(default=1, gt=0)
    warmup_epochs: int = Field(default=1, ge=0)
    frames_first: int = Field(default=0, ge=0)
    dynamics_turns: int = Field(default=0, ge=0)


class ELBO(Turns, Objective):
    """Reconstruction and KL terms; see the module's docstring."""

    Config = ELBOConfig
    requires = frozenset({"decoder"})

    @property
    def scale(self) -> float:
        return 0.1 if self.config.reconstruction == "mse" else 0.01

    def in_warmup(self, step: int) -> bool:
        """Whether a training step belongs to the warm-up."""
        return step < self.config.warmup_epochs * int(0.8 * self.steps_per_epoch)

    def forward(self, model: ComposedWorldModel, batch: Batch, step: int, *, sampler: Sampler) -> Loss:
        weights, frames = self.config.weights, batch.video.shape[-4]
        filters = model.dynamics is not None and model.dynamics.filtering
        moving = model.dynamics is not None and (filters or not self.in_frames_first(step))
        warmup = moving and not filters and self.in_warmup(step)
        explicit = moving and model.dynamics.explicit_prior
        static = frames if not explicit else frames - 2 if warmup else self.config.num_static_frames
        static = max(1, min(static, frames))
        alone = moving and not filters and self.is_dynamics_turn(step) and (static if explicit else 1) < frames
        with torch.no_grad() if alone else nullcontext():
            seen = model.perceive(batch, sampler)

        per_frame, details, terms, heads = {}, {}, {}, 0.0
        if not alone:
            per_frame, details, terms = self._perception(model, batch, seen, static)
        if moving:
            more, dynamic, cond = self._prediction(model, batch, seen, static, sampler)
            per_frame |= more
            terms |= {name: v.sum(2).mean() for name, v in dynamic.items()}
            if cond is not None:
                heads, told = head_terms(model, batch, seen.latent, cond)
                terms |= told
        done = None if warmup else batch.done_mask
        share = frame_weights(done, next(iter(per_frame.values())))
        totals = {k: (v * share).sum(2).mean() for k, v in per_frame.items()}
        factors = {"reconstruction": weights.reconstruction, "kl": weights.kl, "kl_dynamics": weights.dynamics,
                   "kl_latent_action": weights.dynamics, "transparency": weights.transparency, "dynamics": 1.0}
        total = sum(totals[k] * factor for k, factor in factors.items() if k in totals)
        terms = totals | {k: (v * share).sum(2).mean() for k, v in details.items()} | terms
        norm = self.scale if done is not None else self.scale / frames
        terms = {k: v.detach() for k, v in terms.items()} | summary(seen.posterior)
        return Loss(norm * total + heads, terms, partial=alone)

    def _perception(
        self, model: ComposedWorldModel, batch: Batch, seen: Seen, static: int
    ) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
        """What trains encoder and decoder: (terms ``[B, V, T]``, parts of the static KL likewise, numbers for logs)."""
        weights, z = self.config.weights, seen.latent
        drawn = model.decode(z if seen.prior is not None else seen.encoding.to_draw)
        told, logged = vector_errors(model, drawn, batch.vectors)
        rec = self._reconstruction(batch.video, drawn.video, model)
        rec_terms, frames = rec["per_frame"] + (told[:, None] / rec["per_frame"].shape[1] if logged else 0), z.shape[1]
        if static < frames:
            factor = rec_terms.new_ones(frames)
            factor[static:] = weights.dynamics_reconstruction
            rec_terms = rec_terms * factor
        parts = {k: place(v, 0, frames) for k, v in self._static_kl(model, seen, static).items()}
        present = z.spec.sum_views(presence(z))
        per_frame = {"reconstruction": rec_terms, "transparency": place(present[:, :, :static].square(), 0, frames)}
        if parts:
            per_frame["kl"] = sum(v * (weights.features if k in _APPEARANCE else 1.0) for k, v in parts.items())
        terms = logged | ({"psnr": psnr(rec["mse"].mean())} if batch.video.numel() else {})
        if z.spec.find("transparency") is not None:
            terms["visible_particles"] = present.mean()
        return per_frame, {f"kl/{k}": v for k, v in parts.items()}, terms

    def _prediction(
        self, model: ComposedWorldModel, batch: Batch, seen: Seen, static: int, sampler: Sampler
    ) -> tuple[dict[str, Tensor], dict[str, Tensor], Condition | None]:
        """What trains the dynamics: (terms ``[B, V, T]``, the dynamics' by field ``[B, V, frames that count]``, the
        condition it was given)."""
        z, frames = seen.latent, seen.latent.shape[1]
        if seen.prior is not None:
            dynamic = by_field(detach_points(seen.posterior).kl(seen.prior), z.spec, z)
            return ({"kl_dynamics": sum(dynamic.values())}, {f"kl_dynamics/{k}": v for k, v in dynamic.items()},
                    seen.cond.at(slice(1, None)))
        if explicit := model.dynamics.explicit_prior:
            dynamic, action, cond = self._dynamic_kl(model, batch, z, seen.posterior, static, sampler)
        else:
            dynamic, action, cond = implicit_terms(model, batch, z, sampler)
        start, name = (static, "kl_dynamics") if explicit else (1, "dynamics")
        per_frame = {name: place(sum(dynamic.values()), start, frames)} if dynamic else {}
        if action is not None:
            per_frame["kl_latent_action"] = place(action, start, frames)
        return per_frame, {f"{name}/{k}": v for k, v in dynamic.items()}, cond

    def _reconstruction(self, video: Tensor, predicted: Tensor, model: ComposedWorldModel) -> dict[str, Tensor]:
        """Per frame ``[B, V, T]``: the reconstruction loss, and the mean squared error."""
        if predicted.ndim == 5:
            predicted, video = predicted[:, None], video[:, None]
        squared = (video - predicted).square()
        mse = reduce(squared, "b v t c h w -> b v t", "mean")
        if self.config.reconstruction == "mse" or not video.numel():
            return {"per_frame": reduce(squared, "b v t c h w -> b v t", "sum"), "mse": mse.detach()}
        pixels = squared[0, 0, 0].numel()
        lpips = model.perceptual()(*(rearrange(x, "b v t c h w -> (b v t) c h w") for x in (video, predicted)))
        lpips = rearrange(lpips, "(b v t) -> b v t", b=mse.shape[0], v=mse.shape[1])
        return {"per_frame": pixels * (mse + 0.1 * lpips), "mse": mse.detach()}

    def _static_kl(self, model: ComposedWorldModel, seen: Seen, static: int) -> dict[str, Tensor]:
        """Field -> KL of the static frames, ``[B, V, S]``."""
        encoding, spec, terms = seen.encoding, model.encoder.spec, {}
        prior = model.encoder.static_prior(encoding) if seen.prior is None else None
        if prior is not None:
            terms = by_field(encoding.posterior[:, :static].kl(prior[:, :static]), spec, encoding.latent[:, :static])
        for name, value in model.encoder.regularizers(encoding).items():
            value = rearrange(value[:, :static], "b t -> b 1 t") / spec.views * self.config.weights.features
            name = "position" if name == "proposals" else name
            terms[name] = terms[name] + value if name in terms else value
        return terms

    def _dynamic_kl(
        self, model: ComposedWorldModel, batch: Batch, z: Latent, posterior: LatentDist, static: int, sampler: Sampler
    ) -> tuple[dict[str, Tensor], Tensor | None, Condition | None]:
        """Field -> KL of the dynamic frames ``[B, V, T - S]``, the KL of their latent actions, and the condition."""
        if static >= z.shape[1]:
            return {}, None, None
        given = detach_points(z)
        steering = model.condition(given, batch, sampler=sampler)
        prior = model.predict_next(given, steering.cond)
        target = detach_points(posterior[:, static:])
        terms = by_field(target.kl(prior[:, static - 1:]), z.spec, z[:, static:])
        return terms, action_kl(steering, model.encoder.spec, static - 1), steering.cond

    def notes(self, model: ComposedWorldModel) -> list[str]:
        return notes(model)
