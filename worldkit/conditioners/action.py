"""Continuous actions, one vector per transition.

Source: upstream lpwm modules/modules.py @ 4cf53c4 (action_proj, null_action_embeddings), written from its description.
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor, nn

from ..batch import check_shape
from ..conditions import Condition
from ..config import ObsSpec
from ..nn.attention import RMSNorm
from ..registry import register_conditioner
from .base import Conditioner, ConditionerConfig, ModelView


class ActionConfig(ConditionerConfig):
    """Options of the action conditioner.

    Attributes:
        dim: Numbers per action.
        null_embedding: Learn a stand-in for actions that are not given (mask False).
    """

    name: str = "action"
    dim: int = Field(gt=0)
    null_embedding: bool = False


@register_conditioner("action", aliases=("actions",))
class ActionConditioner(Conditioner):
    """Actions ``[B, T, A]`` -> one vector per transition: Linear, RMSNorm, GELU.

    With several views, actions may also be given per view, ``[B, V, T, A]``; then the condition is one vector per token
    group of that view.
    """

    Config = ActionConfig
    per_frame = True

    def __init__(self, config: ActionConfig, *, dim: int, obs: ObsSpec):
        super().__init__(config, dim=dim, obs=obs)
        self.project = nn.Sequential(nn.Linear(config.dim, dim), RMSNorm(dim), nn.GELU())
        self.takes_mask = config.null_embedding
        self.null = nn.Parameter(0.02 * torch.randn(config.dim)) if config.null_embedding else None

    def check(self, raw: Tensor, *, name: str) -> None:
        per_view = self.obs.views > 1 and raw.ndim == 4
        sizes = {"a": self.config.dim} | ({"v": self.obs.views} if per_view else {})
        check_shape(raw, "b v t a" if per_view else "b t a", name=f"condition '{name}'", **sizes)

    def forward(self, raw: Tensor, mask: Tensor | None, *, view: ModelView) -> Condition:
        if mask is not None:
            given = mask[..., None].to(raw.dtype)
            raw = raw * given + self.null * (1 - given)
        out = self.project(raw)
        return Condition(frame=out) if out.ndim == 3 else Condition(token=view.spread(out))
