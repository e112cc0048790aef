"""The dynamics contract: latents so far -> distribution of the next latent."""

from __future__ import annotations

from abc import ABC
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from ..conditions import Condition
from ..config import ComponentConfig
from ..latents import Latent, LatentDist, LatentSpec

Window = Literal["exact", "streaming"]
"""What happens when a rollout outgrows the window. ``exact``: slide by one frame and recompute, as in training.
``streaming``: APPROXIMATE; drop the oldest half, recompute once, go on with cached keys and values."""


class Carry:
    """State of a rollout. ``history`` and ``cond`` hold the frames and conditions seen so far."""

    def __init__(self, history: Latent, cond: Condition):
        self.history, self.cond = history, cond


class Dynamics(nn.Module, ABC):
    """Latents and conditions up to t -> distribution of the latent at t + 1.

    Implement `prior` (explicit distributions) or `loss` (implicit models such as diffusion, which also override
    `step`). `start` and `step` then work by running `prior` on a sliding window; override them to cache.

    Attributes:
        Config: The component's config class.
        explicit_prior: True if `prior` is implemented.
        requires: Properties of the latent it cannot do without: ``"grid"``, ``"tracked"``, ``"normal"``.
        cond_dim: Width of the conditions it receives.
        window: Most frames it sees at once.
    """

    Config: ClassVar[type[ComponentConfig]]
    explicit_prior: ClassVar[bool] = True
    requires: ClassVar[frozenset[str]] = frozenset()
    cond_dim: int

    def __init__(
        self, config: ComponentConfig, *, spec: LatentSpec, anchors: Mapping[str, Tensor], window: int,
        memory_length: int = 0,
    ):
        super().__init__()
        self.config, self.spec, self.window, self.memory_length = config, spec, window, memory_length

    def prior(self, z: Latent, cond: Condition) -> LatentDist:
        """Index t is p(z_{t+1} | z_{<=t}, cond_{<=t}); same length as ``z``."""
        raise NotImplementedError(f"{type(self).__name__} has no explicit prior")

    def loss(self, z: Latent, cond: Condition) -> dict[str, Tensor]:
        """Training terms of an implicit model, ``[B]`` each; ``z`` arrives detached."""
        raise NotImplementedError(f"{type(self).__name__} trains by its prior")

    def start(self, z: Latent, cond: Condition, *, window: Window = "exact") -> Any:
        """Begin a rollout after the frames of ``z``; ``cond`` covers the transitions between them (one fewer)."""
        return Carry(z, cond)

    def step(self, carry: Any, cond: Condition) -> LatentDist:
        """Distribution of the next frame, ``[B, 1]``, given the condition of the transition that leads to it."""
        carry.cond = carry.cond.then(cond)
        keep = slice(max(0, carry.history.shape[1] - self.window), None)
        return self.prior(carry.history[:, keep], carry.cond.at(keep))[:, -1:]

    def observe(self, carry: Any, z: Latent) -> None:
        """Tell the rollout which frame ``[B, 1]`` came next (the mean or a sample of `step`'s answer)."""
        carry.history = type(z).cat([carry.history, z])

    def embed(self, z: Latent) -> Tensor:
        """Tokens ``[B, T, N, D]`` of a goal as this dynamics sees latents, without view embeddings (as upstream)."""
        raise NotImplementedError(f"{type(self).__name__} embeds no goals; send goals to a latent action")

