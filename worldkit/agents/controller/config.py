"""Options of the agent ``controller``."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from ...config import ComponentConfig


class ControllerConfig(ComponentConfig):
    """Options of the controller, and of how it and its model are trained. Defaults are the paper's for CarRacing.

    Attributes:
        reads_memory: It reads what the LSTM keeps, beside what it gives, as for VizDoom.
        bias: The layer has one (VizDoom: none).
        thresholds: Choices are parts of one number's range from -1 to 1, in their order, as for VizDoom; else the
            largest of as many numbers as there are choices. Vectors of actions go through a tanh.
        where: Candidates act in the ``"env"``, or in ``"dream"``: in the model, from states that were seen.
        population: Candidates of a generation.
        episodes: Of every candidate; its score is their mean return.
        sigma: Deviation of the first generation, around zeros.
        horizon: Steps of a dreamed episode at most.
        temperature: Of dreams; None: the dynamics' own.
        vision_updates, memory_updates: How often V is trained, and then M, before there are candidates.
        generations: Generations of candidates in dreams; every update behind V's and M's is one.
        vision_frames: Pictures that V is shown at a time, of those of a batch of clips.
        vision_lr, memory_lr: Learning rates (Adam).
        clip: Largest value of an entry of M's gradient.
        seed: Of the candidates.
    """

    name: str = "controller"
    reads_memory: bool = False
    bias: bool = True
    thresholds: bool = False
    where: Literal["env", "dream"] = "env"
    population: int = Field(default=64, ge=4)
    episodes: int = Field(default=16, gt=0)
    sigma: float = Field(default=0.1, gt=0)
    horizon: int = Field(default=1000, gt=0)
    temperature: float | None = Field(default=None, gt=0)
    vision_updates: int = Field(default=100_000, ge=0)
    memory_updates: int = Field(default=4000, ge=0)
    generations: int = Field(default=0, ge=0)
    vision_frames: int = Field(default=100, gt=0)
    vision_lr: float = Field(default=1e-4, gt=0)
    memory_lr: float = Field(default=1e-3, gt=0)
    clip: float = Field(default=1.0, gt=0)
    seed: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _check(self) -> ControllerConfig:
        if self.generations and self.where == "env":
            raise ValueError("generations counts those in dreams; in the environment they follow as long as it acts: "
                             "agent.generations=0, or agent.where=dream")
        return self
