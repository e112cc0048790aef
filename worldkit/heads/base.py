"""The contract of heads: tokens of a transition -> what is known about it.

A transition leads from frame t to frame t + 1; its features are tokens ``[B, T, K, D]`` without an order, which the
dynamics gives (`worldkit.dynamics.base.Dynamics.features`): by default every token of the latent that is left, that of
the latent reached, and the condition. The latent reached alone would miss the cost of an action.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import ClassVar

import numpy as np
from pydantic import Field
from torch import Tensor

from ..component import Component
from ..config import ComponentConfig
from ..distributions import Sampler
from ..nn.readout import MLPReadoutConfig


class HeadConfig(ComponentConfig):
    """Options that all heads have.

    Attributes:
        column: Column of the data's state that it learns, an option called ``from``. Default: the one of the target's
            own name, or what other packages call it (`worldkit.names.TARGET_COLUMNS`).
        reached: Row t of the column tells of frame t, which a transition reached, as Dreamer's replays and any state of
            things do, not of the transition that leaves frame t. None: so if the first row of an episode is NaN.
        weight: Factor of its loss.
        readout: Read the features by an MLP, as Dreamer does. None: by a readout that looks for the tokens that count.
    """

    column: str | None = Field(default=None, alias="from", min_length=1)
    reached: bool | None = None
    weight: float = Field(default=1.0, ge=0)
    readout: MLPReadoutConfig | None = None

    def complete(self, episodes: Iterable[np.ndarray]) -> HeadConfig:
        """The config with what the training data tell, where it was not given; training calls it before it builds.

        Args:
            episodes: The column, one array per episode, read when it is asked for.
        """
        return self


class Head(Component, ABC):
    """Features of transitions -> a prediction, and its loss.

    Attributes:
        Config: The component's config class, derived from `HeadConfig`.
        feature_dim: Width of the features' tokens.
    """

    RETURNS = Tensor
    Config: ClassVar[type[HeadConfig]]
    config: HeadConfig
    feature_dim: int

    def __init__(self, config: HeadConfig, *, feature_dim: int):
        super().__init__()
        self.config, self.feature_dim = config, feature_dim

    @abstractmethod
    def forward(self, features: Tensor) -> Tensor:
        """The prediction in the data's own units: an expected value or a probability.

        Args:
            features: Tokens ``[B, T, K, D]`` of T transitions.
        Returns:
            ``[B, T]``, or ``[B, T, S]`` of a target that is a vector.
        """

    def sample(self, features: Tensor, sampler: Sampler, name: str = "head") -> Tensor:
        """The prediction, drawn: what happens in imagination where a reward or an end is a matter of chance.

        Heads that give a distribution over few values override this; of others it is `forward`.

        Args:
            features: As of `forward`.
            sampler: Source of randomness; a deterministic one asks for what is likeliest.
            name: Of the draw, the target's.
        Returns:
            As of `forward`.
        """
        return self(features)

    @abstractmethod
    def loss(self, features: Tensor, target: Tensor) -> Tensor:
        """How surprising the target is, in nats, ``[B, T]``.

        Args:
            features: As of `forward`.
            target: ``[B, T]``, or ``[B, T, S]``.
        Raises:
            ShapeError: a target of another shape.
        """
