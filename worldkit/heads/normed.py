"""TD-MPC2's heads: small networks of normed layers that read part of a transition's features.

Its reward is a choice among bins that lie evenly in symlog space (`worldkit.nn.symlog`); the end of an episode is a
probability. Dynamics `latent-mlp` gives [latent left, action, latent reached]: the reward reads all but the last part
(``to=-512``), the end only that (``start=-512``).

Source: TD-MPC2 (Hansen et al., 2024, arXiv:2310.16828), written from its description.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from ..batch import check_shape
from ..errors import ConfigError
from ..nn.simnorm import normed_mlp
from ..nn.symlog import SymlogBins
from .base import Head, HeadConfig


class NormedHeadConfig(HeadConfig):
    """Options of heads of normed layers.

    Attributes:
        hidden: Widths of the layers between.
        start, to: The features that it reads, as slices have them; default: all.
    """

    name: str = "normed-bernoulli"
    hidden: tuple[PositiveInt, ...] = (512, 512)
    start: int | None = None
    to: int | None = None


class SymlogTwoHotConfig(NormedHeadConfig):
    """Options of the symlog two-hot head.

    Attributes:
        num_bins: Odd, so that one of them is 0.
        limit: Of the outermost bins, in symlog space.
    """

    name: str = "symlog-two-hot"
    num_bins: int = Field(default=101, ge=3)
    limit: float = Field(default=10.0, gt=0)


class _NormedHead(Head):
    """Mean of the tokens, what is read of it, the network."""

    config: NormedHeadConfig
    net: nn.Sequential

    def _make(self, outputs: int, *, zero: bool) -> None:
        config = self.config
        read = len(range(*slice(config.start, config.to).indices(self.feature_dim)))
        if not read:
            raise ConfigError(f"head '{config.name}' reads nothing of {self.feature_dim} features between "
                              f"start={config.start} and to={config.to}")
        self.net = normed_mlp(read, config.hidden, outputs, zero=zero)

    def logits(self, features: Tensor) -> Tensor:
        """Of tokens ``[..., K, feature_dim]``: ``[..., outputs]``."""
        tokens = features[..., 0, :] if features.shape[-2] == 1 else features.mean(-2)
        return self.net(tokens[..., self.config.start : self.config.to])


class SymlogTwoHot(_NormedHead):
    """The expected value over bins in symlog space, and the cross-entropy of shared-out targets in nats.

    Example:
        >>> SymlogTwoHot(SymlogTwoHotConfig(hidden=(8,)), feature_dim=5)(torch.randn(2, 3, 1, 5)).abs().max() < 1e-5
        tensor(True)
    """

    Config = SymlogTwoHotConfig
    config: SymlogTwoHotConfig

    def __init__(self, config: SymlogTwoHotConfig, *, feature_dim: int):
        super().__init__(config, feature_dim=feature_dim)
        self.bins = SymlogBins(config.num_bins, config.limit)
        self._make(config.num_bins, zero=True)

    def forward(self, features: Tensor) -> Tensor:
        return self.bins.expected(self.logits(features))

    def loss(self, features: Tensor, target: Tensor) -> Tensor:
        check_shape(target, "b t", name="target of head 'symlog-two-hot'")
        logits = self.logits(features)
        return self.bins.loss(logits, target.to(logits.dtype))


class NormedBernoulli(_NormedHead):
    """A probability, and the cross-entropy of flags in nats.

    Example:
        >>> NormedBernoulli(NormedHeadConfig(hidden=(8,)), feature_dim=5)(torch.randn(2, 3, 1, 5)).shape
        torch.Size([2, 3])
    """

    Config = NormedHeadConfig

    def __init__(self, config: NormedHeadConfig, *, feature_dim: int):
        super().__init__(config, feature_dim=feature_dim)
        self._make(1, zero=False)

    def forward(self, features: Tensor) -> Tensor:
        return torch.sigmoid(self.logits(features)[..., 0])

    def loss(self, features: Tensor, target: Tensor) -> Tensor:
        check_shape(target, "b t", name="target of head 'normed-bernoulli'")
        logits = self.logits(features)[..., 0]
        return F.binary_cross_entropy_with_logits(logits, target.to(logits.dtype), reduction="none")
