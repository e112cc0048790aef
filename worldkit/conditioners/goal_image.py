"""A goal image, encoded by the model itself: token n is told about token n of the goal.

Source: upstream lpwm modules/modules.py @ 4cf53c4 (goal_proj), written from its description.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..batch import check_shape
from ..conditions import Condition
from ..config import ObsSpec
from ..nn.attention import RMSNorm
from .base import Conditioner, ConditionerConfig, ModelView, stand_in


class GoalImageConfig(ConditionerConfig):
    """Options of the goal-image conditioner.

    Attributes:
        null_embedding: Learn a stand-in for the goal of clips that have none (mask ``[B]`` False).
    """

    name: str = "goal-image"
    null_embedding: bool = False


class GoalImageConditioner(Conditioner):
    """Goal ``[B, C, H, W]`` (``[B, V, C, H, W]``), uint8 or float -> one vector per token, the same for all times.

    Linear, RMSNorm and GELU over the goal's tokens as the receiver embeds them. A clip without a goal (mask ``[B]``
    False) still needs an image of the right size, any; all its tokens are told the null embedding instead.
    """

    Config = GoalImageConfig
    gives = frozenset({"token"})
    embeds = True

    def __init__(self, config: GoalImageConfig, *, dim: int, obs: ObsSpec):
        super().__init__(config, dim=dim, obs=obs)
        self.project = nn.Sequential(nn.Linear(dim, dim), RMSNorm(dim), nn.GELU())
        self.takes_mask = config.null_embedding
        self.null = nn.Parameter(0.02 * torch.randn(dim)) if config.null_embedding else None

    def check(self, raw: Tensor, *, name: str) -> None:
        obs, name = self.obs, f"condition '{name}'"
        if obs.views == 1:
            check_shape(raw, "b c h w", name=name, c=obs.channels, h=obs.height, w=obs.width)
        else:
            check_shape(raw, "b v c h w", name=name, v=obs.views, c=obs.channels, h=obs.height, w=obs.width)

    def forward(self, raw: Tensor, mask: Tensor | None, *, view: ModelView) -> Condition:
        tokens = self.project(view.embed(view.encode(raw.unsqueeze(-4))))
        return Condition(token=stand_in(tokens, mask, self.null))
