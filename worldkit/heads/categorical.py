"""One of a few numbers: the sign of a reward, whether an episode ends; a choice that can be drawn as well as averaged.

Source: IRIS (arXiv:2209.00588) and DIAMOND (arXiv:2405.12399), whose worlds know rewards by their sign and whose agents
learn from draws of them; written from their description.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor

from ..batch import check_shape
from ..distributions import Sampler, full_precision
from ..nn.readout import make_readout
from .base import Head, HeadConfig


class CategoricalHeadConfig(HeadConfig):
    """Options of the categorical head.

    Attributes:
        values: The numbers, in rising order: ``(-1, 0, 1)`` for the sign of a reward, ``(0, 1)`` for flags.
        sign: A target counts by its sign. None: if all values are among -1, 0 and 1; else by the value next to it.
        hidden_dim: Width of the readout, unless ``readout`` says otherwise.
    """

    name: str = "categorical"
    values: tuple[float, ...] = (-1.0, 0.0, 1.0)
    sign: bool | None = None
    hidden_dim: int = Field(default=128, gt=0)

    @model_validator(mode="after")
    def _rise(self) -> CategoricalHeadConfig:
        if len(self.values) < 2 or any(b <= a for a, b in zip(self.values, self.values[1:], strict=False)):
            raise ValueError(f"values must be two numbers or more, each above the one before; got {self.values}")
        if self.sign and not set(self.values) <= {-1, 0, 1}:
            raise ValueError(f"sign=true knows the values -1, 0 and 1, got {self.values}")
        return self

    @property
    def by_sign(self) -> bool:
        return set(self.values) <= {-1, 0, 1} if self.sign is None else self.sign


class CategoricalHead(Head):
    """The mean over the values, or a draw of one; the cross-entropy of targets in nats.

    Example:
        >>> head = CategoricalHead(CategoricalHeadConfig(), feature_dim=5)
        >>> x = torch.randn(2, 3, 1, 5)
        >>> head(x).abs().max() < 1e-6, head.sample(x, Sampler()).unique().tolist()
        (tensor(True), [...])
        >>> head.classes(torch.tensor([-7.0, 0.0, 0.3])).tolist()
        [0, 1, 2]
    """

    Config = CategoricalHeadConfig
    config: CategoricalHeadConfig
    values: Tensor

    def __init__(self, config: CategoricalHeadConfig, *, feature_dim: int):
        super().__init__(config, feature_dim=feature_dim)
        self.readout = make_readout(config.readout, config.hidden_dim, feature_dim, len(config.values))
        self.register_buffer("values", torch.tensor(config.values), persistent=False)

    def logits(self, features: Tensor) -> Tensor:
        """Of every value, ``[..., values]``."""
        return full_precision(self.readout(features))

    def classes(self, target: Tensor) -> Tensor:
        """The class of a target, int64."""
        values = self.values.to(torch.float32)
        target = target.to(torch.float32)
        if self.config.by_sign:
            target = target.sign()
        return (target[..., None] - values).abs().argmin(-1)

    def forward(self, features: Tensor) -> Tensor:
        shares = self.logits(features).softmax(-1)
        return (shares * self.values.to(shares.dtype)).sum(-1)

    def sample(self, features: Tensor, sampler: Sampler, name: str = "head") -> Tensor:
        logits = self.logits(features)
        return self.values.to(logits.dtype)[sampler.categorical(name, logits)]

    def loss(self, features: Tensor, target: Tensor) -> Tensor:
        check_shape(target, "b t", name="target of head 'categorical'")
        logits = self.logits(features)
        return F.cross_entropy(logits.flatten(0, 1), self.classes(target).flatten(), reduction="none").view_as(target)
