"""What a model sees in video: `perceive`, of models whose encoder alone looks, and of those whose dynamics filters.

    seen = model.perceive(batch, sampler)                  # seen.latent, seen.posterior, seen.prior [B, T]
    state = model.perceive(frame, last=state, last_action={"action": action}).latent    # frame by frame, the same
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .batch import Batch, as_table, check_shape
from .conditioners.base import Conditioner
from .conditioning import leading
from .conditions import Condition
from .config import WorldModelConfig
from .distributions import MEANS, Sampler
from .dynamics.base import Dynamics
from .dynamics.filtering import Filtered
from .encoders.base import Encoding
from .errors import IncompatibleComponentsError, ShapeError
from .latents import Latent, LatentDist, LatentSpec
from .registry import conditioners as registry

if TYPE_CHECKING:
    from .model import ComposedWorldModel


@dataclass(frozen=True)
class Seen:
    """What a model found in a clip, ``[B, T]``, in the model's spec.

    Attributes:
        encoding: What the encoder found, in every frame by itself.
        latent: The encoder's latents; states, if the dynamics filters.
        posterior: What they were drawn from.
        prior: What the dynamics expected of each frame before it was seen; None of dynamics that do not filter.
        cond: What it was told about the transition that leads to each frame; likewise.
    """

    encoding: Encoding
    latent: Latent
    posterior: LatentDist
    prior: LatentDist | None = None
    cond: Condition | None = None

    @property
    def aux(self) -> Any:
        """By-products of the encoder."""
        return self.encoding.aux


def perceive(
    model: ComposedWorldModel, video: Tensor | Batch, sampler: Sampler = MEANS, *,
    conditions: Mapping[str, Any] | None = None, masks: Mapping[str, Tensor] | None = None,
    first: Tensor | None = None, last: Latent | None = None, last_action: Mapping[str, Any] | None = None,
    encoding: Encoding | None = None,
) -> Seen:
    """See `worldkit.model.ComposedWorldModel.perceive`."""
    batch = video if isinstance(video, Batch) else Batch(video)
    first = batch.first if first is None else first
    if first is not None:
        check_shape(first, "b t", name="first", b=batch.batch_size, t=batch.video.shape[-4])
        refuse_borders(model, first)
    dynamics = model.dynamics
    filters = dynamics is not None and dynamics.filtering
    if last is not None:
        if not filters:
            raise ShapeError("last= goes on from a state, and this model has none: its dynamics does not filter")
        _check_last(model, last, batch.batch_size)
    if encoding is None:
        encoding = encoded(model, batch, sampler, first=first, last=last)
    if not filters:
        return Seen(encoding, encoding.latent, encoding.posterior)
    conditions = _known(model, batch.conditions) if conditions is None else as_table(conditions, "conditions")
    masks = _known(model, batch.masks) if masks is None else as_table(masks, "masks")
    start = begins(first, encoding.latent, goes_on=last is not None)
    before = None if last is None else as_table(last_action, "last_action")
    cond = leading(model, conditions, masks, start, sampler, before=before)
    found = dynamics.filter(encoding, cond, sampler, first=start, last=last)
    _check(dynamics, found, tuple(encoding.latent.shape))
    latent = found.latent if encoding.carry is None else found.latent.carrying(encoding.carry)
    return Seen(encoding, latent, found.posterior, found.prior, cond)


def encoded(
    model: ComposedWorldModel, batch: Batch, sampler: Sampler, *, first: Tensor | None = None,
    last: Latent | None = None,
) -> Encoding:
    """What the encoder finds in the clips of a batch, in every frame by itself (or, if it carries, after ``last``)."""
    options = {"first": first, "carry": None if last is None else last.carry} if model.encoder.carries else {}
    return model.encoder.see(batch.as_float(), sampler=sampler, **options)


def look(
    model: ComposedWorldModel, context: Tensor | Latent | Batch, conditions: Mapping[str, Any],
    masks: Mapping[str, Tensor],
) -> Latent:
    """Means of the latents of a context: frames, a batch of them, or what was seen in them before."""
    if isinstance(context, Latent):
        if context.spec != model.spec and model.dynamics is not None and model.dynamics.filtering:
            raise ShapeError("these are no states of this model, whose dynamics filters, but other latents: give what "
                             f"model.encode(video, conditions=...) gave; got {context}")
        return context
    return perceive(model, context, conditions=conditions, masks=masks).latent


def expected(
    model: ComposedWorldModel, batch: int, sampler: Sampler, conditions: Mapping[str, Any], masks: Mapping[str, Tensor]
) -> LatentDist:
    """What a dynamics that filters expects of first frames, ``[batch, 1]``, before it sees them."""
    blank = model.dynamics.blank(batch)
    first = torch.ones(blank.shape, dtype=torch.bool, device=blank.presence.device)
    return model.dynamics.prior(blank, leading(model, conditions, masks, first, sampler))


def refuse_borders(model: ComposedWorldModel, first: Tensor) -> None:
    """Refuse clips in which episodes begin, if a part of the model would carry something over.

    Args:
        model: The model.
        first: bool ``[B, T]``, see `Batch.first`.
    Raises:
        ShapeError: naming the part.
    """
    parts = (("dynamics", model.dynamics), ("encoder", model.encoder))
    carries = [(kind, part) for kind, part in parts if part is not None and not part.borders]
    if carries and type(first) is Tensor and first[:, 1:].any():  # a dry run has no values
        kind, part = carries[0]
        raise ShapeError(
            f"episodes begin inside these clips (first[:, 1:]), and {kind} '{part.config.name}' carries over what was "
            "before: cut clips that stay inside one episode, as ClipDataset does, or take a model whose parts know "
            "borders (dynamics='rssm')"
        )


def check_filtering(config: WorldModelConfig, encoder: LatentSpec, dynamics: Dynamics) -> None:
    """Refuse what cannot go with a dynamics that filters.

    Args:
        config: Of the model.
        encoder: Spec of the encoder.
        dynamics: It filters.
    Raises:
        IncompatibleComponentsError: saying what to leave out.
    """
    name, spec = config.dynamics.name, dynamics.spec
    if config.latent_action is not None:
        raise IncompatibleComponentsError(
            f"dynamics '{name}' filters: its latents depend on the actions before them, and latent action "
            f"'{config.latent_action.name}' is read off latents, so each would need the other first; set "
            "latent_action=None (-o latent_action=none), or take a dynamics that does not filter"
        )
    if config.prior is not None:
        raise IncompatibleComponentsError(
            f"prior '{config.prior.name}' draws the encoder's latents, and a model whose dynamics filters ('{name}') "
            "starts from states; set prior=None (-o prior=none)"
        )
    for field, options in config.conditioners.items():
        cls = registry.get(options.name)
        if cls.embeds:
            raise IncompatibleComponentsError(
                f"condition '{field}' shows the dynamics a goal as it sees latents, but '{name}' filters: what it "
                f"sees in a picture depends on what was before; drop the conditioner (-o conditioners.{field}=none)"
            )
        if cls.per_frame and cls.absent is Conditioner.absent:
            raise IncompatibleComponentsError(
                f"conditioner '{options.name}' has no value for a transition that is not there, which a dynamics that "
                f"filters ('{name}') asks for where episodes begin: give {cls.__name__} a method absent(batch, device)"
            )
    tokens = [[(g.name, g.size) for g in s.groups] for s in (encoder, spec)]
    if tokens[0] != tokens[1] or (encoder.kind, encoder.grid, encoder.views) != (spec.kind, spec.grid, spec.views):
        raise IncompatibleComponentsError(
            f"dynamics '{name}' filters and may give tokens other fields, but groups, kind, grid and views are the "
            f"encoder's: dataclasses.replace(spec, groups=...); it has {spec}, of an encoder with {encoder}"
        )


def begins(first: Tensor | None, z: Latent, *, goes_on: bool = False) -> Tensor:
    """Where episodes begin in the frames of ``z``, bool ``[B, T]``; in frame 0, unless what came before is known."""
    begins = torch.zeros(z.shape, dtype=torch.bool, device=z.presence.device) if first is None else first.clone()
    if not goes_on:
        begins[:, 0] = True
    return begins.to(z.presence.device)


def _known(model: ComposedWorldModel, values: Mapping[str, Any]) -> dict[str, Any]:
    """What a model takes of what a batch holds."""
    return {name: value for name, value in values.items() if name in model.conditioners}


def _check_last(model: ComposedWorldModel, last: Latent, clips: int) -> None:
    if not isinstance(last, Latent) or last.spec != model.spec or tuple(last.shape) != (clips, 1):
        raise ShapeError(f"last must be the model's state of the frame before, [B={clips}, 1], as "
                         f"perceive(...).latent[:, -1:] gives it; got {last}")
    if not model.encoder.borders or (model.encoder.carries and last.carry is None):
        raise ShapeError(
            f"encoder '{model.config.encoder.name}' carries what it saw from frame to frame, so it goes on from "
            "perceive(...).latent[:, -1:], if at all, and not from a predicted or stored state: show it the whole clip"
        )


def _check(dynamics: Dynamics, found: Filtered, shape: tuple[int, ...]) -> None:
    name = type(dynamics).__name__
    if not isinstance(found, Filtered):
        raise ShapeError(f"{name}.filter must give Filtered, got {type(found).__name__}")
    for what, kind in (("latent", Latent), ("posterior", LatentDist), ("prior", LatentDist)):
        part = getattr(found, what)
        if not isinstance(part, kind) or tuple(part.shape) != shape or part.spec != dynamics.spec:
            raise ShapeError(f"{name}.filter must give as its {what} a {kind.__name__} {list(shape)} of its own spec, "
                             f"got {part}")
