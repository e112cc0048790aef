"""World models as objectives: what candidates lead to, imagined for all problems and candidates at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from einops import repeat
from torch import Tensor

from ..batch import as_table, to_float_video
from ..errors import ConditionError, ConfigError, ShapeError, WorldkitError
from ..latents import Latent
from ..memory import keep_freed_memory
from .objective import Objective, Score, total_violation
from .spaces import Continuous, Discrete, Space, as_space, check_actions

if TYPE_CHECKING:
    from ..model import Rollout, WorldModel

Constraint = Callable[["Imagined", "Goal"], Tensor]
"""Holds where it gives at most 0: ``[problems, candidates]``."""


class Goal:
    """What is wanted, as a picture and as a latent: what was not given is encoded or drawn when a cost asks for it.

    Args:
        model: The model that encodes and draws.
        wanted: Pictures ``[problems, C, H, W]`` (``[problems, V, C, H, W]``), latents ``[problems, 1]``, or None.
    """

    def __init__(self, model: WorldModel, wanted: Tensor | Latent | None):
        self._model, self._wanted = model, wanted

    @property
    def given(self) -> bool:
        """Whether there is one."""
        return self._wanted is not None

    @cached_property
    def latent(self) -> Latent:
        """``[problems, 1]``."""
        if isinstance(self._wanted, Latent):
            return self._wanted
        with torch.no_grad():
            return self._model.encode(self._picture().unsqueeze(-4))

    @cached_property
    def video(self) -> Tensor:
        """``[problems, C, H, W]`` (``[problems, V, C, H, W]``), in [0, 1]."""
        if isinstance(self._wanted, Latent):
            with torch.no_grad():
                return self._model.decode(self._wanted).video.clamp(0, 1).squeeze(-4)
        return to_float_video(self._picture(), name="goal")

    def _picture(self) -> Tensor:
        if self._wanted is None:
            raise WorldkitError("no goal was given: Shooting(..., goal=picture)")
        return self._wanted


@dataclass(frozen=True)
class Imagined:
    """What a model predicts for candidates. Rows are problems, then candidates: ``rows = problems * candidates``.

    Attributes:
        rollout: The prediction, ``[rows, horizon]``; not drawn.
        actions: ``[problems, candidates, horizon, *action]``.
        model: The model that predicted it.
    """

    rollout: Rollout
    actions: Tensor
    model: WorldModel

    @property
    def latents(self) -> Latent:
        """``[rows, horizon]``."""
        return self.rollout.latents

    def draw(self, frames: slice = slice(None)) -> Tensor:
        """Pictures of some frames, ``[problems, candidates, T, C, H, W]`` (``[..., V, T, C, H, W]``), not clamped."""
        return self.split(self.model.decode(self.latents[:, frames]).video)

    def split(self, x: Tensor) -> Tensor:
        """``[rows, ...]`` -> ``[problems, candidates, ...]``."""
        return x.reshape(*self.actions.shape[:2], *x.shape[1:])


class Shooting(Objective):
    """Candidates cost what a model predicts of them.

    The frames seen so far are encoded once, when this is made; problems and candidates are rolled out together. The
    rollouts follow means, unless they are to be drawn.

    Args:
        model: A world model whose condition ``action`` is to be planned.
        context: Frames ``[problems, C0, C, H, W]`` (``[problems, V, C0, ...]``), uint8 or float in [0, 1], or their
            latents ``[problems, C0]``.
        cost: ``cost(imagined, goal) -> [problems, candidates]``, such as `worldkit.planning.ObjectDistance`.
        goal: Pictures ``[problems, C, H, W]`` (one picture: for all) or latents ``[problems, 1]``.
        space: What actions there are, see `as_space`; a model of discrete actions knows them.
        action: Name of the condition.
        past: Actions between the frames of the context, ``[problems, C0 - 1, *action]``; needed if there are several.
        conditions: Other conditions of the model, ``[problems, ...]``.
        constraints: ``g(imagined, goal) -> [problems, candidates]``; each holds where it is at most 0.
        rows: Candidates of all problems that are imagined at once, at most. Fewer take less memory.
        sample: Draw what candidates lead to, as PlaNet does, instead of following means.
        generator: Source of that randomness.
    Raises:
        ConfigError: the model takes no such actions, or others than the space has; or the space is not known.
        ShapeError, ConditionError: context, goal, past or conditions do not fit.
        WorldkitError: the model lacks what the cost needs.
    Example:
        >>> import worldkit as wk
        >>> from worldkit.planning import CEM, Continuous, ObjectDistance
        >>> model = wk.create_model("lpwm-push-mini", conditioners={"action": {"name": "action", "dim": 2}})
        >>> task = Shooting(model, torch.rand(3, 1, 3, 32, 32), ObjectDistance(), goal=torch.rand(3, 3, 32, 32),
        ...                 space=Continuous((-1, -1), (1, 1)))
        >>> CEM(candidates=4, iterations=1, elites=2).solve(task, horizon=2).actions.shape
        torch.Size([3, 2, 2])
    """

    def __init__(
        self, model: WorldModel, context: Tensor | Latent, cost: Callable[[Imagined, Goal], Tensor], *,
        goal: Tensor | Latent | None = None, space: Any = None, action: str = "action", past: Tensor | None = None,
        conditions: Mapping[str, Any] | None = None, constraints: Sequence[Constraint] = (), rows: int = 512,
        sample: bool = False, generator: torch.Generator | None = None,
    ):
        self.model, self.cost, self.action, self.constraints = model, cost, action, tuple(constraints)
        self.space = space_of(model, space, action)
        if rows < 1:
            raise ConfigError(f"rows must be at least 1, got {rows}")
        keep_freed_memory()
        self.rows, self.sample, self.generator = rows, sample, generator
        self.conditions = dict(as_table(conditions, "conditions"))
        if action in self.conditions:
            raise ConditionError(f"'{action}' is what is planned: give the actions between the frames as past=")
        self.start = self._look(context, past)
        self.problems, self.frames = self.start.shape
        self.device = next(iter(self.start.values.values())).device
        self.goal = Goal(model, self._one_each(goal, "goal"))
        self.past = self._check_past(past)
        getattr(cost, "check", lambda model, goal: None)(model, self.goal)

    @torch.no_grad()
    def _look(self, context: Tensor | Latent, past: Tensor | None) -> Latent:
        """What is seen in the context; a model that filters is told the actions inside it."""
        if isinstance(context, Latent):
            return context
        dynamics = getattr(self.model, "dynamics", None)
        if dynamics is None or not dynamics.filtering or not torch.is_tensor(context) or context.ndim < 5:
            return self.model.encode(context)
        self.problems, self.frames, self.device = context.shape[0], context.shape[-4], context.device
        done = self._check_past(past)
        told = {} if done is None else {self.action: done}
        return self.model.encode(context, conditions={**self.conditions, **told})

    def _one_each(self, goal: Tensor | Latent | None, name: str) -> Tensor | Latent | None:
        if goal is None:
            return None
        if isinstance(goal, Latent):
            if goal.shape[1] != 1:
                raise ShapeError(f"{name} must be latents [problems, 1], got {list(goal.shape)}: z[:, -1:]")
        elif not torch.is_tensor(goal) or goal.ndim not in (4, 5):
            raise ShapeError(f"{name} must be pictures [problems, C, H, W], got "
                             f"{list(goal.shape) if torch.is_tensor(goal) else type(goal).__name__}")
        count = goal.shape[0]
        if count not in (1, self.problems):
            raise ShapeError(f"{name} must be one for each of the {self.problems} problems, or one for all, "
                             f"got {count}")
        if count == self.problems:
            return goal
        spread = lambda x: x.expand(self.problems, *x.shape[1:])  # noqa: E731
        return goal.map(spread) if isinstance(goal, Latent) else spread(goal)

    def _check_past(self, past: Tensor | None) -> Tensor | None:
        count = self.frames - 1
        if past is None and count:
            raise ConditionError(
                f"the context has {self.frames} frames: give the {count} action{'s' if count > 1 else ''} between "
                f"them, past=[{self.problems}, {count}, ...], or one frame as context"
            )
        if past is None:
            return None
        check_actions(past, self.space, (self.problems, count), name="past")
        return past.to(self.device)

    def score(self, actions: Tensor) -> Score:
        check_actions(actions, self.space, (self.problems, -1, -1), name="actions")
        at_once = max(1, self.rows // self.problems)
        parts = [self._score(part) for part in actions.split(at_once, 1)]
        violations = [part.violation for part in parts if part.violation is not None]
        return Score(torch.cat([part.cost for part in parts], 1), torch.cat(violations, 1) if violations else None)

    def _score(self, actions: Tensor) -> Score:
        imagined = self.imagine(actions)
        values = [constraint(imagined, self.goal) for constraint in self.constraints]
        return Score(self.cost(imagined, self.goal), total_violation(values))

    def imagine(self, actions: Tensor) -> Imagined:
        """What the model predicts for candidates ``[problems, candidates, horizon, *action]``, all of them at once."""
        count, horizon = actions.shape[1:3]
        told = {name: self._spread(value, count) for name, value in self.conditions.items()}
        told[self.action] = self._told(actions)
        start = self.start.map(lambda x: repeat(x, "p ... -> (p s) ...", s=count))
        rollout = self.model.rollout(start, horizon, conditions=told, deterministic=not self.sample,
                                     generator=self.generator, decode=False)
        return Imagined(rollout, actions, self.model)

    def _told(self, actions: Tensor) -> Tensor:
        """Actions of context and horizon, ``[rows, C0 + horizon, *action]``; the last one leads out of what is seen."""
        flat = actions.flatten(0, 1)
        parts = [flat, torch.zeros_like(flat[:, :1])]
        if self.past is not None:
            parts.insert(0, repeat(self.past.to(actions.dtype), "p ... -> (p s) ...", s=actions.shape[1]))
        return torch.cat(parts, 1)

    def _spread(self, value: Any, count: int) -> Any:
        if torch.is_tensor(value):
            return repeat(value, "p ... -> (p s) ...", s=count)
        return [text for text in value for _ in range(count)]


def space_of(model: WorldModel, space: Any, action: str = "action") -> Space:
    """The space to plan in, once it is sure that the model is told such actions.

    Raises:
        ConfigError: it is not.
    """
    known = getattr(model.config, "conditioners", {})
    config = known.get(action)
    dim, choices = getattr(config, "dim", None), getattr(config, "num_actions", None)
    if dim is None and choices is None:
        raise ConfigError(
            f"this model is told no condition '{action}' of actions, so there is nothing to plan; it is told: "
            f"{', '.join(known) or 'nothing'}. Train one that is: worldkit train PRESET --data ... -o "
            "conditioners.action=action"
        )
    if space is None:
        if choices is None:
            raise ConfigError(f"say what actions there are, {dim} numbers: space=env.action_space, or "
                              "space=worldkit.planning.Continuous(low, high)")
        return Discrete(choices)
    space = as_space(space)
    found = f"{space.dim} numbers" if isinstance(space, Continuous) else f"{space.n} choices"
    wanted = f"{dim} numbers" if choices is None else f"{choices} choices"
    if found != wanted:
        raise ConfigError(f"this model is told actions of {wanted}, and the space has actions of {found}: plan with a "
                          "model that was trained in this environment")
    return space
