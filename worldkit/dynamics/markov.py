"""What dynamics share that see the newest frame alone and lay all its tokens side by side as one vector."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor

from ..conditions import Condition
from ..config import ComponentConfig
from ..latents import Latent, LatentDist, LatentSpec
from .base import Dynamics, Window
from .features import flat_frames, told_frames


class Markov(Dynamics):
    """[latent, condition] -> next latent, by `advance`. Heads read [latent left, condition, latent reached].

    Attributes:
        width: Numbers of a frame.
        outputs: Numbers that say how they are distributed, of the next frame: as many, where latents are points.
        cond_dim: Numbers of a condition; set by the subclass.
    """

    requires = frozenset({"tracked", "continuous"})
    takes = frozenset({"frame", "token", "memory"})
    borders = True

    def __init__(self, config: ComponentConfig, *, spec: LatentSpec, anchors: Mapping[str, Tensor], window: int,
                 memory_length: int = 0):
        super().__init__(config, spec=spec, anchors=anchors, window=1, memory_length=memory_length)
        self.width = sum(group.size * field.dim for group in spec.groups for field in group.fields)
        self._sizes = {key: (spec.group(key[0]).size, spec.field(key).dist.raw_dim(spec.field(key).dim))
                       for key in spec.keys()}
        self.outputs = sum(count * width for count, width in self._sizes.values())

    @abstractmethod
    def advance(self, left: Tensor, told: Tensor) -> Tensor:
        """Frames ``[B, T, width]`` and conditions ``[B, T, cond_dim]`` -> ``[B, T, outputs]``."""

    def prior(self, z: Latent, cond: Condition) -> LatentDist:
        left = flat_frames(z)
        out = self.advance(left, told_frames(cond, left, self.cond_dim))
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
