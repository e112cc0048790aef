"""What is done in an evaluation of control, to the last number: `ControlProtocol`, stored with the results."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from ..config import Config

GOALS = {
    "own": "the environment's own task",
    "reach": "a state of the same episode that another policy reached from the same start",
}


class ControlProtocol(Config):
    """Episodes, goals and budget.

    Attributes:
        env: Environment, as of `worldkit.make_env`.
        env_options: Options of it.
        size: Height and width of the frames.
        goals: ``"own"``: the environment's own task: success is what its ``info`` says, and the return counts.
            ``"reach"``: from the start of an episode another policy (``goal_policy``) acts for ``goal_steps`` steps;
            what it reached is the goal, and the start is made again. Success is what the environment's
            ``goal_measures(goal)`` says, at any step; the episode ends with it.
        goal_steps, goal_policy: Of ``"reach"``.
        budget: Steps an episode may take at most.
        episodes: Of each seed.
        seeds: Runs; every seed has episodes, goals and noise of its own.
        together: Episodes that are acted in at once. It changes noise of policies, not episodes.
        deterministic: Policies take means instead of drawing.
    Example:
        >>> ControlProtocol(env="games/catch").goals
        'own'
    """

    env: str
    env_options: dict[str, Any] = {}
    size: int | tuple[int, int] = 64
    goals: Literal["own", "reach"] = "own"
    goal_steps: int = Field(default=10, gt=0)
    goal_policy: Literal["scripted", "random"] = "scripted"
    budget: int = Field(default=200, gt=0)
    episodes: int = Field(default=10, gt=0)
    seeds: tuple[int, ...] = (0, 1, 2)
    together: int = Field(default=10, gt=0)
    deterministic: bool = False

    @model_validator(mode="after")
    def _seeds(self) -> ControlProtocol:
        if not self.seeds or len(set(self.seeds)) != len(self.seeds) or min(self.seeds) < 0:
            raise ValueError(f"seeds are different numbers of at least 0, got {list(self.seeds)}")
        return self

    def in_words(self) -> dict[str, str]:
        """The protocol as lines: heading -> text."""
        options = "".join(f", {name}={value}" for name, value in self.env_options.items())
        size = f"{self.size} x {self.size}" if isinstance(self.size, int) else f"{self.size[0]} x {self.size[1]}"
        goal = GOALS[self.goals]
        if self.goals == "reach":
            goal += f" ({self.goal_policy} policy, {self.goal_steps} steps)"
        return {
            "environment": f"{self.env}{options}, frames {size}", "goal": goal,
            "budget": f"{self.budget} steps an episode", "noise": "none: means" if self.deterministic else "drawn",
            "episodes": f"{self.episodes} for each of the seeds {', '.join(map(str, self.seeds))}: "
                        f"{self.episodes * len(self.seeds)} altogether",
        }
