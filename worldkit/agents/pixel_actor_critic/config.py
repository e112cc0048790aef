"""Options of the agent ``pixel-actor-critic``. Defaults are IRIS's (arXiv:2209.00588, eloialonso/iris @ 24326aa)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from ...config import ComponentConfig
from ...training.optimizers import OptimizerConfig
from .networks import NetworkConfig
from .segments import SegmentsConfig

BEHAVIOR = "behavior"
"""The part that is no part of the model: policy and value."""


class PixelActorCriticConfig(ComponentConfig):
    """Options of an actor-critic that sees pictures.

    A turn of training goes through the parts of the model, as its objective names them (IRIS's ``"tokenizer"`` and
    ``"dynamics"``, DIAMOND's ``"denoiser"`` and ``"outcomes"``; ``"model"`` where it names none), and then to
    ``"behavior"``. Each part has an optimiser, segments that it is shown, and a time to wait.

    Attributes:
        network: Of policy and value.
        dreams: ``"fresh"``: every update dreams anew from the last frame of a segment, whose frames before are looked
            at first; ``"lasting"``: dreams go on from update to update, and rows that are over begin anew.
        horizon: Pictures of a dream that are judged in an update. Of fresh dreams the value of the last one ends the
            returns; of lasting ones every step has one behind it.
        context: Frames of a segment that a dream begins with, its last ones.
        length: Steps after which a lasting dream is cut off.
        discount, lam: Of the returns.
        entropy, value: Weights of the losses.
        explore: How often any action is taken while experience is collected.
        temperature, eval_temperature: Logits are divided by it while experience is collected, and when it is scored.
        turn: Updates of a part in a row, before the next one's.
        waits: Updates before a part begins to learn; others: at once.
        stops: Updates after which a part stays as it is; others: never. A tokenizer that stands still gives codes that
            can be learned sooner.
        optimizers: Of every part.
        segments: Of every part.
    """

    name: str = "pixel-actor-critic"
    network: NetworkConfig = NetworkConfig()
    dreams: Literal["fresh", "lasting"] = "fresh"
    horizon: int = Field(default=20, ge=2)
    context: int = Field(default=1, gt=0)
    length: int = Field(default=15, gt=0)
    discount: float = Field(default=0.995, gt=0, le=1)
    lam: float = Field(default=0.95, ge=0, le=1)
    entropy: float = Field(default=1e-3, ge=0)
    value: float = Field(default=1.0, ge=0)
    explore: float = Field(default=0.01, ge=0, le=1)
    temperature: float = Field(default=1.0, gt=0)
    eval_temperature: float = Field(default=0.5, gt=0)
    turn: int = Field(default=1, gt=0)
    waits: dict[str, int] = {}
    stops: dict[str, int] = {}
    optimizers: dict[str, OptimizerConfig] = {
        "tokenizer": OptimizerConfig(lr=1e-4, max_grad_norm=10.0),
        "dynamics": OptimizerConfig(name="adamw", lr=1e-4, weight_decay=0.01, decay="weights", max_grad_norm=10.0),
        BEHAVIOR: OptimizerConfig(lr=1e-4, max_grad_norm=10.0),
    }
    segments: dict[str, SegmentsConfig] = {
        "tokenizer": SegmentsConfig(count=256, length=1),
        "dynamics": SegmentsConfig(count=64, length=20),
        BEHAVIOR: SegmentsConfig(count=64, length=21, anchor="end"),
    }

    @model_validator(mode="after")
    def _fits(self) -> PixelActorCriticConfig:
        if {*self.optimizers} != {*self.segments} or BEHAVIOR not in self.optimizers:
            raise ValueError(f"optimizers and segments name the same parts, '{BEHAVIOR}' among them; got "
                             f"{', '.join(self.optimizers) or 'none'} and {', '.join(self.segments) or 'none'}")
        if unknown := sorted({*self.waits, *self.stops} - {*self.optimizers}):
            raise ValueError(f"waits and stops name parts, {', '.join(self.optimizers)}; got '{unknown[0]}'")
        if self.segments[BEHAVIOR].length < self.context:
            raise ValueError(f"dreams begin with {self.context} frames, and segments.{BEHAVIOR} have "
                             f"{self.segments[BEHAVIOR].length}")
        return self
