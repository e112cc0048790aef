"""Joint embedding prediction: the next latent is predicted from latents and actions, and pictures are never drawn.

Encoder and dynamics learn together. Four choices make the known models: what the target is (the same encoder, with
gradients, LeWM and PLDM; without; or a slow copy of it), whether it is normed, how distance is measured, and what keeps
latents from becoming the same (`worldkit.objectives.collapse`).

Unusual, as upstream: LeWM's and PLDM's targets are NOT detached; the regularisers see the encoder's latents of all
frames. Tokens of a frame count as so many samples. Statistics are those of a process's batch: a run in two processes
is another one than a run in one (batch norms and regularisers see half of the clips).

Source: LeWM (arXiv:2603.19312) and PLDM (arXiv:2502.14819) as stable-worldmodel @ addbab4 has them, and PLDM's own
form (free rollout from the first frame), written from their description.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from pydantic import Field
from torch import Tensor, nn

from ..batch import Batch
from ..conditions import Condition
from ..config import ComponentConfig, Config
from ..distributions import Sampler
from ..errors import IncompatibleComponentsError
from ..latents import Latent
from .base import Loss, Objective
from .collapse import health, pldm_original_terms, pldm_terms, sigreg
from .teacher import Teacher
from .terms import head_terms

if TYPE_CHECKING:
    from ..model import ComposedWorldModel

Distance = Literal["mse", "l1", "smooth-l1"]


class SIGRegConfig(Config):
    """Options of LeWM's regulariser.

    Attributes:
        weight: 0: there is none.
        knots: Points at which characteristic functions are compared.
        projections: Random directions, drawn anew for every step.
    """

    weight: float = Field(default=0.0, ge=0)
    knots: int = Field(default=17, gt=1)
    projections: int = Field(default=1024, gt=0)


class VICRegConfig(Config):
    """Weights of PLDM's terms; see `worldkit.objectives.collapse`.

    Attributes:
        form: ``"all-frames"``, stable-worldmodel's; ``"first-frame"``, PLDM's own.
        std, std_t: Of the hinges on spread over the batch, and over time.
        cov, cov_t: Of the covariances of dimensions, over the batch, and over time.
        smooth: Of the squared steps from frame to frame.
        straight: Of minus the cosine of steps and those after them.
        inverse: Of the squared error of actions that a small network reads off the latents of both frames.
        inverse_hidden: Width of that network.
    """

    form: Literal["all-frames", "first-frame"] = "all-frames"
    std: float = Field(default=0.0, ge=0)
    std_t: float = Field(default=0.0, ge=0)
    cov: float = Field(default=0.0, ge=0)
    cov_t: float = Field(default=0.0, ge=0)
    smooth: float = Field(default=0.0, ge=0)
    straight: float = Field(default=0.0, ge=0)
    inverse: float = Field(default=0.0, ge=0)
    inverse_hidden: int = Field(default=512, gt=0)

    @property
    def weights(self) -> dict[str, float]:
        """Term -> weight, of those that count."""
        names = ("std", "std_t", "cov", "cov_t", "smooth", "straight")
        return {name: weight for name in names if (weight := getattr(self, name))}


class JEPAConfig(ComponentConfig):
    """Options of joint embedding prediction; defaults are LeWM's, but for ``sigreg.weight``.

    Attributes:
        num_frames: Frames of a training clip; None: one more than the dynamics' window.
        target: ``"attached"``: the latents themselves, with gradients; ``"detached"``; ``"ema"``: those of a slow copy
            of the encoder.
        momentum: Of the slow copy, at the first update and at update ``momentum_steps`` and after (linear between).
        momentum_steps: See there; 0: constant, the first of the two.
        target_norm: ``"layer"``: targets have mean 0 and variance 1 over their numbers, token by token.
        distance: ``"mse"``, ``"l1"`` or ``"smooth-l1"``; a mean over everything.
        rollout: Predict from the first frame alone, fed with its own predictions (PLDM), instead of from the frames
            that were seen.
        sigreg, vicreg: What keeps latents apart; without either, they may all become the same, which training notices.
    Example:
        >>> JEPAConfig(sigreg={"weight": 0.09}).sigreg.projections
        1024
    """

    name: str = "jepa"
    num_frames: int | None = Field(default=None, gt=1)
    target: Literal["attached", "detached", "ema"] = "attached"
    momentum: tuple[float, float] = (0.996, 1.0)
    momentum_steps: int = Field(default=0, ge=0)
    target_norm: Literal["none", "layer"] = "none"
    distance: Distance = "mse"
    rollout: bool = False
    sigreg: SIGRegConfig = SIGRegConfig()
    vicreg: VICRegConfig = VICRegConfig()


class JEPA(Objective):
    """Prediction of latents and what keeps them apart; see the module's docstring."""

    Config = JEPAConfig
    requires = frozenset({"dynamics", "no-filtering"})
    idle = frozenset({"decoder"})
    config: JEPAConfig

    def prepare(self, model: ComposedWorldModel) -> None:
        if not model.dynamics.explicit_prior:
            raise IncompatibleComponentsError(
                f"objective 'jepa' holds what a dynamics predicts against latents, and '{model.dynamics.config.name}' "
                "has no explicit prior: take one that has (adaln-causal, pint, gru, ...), or objective='two-stage'"
            )
        if self.config.target == "ema":
            if not hasattr(self, "teacher"):
                self.teacher = Teacher(model.encoder)
            self.teacher.begin(model.encoder)
        if self.config.vicreg.inverse and not hasattr(self, "inverse"):
            self.inverse = InverseModel(model, self.config.vicreg.inverse_hidden)

    def after_step(self, model: ComposedWorldModel, step: int) -> None:
        if self.config.target == "ema":
            keep = momentum(self.config.momentum, self.config.momentum_steps, step)
            self.teacher.follow(model.encoder, momentum=keep)

    def forward(self, model: ComposedWorldModel, batch: Batch, step: int, *, sampler: Sampler) -> Loss:
        config = self.config
        z = model.perceive(batch, sampler).latent
        cond = model.condition(z, batch, sampler=sampler).cond
        predicted = self._predicted(model, z, cond)
        inside = valid_frames(batch, z)
        terms = {"prediction": weighted(distance(predicted.pack(), self._targets(batch, z, sampler), config.distance),
                                        None if inside is None else inside[:, 1:])}
        total = terms["prediction"]
        rows = embeddings(z)
        if config.sigreg.weight:
            directions = sampler.shared("sigreg", rows.new_empty(rows.shape[-1], config.sigreg.projections))
            terms["sigreg"] = sigreg(rows, directions, knots=config.sigreg.knots)
            total = total + config.sigreg.weight * terms["sigreg"]
        weights = config.vicreg.weights
        if weights:
            found = (pldm_terms if config.vicreg.form == "all-frames" else pldm_original_terms)(rows)
            terms |= {name: found[name] for name in weights if name in found}
            total = total + sum(weight * found[name] for name, weight in weights.items() if name in found)
        if config.vicreg.inverse:
            terms["inverse"] = self.inverse.error(z, batch)
            total = total + config.vicreg.inverse * terms["inverse"]
        heads, told = head_terms(model, batch, z, cond)
        terms |= told | health(rows)
        return Loss(total + heads, {name: value.detach() for name, value in terms.items()})

    def _predicted(self, model: ComposedWorldModel, z: Latent, cond: Condition) -> Latent:
        """Of frames 1..T-1."""
        if not self.config.rollout:
            return model.predict_next(z, cond).mode()
        carry, made = model.dynamics.start(z[:, :1], cond.at(slice(0, 0))), []
        for t in range(z.shape[1] - 1):
            if made:
                model.dynamics.observe(carry, made[-1])
            made.append(model.dynamics.step(carry, cond.at(slice(t, t + 1))).mode())
        return type(z).cat(made)

    def _targets(self, batch: Batch, z: Latent, sampler: Sampler) -> Tensor:
        """``[B, T - 1, N, D]``."""
        if self.config.target == "ema":
            with torch.no_grad():
                z = self.teacher.net.see(batch, sampler=sampler).latent
        target = z[:, 1:].pack()
        target = target if self.config.target == "attached" else target.detach()
        return F.layer_norm(target, target.shape[-1:]) if self.config.target_norm == "layer" else target

    def notes(self, model: ComposedWorldModel) -> list[str]:
        config = self.config
        if config.sigreg.weight or config.vicreg.weights or config.target == "ema":
            return []
        return ["nothing keeps latents apart (objective.sigreg.weight and objective.vicreg are 0, no slow copy gives "
                "the targets): they can all become the same, which embedding_std and embedding_rank in the log tell"]


class InverseModel(nn.Module):
    """Which action led from a latent to the next: MLP over [latent reached, latent left], all tokens side by side."""

    def __init__(self, model: ComposedWorldModel, hidden: int):
        super().__init__()
        widths = {name: c.config.dim for name, c in model.conditioners.items()
                  if c.per_frame and getattr(c.config, "dim", None) is not None}
        if len(widths) != 1:
            raise IncompatibleComponentsError(
                "objective.vicreg.inverse reads actions that are numbers off latents, and this model is told "
                f"{', '.join(widths) or 'none'}: give it one such condition, conditioners.action, or set "
                "objective.vicreg.inverse=0"
            )
        ((self.name, outputs),) = widths.items()
        width = sum(g.size * f.dim for g in model.spec.groups for f in g.fields)
        with torch.random.fork_rng(devices=[]):
            self.net = nn.Sequential(nn.Linear(2 * width, hidden), nn.LayerNorm(hidden), nn.GELU(),
                                     nn.Linear(hidden, outputs))

    def forward(self, z: Latent) -> Tensor:
        """Actions of the transitions, ``[B, T - 1, A]``."""
        flat = z.pack().flatten(2)
        return self.net(torch.cat([flat[:, 1:], flat[:, :-1]], -1))

    def error(self, z: Latent, batch: Batch) -> Tensor:
        """Mean squared error; missing numbers (NaN) count as 0, as in LeWM's action embedder."""
        action = batch.conditions[self.name][:, : z.shape[1] - 1]
        return (self(z) - action.nan_to_num(0.0).to(z.presence.dtype)).square().mean()


def embeddings(z: Latent) -> Tensor:
    """``[B * N, T, D]``: tokens of a frame as so many samples."""
    return rearrange(z.pack(), "b t n d -> (b n) t d")


def momentum(ends: tuple[float, float], steps: int, step: int) -> float:
    """Momentum of the slow copy at update ``step``, from 0.

    Example:
        >>> [round(momentum((0.9, 1.0), 10, step), 2) for step in (0, 5, 20)], momentum((0.9, 1.0), 0, 5)
        ([0.9, 0.95, 1.0], 0.9)
    """
    return ends[0] + (ends[1] - ends[0]) * min(1.0, step / steps) if steps else ends[0]


def distance(a: Tensor, b: Tensor, kind: Distance) -> Tensor:
    """``[B, T, ...]`` -> mean over all axes but the first two, ``[B, T]``."""
    if kind == "mse":
        return (a - b).square().flatten(2).mean(-1)
    return (F.l1_loss if kind == "l1" else F.smooth_l1_loss)(a, b, reduction="none").flatten(2).mean(-1)


def valid_frames(batch: Batch, z: Latent) -> Tensor | None:
    """Whether frames count, ``[B, T]``: those up to the end of an episode, or its border inside the clip; None: all."""
    inside = None if batch.done_mask is None else batch.done_mask.to(z.presence.dtype)
    if inside is not None and inside.ndim == 3:
        inside = inside.mean(1)
    if batch.first is not None:
        begun = torch.cat([torch.zeros_like(batch.first[:, :1]), batch.first[:, 1:]], 1)
        before = (~begun).to(z.presence.dtype).cumprod(1)
        inside = before if inside is None else inside * before
    return inside


def weighted(values: Tensor, inside: Tensor | None) -> Tensor:
    """Mean of ``[B, T]`` over what counts."""
    if inside is None:
        return values.mean()
    return (values * inside).sum() / inside.sum().clamp(min=1)
