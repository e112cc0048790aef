"""Options of the agent ``actor-critic``. The defaults are those of DreamerV3 @ e3f0224."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from ...config import ComponentConfig
from ...training.optimizers import OptimizerConfig
from .losses import Gradient
from .networks import ActorConfig, CriticConfig
from .normalizer import NormalizerConfig

PARTS = ("model", "actor", "critic")


class ActorCriticConfig(ComponentConfig):
    """Options of an actor-critic.

    Attributes:
        generation: Whose returns and advantages these are, 1, 2 or 3; see `worldkit.agents.actor_critic.losses`.
        actor, critic: Their options.
        horizon: Imagined steps.
        starts: Imagine from so many of the last frames of a clip; 0: from all.
        discount: Factor of a step. Where the model's head ``terminated`` has learned a factor (its option
            ``discount``), that one counts in imagination.
        lam: Of the lambda return.
        gradient: What teaches the actor: ``"reinforce"``, the ``"dynamics"``, or ``"both"``, of which ``mix`` is the
            dynamics' share.
        entropy: Factor of the policy's entropy.
        returns: Scale of returns (generation 3).
        slow_rate, slow_every: After every so many updates the slow critic moves this far towards the critic; 0: there
            is none.
        slow_weight: Factor of the critic's loss against the slow critic (generation 3).
        slow_target: The slow critic ends returns, not the critic itself (always so in generation 2).
        replay: Factor of the critic's loss on what was really seen, whose gradient reaches the model (generation 3).
        noise: Deviation of what is added to vectors while experience is collected, in halves of the distance between
            the bounds; of choices, how often any is taken.
        eval_by_mode: It is scored by what it deems best, not by what it draws.
        optimizers: ``"all"``: one for everything; or one each of ``"model"``, ``"actor"`` and ``"critic"``.
    """

    name: str = "actor-critic"
    generation: Literal[1, 2, 3] = 3
    actor: ActorConfig = ActorConfig()
    critic: CriticConfig = CriticConfig()
    horizon: int = Field(default=15, ge=2)
    starts: int = Field(default=0, ge=0)
    discount: float = Field(default=1 - 1 / 333, gt=0, le=1)
    lam: float = Field(default=0.95, ge=0, le=1)
    gradient: Gradient = "reinforce"
    mix: float = Field(default=0.1, ge=0, le=1)
    entropy: float = Field(default=3e-4, ge=0)
    returns: NormalizerConfig = NormalizerConfig()
    slow_rate: float = Field(default=0.02, gt=0, le=1)
    slow_every: int = Field(default=1, ge=0)
    slow_weight: float = Field(default=1.0, ge=0)
    slow_target: bool = False
    replay: float = Field(default=0.3, ge=0)
    noise: float = Field(default=0.0, ge=0)
    eval_by_mode: bool = False
    optimizers: dict[str, OptimizerConfig] = {
        "all": OptimizerConfig(name="laprop", lr=4e-5, eps=1e-20, agc=0.3, warmup_steps=1000)}

    @model_validator(mode="after")
    def _fits(self) -> ActorCriticConfig:
        if {*self.optimizers} not in ({"all"}, {*PARTS}):
            raise ValueError(f"optimizers are 'all', or {', '.join(PARTS)}; got {', '.join(self.optimizers) or 'none'}")
        if self.generation == 1 and self.gradient != "dynamics":
            raise ValueError("generation 1 learns through the dynamics: gradient='dynamics'")
        if self.generation == 2 and not self.slow_every:
            raise ValueError("generation 2 ends returns by its slow critic: slow_every must be above 0")
        return self
