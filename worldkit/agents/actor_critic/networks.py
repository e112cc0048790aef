"""Actor and critic: tokens of a state -> what to do, and what it is worth.

Both read a state as heads do (`worldkit.nn.readout.MLPReadout`): layers over every token, the mean of the tokens.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from ...config import Config
from ...distributions import full_precision
from ...errors import ConfigError
from ...nn.dense import DenseStack, linear
from ...nn.readout import MLPReadoutConfig
from ...nn.two_hot import expected, symexp_bins, two_hot_loss
from ..actions import ActionSpec
from .actions import ActionDistribution, BoundedNormal, OneHot, TanhNormal, TruncNormal

ActionKind = Literal["auto", "categorical", "bounded-normal", "tanh-normal", "trunc-normal"]


class ActorConfig(Config):
    """Options of an actor.

    Attributes:
        kind: Distribution of actions: ``"categorical"`` for choices, the others for vectors. ``"auto"``: categorical,
            or bounded-normal.
        readout: Layers; the factor on the initial weights of the last one is small, so that all is tried at first.
        min_std, max_std: Bounds of the deviation (bounded-normal), what is added to it (others).
        init_std: Deviation that tanh-normal begins with; 0: that of softplus.
        unimix: Share of the uniform distribution among choices.
    """

    kind: ActionKind = "auto"
    readout: MLPReadoutConfig = MLPReadoutConfig(layers=3, outscale=0.01)
    min_std: float = Field(default=0.1, gt=0)
    max_std: float = Field(default=1.0, gt=0)
    init_std: float = Field(default=5.0, ge=0)
    unimix: float = Field(default=0.0, ge=0, lt=1)

    def kind_for(self, action: ActionSpec) -> str:
        """The distribution of these actions.

        Raises:
            ConfigError: choices for a kind of vectors, or the other way round.
        """
        if self.kind == "auto":
            return "categorical" if action.discrete else "bounded-normal"
        if action.discrete != (self.kind == "categorical"):
            gives, fits = (("vectors of numbers", "'categorical'") if action.discrete else
                           ("one of a few choices", "'bounded-normal', 'tanh-normal' or 'trunc-normal'"))
            raise ConfigError(f"an actor of kind '{self.kind}' gives {gives}, and these actions are "
                              f"{action.in_words()}: take actor.kind {fits}, or leave it out (auto)")
        return self.kind


class Actor(nn.Module):
    """Tokens of states ``[..., K, D]`` -> a distribution of actions ``[..., A]``, in units of their bounds.

    Args:
        config: Options.
        feature_dim: D.
        action: What actions are.
    Raises:
        ConfigError: a kind of actor that does not give such actions.
    Example:
        >>> actor = Actor(ActorConfig(), feature_dim=6, action=ActionSpec(num_actions=3))
        >>> actor(torch.randn(2, 5, 1, 6)).mode().shape
        torch.Size([2, 5, 3])
    """

    def __init__(self, config: ActorConfig, *, feature_dim: int, action: ActionSpec):
        super().__init__()
        self.config, self.kind = config, config.kind_for(action)
        r = config.readout
        self.layers = DenseStack(feature_dim, units=r.units, layers=r.layers, norm=r.norm, activation=r.activation,
                                 eps=r.eps, init=r.init)
        names = ("logits",) if self.kind == "categorical" else ("mean", "std")
        self.out = nn.ModuleDict({name: linear(self.layers.width, action.width, init=r.init, scale=r.outscale)
                                  for name in names})

    def forward(self, features: Tensor) -> ActionDistribution:
        hidden = pooled(self.layers(features))
        raw = [full_precision(layer(hidden)) for layer in self.out.values()]
        c = self.config
        if self.kind == "categorical":
            return OneHot(*raw, unimix=c.unimix)
        if self.kind == "bounded-normal":
            return BoundedNormal.of_raw(*raw, min_std=c.min_std, max_std=c.max_std)
        if self.kind == "trunc-normal":
            return TruncNormal.of_raw(*raw, min_std=c.min_std)
        return TanhNormal.of_raw(*raw, init_std=c.init_std, min_std=c.min_std)


class CriticConfig(Config):
    """Options of a critic.

    Attributes:
        kind: ``"two-hot"``: a choice among bins (DreamerV3); ``"normal"``: a number, the mean of a Normal of width 1.
        readout: Layers; two-hot begins with the value 0 everywhere.
        num_bins, limit: Of two-hot: odd, and where the outermost bins are, before symexp.
    """

    kind: Literal["two-hot", "normal"] = "two-hot"
    readout: MLPReadoutConfig = MLPReadoutConfig(layers=3, outscale=0.0)
    num_bins: int = Field(default=255, ge=3)
    limit: float = Field(default=20.0, gt=0, le=40)


class Critic(nn.Module):
    """Tokens of states ``[..., K, D]`` -> what they are worth. `read` comes first, `value` and `nll` share its answer.

    Example:
        >>> critic = Critic(CriticConfig(), feature_dim=6)
        >>> out = critic.read(torch.randn(2, 5, 1, 6))
        >>> critic.value(out).abs().max().item(), round(critic.nll(out, torch.ones(2, 5)).mean().item(), 3)
        (0.0, 5.541)
    """

    def __init__(self, config: CriticConfig, *, feature_dim: int):
        super().__init__()
        self.config, r = config, config.readout
        self.layers = DenseStack(feature_dim, units=r.units, layers=r.layers, norm=r.norm, activation=r.activation,
                                 eps=r.eps, init=r.init)
        outputs = config.num_bins if config.kind == "two-hot" else 1
        self.out = linear(self.layers.width, outputs, init=r.init, scale=r.outscale)
        self._bins: dict[tuple[torch.dtype, torch.device], Tensor] = {}

    def bins(self, like: Tensor) -> Tensor:
        """Of two-hot, as exact as the numbers they are for."""
        key = (like.dtype, like.device)
        if key not in self._bins:
            self._bins[key] = symexp_bins(self.config.num_bins, self.config.limit, dtype=like.dtype).to(like.device)
        return self._bins[key]

    def read(self, features: Tensor) -> Tensor:
        """``[..., bins]``, or ``[..., 1]``."""
        return full_precision(self.out(pooled(self.layers(features))))

    def value(self, out: Tensor) -> Tensor:
        """Of what `read` gave, ``[...]``."""
        return expected(out, self.bins(out)) if self.config.kind == "two-hot" else out[..., 0]

    def nll(self, out: Tensor, target: Tensor, *, also: tuple[float, Tensor] | None = None) -> Tensor:
        """How surprising returns ``[...]`` are, in nats.

        Args:
            out: What `read` gave.
            target: The returns.
            also: So many times the surprise of other numbers is added.
        """
        if self.config.kind == "two-hot":
            also = None if also is None else (also[0], also[1].to(out.dtype))
            return two_hot_loss(out, target.to(out.dtype), self.bins(out), also=also)
        found = 0.5 * ((target - out[..., 0]).square() + math.log(2 * math.pi))
        return found if also is None else found + also[0] * self.nll(out, also[1])

    def forward(self, features: Tensor) -> Tensor:
        return self.value(self.read(features))


def pooled(hidden: Tensor) -> Tensor:
    """Mean of the tokens ``[..., K, D]`` of a state."""
    return hidden[..., 0, :] if hidden.shape[-2] == 1 else hidden.mean(-2)
