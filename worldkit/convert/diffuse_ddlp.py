"""Official DiffuseDDLP checkpoints: a diffusion prior for a converted DDLP, with every key accounted for.

``model.pth`` holds the diffusion's weights, those of its moving average and the optimiser's state; samples are drawn
with the average (``ema.ema_model``), so these are the weights that are taken. ``latent_stats.pth`` holds the statistics
of the training set's latents. Schedules are recomputed, and must be the checkpoint's.

The prior's sizes follow from the weights, but not its target and loss: the shipped configuration's are assumed.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from ..config import WorldModelConfig
from ..errors import CheckpointError, IncompatibleComponentsError
from ..model import ComposedWorldModel
from ..nn.diffusion import CosineSteps
from ..priors.diffusion import DiffusionPrior, DiffusionPriorConfig
from .ddlp_dynamics import MASK, TRANSFORMER, parameter_of, renamed
from .state import Target, fill, read_checkpoint

_AVERAGE = "ema_model."
_TABLE = "particle_transformer.blocks.0.attn.rel_pos_bias.rel_pos_bias"
_PLACES = (  # names in the official denoiser, apart from its transformer's
    (r"^time_mlp\.1\.", "step.project.0."), (r"^time_mlp\.3\.", "step.project.2."),
    (r"^particle_projection\.", "embed."), (r"^particle_decoder\.", "head."),
)
_STATISTICS = {"mu": "mean", "std": "scatter", "min_val": "low", "max_val": "high"}


def target_of(key: str, prior: DiffusionPrior) -> Target | None:
    """Where a weight of the official denoiser (without ``model.``) goes in ours; None: nowhere."""
    inner = key.removeprefix("particle_transformer.")
    if inner == key:
        return parameter_of(prior.network, renamed(key, _PLACES))
    name = renamed(inner, TRANSFORMER)
    return parameter_of(prior.network, name and f"transformer.{name}")


def prior_config(state: Mapping[str, Tensor], **options: Any) -> DiffusionPriorConfig:
    """Options of a prior from the official weights of its diffusion; ``options`` say what weights do not.

    Raises:
        CheckpointError: weights that say nothing about the sizes.
    """
    try:
        frames, heads = state[f"model.{_TABLE}"].shape
        sizes = {"dim": state["model.particle_projection.0.bias"].shape[0], "frames": (frames + 1) // 2,
                 "num_heads": heads, "steps": len(state["betas"]),
                 "num_layers": sum(key.endswith("attn.proj.weight") for key in state)}
    except KeyError as error:
        raise CheckpointError(f"the diffusion's weights lack {error}; is this a checkpoint of DiffuseDDLP?") from None
    quirks = {"causal": True, "noisy_padding": True, "sampling_dropout": True}
    return DiffusionPriorConfig.parse({**sizes, **quirks, **options})


def load_prior(prior: DiffusionPrior, state: Mapping[str, Tensor], statistics: Mapping[str, Tensor]) -> None:
    """Fill a prior with an official diffusion's weights and statistics.

    Args:
        prior: Of the right sizes.
        state: State dict of the diffusion: ``model.*`` and the buffers of its schedule.
        statistics: ``latent_stats.pth``.
    Raises:
        CheckpointError: listing what does not fit.
    """
    weights = {key.removeprefix("model."): value for key, value in state.items()
               if key.startswith("model.") and not MASK.search(key)}
    _check_schedule(prior.schedule, {key: value for key, value in state.items() if not key.startswith("model.")})
    fill(prior.network, weights, canonical=str, target_of=lambda key: target_of(key, prior),
         between="the checkpoint and the latents of this DDLP", advice="Was this diffusion trained on this DDLP?")
    _load_statistics(prior, statistics)


def _check_schedule(schedule: CosineSteps, buffers: Mapping[str, Tensor]) -> None:
    ours = schedule_buffers(schedule)
    unknown = sorted(buffers.keys() - ours.keys())
    if unknown:
        raise CheckpointError(f"keys with no place in DiffuseDDLP's diffusion: {', '.join(unknown)}")
    for name, value in buffers.items():
        if value.shape != ours[name].shape or not torch.allclose(value.double(), ours[name], rtol=1e-3, atol=1e-6):
            raise CheckpointError(f"'{name}' is not that of the cosine schedule; only that one is supported")


def schedule_buffers(schedule: CosineSteps) -> dict[str, Tensor]:
    """What upstream stores of a schedule, by its names; float64 ``[steps]``, from the first step to the last."""
    then = torch.arange(schedule.steps, dtype=torch.float64) / schedule.steps
    now = then + 1 / schedule.steps
    kept, before = schedule.alpha(now).square(), schedule.alpha(then).square()
    of_noisy, of_data, variance = schedule.posterior(now, then)
    return {
        "betas": 1 - kept / before, "alphas_cumprod": kept, "alphas_cumprod_prev": before,
        "sqrt_alphas_cumprod": kept.sqrt(), "sqrt_one_minus_alphas_cumprod": (1 - kept).sqrt(),
        "log_one_minus_alphas_cumprod": (1 - kept).log(), "sqrt_recip_alphas_cumprod": kept.rsqrt(),
        "sqrt_recipm1_alphas_cumprod": (1 / kept - 1).sqrt(), "posterior_variance": variance,
        "posterior_log_variance_clipped": variance.clamp(min=1e-20).log(), "posterior_mean_coef1": of_data,
        "posterior_mean_coef2": of_noisy, "p2_loss_weight": torch.ones_like(kept),
    }


def _load_statistics(prior: DiffusionPrior, statistics: Mapping[str, Tensor]) -> None:
    scale, layout, problems = prior.scale, prior.layout, []
    wanted = {f"{theirs}{suffix}" for theirs in _STATISTICS for suffix in ("", "_bg")}
    if statistics.keys() != wanted:
        raise CheckpointError(f"latent statistics must be {', '.join(sorted(wanted))}; got {', '.join(statistics)}")
    for theirs, ours in _STATISTICS.items():
        for row, suffix in enumerate(("", "_bg")):
            value, columns = statistics[theirs + suffix], layout.fields[row].bool()
            if value.shape != (int(columns.sum()),):
                problems.append(f"{theirs}{suffix} is {list(value.shape)}, but must be [{int(columns.sum())}]")
                continue
            getattr(scale, ours)[row, columns] = (value.square() if ours == "scatter" else value).to(scale.mean)
    if problems:
        raise CheckpointError("the statistics do not fit this model's latents:\n    " + "\n    ".join(problems))
    scale.count.fill_(2)  # with n - 1 = 1, what is scattered is the variance
    scale.settled.fill_(True)


def from_diffuse_ddlp(
    checkpoint: str | Path, statistics: str | Path, ddlp: ComposedWorldModel, *,
    target: Literal["x0", "epsilon", "v"] = "x0", loss: Literal["l1", "l2"] = "l1",
    normalize: Literal["minmax", "standard"] = "minmax",
) -> ComposedWorldModel:
    """A DDLP that can draw videos out of nothing, from an official DiffuseDDLP checkpoint.

    Args:
        checkpoint: ``model.pth``.
        statistics: ``latent_stats.pth`` beside it.
        ddlp: The DDLP whose latents it draws, converted by `worldkit.convert.from_ddlp`.
        target, loss, normalize: Of the run's configuration, where they are not the shipped one's.
    Returns:
        The DDLP with a prior, for ``sample``; its weights are copies.
    Raises:
        CheckpointError: a file cannot be read, is none of DiffuseDDLP, or does not fit the DDLP.
        IncompatibleComponentsError: a model without dynamics, or with a latent that has more than two groups.
    """
    from ..assembly import build

    if ddlp.dynamics is None or len(ddlp.encoder.spec.groups) != 2:
        raise IncompatibleComponentsError("DiffuseDDLP begins the videos of a DDLP: give it a converted video model")
    state, stored = _average(read_checkpoint(checkpoint)), read_checkpoint(statistics)
    # upstream keeps data in [-1, 1] whatever the normalisation
    options = prior_config(state, target=target, loss=loss, normalize=normalize, clamp=1.0)
    given = ddlp.config.to_dict() | {
        "prior": options.to_dict(), "objective": {"name": "first-frames", "background": "decoder"}}
    with torch.random.fork_rng(devices=[]):
        model = build(WorldModelConfig.parse(given))
    missing = model.load_state_dict(ddlp.state_dict(), strict=False).missing_keys
    assert all(key.startswith("prior.") for key in missing), missing
    load_prior(model.prior, state, stored)  # type: ignore[arg-type]
    return model.eval()


def _average(stored: Any) -> dict[str, Tensor]:
    """Weights of the moving average in ``model.pth``, which must hold what upstream's trainer writes."""
    if not isinstance(stored, Mapping) or not {"model", "ema"} <= stored.keys():
        raise CheckpointError("a checkpoint of DiffuseDDLP (saves/model.pth) has the entries step, model, opt, ema and "
                              f"scaler; this one {_holds(stored)}")
    unknown = sorted(stored.keys() - {"step", "model", "opt", "ema", "scaler", "version"})
    ema = stored["ema"]
    unknown += [key for key in ema if not key.startswith((_AVERAGE, "online_model."))
                and key not in ("initted", "step")]
    state = {key.removeprefix(_AVERAGE): value for key, value in ema.items() if key.startswith(_AVERAGE)}
    different = sorted(state.keys() ^ stored["model"].keys())
    if unknown or different:
        raise CheckpointError("keys with no place in a checkpoint of DiffuseDDLP: "
                              f"{', '.join([*unknown, *different])}")
    return state


def _holds(stored: Any) -> str:
    if isinstance(stored, Mapping) and any(str(key).startswith("fg_module.") for key in stored):
        return "is one of DDLP or LPWM: worldkit convert ddlp, or worldkit convert lpwm"
    return f"has {', '.join(map(str, list(stored)[:5]))}" if isinstance(stored, Mapping) else "is no table"
