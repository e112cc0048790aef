"""What is wanted of a prediction: distances to a goal, a predicted reward, little effort; and weighted sums of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from ..errors import ConfigError, NoDecoderError, WorldkitError
from .shooting import Goal, Imagined

if TYPE_CHECKING:
    from ..model import WorldModel

Frames = Literal["last", "all"]
"""Which predicted frames are held against the goal: the last one, or all of them (their mean)."""


class Cost(ABC):
    """What a prediction costs. Costs are multiplied by numbers and added: ``ObjectDistance() + 0.1 * ActionEffort()``.

    Attributes:
        needs_goal: Whether it compares with a goal.
    """

    needs_goal: bool = True

    @abstractmethod
    def __call__(self, imagined: Imagined, goal: Goal) -> Tensor:
        """``[problems, candidates]``."""

    def check(self, model: WorldModel, goal: Goal) -> None:
        """Refuse a model or a goal that this cost cannot work with, before anything is imagined.

        Raises:
            WorldkitError: naming what is missing.
        """
        if self.needs_goal and not goal.given:
            raise WorldkitError(f"{type(self).__name__} compares with a goal: Shooting(..., goal=picture)")

    def __mul__(self, weight: float) -> Weighted:
        return Weighted(((float(weight), self),))

    __rmul__ = __mul__

    def __add__(self, other: Cost) -> Weighted:
        return Weighted((*terms_of(self), *terms_of(other)))


@dataclass(frozen=True)
class Weighted(Cost):
    """A weighted sum of costs: ``terms`` are pairs (weight, cost)."""

    terms: tuple[tuple[float, Cost], ...]

    def __call__(self, imagined: Imagined, goal: Goal) -> Tensor:
        return torch.stack([weight * cost(imagined, goal) for weight, cost in self.terms]).sum(0)

    def check(self, model: WorldModel, goal: Goal) -> None:
        for _, cost in self.terms:
            cost.check(model, goal)

    def __mul__(self, weight: float) -> Weighted:
        return Weighted(tuple((weight * w, cost) for w, cost in self.terms))

    __rmul__ = __mul__


def terms_of(cost: Cost) -> tuple[tuple[float, Cost], ...]:
    """Pairs (weight, cost)."""
    return cost.terms if isinstance(cost, Weighted) else ((1.0, cost),)


@dataclass(frozen=True)
class _Distance(Cost):
    """Attributes:
        frames: Which predicted frames are compared.
    """

    frames: Frames = "last"

    def __post_init__(self) -> None:
        if self.frames not in ("last", "all"):
            raise ConfigError(f"{type(self).__name__}: frames must be 'last' or 'all', got {self.frames!r}")

    @property
    def compared(self) -> slice:
        """Of the predicted frames."""
        return slice(-1, None) if self.frames == "last" else slice(None)


@dataclass(frozen=True)
class LatentDistance(_Distance):
    """Mean difference of the latents, token by token, squared unless ``norm`` says otherwise.

    That means something where token n is the same in every picture: grids and vectors. Which slot or particle shows a
    thing is another one in the goal; `ObjectDistance` pairs them.

    Attributes:
        frames: ``"last"`` predicted frame, or mean over ``"all"``.
        fields: Names of the fields that count; None: all.
        norm: ``"l2"``, squared differences, or ``"l1"``, their sizes (V-JEPA 2-AC).
        growth: Of ``"all"`` frames, a frame weighs so many times what the one before weighs (DINO-WM: 2).
    Raises:
        WorldkitError: the latent is a set of things, or has no such field.
        ConfigError: a growth that is not above 0.
    """

    fields: tuple[str, ...] | None = None
    norm: Literal["l2", "l1"] = "l2"
    growth: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.growth > 0:
            raise ConfigError(f"LatentDistance: growth must be above 0, got {self.growth!r}")

    def check(self, model: WorldModel, goal: Goal) -> None:
        super().check(model, goal)
        spec = goal.latent.spec
        if spec.identity == "exchangeable" or (spec.grid is None and spec.groups[0].size > spec.views):
            raise WorldkitError(
                f"LatentDistance compares token n with token n, and another of the {spec.groups[0].name} of this model "
                "may show the same thing in the goal: ObjectDistance pairs them first"
            )
        if self.fields is not None and (unknown := {*self.fields} - {name for _, name in spec.keys()}):
            raise ConfigError(f"this latent has no field {', '.join(sorted(unknown))}; it has: "
                              f"{', '.join(sorted({name for _, name in spec.keys()}))}")

    def __call__(self, imagined: Imagined, goal: Goal) -> Tensor:
        total, count, now = 0.0, 0, imagined.latents[:, self.compared]
        weights = self.growth ** torch.arange(now.shape[1])
        weights = weights / weights.sum()
        for key, value in goal.latent.values.items():
            if self.fields is None or key[1] in self.fields:
                difference = imagined.split(now.values[key]) - value[:, None]
                size = difference.square() if self.norm == "l2" else difference.abs()
                total = total + torch.einsum("t,pst->ps", weights.to(size), size.flatten(3).sum(-1))
                count += value[0, 0].numel()
        return total / count


@dataclass(frozen=True)
class PixelDistance(_Distance):
    """Mean squared difference of the drawn frames and the goal, values in [0, 1].

    Raises:
        NoDecoderError: the model cannot draw.
    """

    def check(self, model: WorldModel, goal: Goal) -> None:
        super().check(model, goal)
        if getattr(model, "decoder", model) is None:
            raise NoDecoderError("PixelDistance draws predictions, and this model has no decoder: take LatentDistance "
                                 "or ObjectDistance")

    def __call__(self, imagined: Imagined, goal: Goal) -> Tensor:
        difference = imagined.draw(self.compared) - goal.video.unsqueeze(-4)[:, None]
        return difference.square().flatten(2).mean(-1)


@dataclass(frozen=True)
class PredictedReward(Cost):
    """Minus the sum of the rewards that the model predicts; after a predicted end there are none.

    Attributes:
        head: The model's head of the reward.
        ended: Its head of the probability that the episode is over; not used by a model without it.
        discount: Factor from one step to the next.
    Raises:
        WorldkitError: the model has no such head.
    """

    head: str = "reward"
    ended: str = "terminated"
    discount: float = 1.0
    needs_goal = False

    def check(self, model: WorldModel, goal: Goal) -> None:
        heads = model.config.heads
        if self.head not in heads:
            raise WorldkitError(
                f"PredictedReward needs a model with a head '{self.head}', and this one has "
                f"{', '.join(heads) or 'none'}: worldkit train PRESET --data ... -o heads.{self.head}=two-hot"
            )

    def __call__(self, imagined: Imagined, goal: Goal) -> Tensor:
        predictions = imagined.rollout.predictions
        reward = predictions[self.head]
        weight = self.discount ** torch.arange(reward.shape[1], device=reward.device)
        if self.ended in predictions:
            alive = (1 - predictions[self.ended].to(reward)).cumprod(1)
            weight = weight * torch.cat([torch.ones_like(alive[:, :1]), alive[:, :-1]], 1)
        return -imagined.split((weight * reward).sum(1))


@dataclass(frozen=True)
class ActionEffort(Cost):
    """Sum of the squares of all numbers of a plan."""

    needs_goal = False

    def __call__(self, imagined: Imagined, goal: Goal) -> Tensor:
        if not imagined.actions.is_floating_point():
            raise WorldkitError("ActionEffort is of actions that are numbers, and these are choices: leave it out")
        return imagined.actions.square().sum((-1, -2))
