"""The plan in words and pictures, beside what else one might have done."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...planning import Discrete, Plan, Round, plan_film, plan_strip
from ...planning.pictures import imagined_frames
from .ask import Asked

PLAN, NOTHING, TAKEN = "the plan", "actions of 0", "as in the data"


@dataclass(frozen=True)
class Answer:
    """What is told of a plan.

    Attributes:
        actions: Row per step.
        costs: What the plan costs, and what else would.
        history: Best cost of every round.
        strip: ``[3, h, w]`` uint8.
        film: ``[T, 3, h, w]`` uint8.
    """

    actions: list[list[Any]]
    costs: Mapping[str, float]
    history: list[float]
    strip: Tensor
    film: Tensor

    def facts(self) -> dict[str, Any]:
        """For JSON."""
        return {"actions": self.actions, "cost": self.costs[PLAN], "costs": self.costs, "history": self.history}


@torch.no_grad()
def answer_of(asked: Asked, plan: Plan, rounds: Sequence[Round]) -> Answer:
    """The answer."""
    task, tried = asked.task, {PLAN: plan.actions}
    if not isinstance(task.space, Discrete):
        tried[NOTHING] = task.space.clip(torch.zeros_like(plan.actions))
    if asked.told is not None:
        tried[TAKEN] = asked.told[:, 0]
    costs = {name: task.score(actions[:, None]).cost.item() for name, actions in tried.items() if name != PLAN}
    costs = {PLAN: plan.cost.item()} | costs
    first = rounds[0].score.cost
    costs["candidates of the first round, mean"] = first[torch.isfinite(first)].mean().item()
    futures = {name: imagined_frames(task, actions)[0] for name, actions in tried.items()}
    actions = plan.actions[0].tolist()
    film = plan_film(asked.given, futures, asked.goal, title=f"The plan costs {costs[PLAN]:.3g}",
                     note="Blue: given frames. Green: what the model imagines.")
    return Answer(
        [row if isinstance(row, list) else [row] for row in actions], costs, plan.history[0].tolist(),
        plan_strip(asked.given[-1], futures, asked.goal), torch.cat([film, film[-1:].expand(4, -1, -1, -1)]),
    )
