"""The evidence lower bound of G-SWM, in nats a clip, and how it changes while it is trained.

Clips are cut out of longer ones, their length grows with the steps. Two things differ from upstream: where a clip
begins is drawn from the step's own randomness (upstream's is not seeded), and while the background learns alone no
objects are looked for (upstream looks for them, and leaves the result out).

Source: G-SWM (arXiv:2006.02940); github.com/zhixuan-lin/G-SWM @ 1423553, written from its description.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..batch import Batch
from ..distributions import Sampler
from ..errors import ShapeError
from ..objectives.base import Loss, Objective
from .config import EvidenceConfig
from .perception import Priors, Tracks
from .rendering import Drawing

if TYPE_CHECKING:
    from ..model import ComposedWorldModel


@dataclass(frozen=True)
class Bound:
    """The bound of clips, with everything it is made of.

    Attributes:
        likelihood: Log-likelihood of the clips, ``[B]`` nats.
        kl: What objects and background cost, ``[B, T]`` nats by name; ``total_kl`` adds up, ``[B]``.
        tracks: What was found; None while the background learns alone.
        drawing: How it was drawn, frames folded into the batch, likewise.
        video: Reconstruction, ``[B, T, C, S, S]``.
    """

    likelihood: Tensor
    kl: dict[str, Tensor]
    tracks: Tracks | None
    drawing: Drawing | None
    video: Tensor

    @property
    def total_kl(self) -> Tensor:
        """``[B]`` nats."""
        costs = [x.sum(1) for x in self.kl.values()]
        return torch.stack(costs).sum(0) if costs else torch.zeros_like(self.likelihood)


class Evidence(Objective):
    """Minus the mean evidence lower bound of clips. Its config: `worldkit.gswm.config.EvidenceConfig`."""

    Config = EvidenceConfig
    requires = frozenset({"decoder", "dynamics"})

    def priors(self, step: int) -> Priors:
        """What holds at a training step."""
        own = self.config
        return Priors(own.temperature.at(step), own.presence.at(step, factors=True), own.size_mean.at(step),
                      own.size_std, own.presence_kl)

    def length(self, step: int) -> int:
        """Frames of a clip at a training step."""
        return self.config.lengths[sum(milestone < step for milestone in self.config.milestones)]

    def forward(self, model: ComposedWorldModel, batch: Batch, step: int, *, sampler: Sampler) -> Loss:
        model.encoder.fold_frames(batch.video)  # checks it
        video = self._cut(batch.video, self.length(step), sampler)
        bound = self.bound(model, video, step, sampler=sampler)
        total = -(bound.likelihood - bound.total_kl).mean()
        kl = bound.total_kl.detach().mean()
        frames, pixels = video.shape[1], video[0, 0].numel()
        terms = {
            "reconstruction": (bound.video.detach() - video).square().sum((-1, -2, -3)).mean(),
            "psnr": -10 * (bound.video.detach() - video).square().mean().clamp(min=1e-12).log10(),
            "kl": kl, "nats_per_pixel": total.detach() / (frames * pixels),
            **{f"kl/{name}": x.detach().sum(1).mean() for name, x in bound.kl.items()},
        }
        alone = bound.tracks is None
        if bound.tracks is not None:
            terms["visible_particles"] = bound.tracks.objects.z[..., 0].detach().sum(-1).mean()
        return Loss(total, terms, partial=alone)

    def bound(
        self, model: ComposedWorldModel, video: Tensor, step: int, *, sampler: Sampler,
        discover: Callable[[int], bool] | None = None,
    ) -> Bound:
        """The bound of clips ``[B, T, C, S, S]``, float in [0, 1], at a training step.

        ``discover``: whether new objects are looked for in a frame; default: in training as the dropout has it.
        """
        perception, renderer, priors = model.encoder, model.decoder, self.priors(step)
        scenery = perception.look_behind(video, sampler, priced=True)
        if scenery.drawn is not None and step < self.config.background_steps:
            return Bound(self._likelihood(video, scenery.drawn, step), dict(scenery.kl), None, None, scenery.drawn)
        tracks = perception.track(
            video, sampler=sampler, discover=discover or self._chance(model, video, sampler),
            temperature=priors.temperature, priors=priors, scenery=scenery)
        drawing = renderer.draw(tracks.attributes(perception.config.feature_dim))
        behind = None if scenery.drawn is None else scenery.drawn.flatten(0, 1)
        drawn = drawing.over(behind).unflatten(0, video.shape[:2])
        return Bound(self._likelihood(video, drawn, step), dict(tracks.kl), tracks, drawing, drawn)

    def _likelihood(self, video: Tensor, drawn: Tensor, step: int) -> Tensor:
        sigma = self.config.sigma.at(step)
        constant = math.log(sigma) + 0.5 * math.log(2 * math.pi)
        return -(0.5 * ((video - drawn) / sigma).square() + constant).sum((1, 2, 3, 4))

    def _chance(self, model: ComposedWorldModel, video: Tensor, sampler: Sampler) -> Callable[[int], bool]:
        """Whether new objects are looked for, decided once for all clips of a batch."""
        dropout = model.encoder.config.discovery_dropout if model.training else 0.0
        return lambda t: not dropout or _uniform(sampler, "discovery", video) > dropout

    def _cut(self, video: Tensor, length: int, sampler: Sampler) -> Tensor:
        """Clips of ``length`` frames; all begin at the same one.

        Raises:
            ShapeError: there are fewer.
        """
        spare = video.shape[1] - length
        if spare < 0:
            raise ShapeError(f"clips have {video.shape[1]} frames, and at this step G-SWM learns from {length} "
                             f"(objective.lengths {list(self.config.lengths)}): give clips of model.clip_length, "
                             f"{self.config.num_frames}, or set shorter objective.lengths")
        start = min(int(_uniform(sampler, "start", video) * (spare + 1)), spare) if spare else 0
        return video[:, start : start + length]


def _uniform(sampler: Sampler, name: str, like: Tensor) -> float:
    """A number in (0, 1) that the whole batch shares."""
    return float(torch.special.ndtr(sampler.shared(name, like.new_zeros(1).double())))
