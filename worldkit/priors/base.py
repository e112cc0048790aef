"""The contract of priors: the first frames of a video nobody has seen, drawn as latents.

A dynamics says how a video goes on; a prior says how it may begin. Together they draw whole videos out of nothing:
`ComposedWorldModel.sample`. A prior learns on the latents of an encoder that is trained already (objective
``"first-frames"``), so it goes with any described latent.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from pydantic import Field
from torch import Tensor

from ..component import Component
from ..config import ComponentConfig
from ..distributions import Sampler
from ..latents import Latent, LatentSpec


class PriorConfig(ComponentConfig):
    """Options that all priors have.

    Attributes:
        frames: First frames of a video that are drawn together; training clips have as many.
    """

    frames: int = Field(default=1, gt=0)


@dataclass(frozen=True)
class Sampling:
    """How a diffusion prior draws; may differ from one call to the next.

    Attributes:
        sampler: ``"ddpm"`` or ``"ddim"``.
        steps: Steps taken.
    """

    sampler: str
    steps: int


class Prior(Component, ABC):
    """Latents ``[B, frames]`` out of nothing, and the loss by which that is learned.

    Attributes:
        Config: The component's config class, derived from `PriorConfig`.
        requires: Properties of the latent it cannot do without, as `Dynamics.requires`.
        spec: Description of the latent.
    """

    WORDS = {"requires": ("grid", "tracked", "normal", "codes", "continuous")}
    Config: ClassVar[type[PriorConfig]]
    requires: ClassVar[frozenset[str]] = frozenset()
    config: PriorConfig
    spec: LatentSpec

    def __init__(self, config: PriorConfig, *, spec: LatentSpec):
        super().__init__()
        self.config, self.spec = config, spec

    @abstractmethod
    def loss(self, z: Latent, sampler: Sampler) -> dict[str, Tensor]:
        """Training terms, ``[B]`` each.

        Args:
            z: Latents ``[B, frames]``, without a graph.
            sampler: Source of randomness. If it is deterministic, draw the same noise every time.
        """

    @abstractmethod
    def sample(self, batch_size: int, sampler: Sampler) -> Latent:
        """First frames of videos, ``[batch_size, frames]``, on the device of the parameters."""

    def measure(self, latents: Iterable[Latent]) -> None:
        """Look at the whole training set before training begins, for statistics; a prior may need none.

        Args:
            latents: Of all training clips, ``[B, frames]`` each; nothing is encoded before it is asked for.
        """
