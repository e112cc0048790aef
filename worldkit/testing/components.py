"""Checks of single components."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from .. import registry as registries
from ..batch import Batch
from ..conditioners.base import ModelView
from ..conditions import Condition
from ..config import ObsSpec
from ..distributions import MEANS, Sampler
from ..latents import Latent, LatentSpec
from ..nn.stages import STAGES, Staged
from .examples import (
    BATCH,
    LAST,
    OBSERVED,
    SECOND,
    SIDE,
    WINDOW,
    alternating,
    changed,
    example_anchors,
    example_condition,
    example_conditioning,
    example_encoding,
    example_latent,
    example_spec,
    example_target,
    example_vectors,
    example_video,
    last_time,
)
from .filtering import check_filter
from .forms import check_forms
from .report import Reporter, prepare, score, shake, tensors


def check_encoder(encoder: str | type, *, obs: ObsSpec | None = None, **options: Any) -> None:
    """Check an encoder on random video of ``obs`` (default: 32 x 32 pixels).

    Example:
        >>> check_encoder("particle")
    """
    cls, config, report = prepare(registries.encoders, encoder, options)
    obs = obs or ObsSpec(**{"height": SIDE, "width": SIDE, **OBSERVED.get(config.name, {})})

    def make() -> nn.Module:
        return cls(config, obs=obs)

    def run(module: nn.Module, batch: Batch, sampler: Sampler = MEANS) -> list[Tensor]:
        encoding = module.see(batch, sampler=sampler)
        return tensors(encoding.latent) + tensors(encoding.posterior)

    module, batch = shake(make()), Batch(example_video(obs, 3), vectors=example_vectors(obs, 3))
    encoding = module.see(batch, sampler=Sampler(generator=torch.Generator().manual_seed(0)))
    report.fields(encoding.latent, module.spec, BATCH, 3, "latent")
    report.fields(encoding.posterior, module.spec, BATCH, 3, "posterior")
    learned = [*tensors(encoding.to_draw), *tensors(encoding.posterior)]
    if encoding.drawn is not None:  # nearest codes are chosen without a gradient: what is between trains them
        learned = [x for x in learned if x.requires_grad]
    learned += [x for x in module.regularizers(encoding).values() if x.requires_grad]  # it learns by these, too
    report.gradients(module, score(learned))
    looked = module.look_up(encoding.latent)
    report.fields(looked, module.drawn_spec, BATCH, 3, "latent that is drawn")
    for a, b in zip(tensors(encoding.to_draw), tensors(looked), strict=True):
        report.equal(a, b, "look_up", "what training draws, beside what look_up gives,")
    with torch.no_grad():
        base = run(module, batch)
        for a, b in zip(run(module, changed(batch, LAST)), base, strict=True):
            report.equal(a[:, :-1], b[:, :-1], "causality", "the latent of earlier frames, when the last one changes,")
        for a, b in zip(run(module, changed(batch, SECOND)), base, strict=True):
            report.independent(a, b, "the latent")
        seeded = [run(module, batch, Sampler(generator=torch.Generator().manual_seed(3))) for _ in range(2)]
        for a, b in zip(*seeded, strict=True):
            report.equal(a, b, "determinism under a generator", "the second encoding", 0.0)
        report.reload(module, make, lambda m: run(m, batch))
        for name, prior in (("static_prior", module.static_prior(encoding)), ("first_frame_prior",
                                                                              module.first_frame_prior(BATCH))):
            if prior is not None:
                report.fields(prior, module.spec, BATCH, 3 if name == "static_prior" else 1, name)
        for name, value in module.regularizers(encoding).items():
            report.shape(value, (BATCH, 3), f"regularizer {name}")
        for stage in STAGES if isinstance(module, Staged) else ():
            early = module.see(batch, sampler=Sampler(generator=torch.Generator().manual_seed(0)), stage=stage)
            report.fields(early.latent, module.spec, BATCH, 3, f"latent in stage {stage}")
            report.fields(early.posterior, module.spec, BATCH, 3, f"posterior in stage {stage}")
            if stage == "full":
                for a, b in zip(tensors(early.latent), tensors(encoding.latent), strict=True):
                    report.equal(a, b, "stages", "what the stage 'full' gives, beside the call without one,")
    with report.refusing("wrong rank", "a video without batch axis"):
        module.see(replace(batch, video=batch.video[0]), sampler=MEANS)
    with report.refusing("nothing to see", "a video without frames"):
        module.see(batch.context(0), sampler=MEANS)


def check_decoder(
    decoder: str | type, *, spec: LatentSpec | None = None, obs: ObsSpec | None = None, **options: Any
) -> None:
    """Check a decoder on random latents of ``spec`` (default: `example_spec` of a kind it draws).

    Example:
        >>> check_decoder("particle")
    """
    cls, config, report = prepare(registries.decoders, decoder, options)
    obs = obs or ObsSpec(**{"height": SIDE, "width": SIDE, **OBSERVED.get(config.name, {})})
    spec = spec or example_spec(obs.views, min(cls.kinds or {"particles"}))

    def make() -> nn.Module:
        return cls(config, spec=spec, obs=obs)

    module, z = shake(make()), example_latent(spec, time=3)
    drawn, axis = module(z), -4
    report.shape(drawn.video, example_video(obs, 3).shape, "video")
    for name, value in drawn.vectors.items():
        report.shape(value, (BATCH, 3, obs.widths.get(name, -1)), f"vector {name}")
    report.gradients(module, score([drawn.video] * bool(obs.height) + list(drawn.raw.values())))
    with torch.no_grad():
        base, last, other, again = module(z), module(changed(z, LAST)), module(changed(z, SECOND)), module(z)
        if obs.height:
            report.equal(last.video.narrow(axis, 0, 2), base.video.narrow(axis, 0, 2), "causality",
                         "the picture of earlier frames, when the last latent changes,")
            report.independent(other.video, base.video, "the picture")
            report.equal(again.video, base.video, "determinism", "the second picture", 0.0)
        for name, value in base.vectors.items():
            report.equal(last.vectors[name][:, :2], value[:, :2], "causality",
                         f"the vector {name} of earlier frames, when the last latent changes,")
            report.independent(other.vectors[name], value, f"the vector {name}")
            report.equal(again.vectors[name], value, "determinism", f"the second {name}", 0.0)
        report.reload(module, make, lambda m: [m(z).video] * bool(obs.height) + list(m(z).vectors.values()))
        for name, loss in module.vector_losses(base, example_vectors(obs, 3)).items():
            report.shape(loss, (BATCH, 3), f"loss of vector {name}")
        base = base.video
        for stage in STAGES if isinstance(module, Staged) else ():
            early = module(z, stage=stage, sampler=Sampler(generator=torch.Generator().manual_seed(0))).video
            report.shape(early, base.shape, f"video in stage {stage}")
            if stage == "full":
                report.equal(early, base, "stages", "what the stage 'full' gives, beside the call without one,", 0.0)
        masks = module(z, masks=True).masks
        if masks is not None:
            report.require(masks.shape[:-4] == base.shape[:-3] and masks.shape[-3:] == (1, obs.height, obs.width),
                           "shapes", f"masks are {list(masks.shape)}, expected [..., T, K, 1, H, W]")


def _map_cond(cond: Condition, index: Any) -> Condition:
    parts = {form: changed(getattr(cond, form), index) for form in cond.forms if form != "memory"}
    return replace(cond, **parts)


def check_dynamics(
    dynamics: str | type, *, spec: LatentSpec | None = None, memory_length: int = 0, **options: Any
) -> None:
    """Check a dynamics on random latents of ``spec`` (default: an `example_spec` that it reads), window of 4 frames.

    A rollout's cached steps must agree with `Dynamics.prior` over the whole history. If it filters, ``spec`` is the
    encoder's, and what it filters must agree with what it predicts.

    Example:
        >>> check_dynamics("pint", memory_length=2)
    """
    cls, config, report = prepare(registries.dynamics, dynamics, options)
    seen = spec or example_spec(kind=_kind(cls))

    def make(memory_length: int = memory_length) -> nn.Module:
        return cls(config, spec=seen, anchors=example_anchors(seen), window=WINDOW, memory_length=memory_length)

    module = shake(make())
    spec = module.spec
    z = example_latent(spec)
    taken = check_forms(report, module, partial(make, memory_length or 2))
    cond = example_conditioning(module.cond_dim, module.factor_spec, WINDOW, memory_length).only(taken)
    if module.filtering:
        check_filter(report, module, make, example_encoding(seen), cond)
    if not module.explicit_prior:
        _check_implicit(report, module, make, z, cond.at(slice(0, WINDOW - 1)))
        return
    report.fields(module.prior(z, cond), spec, BATCH, WINDOW, "prior")
    if not module.filtering:  # a posterior has parameters that the prior has not
        report.gradients(module, score(tensors(module.prior(z, cond))))
    with torch.no_grad():
        base = tensors(module.prior(z, cond))
        for what, other in (("latent", (changed(z, LAST), cond)), ("condition", (z, _map_cond(cond, LAST)))):
            for a, b in zip(tensors(module.prior(*other)), base, strict=True):
                report.equal(a[:, :-1], b[:, :-1], "causality", f"an earlier prior, when the last {what} changes,")
        for a, b in zip(tensors(module.prior(changed(z, SECOND), _map_cond(cond, SECOND))), base, strict=True):
            report.independent(a, b, "the prior")
        for a, b in zip(tensors(module.prior(z, cond)), base, strict=True):
            report.equal(a, b, "determinism", "the second prior", 0.0)
        report.reload(module, make, lambda m: tensors(m.prior(z, cond)))
        _check_steps(report, module, z, cond, base)


def _kind(cls: Any) -> str:
    """Kind of latent that a dynamics or a prior can do with."""
    return "codes" if "codes" in cls.requires else "pixels" if "grid" in cls.requires else "particles"


def _check_implicit(report: Reporter, module: Any, make: Any, z: Latent, cond: Condition) -> None:
    def seeded(seed: int = 0) -> Sampler:
        return Sampler(generator=torch.Generator().manual_seed(seed))

    def run(m: Any, z: Latent, cond: Condition) -> list[Tensor]:
        return list(m.loss(z, cond, seeded()).values())

    for name, value in module.loss(z, cond, seeded()).items():
        report.shape(value, (BATCH, WINDOW - 1), f"loss term {name}")
    report.gradients(module, score(run(module.train(), z, cond)))
    module.eval()
    with torch.no_grad():
        base = run(module, z, cond)
        report.require(any((v[:, 1:] - v[:, :1]).abs().max() > 0 for v in base), "time", "all times have one loss")
        for what, other in (("latent", (changed(z, LAST), cond)), ("condition", (z, _map_cond(cond, LAST)))):
            for a, b in zip(run(module, *other), base, strict=True):
                report.equal(a[:, :-1], b[:, :-1], "causality", f"an earlier loss, when the last {what} changes,")
        for a, b in zip(run(module, changed(z, SECOND), _map_cond(cond, SECOND)), base, strict=True):
            report.independent(a, b, "the loss")
        for sampler in (seeded, lambda: MEANS):
            for a, b in zip(module.loss(z, cond, sampler()).values(), module.loss(z, cond, sampler()).values(),
                            strict=True):
                report.equal(a, b, "determinism under a generator", "the second loss", 0.0)
        report.reload(module, make, lambda m: run(m, z, cond))
        for window in ("exact", "streaming"):
            rolls = [_roll_implicit(module, z, cond, seeded(1), window) for _ in range(2)]
            for t, (first, second) in enumerate(zip(*rolls, strict=True)):
                report.fields(first, module.spec, BATCH, 1, f"prediction {t}")
                for a, b in zip(tensors(first), tensors(second), strict=True):
                    report.equal(a, b, "determinism under a generator", f"prediction {t}", 0.0)
            other = _roll_implicit(module, changed(z, SECOND), _map_cond(cond, SECOND), seeded(1), window)
            for a, b in zip(tensors(other[0]), tensors(rolls[0][0]), strict=True):
                report.independent(a, b, "the prediction")


def _roll_implicit(module: Any, z: Latent, cond: Condition, sampler: Sampler, window: Any) -> list[Latent]:
    """Predictions after two frames, until the window is left behind."""
    state, predicted = module.start(z[:, :2], cond.at(slice(0, 1)), window=window), []
    for t in range(1, WINDOW + 2):
        now = slice(min(t, WINDOW - 2), min(t, WINDOW - 2) + 1)
        predicted.append(module.predict(state, cond.at(now), sampler, mean=False))
        module.observe(state, predicted[-1])
    return predicted


def _check_steps(report: Reporter, module: Any, z: Latent, cond: Condition, base: list[Tensor]) -> None:
    for window in ("exact", "streaming"):
        state = module.start(z[:, :2], cond.at(slice(0, 1)), window=window)
        for t in range(1, WINDOW + 3):
            now = slice(min(t, WINDOW - 1), min(t, WINDOW - 1) + 1)
            dist = module.step(state, cond.at(now))
            report.fields(dist, module.spec, BATCH, 1, f"step {t}")
            if t < WINDOW:
                for a, b in zip(tensors(dist), base, strict=True):
                    report.equal(a, b[:, t : t + 1], "rollout steps agree with prior()",
                                 f"step {t} ({window}) inside the window")
            module.observe(state, z[:, t + 1 : t + 2] if t + 1 < WINDOW else dist.mode())


def check_latent_action(
    latent_action: str | type, *, spec: LatentSpec | None = None, memory_length: int = 0, obs: ObsSpec | None = None,
    **options: Any
) -> None:
    """Check a latent-action module on random latents of ``spec`` (default: `example_spec`), window 4.

    One that reads video: on random video of ``obs`` (default: 32 x 32 pixels), with its own losses.

    Example:
        >>> check_latent_action("gaussian", pool="mean")
    """
    cls, config, report = prepare(registries.latent_actions, latent_action, options)
    spec = spec or example_spec()

    def make(memory_length: int = memory_length) -> nn.Module:
        return cls(config, spec=spec, anchors=example_anchors(spec), window=WINDOW, dynamics_dim=12,
                   memory_length=memory_length, **({"obs": obs} if reads else {}))

    reads, obs = cls.reads == "video", obs or ObsSpec(height=SIDE, width=SIDE)
    module, frames = shake(make()), WINDOW + 1
    z: Any = example_video(obs, frames) if reads else example_latent(spec, time=frames)  # what it reads
    taken = module.takes if reads else check_forms(report, module, partial(make, memory_length or 2))
    cond = example_conditioning(module.cond_dim, spec, frames, memory_length).only(taken or ())

    def see(m: Any, z: Any, cond: Condition) -> tuple[Any, Any]:
        return m(None, cond, video=z) if reads else m(z, cond)

    def run(m: Any, z: Any, cond: Condition) -> tuple[Tensor, Tensor]:
        posterior, prior = see(m, z, cond)
        return posterior.params, prior.params

    posterior, prior = see(module, z, cond)
    tokens = posterior.params.shape[2]
    report.require(tokens in (1, spec.num_tokens), "shapes",
                   f"actions are for {tokens} tokens, expected 1 or {spec.num_tokens}")
    report.shape(posterior.params, (BATCH, frames - 1, *posterior.params.shape[2:]), "posterior")
    report.shape(prior.params, (BATCH, frames, *posterior.params.shape[2:]), "prior")
    report.shape(posterior.kl(prior[:, :-1]), (BATCH, frames - 1, tokens), "KL")
    action = posterior.sample(Sampler(generator=torch.Generator().manual_seed(0)), "latent_action.posterior")
    told = module.condition(action)
    report.require(isinstance(told, Condition), "types", f"condition() gave {type(told).__name__}, expected Condition")
    steer = told.adaln()
    report.require(steer is not None and steer.shape[2] in (1, spec.num_tokens) and steer.shape[-1] == 12, "shapes",
                   "condition() must give the dynamics' width per frame or per token")
    losses = module.losses(z, posterior) if reads else {}
    for name, loss in losses.items():
        report.shape(loss, (BATCH, frames - 1), f"loss {name}")
    learned = [posterior.params, prior.params, steer, *losses.values()]
    report.gradients(module, score([x for x in learned if x.requires_grad]))
    with torch.no_grad():
        base = run(module, z, cond)
        for what, other in (("frame", (changed(z, LAST), cond)), ("condition", (z, _map_cond(cond, LAST)))):
            for name, a, b in zip(("posterior", "prior"), run(module, *other), base, strict=True):
                report.equal(a[:, :-1], b[:, :-1], "causality", f"an earlier {name}, when the last {what} changes,")
        for a, b in zip(run(module, changed(z, SECOND), _map_cond(cond, SECOND)), base, strict=True):
            report.independent(a, b, "the action")
        report.reload(module, make, lambda m: list(run(m, z, cond)))
        seen = {"video": z[:, :2]} if reads else {}
        start, carry = module.start(example_latent(spec, time=2) if reads else z[:, :2], cond.at(slice(0, 2)), **seen)
        report.equal(start.params, base[0][:, :1], "rollout agrees with forward()", "the posterior of start()")
        for t in range(1, WINDOW):
            report.equal(module.next(carry).params, base[1][:, t : t + 1], "rollout agrees with forward()",
                         f"the prior of transition {t}")
            newest = example_latent(spec, time=1) if reads else z[:, t + 1 : t + 2]
            module.observe(carry, newest, cond.at(slice(t + 1, t + 2)))
        report.shape(module.next(carry).params, (BATCH, 1, *base[1].shape[2:]), "the prior beyond the window")


def check_prior(prior: str | type, *, spec: LatentSpec | None = None, **options: Any) -> None:
    """Check a prior on random latents of ``spec`` (default: an `example_spec` that it reads).

    Example:
        >>> check_prior("diffusion")
    """
    cls, config, report = prepare(registries.priors, prior, options)
    spec = spec or example_spec(kind=_kind(cls))

    def make() -> nn.Module:
        return cls(config, spec=spec)

    def seeded(seed: int = 0) -> Sampler:
        return Sampler(generator=torch.Generator().manual_seed(seed))

    def run(m: Any, z: Latent) -> list[Tensor]:
        return list(m.loss(z, seeded()).values())

    module, z = shake(make()), example_latent(spec, time=config.frames)
    module.measure(iter([z, example_latent(spec, time=config.frames, seed=1)]))
    for name, value in module.loss(z, seeded()).items():
        report.shape(value, (BATCH,), f"loss term {name}")
    report.gradients(module, score(run(module.train(), z)))
    module.eval()
    with torch.no_grad():
        base = run(module, z)
        for a, b in zip(run(module, changed(z, SECOND)), base, strict=True):
            report.independent(a, b, "the loss")
        for sampler in (seeded, lambda: MEANS):
            for a, b in zip(*(module.loss(z, sampler()).values() for _ in range(2)), strict=True):
                report.equal(a, b, "determinism under a generator", "the second loss", 0.0)
        drawn = module.sample(BATCH, seeded(1))
        report.fields(drawn, spec, BATCH, config.frames, "latent of first frames")
        for a, b in zip(tensors(module.sample(BATCH, seeded(1))), tensors(drawn), strict=True):
            report.equal(a, b, "determinism under a generator", "the second sample", 0.0)
        other = tensors(module.sample(BATCH, seeded(2)))
        report.require(any(not torch.equal(a, b) for a, b in zip(other, tensors(drawn), strict=True)), "samples",
                       "every generator gives the same first frames")
        report.reload(module, make, lambda m: [*run(m, z), *tensors(m.sample(BATCH, seeded(1)))])


def check_head(head: str | type, *, target: Tensor | None = None, **options: Any) -> None:
    """Check a head on random features; ``target`` is an example of what it learns, ``[2, 4]`` or ``[2, 4, S]``.

    Example:
        >>> check_head("two-hot", num_bins=9)
    """
    cls, config, report = prepare(registries.heads, head, options)
    dim, tokens = 6, 5
    features = torch.randn(BATCH, WINDOW, tokens, dim, generator=torch.Generator().manual_seed(0))
    target = example_target(config, (BATCH, WINDOW)) if target is None else target

    def make() -> nn.Module:
        return cls(config, feature_dim=dim)

    def run(m: Any, x: Tensor) -> list[Tensor]:
        return [m(x), m.loss(x, target)]

    module = shake(make())
    out, loss = run(module, features)
    report.shape(out, tuple(target.shape), "prediction")
    report.shape(loss, (BATCH, WINDOW), "loss")
    report.gradients(module, loss.sum())
    with torch.no_grad():
        base = run(module, features)
        for a, b in zip(run(module, changed(features, SECOND)), base, strict=True):
            report.independent(a, b, "the head's answer")
        for a, b in zip(run(module, changed(features, (slice(None), slice(-1, None)))), base, strict=True):
            report.equal(a[:, :-1], b[:, :-1], "transitions by themselves",
                         "an earlier answer, when the last transition changes,")
        for a, b in zip(run(module, features.flip(2)), base, strict=True):
            report.equal(a, b, "tokens have no order", "the answer, when tokens are turned round,")
        fewer, more = module(features[:, :, :1]), module(torch.cat([features] * 2, 2))
        report.require(fewer.shape == out.shape == more.shape, "any number of tokens", "the prediction's shape changes")
        report.reload(module, make, lambda m: run(m, features))
    with report.refusing("wrong rank", "a target without time axis"):
        module.loss(features, target[:, 0])


def check_conditioner(
    conditioner: str | type, *, raw: Tensor | None = None, obs: ObsSpec | None = None, **options: Any
) -> None:
    """Check a conditioner; ``raw`` is an example of what it reads, ``[2, ...]`` (our own ones need none).

    Example:
        >>> check_conditioner("action", null_embedding=True)
    """
    cls, config, report = prepare(registries.conditioners, conditioner, options)
    obs, spec, dim = obs or ObsSpec(height=SIDE, width=SIDE), example_spec(obs.views if obs else 1), 12
    raw = example_condition(config, obs, WINDOW) if raw is None else raw
    mixer = torch.randn(spec.packed_dim, dim, generator=torch.Generator().manual_seed(0))

    def encode(video: Tensor) -> Latent:
        shift = video.flatten(1).mean(1)[:, None, None, None]
        return example_latent(spec, len(video), 1).map(lambda x: x * 0.5 + shift)

    embedded: list[Latent] = []

    def embed(z: Latent) -> Tensor:
        embedded.append(z)
        return z.pack() @ mixer

    view = ModelView(encode=encode, embed=embed, spread=spec.spread_views)

    def make() -> nn.Module:
        return cls(config, dim=dim, obs=obs)

    def run(m: nn.Module, raw: Tensor, mask: Tensor | None = None) -> list[Tensor]:
        cond = m(raw, mask, view=view)
        return [x for x in (cond.frame, cond.token, cond.memory) if x is not None]

    module = shake(make())
    module.check(raw, name="example")
    cond = module(raw, None, view=view)
    report.require(not cond.is_empty, "shapes", "the condition is empty")
    for name, x, rank in (("frame", cond.frame, 3), ("token", cond.token, 4), ("memory", cond.memory, 3)):
        report.require(x is None or (x.ndim == rank and x.shape[0] == BATCH and x.shape[-1] == dim), "shapes",
                       f"{name} is {None if x is None else list(x.shape)}, expected {rank} axes ending in {dim}")
    report.require(cls.gives is None or cls.gives >= set(cond.forms), "gives",
                   f"declares {', '.join(sorted(cls.gives or ())) or 'nothing'}, but gave {', '.join(cond.forms)}")
    report.require(cls.embeds or not embedded, "embeds", "it called view.embed, so declare embeds = True")
    report.require(not cls.embeds or bool(embedded), "embeds", "declared, but it never called view.embed")
    length = 0 if cond.memory is None else cond.memory.shape[1]
    report.require(length == cls.memory_tokens(config), "memory_tokens",
                   f"promises {cls.memory_tokens(config)} tokens, gives {length}")
    masks = [alternating(shape) for shape in module.mask_shapes(raw)] if module.takes_mask else []
    report.gradients(module, score(run(module, raw, masks[-1] if masks else None)))
    with torch.no_grad():
        base = run(module, raw)
        for a, b in zip(run(module, changed(raw, SECOND)), base, strict=True):
            report.independent(a, b, "the condition")
        if module.per_frame:
            other = run(module, changed(raw, last_time(module.time_axis)))
            for a, b in zip(other, base, strict=True):
                report.equal(a[:, :-1], b[:, :-1], "causality", "an earlier condition, when the last one changes,")
        for mask in masks:
            module.check_mask(mask, raw, name="example")
            given = mask.reshape(*mask.shape, *[1] * (raw.ndim - mask.ndim))
            hidden = torch.where(given, raw, changed(raw, ...))
            for a, b in zip(run(module, hidden, mask), run(module, raw, mask), strict=True):
                report.equal(a, b, "masks", "the condition, when only masked values change,", 0.0)
        report.reload(module, make, lambda m: run(m, raw))
    with report.refusing("wrong rank", "a value without batch axis"):
        module.check(raw[0], name="example")
