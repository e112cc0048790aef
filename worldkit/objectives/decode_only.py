"""A decoder learns to draw the latents of a model that is trained already; everything else stays as it is.

For models that never draw (LeWM, DINO-WM, I-JEPA): pictures for people to look at, and for nothing else. What a decoder
cannot draw the latent may still know (see `worldkit probe`), and what it draws well may come from its own memory.

``worldkit train PRESET --data ... -o objective=decode-only -o decoder=conv -o train.init_from=RUN``
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from einops import reduce
from pydantic import Field

from ..batch import Batch
from ..config import ComponentConfig
from ..distributions import Sampler
from .base import Loss, Objective
from .terms import psnr, vector_errors

if TYPE_CHECKING:
    from ..model import ComposedWorldModel


class DecodeOnlyConfig(ComponentConfig):
    """Options of the decode-only objective.

    Attributes:
        num_frames: Frames of a training clip; None: one more than the dynamics' window, or a picture without one.
    """

    name: str = "decode-only"
    num_frames: int | None = Field(default=None, gt=0)


class DecodeOnly(Objective):
    """Mean squared error of images in [-1, 1], as objective ``reconstruction`` has it, on frozen latents."""

    Config = DecodeOnlyConfig
    requires = frozenset({"decoder"})
    frozen = frozenset({"encoder", "dynamics", "latent_action", "conditioners"})
    idle = frozenset({"heads"})

    def forward(self, model: ComposedWorldModel, batch: Batch, step: int, *, sampler: Sampler) -> Loss:
        with torch.no_grad():
            z = model.perceive(batch).latent.detach()
        drawn = model.decode(z)
        told, logged = vector_errors(model, drawn, batch.vectors)
        inside = None if batch.done_mask is None else batch.done_mask
        squared = reduce((drawn.video - batch.video).square(), "b ... t c h w -> b t", "mean")
        if inside is None:
            error = squared.mean()
        else:
            valid = (inside if inside.ndim == 2 else inside.float().mean(1)).to(squared.dtype)
            error = (squared * valid).sum() / valid.sum().clamp(min=1)
        total = 4 * error + (told.mean() if logged else 0.0)
        terms = {"reconstruction": 4 * error, "psnr": psnr(error), **logged}
        return Loss(total, {name: value.detach() for name, value in terms.items()})
