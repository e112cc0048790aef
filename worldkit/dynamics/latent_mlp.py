"""TD-MPC2's dynamics: the latent and the action, through one small network, give the next latent.

The frame before is all it sees, and it remembers nothing. All tokens are laid side by side, so that of one token, as
encoder `simnorm` gives, the network's input is the latent itself; what other conditions say of tokens is averaged.

Source: TD-MPC2 (Hansen et al., 2024, arXiv:2310.16828), written from its description.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from pydantic import Field
from torch import Tensor, nn

from ..conditions import Condition
from ..config import ComponentConfig
from ..errors import ConfigError
from ..latents import Latent, LatentDist, LatentSpec
from ..nn.simnorm import SimNorm, normed_mlp
from .base import Dynamics, Window
from .features import flat_frames, told_frames


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
    hidden: tuple[int, ...] = Field(default=(512, 512), min_length=1)
    simnorm: int = Field(default=0, ge=0)
    cond_dim: int | None = Field(default=None, ge=0)


class LatentMLP(Dynamics):
    """[latent, condition] -> next latent. Heads read [latent left, condition, latent reached].

    Example:
        >>> from worldkit.latents import LatentSpec, TokenGroup
        >>> from worldkit.latents import Field as LatentField
        >>> from worldkit.distributions import Delta
        >>> spec = LatentSpec((TokenGroup("state", 1, (LatentField("embedding", 16, Delta()),)),))
        >>> dynamics = LatentMLP(LatentMLPConfig(hidden=(8,), simnorm=8, cond_dim=2), spec=spec, anchors={}, window=1)
        >>> z = Latent(spec, {("state", "embedding"): torch.zeros(3, 4, 1, 16)})
        >>> dynamics.prior(z, Condition(frame=torch.zeros(3, 4, 2))).mode().get("embedding").sum(-1).unique().tolist()
        [2.0]
    """

    Config = LatentMLPConfig
    requires = frozenset({"tracked", "continuous"})
    takes = frozenset({"frame", "token", "memory"})
    borders = True
    config: LatentMLPConfig

    def __init__(self, config: LatentMLPConfig, *, spec: LatentSpec, anchors: Mapping[str, Tensor], window: int,
                 memory_length: int = 0):
        super().__init__(config, spec=spec, anchors=anchors, window=1, memory_length=memory_length)
        self.cond_dim = config.hidden[0] if config.cond_dim is None else config.cond_dim
        self.width = sum(group.size * field.dim for group in spec.groups for field in group.fields)
        self._sizes = {key: (spec.group(key[0]).size, spec.field(key).dist.raw_dim(spec.field(key).dim))
                       for key in spec.keys()}
        outputs = sum(count * width for count, width in self._sizes.values())
        self.net = normed_mlp(self.width + self.cond_dim, config.hidden, outputs, last=self._last(outputs))

    def _last(self, outputs: int) -> nn.Module | None:
        size = self.config.simnorm
        if size and not all(self.spec.field(key).dist.point for key in self.spec.keys()):
            raise ConfigError("dynamics.simnorm normalises latents that are points, and these have a spread: set 0")
        if size and outputs % size:
            raise ConfigError(f"a latent of {outputs} numbers does not divide into groups of dynamics.simnorm {size}; "
                              "take a divisor, or 0 for no SimNorm")
        return SimNorm(size) if size else None

    def prior(self, z: Latent, cond: Condition) -> LatentDist:
        left = flat_frames(z)
        out = self.net(torch.cat([left, told_frames(cond, left, self.cond_dim)], -1))
        raw = out.split([count * width for count, width in self._sizes.values()], -1)
        return LatentDist(self.spec, {
            key: self.spec.field(key).dist.from_raw(x.unflatten(-1, size))
            for (key, size), x in zip(self._sizes.items(), raw, strict=True)
        })

    def start(self, z: Latent, cond: Condition, *, window: Window = "exact") -> list[Latent]:
        """The newest frame is all there is to carry."""
        return [z[:, -1:]]

    def step(self, carry: list[Latent], cond: Condition) -> LatentDist:
        return self.prior(carry[0], cond)

    def observe(self, carry: list[Latent], z: Latent) -> None:
        carry[0] = z

    def feature_dim(self) -> int:
        return 2 * self.width + self.cond_dim

    def features(self, z: Latent, cond: Condition) -> Tensor:
        flat = flat_frames(z)
        left, reached = flat[:, :-1], flat[:, 1:]
        return torch.cat([left, told_frames(cond, left, self.cond_dim), reached], -1)[:, :, None]
