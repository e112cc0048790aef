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
from ..errors import ConfigError, IncompatibleComponentsError
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
        fields: Names of the fields that are kept apart; None: those that the objective predicts.
        whole: All numbers of a frame are one sample (PLDM's own maps); otherwise every token is one.
        std, std_t: Of the hinges on spread over the batch, and over time.
        cov, cov_t: Of the covariances of dimensions, over the batch, and over time.
        smooth: Of the squared steps from frame to frame.
        straight: Of minus the cosine of steps and those after them.
        inverse: Of the squared error of actions that a small network reads off the latents of both frames.
        inverse_hidden: Width of that network.
    """

    form: Literal["all-frames", "first-frame"] = "all-frames"
    fields: tuple[str, ...] | None = None
    whole: bool = False
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
        rollout_frames: Besides, so many frames after the first are predicted from its own predictions, with gradients
            through all of them, and held against the targets (V-JEPA 2-AC: 2); 0: none.
        fields: Names of the fields of the latent that are predicted and compared; None: all. The others (a pose) are
            given as they were, also in rollouts.
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
    rollout_frames: int = Field(default=0, ge=0)
    fields: tuple[str, ...] | None = None
    sigreg: SIGRegConfig = SIGRegConfig()
    vicreg: VICRegConfig = VICRegConfig()


class JEPA(Objective):
    """Prediction of latents and what keeps them apart; see the module's docstring."""

    Config = JEPAConfig
    requires = frozenset({"dynamics", "no-filtering"})
    idle = frozenset({"decoder"})
    config: JEPAConfig

    def prepare(self, model: ComposedWorldModel) -> None:
        names = {name for _, name in model.spec.keys()}
        for option, fields in (("", self.config.fields), ("vicreg.", self.config.vicreg.fields)):
            if fields is not None and not names.issuperset(fields):
                raise IncompatibleComponentsError(f"objective.{option}fields must be among the fields of the latent, "
                                                  f"{', '.join(sorted(names))}; got {', '.join(fields)}")
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
        predicted, targets = self._predicted(model, z, cond), self._targets(batch, z, sampler)
        inside = valid_frames(batch, z)
        inside = None if inside is None else inside[:, 1:]
        terms = {"prediction": weighted(self._distance(predicted, targets), inside)}
        total = terms["prediction"]
        if config.rollout_frames:
            frames = min(config.rollout_frames, z.shape[1] - 1)
            made = self._rolled(model, z, cond, predicted, frames)
            terms["rollout"] = weighted(self._distance(made, [x[:, :frames] for x in targets]),
                                        None if inside is None else inside[:, :frames])
            total = total + terms["rollout"]
        rows = embeddings(z, config.fields)
        if config.sigreg.weight:
            directions = sampler.shared("sigreg", rows.new_empty(rows.shape[-1], config.sigreg.projections))
            terms["sigreg"] = sigreg(rows, directions, knots=config.sigreg.knots)
            total = total + config.sigreg.weight * terms["sigreg"]
        weights = config.vicreg.weights
        if weights:
            apart = embeddings(z, config.vicreg.fields or config.fields, whole=config.vicreg.whole)
            if len(apart) == 1 and {"std", "cov"} & weights.keys():
                raise ConfigError("objective.vicreg compares clips of a batch, and this batch has one: set "
                                  "train.batch_size and train.eval_clips to 2 at least")
            found = (pldm_terms if config.vicreg.form == "all-frames" else pldm_original_terms)(apart)
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

    def _rolled(self, model: ComposedWorldModel, z: Latent, cond: Condition, ahead: Latent, frames: int) -> Latent:
        """Frames 1..``frames``, each predicted from frame 0 and the predictions before it."""
        seen = [z[:, :1], self._given(ahead[:, :1], z[:, 1:2])]
        while len(seen) <= frames:
            now = type(z).cat(seen)
            made = model.dynamics.prior(now, cond.at(slice(0, len(seen)))).mode()[:, -1:]
            seen.append(self._given(made, z[:, len(seen) : len(seen) + 1]))
        return type(z).cat(seen[1:])

    def _given(self, made: Latent, true: Latent) -> Latent:
        """A prediction whose fields that are not compared are the true ones."""
        if self.config.fields is None:
            return made
        return type(made).build(made.spec, {key: value if key[1] in self.config.fields else true.values[key]
                                            for key, value in made.values.items()})

    def _compared(self, z: Latent) -> list[Tensor]:
        """What is compared, ``[B, T, N_group, D]`` per group."""
        chosen = self.config.fields
        parts = ([z.values[g.name, f.name] for f in g.fields if chosen is None or f.name in chosen]
                 for g in z.spec.groups)
        return [x[0] if len(x) == 1 else torch.cat(x, -1) for x in parts if x]

    def _distance(self, made: Latent, targets: list[Tensor]) -> Tensor:
        """``[B, T]``: mean over all numbers of a frame."""
        pairs = list(zip(self._compared(made), targets, strict=True))
        count = sum(b[0, 0].numel() for _, b in pairs)
        return torch.stack([distance(a, b, self.config.distance) * b[0, 0].numel() for a, b in pairs]).sum(0) / count

    def _targets(self, batch: Batch, z: Latent, sampler: Sampler) -> list[Tensor]:
        """Of frames 1..T-1."""
        if self.config.target == "ema":
            with torch.no_grad():
                z = self.teacher.net.see(batch, sampler=sampler).latent
        found = self._compared(z[:, 1:])
        found = found if self.config.target == "attached" else [x.detach() for x in found]
        return [F.layer_norm(x, x.shape[-1:]) for x in found] if self.config.target_norm == "layer" else found

    def notes(self, model: ComposedWorldModel) -> list[str]:
        config = self.config
        picture = getattr(model.config.encoder, "picture", model.config.encoder)
        if getattr(picture, "frozen", False):
            return [f"the patches of '{picture.name}' stay as they are (frozen): they must come trained, by "
                    "train.init_from, or be those of a pretrained model, -o encoder.picture.name=pretrained -o "
                    "encoder.picture.model=FOLDER; of random weights they say little"]
        if getattr(picture, "name", "") == "pretrained":
            return []
        if config.sigreg.weight or config.vicreg.weights or config.target == "ema":
            return []
        return ["nothing keeps latents apart (objective.sigreg.weight and objective.vicreg are 0, no slow copy gives "
                "the targets): they can all become the same, which embedding_std and embedding_rank in the log tell"]


class FrozenJEPAConfig(JEPAConfig):
    """Options of the JEPA objective on a trained encoder: the same."""

    name: str = "frozen-jepa"


class FrozenJEPA(JEPA):
    """The same on the latents of an encoder that is trained already and stays as it is: V-JEPA 2-AC."""

    Config = FrozenJEPAConfig
    frozen = frozenset({"encoder"})

    def notes(self, model: ComposedWorldModel) -> list[str]:
        return []


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


def embeddings(z: Latent, fields: tuple[str, ...] | None = None, *, whole: bool = False) -> Tensor:
    """``[B * N, T, D]``: tokens of a frame as so many samples; of the first group alone if some fields are chosen.

    ``whole``: ``[B, T, N * D]``.
    """
    group = z.spec.groups[0]
    packed = z.pack() if fields is None else torch.cat(
        [z.values[group.name, f.name] for f in group.fields if f.name in fields], -1)
    return packed.flatten(2) if whole else rearrange(packed, "b t n d -> (b n) t d")


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
