"""The planner's contract, and the loop of those that sample: propose, score, learn."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property, reduce
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from ..errors import ConfigError, ShapeError, WorldkitError
from .objective import Objective, Score, check_score
from .spaces import Continuous, Discrete, Space, check_actions

_NONE = torch.empty(0, 0)
Generator = torch.Generator | Sequence[torch.Generator] | None
"""Of all problems, or one for each (then a plan does not depend on what else is planned); None: the global one."""
Returns = Literal["mean", "best"]
"""``"mean"``: what the distribution has come to, unless it cannot be scored, or violates constraints more than the best
candidate does. ``"best"``: the best candidate of all."""


@dataclass(frozen=True)
class Round:
    """What a planner considered at once; handed to ``watch``.

    Attributes:
        number: From 0.
        actions: ``[problems, candidates, horizon, *action]``.
        score: Of these candidates.
    """

    number: int
    actions: Tensor
    score: Score


@dataclass(frozen=True)
class Plan:
    """Actions, and what they cost.

    Attributes:
        actions: ``[problems, horizon, *action]``: floats ``[..., dim]``, or whole numbers.
        cost: ``[problems]``, of exactly these actions.
        violation: ``[problems]``, 0 where all constraints hold; None without constraints.
        history: ``[problems, rounds]``: the best cost of the candidates of every round (of those that violate
            constraints least).
    """

    actions: Tensor = field(repr=False)
    cost: Tensor
    violation: Tensor | None = None
    history: Tensor = field(default=_NONE, repr=False)

    def after(self, steps: int = 1) -> Tensor:
        """What is left to do after ``steps`` actions, ``[problems, horizon - steps, *action]``: the next warm start."""
        return self.actions[:, steps:].clone()


@dataclass(frozen=True)
class Planner(ABC):
    """Searches for actions that cost little; its options are the fields of its class.

    A planner keeps nothing from one `solve` to the next.
    """

    SPACES: ClassVar[type] = Continuous
    LEAST: ClassVar[dict[str, float]] = {}
    """Option -> smallest value."""

    def __post_init__(self) -> None:
        for option in fields(self):
            value, least = getattr(self, option.name), self.LEAST.get(option.name)
            if least is not None and not (value >= least):
                raise ConfigError(f"{type(self).__name__}: {option.name} must be at least {least:g}, got {value!r}")

    def solve(
        self, objective: Objective, horizon: int, *, initial: Tensor | None = None, generator: Generator = None,
        watch: Callable[[Round], Any] | None = None,
    ) -> Plan:
        """Plan for all problems at once.

        Args:
            objective: What candidates cost, for example `worldkit.planning.Shooting`.
            horizon: Actions of a plan.
            initial: ``[problems, at most horizon, *action]``: where to start from, as `Plan.after` gives it. It is not
                changed.
            generator: Source of randomness.
            watch: Called with every `Round`; ``watch=rounds.append`` keeps them.
        Raises:
            ConfigError: actions of another kind than this planner makes.
            ShapeError: ``initial``, or what the objective gives, has another shape.
            WorldkitError: no candidate of a problem has a finite cost.
        """
        if not isinstance(objective.space, self.SPACES):
            raise ConfigError(wrong_space(type(self).__name__, objective.space))
        if not hasattr(horizon, "__index__") or horizon < 1:
            raise ShapeError(f"horizon must be at least 1, got {horizon!r}")
        if isinstance(generator, Sequence) and len(generator) != objective.problems:
            raise ShapeError(f"one generator for each of the {objective.problems} problems, got {len(generator)}")
        if initial is not None:
            check_actions(initial, objective.space, (objective.problems, -1), name="initial")
            if initial.shape[1] > horizon:
                raise ShapeError(f"initial has {initial.shape[1]} actions, more than the horizon of {horizon}")
            initial = initial.detach().to(objective.device)
        return self._solve(objective, horizon, initial, generator, watch or (lambda considered: None))

    @abstractmethod
    def _solve(self, objective: Objective, horizon: int, initial: Tensor | None, generator: Generator,
               watch: Callable[[Round], Any]) -> Plan:
        """`solve` with checked arguments."""


@dataclass(frozen=True)
class SamplingPlanner(Planner):
    """Candidates are drawn from a distribution that learns from their costs.

    Attributes:
        candidates: Drawn in every round, for every problem.
        iterations: Rounds.
        elites: The best candidates of a round, which the distribution learns from.
    """

    LEAST = {"candidates": 2, "iterations": 1, "elites": 2}

    candidates: int = 300
    iterations: int = 30
    elites: int = 30
    returns: Returns = "mean"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.elites > self.candidates:
            raise ConfigError(f"{type(self).__name__}: elites must be among the candidates, got elites={self.elites} "
                              f"of candidates={self.candidates}")
        if self.returns not in ("mean", "best"):
            raise ConfigError(f"{type(self).__name__}: returns must be 'mean' or 'best', got {self.returns!r}")

    @torch.no_grad()
    def _solve(self, objective: Objective, horizon: int, initial: Tensor | None, generator: Generator,
               watch: Callable[[Round], Any]) -> Plan:
        state, bests = self.begin(objective, horizon, initial), list[Plan]()
        for number in range(self.iterations):
            actions = self.propose(state, objective, generator)
            score = check_score(objective.score(actions), actions)
            elites = Elites.of(actions, score, self.elites)
            bests.append(elites.best(score))
            if not number:
                better(None, bests[0])
            watch(Round(number, actions, score))
            state = self.learn(state, elites)
        history = torch.stack([best.cost for best in bests], 1)
        if self.returns == "best":
            return replace(reduce(better, bests), history=history)
        mean = self.answer(state, objective)[:, None]
        score = check_score(objective.score(mean), mean)
        plan = Plan(mean[:, 0], score.cost[:, 0], None if score.violation is None else score.violation[:, 0], history)
        if score.violation is None and torch.isfinite(plan.cost).all():
            return plan
        return replace(keep_mean(plan, reduce(better, bests)), history=history)

    @abstractmethod
    def begin(self, objective: Objective, horizon: int, initial: Tensor | None) -> Any:
        """The first distribution."""

    @abstractmethod
    def propose(self, state: Any, objective: Objective, generator: Generator) -> Tensor:
        """Candidates ``[problems, candidates, horizon, *action]`` inside the space."""

    @abstractmethod
    def learn(self, state: Any, elites: Elites) -> Any:
        """The next distribution."""

    @abstractmethod
    def answer(self, state: Any, objective: Objective) -> Tensor:
        """The mean (or mode) of the distribution, ``[problems, horizon, *action]``, inside the space."""


def wrong_space(planner: str, space: Space) -> str:
    """The text of the refusal."""
    if isinstance(space, Discrete):
        return (f"{planner} plans with vectors of numbers, and these actions are {space.n} choices: take "
                "CategoricalCEM")
    return f"{planner} chooses among a few actions, and these are vectors of {space.dim} numbers: take CEM"


def rank_key(score: Score) -> Tensor:
    """``[problems, candidates]``, to sort by: candidates that violate least first, then by cost; inf if not finite."""
    cost = score.cost.float()
    if score.violation is None:
        return cost.nan_to_num(torch.inf, torch.inf, torch.inf)
    usable = torch.isfinite(cost) & torch.isfinite(score.violation)
    worst = cost.where(usable, -torch.inf).amax(1, keepdim=True).clamp(min=0)
    cost = torch.where(score.violation > 0, 2 * worst + 1 + score.violation.float(), cost)
    return cost.where(usable, torch.inf)


@dataclass(frozen=True)
class Elites:
    """The best candidates of every problem.

    Attributes:
        actions: ``[problems, elites, horizon, *action]``, best first.
        keys: What they are sorted by, ``[problems, elites]``; infinite where a cost is not finite.
        chosen: Which candidates they are, int64 ``[problems, elites]``.
    """

    actions: Tensor
    keys: Tensor
    chosen: Tensor

    @classmethod
    def of(cls, actions: Tensor, score: Score, count: int) -> Elites:
        """So many of the candidates ``[problems, candidates, horizon, *action]``."""
        keys, chosen = rank_key(score).topk(count, 1, largest=False)
        rows = torch.arange(len(keys), device=keys.device)[:, None]
        return cls(actions[rows, chosen], keys, chosen)

    @cached_property
    def usable(self) -> Tensor:
        """Bool ``[problems, elites]``: their costs are finite."""
        return torch.isfinite(self.keys)

    @cached_property
    def all_usable(self) -> bool:
        """Whether all are; the last one is the worst."""
        return self.keys[:, -1].amax().item() < torch.inf

    def best(self, score: Score) -> Plan:
        """The best candidate of every problem, a copy of it; where none has a finite cost, some one."""
        first = self.chosen[:, :1]
        return Plan(self.actions[:, 0].clone(), score.cost.gather(1, first)[:, 0],
                    None if score.violation is None else score.violation.gather(1, first)[:, 0])


def better(one: Plan | None, two: Plan) -> Plan:
    """Problem by problem, the plan that violates less, or costs less; the first one where they are equal.

    Raises:
        WorldkitError: there is no first one, and a problem of the second has no finite cost.
    """
    if one is None:
        lost = (~torch.isfinite(two.cost)).nonzero()[:, 0].tolist()
        if lost:
            which = f"problem{'s' if len(lost) > 1 else ''} {', '.join(map(str, lost))}"
            raise WorldkitError(f"no candidate has a finite cost: {which}, in the first round. Is there a NaN in the "
                                "frames, the goal or the model?")
        return two
    take = two.cost < one.cost
    if one.violation is not None and two.violation is not None:
        take = torch.where(one.violation == two.violation, take, two.violation < one.violation)
        take &= torch.isfinite(two.cost)
    return _choose(take, two, one)


def keep_mean(mean: Plan, best: Plan) -> Plan:
    """The mean, but where it cannot be scored or violates more than the best candidate, that one."""
    usable = torch.isfinite(mean.cost)
    if mean.violation is not None and best.violation is not None:
        usable &= mean.violation <= best.violation
    return _choose(usable, mean, best)


def _choose(take: Tensor, one: Plan, two: Plan) -> Plan:
    wide = take.reshape(-1, *[1] * (one.actions.ndim - 1))
    violation = None
    if one.violation is not None and two.violation is not None:
        violation = torch.where(take, one.violation, two.violation)
    return Plan(torch.where(wide, one.actions, two.actions), torch.where(take, one.cost, two.cost), violation)


def draw(kind: Callable[..., Tensor], shape: Sequence[int], generator: Generator, device: torch.device) -> Tensor:
    """Noise ``[problems, ...]`` of one generator, or of one per problem."""
    if isinstance(generator, Sequence):
        return torch.stack([kind(tuple(shape[1:]), generator=g, device=device) for g in generator])
    return kind(tuple(shape), generator=generator, device=device)


def begin_mean(space: Continuous, problems: int, horizon: int, initial: Tensor | None, device: torch.device) -> Tensor:
    """``[problems, horizon, dim]``: the warm start, then the middle of the space."""
    mean = space.middle(device).expand(problems, horizon, -1).clone()
    if initial is not None:
        mean[:, : initial.shape[1]] = initial
    return mean
