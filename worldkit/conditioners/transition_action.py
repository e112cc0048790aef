"""Actions as PlaNet and Dreamer tell them to their state-space model.

v3: each number of an action is divided by its size where that is above 1 (without gradient), then come linear layer,
norm and activation (the defaults). PlaNet, v1 and v2 put action and state into one linear layer: here its rows of the
action, without bias, norm and activation, whose result the cell adds to the others'. An action that is not given (of
a transition into the first frame of an episode) is one of zeros BEFORE the layer, also if actions are choices: it is
none of them.

Source: danijar/dreamerv3 @ e3f0224, danijar/dreamerv2 @ 07d906e, written from their description.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from ..conditions import Condition
from ..config import ObsSpec
from ..errors import ConfigError
from ..nn.dense import ACTIVATIONS, Activation, Init, Norm, init_weight_, make_norm, normed
from .action import EITHER, ActionConditioner, ActionConfig
from .base import Conditioner, ModelView


class TransitionActionConfig(ActionConfig):
    """Options of Dreamer's action conditioner; at most one of ``dim`` and ``num_actions`` is given.

    Attributes:
        null_embedding: What is not given is an action of zeros, always.
        bound: Divide the numbers of an action by their size, where that is above 1.
        bias, norm, norm_eps, activation, init: Of the layer.
        fan_in: Inputs that the initial weights count on; None: those of the action. With the layer of PlaNet, v1 and
            v2, which sees the drawn part of the state, too: the two together.
    Example:
        >>> TransitionActionConfig(dim=6, bound=False, bias=False, norm="none", activation="none", init="glorot").dim
        6
    """

    name: str = "transition-action"
    null_embedding: Literal[True] = True  # type: ignore[assignment]
    bound: bool = True
    bias: bool = True
    norm: Norm = "rms"
    norm_eps: float = Field(default=1e-4, gt=0)
    activation: Activation = "silu"
    init: Init = "truncated-normal"
    fan_in: int | None = Field(default=None, gt=0)


class TransitionActionConditioner(ActionConditioner):
    """Actions -> one vector per transition; values and masks as of conditioner "action".

    Example:
        >>> config = TransitionActionConfig(num_actions=4, norm="none", activation="none")
        >>> told = TransitionActionConditioner(config, dim=5, obs=ObsSpec(height=8, width=8))
        >>> first = told(torch.tensor([[0, 2]]), torch.tensor([[False, True]]), view=None).frame
        >>> first[0, 0].abs().max().item()  # not given, and the bias begins at 0
        0.0
    """

    Config = TransitionActionConfig
    config: TransitionActionConfig

    def __init__(self, config: TransitionActionConfig, *, dim: int, obs: ObsSpec):
        Conditioner.__init__(self, config, dim=dim, obs=obs)
        if config.dim is None and config.num_actions is None:
            raise ConfigError(f"conditioner '{config.name}': {EITHER}; neither was given (training finds it in its "
                              "data)")
        self.discrete = config.num_actions is not None
        self.time_axis, self.takes_mask = -1 if self.discrete else -2, True
        width = config.num_actions or config.dim
        self.linear = nn.Linear(width, dim, bias=config.bias)
        init_weight_(self.linear.weight, config.init, fan_in=config.fan_in or width, fan_out=dim)
        if config.bias:
            nn.init.zeros_(self.linear.bias)
        self.norm = make_norm(config.norm, dim, config.norm_eps)
        self.activation = ACTIVATIONS[config.activation]

    def forward(self, raw: Tensor, mask: Tensor | None, *, view: ModelView) -> Condition:
        weight = self.linear.weight
        x = raw if raw.is_floating_point() else F.one_hot(raw.long(), weight.shape[1])
        x = x.to(weight.dtype)
        if mask is not None:  # where, so that not even a NaN hidden there gets through
            x = torch.where(mask.reshape(*mask.shape, *[1] * (x.ndim - mask.ndim)), x, x.new_zeros(()))
        if self.config.bound:
            x = x / x.detach().abs().clamp(min=1)
        out = normed(self.norm, self.activation, self.linear(x))
        return Condition(frame=out) if out.ndim == 3 else Condition(token=view.spread(out))
