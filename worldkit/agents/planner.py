"""A planner as a policy: look, plan in the world model, act out the first steps of the plan, look again.

What was planned and not done is where the next plan starts from (warm start).

A model that filters is shown every frame it decides at, once, and plans from its state; others are shown the last few
frames anew. With ``planner="planet-cem"``, ``sample=True`` and ``warm_start=False`` this is PlaNet's agent.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from ..batch import Batch
from ..config import ComponentConfig
from ..distributions import Sampler
from ..errors import ConfigError
from ..latents import Latent
from ..planning import Continuous, Discrete, Shooting, make_cost, make_planner
from .base import Agent, Policy
from .exploring import Explorer, noisy
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
        context: Frames that the model is shown, at most; of a model that filters all count.
        sample: Draw what candidates lead to, instead of following means.
        rows: Candidates that are imagined at once, at most.
        noise: Deviation of what is added to vectors while experience is collected, in halves of the distance between
            the bounds; of choices, how often any is taken.
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
    sample: bool = False
    rows: int = Field(default=512, gt=0)
    noise: float = Field(default=0.0, ge=0)


@dataclass(frozen=True)
class _Carry:
    seen: History | Latent | None  # frames; of a model that filters its state [B, 1]
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
        self.filters = self.model.require_dynamics().filtering
        if self.wants_vectors and not self.filters:
            raise ConfigError("a planner remembers pictures for its model, and this one reads vectors "
                              f"({', '.join(self.wants_vectors)}) as well: plan in a model whose dynamics filters "
                              "(dynamics=rssm), which needs no more than its state")
        blank = torch.zeros(1, 1, *self.frame_shape)
        goal = blank[:, 0] if self.wants_goal else None
        if self.wants_vectors:
            zeros = {name: torch.zeros(1, 1, column.width or 1) if column.classes is None else torch.zeros(
                1, 1, dtype=torch.int64) for name, column in self.wants_vectors.items()}
            blank = self.model.perceive(Batch(blank, vectors=zeros)).latent
        self._task(blank, goal, torch.zeros(1, 0, *self.space.shape))  # refuses what does not fit, now

    def _task(self, context: Tensor | Latent, goal: Tensor | None, past: Tensor,
              generator: torch.Generator | None = None) -> Shooting:
        told = {"goal_image": goal} if "goal_image" in self.model.conditioners else {}
        return Shooting(self.model, context, self.cost, goal=goal if self.cost.needs_goal else None, space=self.space,
                        past=past if past.shape[1] else None, conditions=told, rows=self.config.rows,
                        sample=self.config.sample, generator=generator)

    def explorer(self) -> Policy:
        return Explorer(self, self.config.noise) if self.config.noise else self

    def start(self, batch_size: int, *, goal: Tensor | None = None) -> _Carry:
        if self.wants_goal:
            if goal is None:
                raise ConfigError("this planner acts towards a goal: start(batch_size, goal=PICTURES)")
            self.check_frame(goal, "goal")
        dtype = torch.int64 if self.action.discrete else torch.float32
        count = torch.zeros(batch_size, dtype=torch.int64)
        between = 1 if self.filters else self.config.context - 1
        return _Carry(None if self.filters else History.empty(batch_size), goal if self.wants_goal else None,
                      torch.zeros(batch_size, between, *self.space.shape, dtype=dtype),
                      torch.zeros(batch_size, self.config.horizon, *self.space.shape, dtype=dtype), count, count)

    def act(self, frame: Tensor, carry: Any, *, first: Tensor, sampler: Sampler,
            vectors: Mapping[str, Tensor] | None = None) -> tuple[Tensor, Any]:
        return self.decide(frame, carry, first=first, sampler=sampler, vectors=vectors)

    def decide(self, frame: Tensor, carry: Any, *, first: Tensor, sampler: Sampler,
               vectors: Mapping[str, Tensor] | None = None, noise: float = 0.0) -> tuple[Tensor, Any]:
        """`act`, with noise on what is done."""
        self.check_frame(frame)
        sampler = sampler.on(next(self.model.parameters()).device)
        config, first = self.config, first.cpu()
        decides = first | (carry.held % config.repeat == 0)
        seen = self._look(frame, vectors, carry, first, decides, sampler)
        plan, used = carry.plan.clone(), carry.used.clone()
        for anew in (True, False):  # an episode that begins has no plan to start from
            plans = decides & (first if anew else ~first & (used % config.every == 0))
            for rows, context in self._groups(seen, plans):
                left = None if anew else self._left(plan[rows])
                plan[rows] = self._plan(context, carry.goal, rows, carry.done, left, sampler)
                used[rows] = 0
        action = plan[torch.arange(len(plan)), (used - (~decides).long()).clamp(min=0)]
        if noise:  # what is held was noisy before
            action = torch.where(_like(decides, action), noisy(action, self.action, noise, sampler), carry.done[:, -1])
        done = torch.where(_like(decides, carry.done), torch.cat([carry.done, action[:, None]], 1)[:, 1:], carry.done)
        return action, replace(carry, seen=seen, plan=plan, done=done, used=used + decides.long(),
                               held=torch.where(decides, torch.zeros_like(carry.held), carry.held) + 1)

    def _look(self, frame: Tensor, vectors: Mapping[str, Tensor] | None, carry: Any, first: Tensor, decides: Tensor,
              sampler: Sampler) -> Any:
        """What is remembered of frames, with the newest ones where something is decided."""
        if not self.filters:
            return carry.seen.add(frame, first, keep=self.config.context, among=decides)
        device = next(self.model.parameters()).device
        known = {} if carry.seen is None else {
            "first": first[:, None].to(device), "last": carry.seen,
            "last_action": {"action": carry.done[:, -1:].to(device)}}
        with torch.no_grad():
            beside = {name: x[:, None].to(device) for name, x in (vectors or {}).items()}
            state = self.model.perceive(Batch(frame[:, None].to(device), vectors=beside), sampler, **known).latent
        if carry.seen is None:
            return state
        return state.where(decides, carry.seen)

    def _groups(self, seen: Any, among: Tensor) -> Iterator[tuple[Tensor, Any]]:
        """Rows that can be planned for at once, and what was seen there."""
        if not self.filters:
            yield from seen.groups(among)
        elif among.any():
            rows = torch.nonzero(among)[:, 0]
            yield rows, seen[rows.to(next(self.model.parameters()).device)]

    def _left(self, plan: Tensor) -> Tensor | None:
        left = plan[:, self.config.every:]
        return left if self.config.warm_start and left.shape[1] else None

    def _plan(self, context: Tensor | Latent, goal: Tensor | None, rows: Tensor, done: Tensor, left: Tensor | None,
              sampler: Sampler) -> Tensor:
        device = next(self.model.parameters()).device
        past = done[rows][:, done.shape[1] - (context.shape[1] - 1):]
        generator = sampler.generator
        if generator is None and sampler.deterministic:
            generator = torch.Generator(device).manual_seed(0)
        task = self._task(context.to(device), None if goal is None else goal[rows].to(device), past.to(device),
                          generator)
        return self.planner.solve(task, self.config.horizon, initial=left, generator=generator).actions.cpu()


def _like(rows: Tensor, x: Tensor) -> Tensor:
    """``[B]`` with axes of size 1, so that it spreads over ``x``."""
    return rows.reshape(-1, *[1] * (x.ndim - 1))
