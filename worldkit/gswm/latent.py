"""The latent of G-SWM: `worldkit.latents.Particles` with hidden fields, so that a prediction needs the last frame only.

Objects are tokens of a group "particles": what LPWM's particles have (position, scale, depth, transparency, features),
and hidden ones for the dynamics: "motion" and the states of two LSTMs. The group "background" has the context of the
background (a single zero where it is black) and its two states.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..distributions import Delta
from ..latents import Field, Latent, LatentSpec, TokenGroup
from .boxes import place
from .config import GSWMConfig
from .objects import Attributes, Objects

EDGE = 1e-3
"""Sides smaller than this, or larger than 1 minus this, are no sigmoids: there the scale goes on in a straight line, so
that sides which left (0, 1), as nothing forbids, come back as they were."""
BACKGROUND = ("background", "features")


def spec_of(config: GSWMConfig) -> LatentSpec:
    """Description of the latents of a model."""
    seen, motion, states = config.encoder, config.dynamics, 2 * config.dynamics.state_dim
    fields = [
        Field("position", 2, Delta(), "(y, x) in [-1, 1] image coordinates"),
        Field("scale", 2, Delta(), "logit of box side / image side, (height, width)"),
        Field("depth", 1, Delta(), "smaller is nearer"),
        Field("transparency", 1, Delta(), "presence, 1 = there"),
        Field("features", seen.feature_dim, Delta(), "what it looks like"),
    ]
    hidden = {"motion": seen.motion_dim, "posterior_state": states, "prior_state": states}
    fields += [Field(name, dim, Delta(), hidden=True) for name, dim in hidden.items() if dim]
    scenery = [Field("features", config.decoder.context_dim or 1, Delta())]
    if config.decoder.context_dim:
        scenery += [Field(name, 2 * motion.context_state_dim, Delta(), hidden=True)
                    for name in ("posterior_state", "prior_state")]
    groups = (TokenGroup("particles", seen.max_objects, tuple(fields)), TokenGroup("background", 1, tuple(scenery)))
    return LatentSpec(groups, identity="tracked", kind="particles")


def scale_of(sides: Tensor) -> Tensor:
    """Box sides over image sides -> the field "scale": their logit, straight on where they leave (0, 1).

    Example:
        >>> sides = torch.tensor([-0.5, 0.2, 1.7], dtype=torch.float64)
        >>> torch.allclose(sides_of(scale_of(sides)), sides), round(scale_of(sides)[1].sigmoid().item(), 6)
        (True, 0.2)
    """
    inside = sides.clamp(EDGE, 1 - EDGE)
    return torch.logit(inside) + (sides - inside) / (EDGE * (1 - EDGE))


def sides_of(scale: Tensor) -> Tensor:
    """The inverse of `scale_of`."""
    inside = scale.clamp(-_LIMIT, _LIMIT)
    return torch.sigmoid(inside) + (scale - inside) * (EDGE * (1 - EDGE))


_LIMIT = math.log((1 - EDGE) / EDGE)


def latent_of(
    spec: LatentSpec, objects: Objects, *, feature_dim: int, context: Tensor | None = None,
    context_posterior: Tensor | None = None, context_prior: Tensor | None = None,
) -> Latent:
    """Objects of B x T frames, with T folded into the batch, as a latent ``[B * T, 1]``.

    Args:
        spec: Of the model.
        objects: ``[M, N]``.
        feature_dim: Width of the features.
        context, context_posterior, context_prior: Of the background, ``[M, D]``; None where it is black.
    """
    found = Attributes.of(objects.z, feature_dim)
    position, sides = place(found.box)
    values = {
        "position": position, "scale": scale_of(sides), "depth": found.depth, "transparency": found.presence,
        "features": found.features, "motion": found.motion, "posterior_state": objects.posterior,
        "prior_state": objects.prior,
    }
    filled = {("particles", name): x[:, None] for name, x in values.items() if x.shape[-1]}
    scenery = {"features": objects.z.new_zeros(objects.z.shape[0], 1) if context is None else context}
    if context is not None:
        scenery |= {"posterior_state": context_posterior, "prior_state": context_prior}
    filled |= {("background", name): x[:, None, None] for name, x in scenery.items()}
    return Latent.build(spec, filled)


def attributes_of(z: Latent) -> Attributes:
    """Attributes of the objects of a latent ``[B, T]``, frames folded into the batch: ``[B * T, N]``."""
    values = {name: z.values["particles", name].flatten(0, 1) for group, name in z.spec.keys() if group == "particles"}
    box = torch.cat([sides_of(values["scale"]).flip(-1), values["position"].flip(-1)], -1)
    motion = values.get("motion", box[..., :0])
    return Attributes(values["transparency"], values["depth"], box, values["features"], motion)


def objects_of(z: Latent) -> Objects:
    """The same with the states of their LSTMs; numbers and proposals, which a prediction does without, are made up."""
    found = attributes_of(z)
    states = [z.values["particles", name].flatten(0, 1) for name in ("posterior_state", "prior_state")]
    ids = torch.arange(found.box.shape[1], device=found.box.device).expand(found.box.shape[:2])
    return Objects(found.join(), *states, ids, found.box)
