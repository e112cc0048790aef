"""The world model's loss of Dreamer v1, v2 and v3: observations drawn again, a divergence with free nats, heads.

Generations differ in the options; the defaults are version 3's. Heads train the states they read. Frame 0 of a clip
begins with a state of which nothing is known, unless the batch's first frame was context.

Reductions: sums over pixels, numbers, categorical variables and tokens, means over clips and frames.

| | likelihood | kl | scales | free |
| --- | --- | --- | --- | --- |
| v1 | normal | joint | 1 | 3 nats of the mean |
| v2 (Atari) | normal | two-sided | dyn 0.8 x 0.1, rep 0.2 x 0.1 | 0 |
| v2 (DMC) | normal | two-sided | dyn 0.8, rep 0.2 | 1 nat of the mean |
| v3 | squared | two-sided | dyn 1, rep 0.1 | 1 nat per frame |

Source: danijar/dreamer @ 56d4d44, danijar/dreamerv2 @ 07d906e, danijar/dreamerv3 @ e3f0224, written from their
description. Difference: the reward of a clip's first frame, which no batch of clips has, counts where an episode begins
only, as zero.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from ..batch import Batch
from ..config import ComponentConfig
from ..distributions import Sampler
from .base import Loss, Objective
from .divergence import FREE, divergence, two_sides
from .observed import Likelihood, head_parts, head_scales, inside, logged, observation_parts

if TYPE_CHECKING:
    from ..decoders import Decoded
    from ..model import ComposedWorldModel


class DreamerConfig(ComponentConfig):
    """Options of Dreamer's world-model loss.

    Attributes:
        num_frames: Frames of a training clip; None = one more than the model's ``timestep_horizon``.
        likelihood: Of pictures and vectors. ``"squared"``: squared errors (v3); ``"normal"``: N(., 1), with half of
            them and a constant.
        kl: ``"two-sided"``: one divergence trains the prior, one the posterior; ``"joint"``: one trains both.
        dynamics_scale: Of the one that trains the prior (v2: the balance, 0.8, times the scale), or of the joint one.
        representation_scale: Of the one that trains the posterior.
        free_nats: What costs nothing.
        free: Of what: ``"frame"``: of every frame; ``"mean"``: of the mean over clips and frames.
        image_scale: Of the pictures' loss.
        train_encoder: Without it the encoder comes trained and stays as it is.
    """

    name: str = "dreamer"
    num_frames: int | None = Field(default=None, gt=1)
    likelihood: Likelihood = "squared"
    kl: Literal["two-sided", "joint"] = "two-sided"
    dynamics_scale: float = Field(default=1.0, ge=0)
    representation_scale: float = Field(default=0.1, ge=0)
    free_nats: float = Field(default=1.0, ge=0)
    free: Literal["frame", "mean"] = "frame"
    image_scale: float = Field(default=1.0, ge=0)
    train_encoder: bool = True


class Dreamer(Objective):
    """See the module's docstring. `parts` and `scales` are for who learns from the same states, as an actor-critic."""

    Config = DreamerConfig
    config: DreamerConfig
    requires = frozenset({"decoder", "dynamics", "filtering"})

    def __init__(self, config: DreamerConfig):
        super().__init__(config)
        self.frozen = frozenset() if config.train_encoder else frozenset({"encoder"})  # type: ignore[misc]

    def parts(
        self, model: ComposedWorldModel, seen: Any, batch: Batch, *, sampler: Sampler, step: int = 0
    ) -> dict[str, Tensor]:
        """What the model's loss is made of: arrays without factors, whose means count.

        Args:
            model: Decoder and heads.
            seen: What `ComposedWorldModel.perceive` found in the frames of the batch, or in all but the first.
            batch: Observations and targets.
            sampler: Source of randomness; nothing is drawn here.
            step: Of the training.
        Returns:
            ``"dyn"`` and ``"rep"``, or ``"kl"``; ``"image"`` and vectors by name; heads by name.
        """
        return self._parts(model, seen, batch)[0]

    def _parts(self, model: ComposedWorldModel, seen: Any, batch: Batch) -> tuple[dict[str, Tensor], Decoded]:
        config, z = self.config, seen.latent
        gate = z if z.spec.find("transparency") is not None else None
        sides = two_sides(seen.posterior, seen.prior, gate) if config.kl == "two-sided" else {
            "kl": divergence(seen.posterior, seen.prior, gate)}
        sides = inside(sides, batch.done_mask)
        told, drawn = observation_parts(model, z, batch, config.likelihood)
        rest = inside({**told, **head_parts(model, z, batch)}, batch.done_mask)
        return {**{name: FREE[config.free](x, config.free_nats) for name, x in sides.items()}, **rest}, drawn

    def scales(self, model: ComposedWorldModel) -> dict[str, float]:
        """Factors of `parts`; what is not named counts once."""
        config = self.config
        return {"dyn": config.dynamics_scale, "rep": config.representation_scale, "kl": config.dynamics_scale,
                "image": config.image_scale, **head_scales(model)}

    def forward(self, model: ComposedWorldModel, batch: Batch, step: int, *, sampler: Sampler) -> Loss:
        seen = model.perceive(batch, sampler)
        parts, drawn = self._parts(model, seen, batch)
        scales = self.scales(model)
        total = torch.stack([scales.get(name, 1.0) * x.mean() for name, x in parts.items()]).sum()
        with torch.no_grad():
            kl = divergence(seen.posterior, seen.prior).mean()
        return Loss(total, {"kl": kl, **logged(parts, model, drawn, batch)})
