"""What if: a latent and an edited copy of it, what the model predicts from each, and where the two futures differ."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from .errors import ShapeError, WorldkitError
from .latents import Latent
from .model import ComposedWorldModel

VISIBLE = 0.3
"""Change of a pixel (of 1, the largest over channels) that one sees."""
_FEW = 6  # things that are tried by `most_visible`

Via = Literal["auto", "latents", "pictures"]


@dataclass(frozen=True)
class WhatIf:
    """Two futures, without and with an edit.

    Attributes:
        original: Given frames as the model draws them, then predicted ones, ``[B, T, C, H, W]`` in [0, 1].
        edited: The same of the edited latent.
        context_frames: How many frames were given.
        via: What was predicted from: ``"latents"``, or the ``"pictures"`` that they draw.
        original_latents, edited_latents: Of all frames, ``[B, T]``; the given ones as they were handed over.
    """

    original: Tensor = field(repr=False)
    edited: Tensor = field(repr=False)
    context_frames: int
    via: str
    original_latents: Latent = field(repr=False)
    edited_latents: Latent = field(repr=False)

    @property
    def difference(self) -> Tensor:
        """How far the two differ in every pixel, ``[B, T, H, W]`` in [0, 1]: the largest difference over channels."""
        return (self.original - self.edited).abs().amax(-3)

    @property
    def changed(self) -> Tensor:
        """Share of the pixels that visibly differ (by more than `VISIBLE`), ``[B, T]``."""
        return (self.difference > VISIBLE).double().mean((-1, -2))


@torch.no_grad()
def what_if(
    model: ComposedWorldModel,
    original: Latent,
    edited: Latent,
    horizon: int,
    *,
    conditions: Mapping[str, Any] | None = None,
    masks: Mapping[str, Tensor] | None = None,
    via: Via = "auto",
) -> WhatIf:
    """What a model predicts from a latent and from an edited copy of it. Both follow means, so only the edit tells.

    Args:
        model: A model that draws, of one camera.
        original: Latents of the given frames, ``[B, T0]``, as ``model.encode(video)`` gives them.
        edited: The same, edited (``original.edit(...)``, ``original.swap_look(...)``), in all frames as a rule.
        horizon: Frames to predict; 0, and for models without a dynamics: the given frames alone are drawn.
        conditions, masks: As for `worldkit.WorldModel.rollout`, the same for both.
        via: ``"latents"``: predict from the latents themselves (DDLP's way). ``"pictures"``: from what they draw, seen
            again, so that the particles that belong to the new place take over. ``"auto"``: pictures if the encoder
            anchors positions to places (LPWM), else latents.
    Raises:
        ShapeError: the two are no latents of one shape, or the horizon is negative.
        WorldkitError: the model has several cameras, or ``via`` is unknown.
        NoDecoderError: the model cannot draw.
    Example:
        >>> import worldkit as wk
        >>> model = wk.create_model("lpwm-balls-mini")
        >>> z = model.encode(torch.rand(1, 3, 3, 32, 32))
        >>> answer = wk.what_if(model, z, z.edit(0, delta_position=(0.0, 0.3)), horizon=2)
        >>> answer.edited.shape, answer.difference.shape, answer.via
        (torch.Size([1, 5, 3, 32, 32]), torch.Size([1, 5, 32, 32]), 'pictures')
    """
    _check(model, original, edited, horizon)
    if via not in ("auto", "latents", "pictures"):
        raise WorldkitError(f"via must be 'auto', 'latents' or 'pictures', got {via!r}")
    if via == "auto":
        via = "pictures" if "position" in model.encoder.anchors() else "latents"
    told = {"conditions": conditions, "masks": masks}
    (video, latents), (other, changed) = (_future(model, z, horizon, via, told) for z in (original, edited))
    return WhatIf(video, other, original.shape[1], via, latents, changed)


def most_visible(model: ComposedWorldModel, z: Latent) -> list[int]:
    """Tokens of the thing in the last frame without which the picture changes most: black ones show nothing.

    Args:
        model: The model that draws.
        z: Latents of one clip, with positions and transparency.
    Raises:
        WorldkitError: nothing is visible.
    """
    last = z[:, -1:]
    things = last.objects()[:_FEW]
    if not things:
        raise WorldkitError("no token is visible in the last given frame")
    with torch.no_grad():
        whole = drawn(model, last)
        without = [drawn(model, last.edit(tokens, transparency=0.0)) for tokens in things]
    return things[int(torch.stack([(whole - video).abs().mean() for video in without]).argmax())]


def drawn(model: ComposedWorldModel, z: Latent) -> Tensor:
    """What a latent looks like, ``[B, T, C, H, W]`` in [0, 1]."""
    return model.decode(z).video.clamp(0, 1)


def _future(model: ComposedWorldModel, z: Latent, horizon: int, via: str, told: Mapping[str, Any]
            ) -> tuple[Tensor, Latent]:
    """Video and latents of given and predicted frames."""
    given = drawn(model, z)
    if horizon == 0:
        return given, z
    predicted = model.rollout(z if via == "latents" else given, horizon, deterministic=True, decode=False, **told)
    return torch.cat([given, drawn(model, predicted.latents)], 1), Latent.cat([z, predicted.latents])


def _check(model: ComposedWorldModel, original: Latent, edited: Latent, horizon: int) -> None:
    for name, z in (("original", original), ("edited", edited)):
        if not isinstance(z, Latent):
            raise ShapeError(f"{name} must be a latent, as model.encode(video) gives it, got {type(z).__name__}")
    if original.spec != edited.spec or original.shape != edited.shape:
        raise ShapeError(f"original and edited must be latents of the same frames, got {list(original.shape)} and "
                         f"{list(edited.shape)}: edited = original.edit(...)")
    if not hasattr(horizon, "__index__") or horizon < 0:
        raise ShapeError(f"horizon must be a whole number of at least 0, got {horizon!r}")
    if model.config.obs.views > 1:
        raise WorldkitError(f"what_if compares pictures of one camera, this model has {model.config.obs.views}: roll "
                            "out both latents, model.rollout(z, ...), and compare its views")
    if horizon and model.dynamics is None:
        raise WorldkitError("this model has no dynamics and predicts nothing: horizon=0 compares the given frames")
