"""A planner as a policy: look, plan in the world model, act out the first steps of the plan, look again.

What was planned and not done is where the next plan starts from (warm start).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from ..config import ComponentConfig
from ..distributions import Sampler
from ..errors import ConfigError
from ..planning import Continuous, Discrete, Shooting, make_cost, make_planner
from .base import Agent
from .history import History


class PlannerConfig(ComponentConfig):
    """Options of a planner that acts.

    Attributes:
        planner, planner_options: See `worldkit.planning.make_planner`; None: the CEM of the actions.
        cost: What is wanted, ``"pixels"`` or ``"objects,effort=0.01"``; see `worldkit.planning.make_cost`.
        horizon: Actions of a plan.
        every: Actions that are done before it looks and plans again.
        warm_start: A plan starts from what is left of the one before.
        repeat: Steps of the environment that an action is held for; as in the data the model was trained on.
        context: Frames that the model is shown, at most.
    """

    name: str = "planner"
    planner: str | None = None
    planner_options: dict[str, Any] = {}
    cost: str = "pixels"
    horizon: int = Field(default=5, gt=0)
    every: int = Field(default=1, gt=0)
    warm_start: bool = True
    repeat: int = Field(default=1, gt=0)
    context: int = Field(default=1, gt=0)


@dataclass(frozen=True)
class _Carry:
    seen: History
    goal: Tensor | None
    done: Tensor  # [B, context - 1, ...], actions between the frames that are remembered
    plan: Tensor  # [B, horizon, ...]
    used: Tensor  # [B], actions of the plan that were done
    held: Tensor  # [B], steps that the running action was held for


class PlannerAgent(Agent):
    """Plans in a world model that is told actions; see the module's docstring."""

    Config = PlannerConfig
    config: PlannerConfig
    needs_model, trains = True, False

    def __init__(self, config: PlannerConfig, **wiring: Any):
        super().__init__(config, **wiring)
        if config.every > config.horizon:
            raise ConfigError(f"every={config.every} actions of a plan of horizon={config.horizon} cannot be done")
        told = sorted(set(self.model.conditioners) - {"action", "goal_image"})
        if told:
            raise ConfigError(f"a planner tells its model actions, and the goal; this one needs {', '.join(told)} too")
        self.cost = make_cost(config.cost)
        self.space = Discrete(self.action.num_actions) if self.action.discrete else Continuous(
            self.action.low, self.action.high)
        name = config.planner or ("categorical-cem" if self.action.discrete else "cem")
        self.planner = make_planner(name, **config.planner_options)
        self.wants_goal = self.cost.needs_goal or "goal_image" in self.model.conditioners
        blank = torch.zeros(1, 1, *self.frame_shape)
        goal = blank[:, 0] if self.wants_goal else None
        self._task(blank, goal, torch.zeros(1, 0, *self.space.shape))  # refuses what does not fit, now

    def _task(self, context: Tensor, goal: Tensor | None, past: Tensor) -> Shooting:
        told = {"goal_image": goal} if "goal_image" in self.model.conditioners else {}
        return Shooting(self.model, context, self.cost, goal=goal if self.cost.needs_goal else None, space=self.space,
                        past=past if past.shape[1] else None, conditions=told)

    def start(self, batch_size: int, *, goal: Tensor | None = None) -> _Carry:
        if self.wants_goal:
            if goal is None:
                raise ConfigError("this planner acts towards a goal: start(batch_size, goal=PICTURES)")
            self.check_frame(goal, "goal")
        dtype = torch.int64 if self.action.discrete else torch.float32
        count = torch.zeros(batch_size, dtype=torch.int64)
        return _Carry(History.empty(batch_size), goal if self.wants_goal else None,
                      torch.zeros(batch_size, self.config.context - 1, *self.space.shape, dtype=dtype),
                      torch.zeros(batch_size, self.config.horizon, *self.space.shape, dtype=dtype), count, count)

    def act(self, frame: Tensor, carry: Any, *, first: Tensor, sampler: Sampler) -> tuple[Tensor, Any]:
        self.check_frame(frame)
        config, first = self.config, first.cpu()
        decides = first | (carry.held % config.repeat == 0)
        seen = carry.seen.add(frame, first, keep=config.context, among=decides)
        plan, used = carry.plan.clone(), carry.used.clone()
        for anew in (True, False):  # an episode that begins has no plan to start from
            plans = decides & (first if anew else ~first & (used % config.every == 0))
            for rows, clip in seen.groups(plans):
                left = None if anew else self._left(plan[rows])
                plan[rows] = self._plan(clip, carry.goal, rows, carry.done, left, sampler)
                used[rows] = 0
        action = plan[torch.arange(len(plan)), (used - (~decides).long()).clamp(min=0)]
        done = torch.where(_like(decides, carry.done), torch.cat([carry.done, action[:, None]], 1)[:, 1:], carry.done)
        return action, replace(carry, seen=seen, plan=plan, done=done, used=used + decides.long(),
                               held=torch.where(decides, torch.zeros_like(carry.held), carry.held) + 1)

    def _left(self, plan: Tensor) -> Tensor | None:
        left = plan[:, self.config.every:]
        return left if self.config.warm_start and left.shape[1] else None

    def _plan(self, clip: Tensor, goal: Tensor | None, rows: Tensor, done: Tensor, left: Tensor | None,
              sampler: Sampler) -> Tensor:
        device = next(self.model.parameters()).device
        past = done[rows][:, done.shape[1] - (clip.shape[1] - 1):]
        task = self._task(clip.to(device), None if goal is None else goal[rows].to(device), past.to(device))
        generator = sampler.generator
        if generator is None and sampler.deterministic:
            generator = torch.Generator(device).manual_seed(0)
        return self.planner.solve(task, self.config.horizon, initial=left, generator=generator).actions.cpu()


def _like(rows: Tensor, x: Tensor) -> Tensor:
    """``[B]`` with axes of size 1, so that it spreads over ``x``."""
    return rows.reshape(-1, *[1] * (x.ndim - 1))
