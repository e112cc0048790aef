"""An adapter learns to make frozen features narrow, and a decoder to draw what is left of them: semantic-wm's S-VAE.

The loss is the features' squared error, 1 minus their mean cosine, a little KL that sets in slowly, and the squared
error of pictures in [0, 1]. With ``detach`` the pictures do not shape the adapter (upstream's stage "svae"; without it
"psvae"). Everything is a MEAN over numbers, tokens, frames and clips.

Source: semantic-wm (arXiv:2605.06388), written from a description of the facts. Left out of it: the adversarial loss
and MS-SSIM, which upstream's launcher switches on late. LPIPS counts from the first step.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from einops import rearrange, reduce
from pydantic import Field
from torch import Tensor

from ..batch import Batch
from ..config import ComponentConfig
from ..distributions import Sampler
from ..errors import IncompatibleComponentsError
from .base import Loss, Objective

if TYPE_CHECKING:
    from ..model import ComposedWorldModel


class AdapterObjectiveConfig(ComponentConfig):
    """Options of the adapter's objective.

    Attributes:
        num_frames: Frames of a training clip.
        cosine, spectral, kl: Weights beside the features' squared error.
        kl_steps: Steps over which the KL's weight grows from 0; upstream: a fifth of the run.
        pixel, perceptual: Of the pictures' squared error, and of LPIPS (0: its network is not loaded).
        detach: Pictures train the decoder alone.
    """

    name: str = "adapter"
    num_frames: int | None = Field(default=2, gt=0)
    cosine: float = Field(default=1.0, ge=0)
    spectral: float = Field(default=0.0, ge=0)
    kl: float = Field(default=1e-4, ge=0)
    kl_steps: int = Field(default=0, ge=0)
    pixel: float = Field(default=1.0, ge=0)
    perceptual: float = Field(default=0.0, ge=0)
    detach: bool = True


class AdapterObjective(Objective):
    """Adapter and pixel decoder; see the module's docstring. Without a decoder the adapter alone."""

    Config = AdapterObjectiveConfig
    requires = frozenset({"no-dynamics"})
    config: AdapterObjectiveConfig

    def prepare(self, model: ComposedWorldModel) -> None:
        if not hasattr(model.encoder, "adapter"):
            raise IncompatibleComponentsError(
                f"objective 'adapter' trains the adapter of encoder 'adapted', and '{model.config.encoder.name}' has "
                "none: put it inside, -o encoder.name=adapted -o encoder.picture.name="
                f"{model.config.encoder.name}")
        learns = any(p.requires_grad for p in model.encoder.adapter.parameters())
        if model.decoder is None and not learns:
            raise IncompatibleComponentsError("adapter 'identity' learns nothing, and there is no decoder to train: "
                                              "set decoder='semantic', or encoder.adapter.name='svae'")

    def notes(self, model: ComposedWorldModel) -> list[str]:
        if model.encoder.picture.comes_trained:
            return []
        name = model.config.encoder.picture.name
        return [f"the encoder of the picture, '{name}', stays as it is: it must come trained, by train.init_from=RUN "
                "of a run whose encoder it is, or be one by name, -o encoder.picture.name=rae (vae, qwen, ...); of "
                "random weights its features say little"]

    def forward(self, model: ComposedWorldModel, batch: Batch, step: int, *, sampler: Sampler) -> Loss:
        config, done = self.config, batch.done_mask
        encoding = model.encoder.see(batch, sampler=sampler)
        terms = {name: _mean(value, done) for name, value in model.encoder.regularizers(encoding).items()}
        rising = min(1.0, step / config.kl_steps) if config.kl_steps else 1.0
        weights = {"features": 1.0, "cosine": config.cosine, "spectral": config.spectral, "kl": config.kl * rising}
        total = sum((weights[name] * value for name, value in terms.items()), batch.video.new_zeros(()))
        if model.decoder is not None:
            z = encoding.latent.detach() if config.detach else encoding.latent
            drawn = model.decode(z).video
            terms["pixel"] = _mean(reduce((drawn - batch.video).square(), "b ... t c h w -> b t", "mean"), done)
            terms["psnr"] = -10 * torch.log10(terms["pixel"].detach().clamp(min=1e-10))
            total = total + config.pixel * terms["pixel"]
            if config.perceptual:
                distance = model.perceptual()(*(x.flatten(0, -4) for x in (batch.video, drawn)))
                distance = rearrange(distance, "(b v t) -> b v t", b=batch.batch_size, t=drawn.shape[-4]).mean(1)
                terms["perceptual"] = _mean(distance, done)
                total = total + config.perceptual * terms["perceptual"]
        return Loss(total, {name: value.detach() for name, value in terms.items()})


def _mean(value: Tensor, done_mask: Tensor | None) -> Tensor:
    """Mean of ``[B, T]`` over frames inside their episode."""
    if done_mask is None:
        return value.mean()
    valid = (done_mask if done_mask.ndim == 2 else done_mask.float().mean(1)).to(value.dtype)
    return (value * valid).sum() / valid.sum().clamp(min=1)
