"""Numbers of any size as a choice among bins that lie evenly in symlog space.

symlog(x) = sign(x) log(1 + |x|). A number is shared out between the two bins around its symlog, and read back as the
symexp of the bins' mean. (Newer ones, `worldkit.nn.two_hot`, have bins in the data's own space; both go by the name
of two-hot.)

Source: TD-MPC2 (arXiv:2310.16828), written from its description.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from ..errors import ConfigError
from .two_hot import expected, symexp, symlog


@dataclass(frozen=True)
class SymlogBins:
    """Bins from symlog ``-limit`` to ``limit``.

    Attributes:
        count: Bins; odd, so that one of them is 0.
        limit: Of the outermost bins, in symlog space; targets beyond count as these.
    Example:
        >>> bins = SymlogBins(101, 10.0)
        >>> round(float(bins.expected(bins.two_hot(torch.tensor(-7.25)).log())), 4)
        -7.25
    """

    count: int
    limit: float

    def __post_init__(self) -> None:
        if self.count < 3 or self.count % 2 == 0 or not self.limit > 0:
            raise ConfigError(f"bins are an odd number of at least 3, their limit is above 0; got {self}")

    def _shared(self, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The bins below and above a target, by number, and the share of the one above."""
        place = (symlog(target).clamp(-self.limit, self.limit) + self.limit) / (2 * self.limit / (self.count - 1))
        below = place.floor()
        number = below.nan_to_num(0).long()  # a target that is no number has a share that is none
        return number, (number + 1) % self.count, place - below  # beyond the last bin: a share of 0

    def two_hot(self, target: Tensor) -> Tensor:
        """Shares of the two bins around the symlog of a target, ``[...]`` -> ``[..., count]``."""
        below, above, share = (x[..., None] for x in self._shared(target))
        out = torch.zeros(*target.shape, self.count, dtype=share.dtype, device=target.device)
        return out.scatter(-1, below, 1 - share).scatter(-1, above, share)

    def expected(self, logits: Tensor) -> Tensor:
        """Logits ``[..., count]`` -> numbers ``[...]``."""
        return symexp(expected(logits, _places(self.count, self.limit, logits.dtype, logits.device)))

    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """Cross-entropy in nats of a target's shares, ``[..., count]`` and ``[...]`` (spread over the logits' axes)."""
        below, above, share = self._shared(target)
        log_p = logits.log_softmax(-1)
        low, high = (log_p.gather(-1, i.expand(log_p.shape[:-1])[..., None])[..., 0] for i in (below, above))
        return -((1 - share) * low + share * high)


def _places(count: int, limit: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    if torch.compiler.is_compiling():  # what is traced holds no numbers, so it must not be kept
        return torch.linspace(-limit, limit, count, dtype=dtype, device=device)
    return _kept(count, limit, dtype, device)


@cache
def _kept(count: int, limit: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.linspace(-limit, limit, count, dtype=dtype, device=device)
