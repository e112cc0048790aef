"""Actions, one per transition: vectors of numbers, or one of a few choices.

Source of the continuous form: upstream lpwm modules/modules.py @ 4cf53c4 (action_proj, null_action_embeddings), written
from its description. The discrete form puts an embedding table in the place of the linear layer.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from ..batch import check_shape
from ..conditions import Condition
from ..config import ObsSpec
from ..errors import ConfigError, ShapeError
from ..nn.attention import RMSNorm
from .base import Conditioner, ConditionerConfig, ModelView, stand_in


class ActionConfig(ConditionerConfig):
    """Options of the action conditioner; at most one of ``dim`` and ``num_actions`` is given.

    Training finds in the data what is not given; a model is built with exactly one of them.

    Attributes:
        dim: Numbers per continuous action.
        num_actions: Choices of discrete actions, numbered from 0.
        null_embedding: Learn a stand-in for actions that are not given (mask False).
    Example:
        >>> ActionConfig(num_actions=4).num_actions
        4
    """

    name: str = "action"
    dim: int | None = Field(default=None, gt=0)
    num_actions: int | None = Field(default=None, gt=0)
    null_embedding: bool = False

    @model_validator(mode="after")
    def _continuous_or_discrete(self) -> ActionConfig:
        if self.dim is not None and self.num_actions is not None:
            raise ValueError(f"{EITHER}; both were, {self.dim} and {self.num_actions}")
        return self

    def complete(self, episodes: Iterable[np.ndarray]) -> ActionConfig:
        if self.dim is not None or self.num_actions is not None:
            return self
        rest = iter(episodes)
        first = next(rest)
        if first.dtype.kind in "iu":
            highest = max(int(numbers.max()) for numbers in (first, *rest))
            return type(self).parse(self.to_dict() | {"num_actions": highest + 1})
        return type(self).parse(self.to_dict() | {"dim": first.shape[-1]})


EITHER = (
    "give either dim (numbers per continuous action) or num_actions (choices of discrete actions) and leave the other "
    "out"
)
"""What to do about options of an action conditioner that leave out both, or give both."""


class ActionConditioner(Conditioner):
    """Actions -> one vector per transition: Linear (continuous) or a table (discrete), then RMSNorm, GELU.

    Continuous actions are float ``[B, T, A]``, discrete ones whole numbers ``[B, T]``, or one-hot float
    ``[B, T, num_actions]``, as policies give them, so that gradients reach what chose them. With several views, actions
    may also be given per view, ``[B, V, T, A]`` or ``[B, V, T]``; then the condition is one vector per token of it.
    A mask is ``[B]`` or has one entry per action.
    """

    Config = ActionConfig
    gives = frozenset({"frame"})  # and "token", if actions come per view
    per_frame = True

    def __init__(self, config: ActionConfig, *, dim: int, obs: ObsSpec):
        super().__init__(config, dim=dim, obs=obs)
        if config.dim is None and config.num_actions is None:
            raise ConfigError(f"conditioner 'action': {EITHER}; neither was given (training finds it in its data)")
        self.discrete = config.num_actions is not None
        self.time_axis = -1 if self.discrete else -2
        first = nn.Embedding(config.num_actions, dim) if self.discrete else nn.Linear(config.dim, dim)
        self.project = nn.Sequential(first, RMSNorm(dim), nn.GELU())
        self.takes_mask = config.null_embedding
        width = dim if self.discrete else config.dim  # a number has no stand-in, its row of the table has
        self.null = nn.Parameter(0.02 * torch.randn(width)) if config.null_embedding else None

    def check(self, raw: Tensor, *, name: str) -> None:
        what = f"condition '{name}'"
        if torch.is_tensor(raw):
            self._check_dtype(raw, what)
        vectors = torch.is_tensor(raw) and raw.is_floating_point()
        axes = "b t a" if vectors or not self.discrete else "b t"
        sizes = {"a": self.config.num_actions if self.discrete else self.config.dim} if axes == "b t a" else {}
        if self.obs.views > 1 and torch.is_tensor(raw) and raw.ndim == len(axes.split()) + 1:
            axes, sizes = axes.replace("b", "b v"), sizes | {"v": self.obs.views}
        check_shape(raw, axes, name=what, **sizes)
        if type(raw) is not Tensor:  # a dry run has no values
            return
        if self.discrete and vectors and raw.numel():
            low, high = (float(x) for x in torch.aminmax(torch.cat([raw.detach(), raw.detach().sum(-1, True)], -1)))
            if not (low >= -1e-3 and high <= 1 + 1e-3):
                raise ShapeError(
                    f"{what} must hold action numbers, or one-hot floats [B, T, {self.config.num_actions}]: shares of "
                    f"the choices, which add up to 1; got numbers or sums from {low:.3g} to {high:.3g}"
                )
        if self.discrete and not vectors and raw.numel():
            low, high = (int(x) for x in torch.aminmax(raw))
            if low < 0 or high >= self.config.num_actions:
                raise ShapeError(
                    f"{what} must hold action numbers from 0 to {self.config.num_actions - 1}, got {low} to {high}; "
                    "number the actions from 0, or create the model with a larger num_actions"
                )

    def _check_dtype(self, raw: Tensor, what: str) -> None:
        whole = not raw.is_floating_point() and not raw.is_complex() and raw.dtype != torch.bool
        if self.discrete and not whole and not (raw.is_floating_point() and raw.ndim > 2):
            raise ShapeError(
                f"{what} must hold action numbers [B, T] of dtype int64, got {raw.dtype} {list(raw.shape)}; convert "
                "them with .long(), or create the model with dim=... instead of num_actions for continuous actions"
            )
        if not self.discrete and not raw.is_floating_point():
            raise ShapeError(
                f"{what} must hold float vectors [B, T, {self.config.dim}], got {raw.dtype} {list(raw.shape)}; convert "
                "them with .float(), or create the model with num_actions=... instead of dim for discrete actions"
            )

    def axis(self, raw: Tensor) -> int:
        return -2 if raw.is_floating_point() else self.time_axis

    def absent(self, batch: int, device: torch.device) -> Tensor:
        if self.discrete:
            return torch.zeros(batch, 1, dtype=torch.long, device=device)
        return torch.zeros(batch, 1, self.config.dim, device=device)

    def forward(self, raw: Tensor, mask: Tensor | None, *, view: ModelView) -> Condition:
        if self.discrete:
            table = self.project[0]
            rows = raw.to(table.weight.dtype) @ table.weight if raw.is_floating_point() else table(raw.long())
            out = self.project[1:](stand_in(rows, mask, self.null))
        else:
            out = self.project(stand_in(raw, mask, self.null))
        return Condition(frame=out) if out.ndim == 3 else Condition(token=view.spread(out))
