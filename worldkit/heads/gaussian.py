"""Numbers by their mean: a normal distribution of fixed width."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from ..batch import check_shape
from ..nn.readout import make_readout
from .base import Head, HeadConfig


class GaussianHeadConfig(HeadConfig):
    """Options of the gaussian head.

    Attributes:
        dim: Numbers of a target that is a vector ``[B, T, dim]``; None: one number, ``[B, T]``. Training finds it in
            its data.
        mean, std: Of the targets: what the network gives is scaled by them, and ``std`` is the width of the
            distribution. One number, or one per dimension. Training finds them in its data; otherwise 0 and 1.
        hidden_dim: Width of the readout, unless ``readout`` says otherwise.
    """

    name: str = "gaussian"
    dim: int | None = Field(default=None, gt=0)
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    hidden_dim: int = Field(default=128, gt=0)

    @model_validator(mode="after")
    def _one_number_or_one_each(self) -> GaussianHeadConfig:
        for name, values in (("mean", self.mean), ("std", self.std)):
            if values is not None and len(values) not in (1, self.dim or 1):
                raise ValueError(f"{name} has {len(values)} numbers for {self.dim or 1}: give one, or one each")
        if self.std is not None and min(self.std) <= 0:
            raise ValueError("std must be above 0")
        return self

    def complete(self, episodes: Iterable[np.ndarray]) -> GaussianHeadConfig:
        if self.mean is not None and self.std is not None:
            return self
        rows = np.concatenate([rows[1:] if self.reached else rows[:-1] for rows in episodes]).astype(np.float64)
        rows = rows.reshape(len(rows), -1)
        rows = rows[np.isfinite(rows).all(1)]
        found = {"dim": self.dim or (rows.shape[1] if rows.shape[1] > 1 else None)}
        if len(rows):
            deviation = rows.std(0)
            found |= {"mean": rows.mean(0).tolist(), "std": np.where(deviation > 1e-6, deviation, 1.0).tolist()}
        given = {name: value for name, value in self.to_dict().items() if value is not None}
        return type(self).parse({**found, **given})


class GaussianHead(Head):
    """Negative log-likelihood of N(prediction, std), in nats of the standardised target.

    Example:
        >>> head = GaussianHead(GaussianHeadConfig(mean=(-3.0,), std=(2.0,)), feature_dim=5)
        >>> head(torch.randn(2, 3, 4, 5)).unique().tolist()
        [-3.0]
    """

    Config = GaussianHeadConfig
    config: GaussianHeadConfig
    mean: Tensor
    std: Tensor

    def __init__(self, config: GaussianHeadConfig, *, feature_dim: int):
        super().__init__(config, feature_dim=feature_dim)
        self.readout = make_readout(config.readout, config.hidden_dim, feature_dim, config.dim or 1)
        self.register_buffer("mean", torch.tensor(config.mean or (0.0,)), persistent=False)
        self.register_buffer("std", torch.tensor(config.std or (1.0,)), persistent=False)

    def forward(self, features: Tensor) -> Tensor:
        out = self.mean + self.std * self.readout(features)
        return out[..., 0] if self.config.dim is None else out

    def loss(self, features: Tensor, target: Tensor) -> Tensor:
        axes, sizes = ("b t", {}) if self.config.dim is None else ("b t s", {"s": self.config.dim})
        check_shape(target, axes, name="target of head 'gaussian'", **sizes)
        target = target[..., None] if self.config.dim is None else target
        squared = ((target.to(self.mean.dtype) - self.mean) / self.std - self.readout(features)).square()
        return 0.5 * (squared + math.log(2 * math.pi)).sum(-1)
