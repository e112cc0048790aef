"""Both ways between worldkit and stable-worldmodel: its solvers plan in our models, our planners in its models.

Nothing is imported from it, so this works with version 0.1.1 and with its main branch (read at addbab4), whose solvers
take what they call a cost as first argument::

    cost = SwmCost(model, PixelDistance())
    solver = CEMSolver(cost, batch_size=8)              # stable_worldmodel.solver, or .planning.solver
    solver.solve({"pixels": frames, "goal": goals})     # [n, T, C, H, W] and [n, 1, C, H, W]

    task = SwmObjective(lewm, {"pixels": frames, "goal": goals}, env.action_space)
    plan = CEM().solve(task, horizon=5)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from einops import rearrange
from torch import Tensor, nn

from ..errors import ConfigError, ShapeError, WorldkitError
from .objective import Objective, Score, total_violation
from .shooting import Constraint, Goal, Imagined, Shooting
from .spaces import Continuous, Discrete, as_space, check_actions

if TYPE_CHECKING:
    from ..model import WorldModel

_INF = float("inf")


class SwmCost(nn.Module):
    """A worldkit model and a cost, as the ``Costable`` of stable-worldmodel's solvers.

    Frames and goals are encoded once per solve. Frames are uint8 or float in [0, 1] at the model's size, channels
    first: leave normalising transforms out. With several frames, ``info["action_history"]`` holds the actions between
    them. A block of actions is told one after the other, discrete ones as one-hot vectors.

    Args:
        model: A world model that is told actions.
        cost: As for `Shooting`.
        action: Name of the condition.
        conditions: Other conditions of the model; each is taken from the info under its name.
        constraints: As for `Shooting`; with some, there is ``get_constraints`` for its LagrangianSolver.
        rows: As for `Shooting`.
    """

    def __init__(
        self, model: WorldModel, cost: Callable[[Imagined, Goal], Tensor], *, action: str = "action",
        conditions: Sequence[str] = (), constraints: Sequence[Constraint] = (), rows: int = 512,
    ):
        super().__init__()
        self.model, self.cost, self.rows = model, cost, rows
        self.action, self.conditions, self.constraints = action, tuple(conditions), tuple(constraints)
        config = model.config.conditioners.get(action)
        dim, choices = getattr(config, "dim", None), getattr(config, "num_actions", None)
        self.space = Continuous((-_INF,) * dim, (_INF,) * dim) if dim else Discrete(choices) if choices else None
        self._seen: tuple[list[Any], Shooting] | None = None
        if self.constraints:
            self.get_constraints = self._get_constraints

    def get_cost(self, info_dict: Mapping[str, Any], action_candidates: Tensor) -> Tensor:
        """Costs ``(B, S)`` of candidates ``(B, S, horizon, block * action)``; entries of the info are (B, S, ...)."""
        with _frozen(self.model):
            return self._task(info_dict).score(self._actions(action_candidates)).cost

    def criterion(self, info_dict: Mapping[str, Any], action_candidates: Tensor) -> Tensor:
        """The same as `get_cost`."""
        return self.get_cost(info_dict, action_candidates)

    def _get_constraints(self, info_dict: Mapping[str, Any], action_candidates: Tensor) -> Tensor:
        """``(B, S, C)``; each holds where it is at most 0."""
        with _frozen(self.model):
            task = self._task(info_dict)
            imagined = task.imagine(self._actions(action_candidates))
            return torch.stack([constraint(imagined, task.goal) for constraint in self.constraints], -1)

    def _actions(self, candidates: Tensor) -> Tensor:
        """One action per step."""
        width = self.space.dim if isinstance(self.space, Continuous) else self.space.n
        if candidates.ndim != 4 or candidates.shape[-1] % width:
            raise ShapeError(f"candidates must be [B, S, horizon, a multiple of {width}], got "
                             f"{list(candidates.shape)}: configure(action_space=...) takes the space of all "
                             "environments, [n, action]")
        steps = rearrange(candidates, "b s h (k a) -> b s (h k) a", a=width)
        return steps if isinstance(self.space, Continuous) else steps.argmax(-1)

    def _task(self, info: Mapping[str, Any]) -> Shooting:
        """The start and the goal, encoded when these tensors are seen first."""
        names = ("pixels", "goal", "action_history", *self.conditions)
        marks = [_mark(info.get(name)) for name in names]
        if self._seen is None or not all(_same(a, b) for a, b in zip(self._seen[0], marks, strict=True)):
            found = {name: self._first(info[name]) for name in names if info.get(name) is not None}
            if "pixels" not in found:
                raise WorldkitError(f"the info has no 'pixels'; it has: {', '.join(info) or 'nothing'}")
            goal, past = found.get("goal"), found.get("action_history")
            if past is not None:
                past = self._actions(past[:, None])[:, 0] if past.shape[1] else None
            told = {name: found[name] for name in self.conditions if name in found}
            task = Shooting(
                self.model, found["pixels"], self.cost, goal=None if goal is None else goal[:, -1], space=self.space,
                action=self.action, past=past, conditions=told, constraints=(), rows=self.rows,
            )
            self._seen = marks, task
        return self._seen[1]

    @staticmethod
    def _first(value: Any) -> Tensor:
        """The entry of the first candidate: all have the same."""
        return torch.as_tensor(value)[:, 0]


def _mark(value: Any) -> Any:
    """What tells whether a tensor is the one seen before, unchanged; it is kept, so that no other takes its place."""
    if not torch.is_tensor(value):
        return value, 0
    return value, 0 if value.is_inference() else value._version


def _same(one: Any, two: Any) -> bool:
    return one[0] is two[0] and one[1] == two[1]


@contextmanager
def _frozen(model: Any) -> Iterator[None]:
    """Gradients go to the actions, and none are left on the model."""
    trained = [p for p in model.parameters() if p.requires_grad] if hasattr(model, "parameters") else []
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)


class SwmObjective(Objective):
    """A model of stable-worldmodel, or anything with its protocol, as an objective of our planners.

    A model with ``get_cost(info, candidates)`` says what candidates cost (a ``ShootingCostEvaluator``, LeWM of 0.1.1);
    of one with ``encode`` and ``rollout`` alone it is the squared distance of the last predicted embedding to that of
    the goal, as in its ``GoalMSE``. Start and goal are encoded once: embeddings that it leaves in the info (``"emb"``,
    ``"goal_emb"``) are handed back to it. Models that do all three (those of 0.1.1) are asked about one problem at a
    time: they compare every problem with the goals of all.

    Args:
        model: The model.
        info: Entry -> ``[problems, ...]``: ``"pixels"`` ``[problems, T, C, H, W]``, ``"goal"`` likewise, and what else
            the model reads.
        space: See `as_space`.
        block: Actions that the model is told at once; the horizon is a multiple of it.
        rows: Candidates of all problems that are scored at once, at most.
    Raises:
        ConfigError: the model has none of these methods.
        WorldkitError: the info has no pixels.
    """

    def __init__(self, model: Any, info: Mapping[str, Any], space: Any, *, block: int = 1, rows: int = 512):
        if not hasattr(model, "get_cost") and not (hasattr(model, "encode") and hasattr(model, "rollout")):
            raise ConfigError(f"{type(model).__name__} has neither get_cost, nor encode and rollout")
        self.model, self.space, self.block, self.rows = model, as_space(space), block, rows
        info = {name: torch.as_tensor(value) for name, value in info.items()}
        if "pixels" not in info:
            raise WorldkitError(f"the info has no 'pixels'; it has: {', '.join(info) or 'nothing'}")
        self.problems, self.device = len(info["pixels"]), info["pixels"].device
        at_once = 1 if hasattr(model, "get_cost") and hasattr(model, "rollout") else self.problems
        self._infos = [{name: x[start : start + at_once] for name, x in info.items()}
                       for start in range(0, self.problems, at_once)]
        self._known: list[dict[str, Tensor]] = [{} for _ in self._infos]

    def score(self, actions: Tensor) -> Score:
        check_actions(actions, self.space, (self.problems, -1, -1), name="actions")
        if actions.shape[2] % self.block:
            raise ShapeError(f"the model is told {self.block} actions at once, so the horizon must be a multiple of "
                             f"that, got {actions.shape[2]}")
        if isinstance(self.space, Discrete):
            actions = nn.functional.one_hot(actions, self.space.n).float()
        candidates = rearrange(actions, "p s (h k) a -> p s h (k a)", k=self.block)
        together = len(candidates) // len(self._infos)
        found = []
        for number, part in enumerate(candidates.split(together)):
            scores = [self._score(number, few) for few in part.split(max(1, self.rows // together), 1)]
            found.append([None if parts[0] is None else torch.cat(parts, 1) for parts in zip(*scores, strict=True)])
        cost, violation = (None if parts[0] is None else torch.cat(parts) for parts in zip(*found, strict=True))
        assert cost is not None
        return Score(cost, violation)

    def _score(self, number: int, candidates: Tensor) -> tuple[Tensor, Tensor | None]:
        """Cost and violation of candidates of some problems."""
        info, known = self._expanded(number, candidates), self._known[number]
        cost = getattr(self.model, "get_cost", self._distance)(info, candidates)
        known |= {name: info[name].detach() for name in ("emb", "goal_emb") if name in info and name not in known}
        if not hasattr(self.model, "get_constraints"):
            return cost, None
        values = self.model.get_constraints(self._expanded(number, candidates), candidates)
        return cost, total_violation(list(values.unbind(-1)))

    def _expanded(self, number: int, candidates: Tensor) -> dict[str, Tensor]:
        """The info for every candidate, without copies, and what was encoded before."""
        count = candidates.shape[1]
        info = {name: x[:, None].expand(len(x), count, *x.shape[1:]) for name, x in self._infos[number].items()}
        info.setdefault("action", candidates[:, :, :1])  # its goal encoder takes this entry away without asking
        for name, x in self._known[number].items():
            info[name] = x if name == "goal_emb" else x[:, :1].expand(-1, count, *x.shape[2:])
        return info

    def _distance(self, info: dict[str, Tensor], candidates: Tensor) -> Tensor:
        if "goal_emb" not in info:
            info["goal_emb"] = self.model.encode({"pixels": info["goal"][:, 0]})["emb"]
        last = self.model.rollout(info, candidates)["predicted_emb"][:, :, -1]
        return (last - info["goal_emb"][:, None, -1]).square().flatten(2).sum(-1)
