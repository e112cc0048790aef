"""The losses of "World Models": of an autoencoder (V), and of a memory that predicts its latents (M).

V: the squared error of every picture, summed over numbers, and the divergence of its latent from N(0, 1), of which half
a nat per number costs nothing. M: the negative log-likelihood of every latent under what the memory expected, per
number; latents are drawn anew every time, and M does not teach V. The heads learn with M.

The paper trains V first, then M; here both learn in every step, M from where V is, or in turns: ``turns`` names the
two, `turn_loss` is the loss of one, and a learner decides (agent ``controller`` does as the paper).

Source: Ha and Schmidhuber, "World Models" (arXiv:1803.10122), appendix A.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

import torch
from einops import reduce
from pydantic import Field
from torch import Tensor, nn

from ..batch import Batch
from ..config import ComponentConfig
from ..distributions import Sampler
from ..errors import ConfigError
from .base import Loss, Objective
from .observed import counted, head_parts, head_scales
from .terms import psnr

if TYPE_CHECKING:
    from ..encoders.base import Encoding
    from ..model import ComposedWorldModel

VISION, MEMORY = "vision", "memory"


class WorldModelsConfig(ComponentConfig):
    """Options of the losses of "World Models".

    Attributes:
        num_frames: Frames of a training clip; None = one more than the model's ``timestep_horizon``.
        free_nats: What of the divergence costs nothing, nats per number of the latent.
        kl: Weight of the divergence; small where few pixels tell what matters.
        likelihood: Weight of M's loss, and of the heads'.
    """

    name: str = "world-models"
    num_frames: int | None = Field(default=None, gt=1)
    free_nats: float = Field(default=0.5, ge=0)
    kl: float = Field(default=1.0, ge=0)
    likelihood: float = Field(default=1.0, ge=0)


class WorldModels(Objective):
    """See the module's docstring."""

    Config = WorldModelsConfig
    config: WorldModelsConfig
    requires = frozenset({"decoder", "dynamics", "filtering"})
    turns: ClassVar[tuple[str, ...]] = (VISION, MEMORY)

    def turn_parameters(self, model: ComposedWorldModel, part: str) -> list[nn.Parameter]:
        """What a turn trains."""
        inside = (model.encoder, model.decoder) if part == VISION else (model.dynamics, model.conditioners, model.heads)
        return [p for module in inside if module is not None for p in module.parameters()]

    def turn_loss(self, model: ComposedWorldModel, batch: Batch, part: str, *, sampler: Sampler) -> Loss:
        """The loss of one part alone.

        Raises:
            ConfigError: there is no such part.
        """
        if part == VISION:
            return _summed(self._vision(model, batch, sampler)[0], {"kl": self.config.kl})
        if part != MEMORY:
            raise ConfigError(f"objective 'world-models' trains {VISION} and {MEMORY} in turns, not '{part}'")
        with torch.no_grad():
            encoding = model.encoder.see(batch, sampler=sampler)
        return _summed(self._memory(model, batch, encoding, sampler), head_scales(model))

    def forward(self, model: ComposedWorldModel, batch: Batch, step: int, *, sampler: Sampler) -> Loss:
        vision, encoding = self._vision(model, batch, sampler)
        apart = replace(encoding, posterior=encoding.posterior.detach(), latent=encoding.latent.detach())
        memory = self._memory(model, batch, apart, sampler)
        first, second = _summed(vision, {"kl": self.config.kl}), _summed(memory, head_scales(model))
        return Loss(first.total + self.config.likelihood * second.total, {**first.terms, **second.terms})

    def _vision(
        self, model: ComposedWorldModel, batch: Batch, sampler: Sampler
    ) -> tuple[dict[str, Tensor], Encoding]:
        """V's terms, ``[B, T]`` each, and what the encoder found."""
        encoding = model.encoder.see(batch, sampler=sampler)
        # what a decoder draws of a state is drawn of the latent alone: the memory's fields are hidden from it
        drawn = model.decode(model.dynamics.remembering(encoding.latent))
        squared = (drawn.video - batch.video).square()
        terms = {"image": reduce(squared, "b ... t c h w -> b t", "sum")}
        prior = model.encoder.static_prior(encoding)
        if prior is not None:
            kl = torch.stack([x.sum(-1) for x in encoding.posterior.kl(prior).values()]).sum(0)
            terms["kl"] = kl.clamp(min=self.config.free_nats * _numbers(model))
        terms = {name: _inside(x, batch.done_mask) for name, x in terms.items()}
        return {**terms, "psnr": psnr(squared.detach().mean())}, encoding

    def _memory(
        self, model: ComposedWorldModel, batch: Batch, encoding: Encoding, sampler: Sampler
    ) -> dict[str, Tensor]:
        """M's terms and the heads', ``[B, T]`` each."""
        found = model.perceive(batch, sampler, encoding=encoding)
        surprise = found.prior.nll(found.latent)
        seen = [x.sum(-1) for key, x in surprise.items() if not model.spec.field(key).dist.point]
        terms = {"memory": torch.stack(seen).sum(0) / _numbers(model)}
        heads = {f"head/{name}": x for name, x in head_parts(model, found.latent, batch).items()}
        return {name: _inside(x, batch.done_mask) for name, x in {**terms, **heads}.items()}


def _numbers(model: ComposedWorldModel) -> int:
    """Of a frame's latent."""
    spec = model.encoder.spec
    return sum(group.size * f.dim for group in spec.groups for f in group.fields)


def _inside(x: Tensor, done_mask: Tensor | None) -> Tensor:
    if done_mask is None:
        return x
    return counted(x, done_mask if done_mask.ndim == 2 else done_mask.float().mean(1))


def _summed(terms: Mapping[str, Tensor], scales: Mapping[str, float]) -> Loss:
    """Means of terms, summed but for what is told only."""
    means = {name: x.mean() for name, x in terms.items()}
    total = torch.stack([scales.get(name.removeprefix("head/"), 1.0) * x
                         for name, x in means.items() if name != "psnr"]).sum()
    return Loss(total, {name: x.detach() for name, x in means.items()})
