"""Whether something happens: the end of an episode, a success."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from ..batch import check_shape
from ..distributions import Sampler
from ..nn.readout import make_readout
from .base import Head, HeadConfig


class BernoulliHeadConfig(HeadConfig):
    """Options of the bernoulli head.

    Attributes:
        hidden_dim: Width of the readout, unless ``readout`` says otherwise.
        discount: What does not happen counts as not happening with this probability only. Dreamer learns whether an
            episode goes on with its discount factor inside, ``1 - 1/333`` in version 3: then the probability is that
            of the end, or of being discounted.
    """

    name: str = "bernoulli"
    discount: float = Field(default=1.0, gt=0, le=1)
    hidden_dim: int = Field(default=128, gt=0)


class BernoulliHead(Head):
    """A probability, and the cross-entropy of flags in nats.

    Example:
        >>> BernoulliHead(BernoulliHeadConfig(), feature_dim=5)(torch.randn(2, 3, 4, 5)).unique().tolist()
        [0.5]
    """

    Config = BernoulliHeadConfig
    config: BernoulliHeadConfig

    def __init__(self, config: BernoulliHeadConfig, *, feature_dim: int):
        super().__init__(config, feature_dim=feature_dim)
        self.readout = make_readout(config.readout, config.hidden_dim, feature_dim, 1)

    def forward(self, features: Tensor) -> Tensor:
        return torch.sigmoid(self.readout(features)[..., 0])

    def sample(self, features: Tensor, sampler: Sampler, name: str = "head") -> Tensor:
        probability = self(features)
        return (sampler.uniform(name, probability) < probability).to(probability.dtype)

    def loss(self, features: Tensor, target: Tensor) -> Tensor:
        check_shape(target, "b t", name="target of head 'bernoulli'")
        logits = self.readout(features)[..., 0]
        target = 1 - self.config.discount * (1 - target.to(logits.dtype))
        return F.binary_cross_entropy_with_logits(logits, target, reduction="none")
