"""Reconstruction alone: the first stage of models that learn encoder and decoder before any dynamics (SAVi, then
SlotFormer).

Unusual: the squared error is that of images in [-1, 1] (four times that of [0, 1]), and a MEAN over pixels, as
upstream. Adam's learning rate does not mind the scale, but a clipped gradient norm does: SAVi's 0.05 belongs to it.

Source: github.com/Wuziyi616/SlotFormer @ 10a6d9b, written from its description. Difference: frames after the end of an
episode do not count, if the batch has a done mask.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from einops import reduce
from pydantic import Field
from torch import Tensor

from ..batch import Batch
from ..config import ComponentConfig
from ..distributions import Sampler
from .base import Loss, Objective
from .terms import psnr, vector_errors

if TYPE_CHECKING:
    from ..model import ComposedWorldModel


class ReconstructionConfig(ComponentConfig):
    """Options of the reconstruction objective.

    Attributes:
        regularizer_weight: Factor on every regulariser of the encoder (stochastic SAVi: the KL of its kernels).
    """

    name: str = "reconstruction"
    regularizer_weight: float = Field(default=1e-4, ge=0)


class Reconstruction(Objective):
    """Mean squared error of images in [-1, 1], plus what the encoder asks for."""

    Config = ReconstructionConfig
    requires = frozenset({"decoder", "no-dynamics"})

    def forward(self, model: ComposedWorldModel, batch: Batch, step: int, *, sampler: Sampler) -> Loss:
        encoding = model.encoder.see(batch, sampler=sampler)
        drawn = model.decode(encoding.to_draw)
        told, logged = vector_errors(model, drawn, batch.vectors)
        squared, seen = (drawn.video - batch.video).square(), batch.video.numel() > 0
        error = _mean(reduce(squared, "b ... t c h w -> b t", "mean" if seen else "sum"), batch.done_mask)
        extra = model.encoder.regularizers(encoding)
        regularizers = {name: _mean(value, batch.done_mask) for name, value in extra.items()}
        reconstruction = 4 * error
        total = reconstruction + self.config.regularizer_weight * sum(regularizers.values())
        if logged:
            total = total + _mean(told, batch.done_mask)
        terms = {"reconstruction": reconstruction, **logged} | ({"psnr": psnr(error)} if seen else {})
        terms |= {f"regularizer/{name}": value for name, value in regularizers.items()}
        terms |= model.encoder.summary(encoding)
        return Loss(total, {name: value.detach() for name, value in terms.items()})


def _mean(value: Tensor, done_mask: Tensor | None) -> Tensor:
    """Mean of ``[B, T]`` over clips, and over their frames or those that a done mask leaves."""
    if done_mask is None:
        return value.mean()
    valid = done_mask.to(value.dtype)
    valid = valid if valid.ndim == 2 else valid.mean(1)
    return ((value * valid).sum(1) / valid.sum(1).clamp(min=1)).mean()
