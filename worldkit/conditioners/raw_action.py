"""Actions as they are: what lays them beside its latent itself, as TD-MPC2's networks do, wants no embedding.

A dynamics that leaves its width open (``dynamics.cond_dim``) gets as many numbers as the action has; discrete actions
are one-hot. One with a width of its own gets zeros behind them, so that one model can take the actions of several
environments.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from ..conditions import Condition
from ..config import ObsSpec
from ..errors import ConfigError
from .action import ActionConditioner, ActionConfig
from .base import Conditioner, ModelView


class RawActionConfig(ActionConfig):
    """Options of the raw-action conditioner; see `worldkit.conditioners.action.ActionConfig`.

    Attributes:
        null_embedding: Always so: zeros stand in for actions that are not given.
    """

    name: str = "raw-action"
    null_embedding: bool = True

    @property
    def given_width(self) -> int | None:
        """Numbers that are given on; None: not known yet."""
        return self.dim or self.num_actions


class RawAction(ActionConditioner):
    """Action ``[B, T, A]`` -> the same numbers, one vector per transition; zeros where it is not given.

    Example:
        >>> conditioner = RawAction(RawActionConfig(dim=2), dim=3, obs=ObsSpec(height=8, width=8))
        >>> import torch
        >>> conditioner(torch.ones(1, 1, 2), None, view=None).frame
        tensor([[[1., 1., 0.]]])
    """

    Config = RawActionConfig
    config: RawActionConfig
    takes_mask = True

    def __init__(self, config: RawActionConfig, *, dim: int, obs: ObsSpec):
        Conditioner.__init__(self, config, dim=dim, obs=obs)  # not the parent's: there is nothing to learn
        width = config.given_width
        if width is None:
            raise ConfigError("conditioner 'raw-action': say how many numbers an action has (dim), or how many choices "
                              "(num_actions); training finds it in its data")
        if width > dim:
            raise ConfigError(f"conditioner 'raw-action' gives {width} numbers, the dynamics takes {dim}: leave "
                              "dynamics.cond_dim out, or raise it")
        self.discrete = config.num_actions is not None
        self.time_axis = -1 if self.discrete else -2

    def forward(self, raw: Tensor, mask: Tensor | None, *, view: ModelView) -> Condition:
        if not raw.is_floating_point():
            raw = F.one_hot(raw.long(), self.config.num_actions).float()
        if mask is not None:
            raw = raw.where(mask.reshape(*mask.shape, *[1] * (raw.ndim - mask.ndim)), raw.new_zeros(()))
        out = F.pad(raw, (0, self.dim - raw.shape[-1]))
        return Condition(frame=out) if out.ndim == 3 else Condition(token=view.spread(out))
