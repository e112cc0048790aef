"""TD-MPC2's world model: what it imagines from the first latent of a clip is held against what it would have seen.

The first frame is encoded with gradients, and the dynamics goes on from there by itself. Every latent it comes to is
pulled towards the latent of the frame that was seen (encoded without gradients by the same encoder, no slow copy of
it), and the heads learn on the imagined latents. Later steps count less, by ``rho`` to the power of their number.

The values of states and the policy belong to the agent, which trains all of it together: see
`worldkit.agents.tdmpc2`. Alone, as in ``worldkit train``, this objective trains encoder, dynamics and heads on
recorded data.

Transitions after the border of an episode inside a clip (`Batch.first`, done mask) do not count.

Source: TD-MPC2 (Hansen et al., 2024, arXiv:2310.16828), written from its description.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from pydantic import Field
from torch import Tensor

from ..batch import Batch
from ..conditions import Condition
from ..config import ComponentConfig
from ..distributions import MEANS, Sampler
from ..latents import Latent
from .base import Loss, Objective

if TYPE_CHECKING:
    from ..model import ComposedWorldModel


class TDMPC2Config(ComponentConfig):
    """Options of the tdmpc2 objective.

    Attributes:
        num_frames: Frames of a training clip: as many transitions less one are imagined.
        rho: Weight of a step relative to the one before.
        consistency: Weight of the squared distance to what was seen; those of the heads are their own option.
    """

    name: str = "tdmpc2"
    num_frames: int = Field(default=4, gt=1)
    rho: float = Field(default=0.5, gt=0, le=1)
    consistency: float = Field(default=20.0, ge=0)


@dataclass(frozen=True)
class Unrolled:
    """What the model imagines along the actions of a clip.

    Attributes:
        latents: ``[B, H + 1]``: the first one encoded, then imagined.
        seen: Latents of the frames that were seen after the first one, ``[B, H]``, without a graph.
        batch: The clip's H + 1 frames: an encoder that looks at several frames at once had others before them.
        cond: Conditions of the H transitions.
        weight: ``[B, H]``: rho to the power of the step, or 0 beyond the border of an episode, over the number of
            transitions that count in this step; a weighted sum is a sum over steps of means over clips.
    """

    latents: Latent
    seen: Latent
    batch: Batch
    cond: Condition
    weight: Tensor

    def mean(self, values: Tensor) -> Tensor:
        """Of ``[B, H]``: mean over steps of rho^t times the mean over clips."""
        return (values * self.weight).sum() / values.shape[1]


class TDMPC2(Objective):
    """Consistency and heads; see the module's docstring."""

    Config = TDMPC2Config
    requires = frozenset({"dynamics"})
    config: TDMPC2Config

    def unroll(self, model: ComposedWorldModel, batch: Batch, *, sampler: Sampler) -> Unrolled:
        """Imagine along a clip's actions, with gradients."""
        skip = getattr(model.encoder, "stack", 1) - 1
        frames = batch.video.shape[-4]
        rest = _frames(batch, slice(skip, frames))
        z, seen = self._see(model, batch, skip, sampler)
        cond = model.condition(type(z).cat([z.detach(), seen]), rest, sampler=sampler).cond
        carry, latents = model.dynamics.start(z, cond.at(slice(0, 0))), [z]
        for t in range(frames - skip - 1):
            if t:
                model.dynamics.observe(carry, latents[-1])
            latents.append(model.dynamics.predict(carry, cond.at(slice(t, t + 1)), MEANS, mean=True))
        return Unrolled(type(z).cat(latents), seen, rest, cond, self._weight(batch, skip, seen.presence))

    def _see(self, model: ComposedWorldModel, batch: Batch, skip: int, sampler: Sampler) -> tuple[Latent, Latent]:
        """The first latent, with gradients, and those of later frames, without."""
        if model.dynamics.filtering:
            found = model.perceive(batch, sampler).latent
            return found[:, :1], found[:, 1:].detach()
        with torch.no_grad():
            seen = model.perceive(_frames(batch, slice(1, None)), sampler).latent[:, skip:]
        return model.perceive(_frames(batch, slice(0, skip + 1)), sampler).latent[:, skip:], seen

    def _weight(self, batch: Batch, skip: int, like: Tensor) -> Tensor:
        inside = like.new_ones(like.shape[:2])
        if batch.done_mask is not None:
            inside = inside * batch.done_mask[:, skip + 1 :].to(like.dtype)
        if batch.first is not None:
            inside = inside * (~batch.first[:, 1:]).to(like.dtype).cumprod(1)[:, skip:]
        rho = self.config.rho ** torch.arange(like.shape[1], device=like.device, dtype=like.dtype)
        return inside * rho / inside.sum(0).clamp(min=1)

    def terms(self, model: ComposedWorldModel, unrolled: Unrolled) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted sum, and every term by itself, unweighted."""
        squared = (unrolled.latents[:, 1:].pack() - unrolled.seen.pack()).square().mean((2, 3))
        terms = {"consistency": unrolled.mean(squared)}
        losses = model.head_losses(unrolled.latents, unrolled.cond, unrolled.batch, detach=False)
        terms |= {name: unrolled.mean(loss) for name, loss in losses.items()}
        weights = {"consistency": self.config.consistency}
        weights |= {name: model.config.heads[name].weight for name in losses}
        return torch.stack([weights[name] * term for name, term in terms.items()]).sum(), terms

    def forward(self, model: ComposedWorldModel, batch: Batch, step: int, *, sampler: Sampler) -> Loss:
        total, terms = self.terms(model, self.unroll(model, batch, sampler=sampler))
        return Loss(total, {name: term.detach() for name, term in terms.items()})


def _frames(batch: Batch, frames: slice) -> Batch:
    """Some frames of clips, as if there were no border in them."""
    def cut(values: Mapping[str, Any]) -> dict[str, Any]:
        return {name: x[:, frames] for name, x in values.items()}

    video = batch.video[(..., frames, *[slice(None)] * 3)]
    return Batch(video, conditions=cut(batch.conditions), targets=cut(batch.targets), vectors=cut(batch.vectors))
