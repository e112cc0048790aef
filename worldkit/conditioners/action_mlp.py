"""Actions as LeWM and PLDM embed them: a linear layer that mixes their numbers, then a small MLP, one action at a time.

With frames skipped, the actions in between are one long action. Numbers that are missing (NaN) count as 0, as upstream.

Source: galilai-group/stable-worldmodel @ addbab4, written from its description (its first layer is a convolution of one
step, the same).
"""

from __future__ import annotations

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from ..conditions import Condition
from ..config import ObsSpec
from ..errors import ConfigError
from .action import EITHER, ActionConditioner, ActionConfig
from .base import Conditioner, ModelView


class ActionMLPConfig(ActionConfig):
    """Options of LeWM's action embedder; at most one of ``dim`` and ``num_actions`` is given.

    Attributes:
        null_embedding: Always so: zeros stand in, BEFORE the first layer, for actions that are not given.
        mixed: Numbers after the first layer.
        scale: The MLP is so many times as wide as what it gives.
    """

    name: str = "action-mlp"
    null_embedding: bool = True
    mixed: int = Field(default=10, gt=0)
    scale: int = Field(default=4, gt=0)


class ActionMLP(ActionConditioner):
    """Actions ``[B, T, A]`` (choices ``[B, T]``) -> one vector per transition.

    Example:
        >>> import torch
        >>> conditioner = ActionMLP(ActionMLPConfig(dim=2), dim=8, obs=ObsSpec(height=8, width=8))
        >>> missing = torch.tensor([[[0.5, float("nan")]]])
        >>> told = [conditioner(x, None, view=None).frame for x in (missing, missing.nan_to_num(0))]
        >>> torch.equal(*told)
        True
    """

    Config = ActionMLPConfig
    config: ActionMLPConfig

    def __init__(self, config: ActionMLPConfig, *, dim: int, obs: ObsSpec):
        Conditioner.__init__(self, config, dim=dim, obs=obs)  # not the parent's, which has other layers
        width = config.dim or config.num_actions
        if width is None:
            raise ConfigError(f"conditioner '{config.name}': {EITHER}; neither was given (training finds it in its "
                              "data)")
        self.discrete = config.num_actions is not None
        self.time_axis, self.takes_mask = -1 if self.discrete else -2, True
        self.mix = nn.Linear(width, config.mixed)
        self.net = nn.Sequential(nn.Linear(config.mixed, config.scale * dim), nn.SiLU(),
                                 nn.Linear(config.scale * dim, dim))

    def forward(self, raw: Tensor, mask: Tensor | None, *, view: ModelView) -> Condition:
        dtype = self.mix.weight.dtype
        x = raw.nan_to_num(0.0) if raw.is_floating_point() else F.one_hot(raw.long(), self.mix.in_features)
        x = x.to(dtype)
        if mask is not None:
            x = x.where(mask.reshape(*mask.shape, *[1] * (x.ndim - mask.ndim)), x.new_zeros(()))
        out = self.net(self.mix(x))
        return Condition(frame=out) if out.ndim == 3 else Condition(token=view.spread(out))
