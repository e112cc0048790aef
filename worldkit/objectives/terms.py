"""What objectives with a KL per frame share: sums over tokens, terms of an implicit dynamics, latent actions, masks.

Terms are ``[B, V, T]``, per clip, view and frame.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, TypeVar

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from ..batch import Batch
from ..conditions import Condition
from ..distributions import Sampler
from ..latents import Key, Latent, LatentDist, LatentSpec

if TYPE_CHECKING:
    from ..decoders.base import Decoded
    from ..latent_actions.base import LatentAction
    from ..model import ComposedWorldModel
    from ..steering import Steering

_Fields = TypeVar("_Fields", Latent, LatentDist)


def detach_points(x: _Fields) -> _Fields:
    """The same latent or distribution; fields without a density let no gradient through."""
    spec, tensors = x.spec, x.values if isinstance(x, Latent) else x.params
    cut = {k: v.detach() if spec.field(k).dist.point else v for k, v in tensors.items()}
    return Latent.build(spec, cut, score=x.score) if isinstance(x, Latent) else LatentDist(spec, cut, score=x.score)


def action_kl(steering: Steering, spec: LatentSpec, first: int) -> Tensor | None:
    """KL of the latent actions from transition ``first`` on, ``[B, V, T - 1 - first]``; None if there are none."""
    if steering.posterior is None or steering.prior is None:
        return None
    kl = steering.posterior.kl(steering.prior)[:, first:]
    if kl.shape[2] != spec.num_tokens:  # one action for all tokens and views, or one per factor
        return kl.sum(2)[:, None].expand(-1, spec.views, -1) / spec.views
    return spec.sum_views(kl)


def action_terms(
    module: LatentAction, steering: Steering, valid: Tensor | None = None
) -> tuple[Tensor | float, dict[str, Tensor]]:
    """What latent actions learn by on their own: the sum of their losses, means over transitions; and all for logs.

    Args:
        module: Latent actions.
        steering: What the model made of a clip of T frames.
        valid: ``[B, T]``, frames inside the episode; transitions to others do not count.
    """
    weights = None if valid is None else valid[:, 1:]
    means = {name: x.mean() if weights is None else (x * weights).sum() / weights.sum().clamp(min=1)
             for name, x in steering.losses.items()}
    logged = {f"latent_action/{name}": x for name, x in (means | module.summary(steering.posterior)).items()}
    return sum(means.values()), logged


def presence(z: Latent) -> Tensor:
    """Transparency of tokens that have one, 0 for the others: ``[B, T, N]``."""
    parts = []
    for group in z.spec.groups:
        if group.field("transparency") is not None:
            parts.append(z.values[group.name, "transparency"][..., 0])
        else:
            parts.append(torch.zeros_like(z.values[group.name, group.fields[0].name][..., 0]))
    return torch.cat(parts, -1)


def by_field(kl: dict[Key, Tensor], spec: LatentSpec, gate: Latent | None = None) -> dict[str, Tensor]:
    """Sum over tokens: ``[B, V, T]`` per field of the first group, and per further group under the group's name.

    With a ``gate``, tokens count as much as they are present in that latent.
    """
    first, terms = spec.groups[0].name, {}
    for (group, field), value in kl.items():
        present = None if gate is None else gate.values.get((group, "transparency"))
        if present is not None and field != "transparency":
            value = value * present[..., 0]
        value = rearrange(value, "b t (v n) -> b v t n", v=spec.views).sum(-1)
        name = field if group == first else group
        terms[name] = terms[name] + value if name in terms else value
    return terms


def head_terms(
    model: ComposedWorldModel, batch: Batch, z: Latent, cond: Condition
) -> tuple[Tensor, dict[str, Tensor]]:
    """What trains the heads: their weighted losses, means over transitions inside the episode; and each for logs.

    Neither the latents nor the condition get gradients.
    """
    losses = model.head_losses(z, cond, batch)
    if not losses:
        return z.presence.new_zeros(()), {}
    valid = None
    if batch.done_mask is not None:
        inside = batch.done_mask if batch.done_mask.ndim == 2 else batch.done_mask.float().mean(1)
        valid = (inside[:, 1:] * inside[:, :-1]).float()  # padding may come first, too
    if batch.first is not None:  # no transition leads over a border
        crossed = ~batch.first[:, 1:]
        valid = crossed.float() if valid is None else valid * crossed
    means = {name: x.mean() if valid is None else (x * valid).sum() / valid.sum().clamp(min=1)
             for name, x in losses.items()}
    total = torch.stack([model.config.heads[name].weight * x for name, x in means.items()]).sum()
    return total, {f"head/{name}": x.detach() for name, x in means.items()}


def vector_errors(
    model: ComposedWorldModel, drawn: Decoded, vectors: Mapping[str, Tensor]
) -> tuple[Tensor | float, dict[str, Tensor]]:
    """Of models that predict vectors beside the video: losses added up ``[B, T]``, and the mean of each for logs."""
    losses = model.decoder.vector_losses(drawn, vectors)
    total = torch.stack(list(losses.values())).sum(0) if losses else 0.0
    return total, {f"vector/{name}": loss.mean().detach() for name, loss in losses.items()}


def psnr(error: Tensor) -> Tensor:
    """Mean squared error of pictures in [0, 1] -> decibels, at most 100 (pixels that are latents come back exactly)."""
    return -10 * torch.log10(error.clamp(min=1e-10))


def place(value: Tensor, start: int, frames: int) -> Tensor:
    """Values ``[B, V, t]`` of the frames from ``start`` on, with zeros for all other frames: ``[B, V, frames]``."""
    return F.pad(value, (start, frames - start - value.shape[2]))


def frame_weights(done: Tensor | None, like: Tensor) -> Tensor:
    """``[B, 1 or V, T]``: one per frame, or, with a done mask, one over the clip's valid frames."""
    if done is None:
        return torch.ones_like(like)
    valid = (done if done.ndim == 3 else done[:, None]).to(like.dtype)
    return valid / valid.sum(-1, keepdim=True).clamp(min=1)


def implicit_terms(
    model: ComposedWorldModel, batch: Batch, z: Latent, sampler: Sampler
) -> tuple[dict[str, Tensor], Tensor | None, Condition | None]:
    """Terms of an implicit dynamics on detached latents ``[B, V, T - 1]``, the KL of the latent actions, and the
    condition behind both."""
    if z.shape[1] < 2:
        return {}, None, None
    z, views = z.detach(), z.spec.views
    steering = model.condition(z, batch, sampler=sampler)
    losses = model.dynamics.loss(z, steering.cond, sampler)
    terms = {k: v[:, None].expand(-1, views, -1) / views for k, v in losses.items()}
    return terms, action_kl(steering, z.spec, 0), steering.cond


def summary(posterior: LatentDist) -> dict[str, Tensor]:
    """What upstream's progress bars show: mean Beta a and b of transparency, mean box side over image side."""
    terms = {}
    if (key := posterior.spec.find("transparency")) is not None:
        terms |= posterior.spec.field(key).dist.summary(posterior.params[key].detach())
    if (key := posterior.spec.find("scale")) is not None:
        terms["scale"] = torch.sigmoid(posterior.mean(*key)).mean().detach()
    return terms


def notes(model: ComposedWorldModel) -> list[str]:
    """What a user should know where an encoder or a dynamics has no KL of its own."""
    notes, spec = [], model.encoder.spec
    if model.dynamics is not None and model.dynamics.filtering:
        return [f"dynamics '{model.dynamics.config.name}' filters: it predicts every frame, the first one, too, so the "
                "encoder has no KL of its own"]
    if model.dynamics is not None and not model.dynamics.explicit_prior:
        notes.append(
            f"dynamics '{model.dynamics.config.name}' has no explicit prior: it learns from detached latents by "
            "its own loss, and every frame is held against the encoder's static prior; its loss terms cannot be "
            "compared with a KL"
        )
    elif model.dynamics is not None and any(spec.field(k).dist.point for k in spec.keys()):
        notes.append(
            f"encoder '{model.encoder.config.name}' gives points, not distributions: kl_dynamics is half the "
            "squared distance of the prediction to the latent, and trains the dynamics alone"
        )
    return notes
