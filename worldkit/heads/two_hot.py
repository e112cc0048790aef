"""Numbers of any size, as a choice among bins: rewards that are mostly 0, and sometimes large.

The bins lie closely around 0 and widely far off: symexp of evenly spaced numbers, symexp(x) = sign(x) (e^|x| - 1). A
target is shared out between the two bins around it, so that the expected value of that target is the target itself;
the loss is a cross-entropy and does not grow with the size of the numbers.

Source: DreamerV3 (arXiv:2301.04104), written from its description.
"""

from __future__ import annotations

import torch
from pydantic import Field, field_validator
from torch import Tensor

from ..batch import check_shape
from ..distributions import full_precision
from ..nn.readout import make_readout
from ..nn.two_hot import expected, symexp_bins, two_hot, two_hot_loss
from .base import Head, HeadConfig


class TwoHotHeadConfig(HeadConfig):
    """Options of the two-hot head.

    Attributes:
        num_bins: Odd, so that one of them is 0.
        limit: The outermost bins are at symexp(limit) and its negative; targets beyond count as these.
        hidden_dim: Width of the readout, unless ``readout`` says otherwise.
    """

    name: str = "two-hot"
    num_bins: int = Field(default=255, ge=3)
    limit: float = Field(default=20.0, gt=0, le=40)
    hidden_dim: int = Field(default=128, gt=0)

    @field_validator("num_bins")
    @classmethod
    def _has_a_middle(cls, value: int) -> int:
        if value % 2 == 0:
            raise ValueError(f"num_bins must be odd, so that one bin is 0; got {value}")
        return value


class TwoHotHead(Head):
    """The expected value over bins, and the cross-entropy of two-hot targets in nats.

    Example:
        >>> head = TwoHotHead(TwoHotHeadConfig(), feature_dim=5)
        >>> head(torch.randn(2, 3, 4, 5)).abs().max().item()
        0.0
        >>> round(float(head.expected(head.two_hot(torch.tensor(-7.25)).log())), 4)
        -7.25
    """

    Config = TwoHotHeadConfig
    config: TwoHotHeadConfig
    bins: Tensor

    def __init__(self, config: TwoHotHeadConfig, *, feature_dim: int):
        super().__init__(config, feature_dim=feature_dim)
        self.readout = make_readout(config.readout, config.hidden_dim, feature_dim, config.num_bins)
        self.register_buffer("bins", symexp_bins(config.num_bins, config.limit), persistent=False)

    def _bins(self, like: Tensor) -> Tensor:
        if like.dtype != torch.float64:
            return self.bins
        return symexp_bins(self.config.num_bins, self.config.limit, dtype=like.dtype).to(like.device)

    def forward(self, features: Tensor) -> Tensor:
        return self.expected(self.readout(features))

    def expected(self, logits: Tensor) -> Tensor:
        """Expected value ``[...]`` of logits ``[..., num_bins]``; bins of one size and two signs cancel exactly."""
        logits = full_precision(logits)
        return expected(logits, self._bins(logits))

    def two_hot(self, target: Tensor) -> Tensor:
        """Shares of the two bins around a target, ``[..., num_bins]``."""
        target = full_precision(target)
        return two_hot(target, self._bins(target))

    def loss(self, features: Tensor, target: Tensor) -> Tensor:
        check_shape(target, "b t", name="target of head 'two-hot'")
        logits = full_precision(self.readout(features))
        return two_hot_loss(logits, target.to(logits.dtype), self._bins(logits))
