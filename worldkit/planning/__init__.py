"""Plans: actions after which a world model predicts what is wanted.

A cost says what is wanted, `Shooting` asks a model what candidates lead to, a planner searches::

    from worldkit.planning import CEM, ObjectDistance, Shooting

    task = Shooting(model, frames, ObjectDistance(), goal=picture, space=env.action_space)
    plan = CEM().solve(task, horizon=5, generator=torch.Generator().manual_seed(0))
    plan.actions, plan.cost

Temperatures divide: candidates weigh as ``exp(-cost / temperature)``, so a low one follows the best candidates only.
"""

from __future__ import annotations

from typing import Any

from ..lazy import lazy_exports

_EXPORTS = {
    "planners": ("PLANNERS", "list_planners", "make_planner", "COSTS", "make_cost"),
    "pictures": ("considered_picture", "plan_film", "plan_strip"),
    "base": ("Planner", "Plan", "Round"),
    "arm": ("ArmCEM",),
    "cem": ("CEM", "ICEM", "PlaNetCEM", "PredictiveSampling"),
    "mppi": ("MPPI",),
    "gradient": ("GradientPlanner",),
    "categorical": ("CategoricalCEM",),
    "shooting": ("Shooting", "Goal", "Imagined"),
    "objective": ("Objective", "FunctionObjective", "Score"),
    "costs": ("Cost", "LatentDistance", "PixelDistance", "PredictedReward", "ActionEffort", "Weighted"),
    "objects": ("ObjectDistance",),
    "swm": ("SwmCost", "SwmObjective"),
    "spaces": ("Continuous", "Discrete", "as_space"),
}
_find = lazy_exports(__name__, _EXPORTS)

__all__ = [name for names in _EXPORTS.values() for name in names]


def __getattr__(name: str) -> Any:
    return _find(name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
