"""What a tokenizer learns by: pictures, codes and how they look; the first stage of IRIS.

Three terms, each a mean: the absolute error of pictures in [-1, 1], the quantiser's losses (codes and vectors drawn to
one another), and LPIPS of pictures that are not clamped.

Source: IRIS (arXiv:2209.00588), written from a description of it. Difference: upstream leaves the dropout inside LPIPS
switched on while training, which adds noise to that term and does not change its mean; here it is off.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Literal

import torch
from einops import rearrange, reduce
from pydantic import Field
from torch import Tensor

from ..batch import Batch
from ..config import ComponentConfig
from ..distributions import Sampler
from ..nn.quantize import perplexity
from .base import Loss, Objective

if TYPE_CHECKING:
    from ..model import ComposedWorldModel


class VQConfig(ComponentConfig):
    """Options of the VQ objective.

    Attributes:
        perceptual: Weight of LPIPS, whose network is loaded at the first step (`ComposedWorldModel.perceptual`); 0 does
            without.
        reconstruction: ``"l1"``, IRIS's, or ``"l2"``: the squared error, likewise in [-1, 1].
        frames: So many frames of every clip are looked at, drawn anew at every step; None: all.
    """

    name: str = "vq"
    perceptual: float = Field(default=1.0, ge=0)
    reconstruction: Literal["l1", "l2"] = "l1"
    frames: int | None = Field(default=None, gt=0)


class VQ(Objective):
    """The tokenizer alone; see the module's docstring."""

    Config = VQConfig
    requires = frozenset({"decoder", "no-dynamics"})
    config: VQConfig

    def forward(self, model: ComposedWorldModel, batch: Batch, step: int, *, sampler: Sampler) -> Loss:
        return tokenizer_loss(model, batch, sampler, self.config)


def tokenizer_loss(model: ComposedWorldModel, batch: Batch, sampler: Sampler, config: VQConfig) -> Loss:
    """The loss of encoder and decoder; frames outside of the episode (``done_mask``) do not count."""
    if config.frames is not None and config.frames < batch.video.shape[-4]:
        batch = some_frames(batch, config.frames, sampler)
    encoding = model.encoder.see(batch, sampler=sampler)
    drawn, done = model.decode(encoding.to_draw).video, batch.done_mask
    error = (drawn - batch.video).abs() if config.reconstruction == "l1" else (drawn - batch.video).square()
    scale = 2 if config.reconstruction == "l1" else 4  # [-1, 1] is twice as wide as [0, 1]
    terms = {"reconstruction": scale * masked_mean(reduce(error, "b ... t c h w -> b t", "mean"), done)}
    terms |= {name: masked_mean(value, done) for name, value in model.encoder.regularizers(encoding).items()}
    if config.perceptual:
        distance = model.perceptual()(*(x.flatten(0, -4) for x in (batch.video, drawn)))
        distance = rearrange(distance, "(b v t) -> b v t", b=batch.batch_size, t=drawn.shape[-4]).mean(1)
        terms["perceptual"] = masked_mean(distance, done)
    total = torch.stack([x * (config.perceptual if name == "perceptual" else 1) for name, x in terms.items()]).sum()
    with torch.no_grad():
        squared = masked_mean(reduce((drawn - batch.video).square(), "b ... t c h w -> b t", "mean"), done)
        terms["psnr"] = -10 * torch.log10(squared)
        for key, codes in encoding.latent.values.items():
            if (dist := encoding.latent.spec.field(key).dist).codes:
                terms["codes_in_use"] = perplexity(codes, int(dist.support[1]) + 1)
    return Loss(total, {name: value.detach() for name, value in terms.items()})


def some_frames(batch: Batch, frames: int, sampler: Sampler) -> Batch:
    """As many frames of every clip, drawn without order: pictures, and which of them are there."""
    video = batch.video.movedim(-4, 1)
    clips = torch.arange(len(video), device=video.device)[:, None]
    chance = sampler.uniform("vq.frames", torch.zeros(video.shape[:2], device=video.device))
    chosen = chance.topk(frames, 1).indices
    done = batch.done_mask
    if done is not None:
        done = done.movedim(-1, 1)[clips, chosen].movedim(1, -1)
    vectors = {name: value[clips, chosen] for name, value in batch.vectors.items()}
    return replace(batch, video=video[clips, chosen].movedim(1, -4), done_mask=done, vectors=vectors, conditions={},
                   masks={}, targets={}, first=None)


def masked_mean(value: Tensor, valid: Tensor | None) -> Tensor:
    """Mean of ``[B, T]`` over clips and frames, those that are ``valid``."""
    if valid is None:
        return value.mean()
    share = (valid if valid.ndim == 2 else valid.float().mean(1)).to(value.dtype)
    return (value * share).sum() / share.sum().clamp(min=1)
