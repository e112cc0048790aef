"""Checks of whole models, and of objectives, which need one."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .. import registry as registries
from ..assembly import build
from ..batch import Batch
from ..config import WorldModelConfig
from ..distributions import MEANS, Sampler
from ..dreaming import Dream
from ..factory import create_config
from ..latents import Latent
from ..model import ComposedWorldModel, Rollout, WorldModel
from ..storage.hub import OBJECTIVE, load_weights
from .examples import BATCH, LAST, LEARNS, SECOND, changed, example_batch, last_time, small_config
from .filtering import check_seen
from .report import Reporter, prepare, shake, tensors


def check_objective(objective: str | type, *, model: Mapping[str, Any] | None = None, **options: Any) -> None:
    """Check an objective by training a small model with it for one step.

    Args:
        objective: Registered name or class.
        model: Overrides of the small LPWM (see `small_config`) that the objective needs; it comes without dynamics and
            latent actions if the objective requires that.
        **options: The objective's options.
    Example:
        >>> check_objective("elbo", num_static_frames=2)
    """
    cls, config, report = prepare(registries.objectives, objective, options)
    bare: dict[str, Any] = {"dynamics": None, "latent_action": None} if "no-dynamics" in cls.requires else {}
    if "prior" in cls.requires:
        bare |= {"prior": "diffusion", "objective": "first-frames"}
    if "encoder" in cls.frozen:  # by their means no particle is absent, and no stand-in for one gets a gradient
        bare["encoder"] = "patch"
    if "filtering" in cls.requires:
        bare |= {"encoder": "conv", "dynamics": "rssm", "latent_action": None, "objective": "dreamer"}
    bare |= LEARNS.get(config.name, {})
    world = shake(build(small_config(**{**bare, **(model or {})})))
    world.objective = cls(config)
    world.objective.prepare(world)
    world.freeze()
    batch = example_batch(world.config)
    _check_loss(report, world, batch)
    _check_follows(report, world, batch)


def _check_follows(report: Reporter, world: ComposedWorldModel, batch: Batch) -> None:
    """What is not trained gets no gradient, and what an objective holds of it stays in evaluation mode.

    Without what the objective holds, as others share models, the rest is loaded, and ``prepare`` makes that again.
    """
    objective = world.objective
    held = {name: p.detach().clone() for name, p in objective.named_parameters() if not p.requires_grad}
    world.train().loss(batch, generator=_seeded()).total.backward()
    objective.after_step(world, 0)
    read = [name for name, p in world.named_parameters() if not p.requires_grad and p.grad is not None]
    report.require(not read, "no gradient reaches what is only read", f"it reached {', '.join(read[:5])}")
    rest = [part for part in map(objective.get_submodule, {name.rpartition(".")[0] for name in held} - {""})]
    report.require(not any(part.training for part in rest), "teachers stay in evaluation mode",
                   "after model.train() a part that is not trained is in training mode")
    world.eval().zero_grad()
    shared = {name: x.clone() for name, x in world.state_dict().items() if not name.startswith(OBJECTIVE)}
    load_weights(world, shared, where="a shared model")
    losses = [world.loss(batch, generator=_seeded()).total.detach() for _ in range(2)]
    report.equal(*losses, "determinism under a generator", "the loss of a shared model", 0.0)


def check_model(
    model: str | WorldModelConfig | WorldModel, *, batch: Batch | None = None, context: int = 2,
    ignore: tuple[str, ...] = (), **overrides: Any
) -> None:
    """Check a whole model: loss, gradients, perception, prediction, saving and loading.

    Args:
        model: A preset's name (with overrides, as in `worldkit.create_model`), a configuration, or a model. Dropout
            should be off: gradients and determinism are checked in evaluation mode.
        batch: Two clips as long as a training clip; default: `example_batch`.
        context: Frames that rollouts start from.
        ignore: Names of parameters that need no gradient.
    Example:
        >>> from worldkit.testing.examples import small_config
        >>> check_model(small_config(latent_action=None))
    """
    name = model if isinstance(model, str) else type(model).__name__
    if isinstance(model, str):
        model = create_config(model, **overrides)
    if isinstance(model, WorldModelConfig):
        model = build(model)
    report = Reporter(f"model '{name}'")
    report.config(model.config)
    shake(model)
    batch = example_batch(model.config) if batch is None else batch
    _check_loss(report, model, batch, ignore)
    with torch.no_grad():
        _check_perception(report, model, batch)
        if model.config.dynamics is not None:
            if hasattr(model, "predict_next"):
                _check_priors(report, model, batch)
                if model.dynamics.filtering:
                    check_seen(report, model, batch)
            _check_rollout(report, model, batch, context)
        _check_saving(report, model, batch)


def _seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _check_loss(report: Reporter, model: Any, batch: Batch, ignore: tuple[str, ...] = ()) -> None:
    loss = model.loss(batch, generator=_seeded())
    report.shape(loss.total, (), "loss")
    for name, value in loss.terms.items():
        report.shape(value, (), f"loss term {name}")
        report.require(not value.requires_grad, "terms are detached", f"loss term {name} carries a graph")
    report.gradients(model, loss.total, ignore=ignore)
    with torch.no_grad():
        again = [model.loss(batch, generator=_seeded()).total for _ in range(2)]
    report.equal(*again, "determinism under a generator", "the loss", 0.0)
    broken = replace(batch, video=batch.video[0])
    with report.refusing("wrong rank", "a batch of one clip without batch axis"):
        model.loss(broken)


def _check_perception(report: Reporter, model: Any, batch: Batch) -> None:
    z = model.encode(batch)
    frames = batch.video.shape[-4]
    report.require(tuple(z.shape) == (BATCH, frames), "shapes", f"encode() gave {tuple(z.shape)} instead of (B, T)")
    drawn = model.decode(z)
    report.shape(drawn.video, batch.video.shape, "decoded video")
    for name, value in drawn.vectors.items():
        report.shape(value, (BATCH, frames, model.config.obs.widths[name]), f"decoded vector {name}")
    for a, b in zip(tensors(model.encode(changed(batch, SECOND))), tensors(z), strict=True):
        report.independent(a, b, "the latent")
    first, second = (model.encode(batch, sample=True, generator=_seeded(1)) for _ in range(2))
    for a, b in zip(tensors(first), tensors(second), strict=True):
        report.equal(a, b, "determinism under a generator", "the sampled latent", 0.0)


def _priors(model: Any, batch: Batch) -> list[Tensor]:
    """Predictions at every transition; of an implicit dynamics its losses there."""
    z = model.encode(batch)
    steering = model.condition(z, batch, sampler=MEANS)
    cond, action_prior = steering.cond, steering.prior
    if model.dynamics.explicit_prior:
        predictions = tensors(model.predict_next(z, cond))
    else:
        predictions = list(model.dynamics.loss(z, cond, MEANS).values())
    return predictions + ([] if action_prior is None else [action_prior.params])


def _check_priors(report: Reporter, model: Any, batch: Batch) -> None:
    """The last frame may move the latent action that explains it, and so the last prior, but none before."""
    plain = replace(batch, masks={name: torch.ones_like(mask) for name, mask in batch.masks.items()})
    base = _priors(model, plain)
    changes = {"frame": changed(plain, LAST)}
    for name, conditioner in getattr(model, "conditioners", {}).items():
        if conditioner.per_frame:
            value = changed(batch.conditions[name], last_time(conditioner.time_axis))
            changes[name] = replace(plain, conditions={**batch.conditions, name: value})
    for what, other in changes.items():
        for a, b in zip(_priors(model, other), base, strict=True):
            report.equal(a[:, :-1], b[:, :-1], "causality", f"an earlier prior, when the last {what} changes,")
    conditions = {k: changed(v, SECOND) if torch.is_tensor(v) else v for k, v in batch.conditions.items()}
    for a, b in zip(_priors(model, replace(changed(plain, SECOND), conditions=conditions)), base,
                    strict=True):
        report.independent(a, b, "the prior")


def _check_rollout(report: Reporter, model: WorldModel, batch: Batch, context: int) -> None:
    window = model.config.timestep_horizon
    horizon = window - context + 3  # leaves the window
    whole = example_batch(model.config, context + horizon) if _known(model) else batch
    start = batch.context(context)

    def roll(video: Batch, steps: int, **options: Any) -> Rollout:
        return model.rollout(video, steps, conditions=whole.conditions, masks=whole.masks, **options)

    steps = horizon if _known(model) else batch.video.shape[-4] - context
    out = roll(start, steps, deterministic=True)
    report.require(tuple(out.latents.shape) == (BATCH, steps), "rollout shapes",
                   f"latents are {tuple(out.latents.shape)}, expected {(BATCH, steps)}")
    shape = (*batch.video.shape[:-4], steps, *batch.video.shape[-3:])
    report.shape(out.video, shape, "predicted video")
    report.shape(out.context_video, start.video.shape, "reconstructed context")
    if out.latent_actions is not None:
        report.require(out.latent_actions.shape[1] == context + steps - 1, "rollout shapes",
                       f"{out.latent_actions.shape[1]} latent actions for {context + steps - 1} transitions")
    for a, b in zip(tensors(roll(changed(start, SECOND), steps, deterministic=True).latents), tensors(out.latents),
                    strict=True):
        report.independent(a, b, "the prediction")
    for a, b in zip(tensors(roll(start, 1, deterministic=True).latents), tensors(out.latents), strict=True):
        report.equal(a, b[:, :1], "causality", "the first prediction, with a shorter horizon,")
    first, second = (roll(start, steps, generator=_seeded(5)) for _ in range(2))
    for a, b in zip(tensors(first.latents), tensors(second.latents), strict=True):
        report.equal(a, b, "determinism under a generator", "the second rollout", 0.0)
    if isinstance(model, ComposedWorldModel):
        _check_dream(report, model, start, whole, out)
        _check_imagination(report, model, whole)
    streaming = roll(start, steps, deterministic=True, window="streaming").latents
    inside = max(1, min(steps, window - context))
    for a, b in zip(tensors(streaming), tensors(out.latents), strict=True):
        report.equal(a[:, :inside], b[:, :inside], "streaming equals exact inside the window", "the prediction")


def _check_dream(report: Reporter, model: ComposedWorldModel, start: Batch, whole: Batch, out: Rollout) -> None:
    """Step by step as at once; also of a branch, and of the dream that it was taken from."""
    moving = {name: c.time_axis for name, c in model.conditioners.items() if c.per_frame}
    first, steps = start.video.shape[-4] - 1, out.latents.shape[1]

    def advance(dream: Dream, k: int, what: str) -> None:
        now = {name: whole.conditions[name].narrow(axis, first + k, 1) for name, axis in moving.items()}
        masks = {name: m[..., first + k :][..., :1] if m.ndim > 1 else m for name, m in whole.masks.items()}
        z = dream.step(now, masks={name: masks[name] for name in moving.keys() & masks.keys()})
        for a, b in zip(tensors(z), tensors(out.latents), strict=True):
            report.equal(a, b[:, k : k + 1], "a dream's steps equal the rollout", f"{what} step {k}")
        for name, value in out.predictions.items():
            report.equal(dream.predictions[name], value[:, k : k + 1], "a dream's steps equal the rollout",
                         f"{what} step {k}, {name},")

    dream = Dream(model, start, conditions=whole.conditions, masks=whole.masks, sampler=MEANS)
    for k in range(steps // 2):
        advance(dream, k, "")
    branch = dream.copy()
    for which, what in ((branch, "a branch's"), (dream, "after a branch was taken,")):
        for k in range(steps // 2, steps):
            advance(which, k, what)


def _check_imagination(report: Reporter, model: ComposedWorldModel, whole: Batch, steps: int = 3) -> None:
    """A policy that does what is written leads where the rollout of it leads."""
    moving = {name: c for name, c in model.conditioners.items() if c.per_frame}
    if len(moving) != 1 or whole.video.shape[-4] < steps:
        return
    (name, conditioner), asked = *moving.items(), []

    def policy(latent: Latent, sampler: Sampler) -> tuple[Tensor, dict[str, Tensor]]:
        asked.append(latent)
        raw = whole.conditions[name]
        return raw.narrow(conditioner.axis(raw), len(asked) - 1, 1), {}

    others = {other: value for other, value in whole.conditions.items() if other != name}
    start = model.encode(whole.context(1), conditions=others)
    out = model.rollout(start, steps, conditions=whole.conditions, generator=_seeded(5))
    sampler = Sampler(generator=_seeded(5))
    imagined = model.imagine(start, policy, steps, conditions=others, sampler=sampler, action=name)
    for a, b in zip(tensors(imagined.latents[:, 1:]), tensors(out.latents), strict=True):
        report.equal(a, b, "a scripted policy gives the rollout", "the imagined latent")
    for target, value in out.predictions.items():
        report.equal(imagined.predictions[target], value, "a scripted policy gives the rollout", f"imagined {target}")


def _known(model: WorldModel) -> bool:
    """Whether we can make up conditions of any length for this model."""
    return all(hasattr(c, "num_actions") or c.name in ("language", "goal-image")
               for c in model.config.conditioners.values())


def _check_saving(report: Reporter, model: WorldModel, batch: Batch) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model"
        model.save_pretrained(path)
        copy = type(model).from_pretrained(path)
    report.require(copy.config == model.config, "save and load", "the reloaded configuration differs")
    for (name, a), (_, b) in zip(copy.state_dict().items(), model.state_dict().items(), strict=True):
        report.equal(a, b, "save and load", name, 0.0)
    losses = [m.loss(batch, generator=_seeded()).total for m in (copy, model)]
    report.equal(*losses, "save and load", "the reloaded model's loss", 0.0)
