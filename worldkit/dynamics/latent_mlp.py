"""TD-MPC2's dynamics: the latent and the action, through one small network, give the next latent.

The frame before is all it sees, and it remembers nothing. All tokens are laid side by side, so that of one token, as
encoder `simnorm` gives, the network's input is the latent itself; what other conditions say of tokens is averaged.

Source: TD-MPC2 (Hansen et al., 2024, arXiv:2310.16828), written from its description.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from ..config import ComponentConfig
from ..errors import ConfigError
from ..latents import LatentSpec
from ..nn.simnorm import SimNorm, normed_mlp
from .markov import Markov


class LatentMLPConfig(ComponentConfig):
    """Options of the latent MLP.

    Attributes:
        hidden: Widths of the layers between.
        simnorm: Numbers in a group of the SimNorm that the next latent goes through, as its encoder's; 0: it is not
            normalised.
        cond_dim: Width of the conditions; None: of the raw actions that it is told (conditioner ``raw-action``), or, of
            other conditions, that of its first layer.
    """

    name: str = "latent-mlp"
    hidden: tuple[PositiveInt, ...] = Field(default=(512, 512), min_length=1)
    simnorm: int = Field(default=0, ge=0)
    cond_dim: int | None = Field(default=None, ge=0)


class LatentMLP(Markov):
    """[latent, condition] -> next latent. Heads read [latent left, condition, latent reached].

    Example:
        >>> from worldkit.conditions import Condition
        >>> from worldkit.latents import Latent, LatentSpec, TokenGroup
        >>> from worldkit.latents import Field as LatentField
        >>> from worldkit.distributions import Delta
        >>> spec = LatentSpec((TokenGroup("state", 1, (LatentField("embedding", 16, Delta()),)),))
        >>> dynamics = LatentMLP(LatentMLPConfig(hidden=(8,), simnorm=8, cond_dim=2), spec=spec, anchors={}, window=1)
        >>> z = Latent(spec, {("state", "embedding"): torch.zeros(3, 4, 1, 16)})
        >>> dynamics.prior(z, Condition(frame=torch.zeros(3, 4, 2))).mode().get("embedding").sum(-1).unique().tolist()
        [2.0]
    """

    Config = LatentMLPConfig
    config: LatentMLPConfig

    def __init__(self, config: LatentMLPConfig, *, spec: LatentSpec, anchors: Mapping[str, Tensor], window: int,
                 memory_length: int = 0):
        super().__init__(config, spec=spec, anchors=anchors, window=window, memory_length=memory_length)
        self.cond_dim = config.hidden[0] if config.cond_dim is None else config.cond_dim
        self.net = normed_mlp(self.width + self.cond_dim, config.hidden, self.outputs, last=self._last(self.outputs))

    def _last(self, outputs: int) -> nn.Module | None:
        size = self.config.simnorm
        if size and not all(self.spec.field(key).dist.point for key in self.spec.keys()):
            raise ConfigError("dynamics.simnorm normalises latents that are points, and these have a spread: set 0")
        if size and outputs % size:
            raise ConfigError(f"a latent of {outputs} numbers does not divide into groups of dynamics.simnorm {size}; "
                              "take a divisor, or 0 for no SimNorm")
        return SimNorm(size) if size else None

    def advance(self, left: Tensor, told: Tensor) -> Tensor:
        return self.net(torch.cat([left, told], -1))
