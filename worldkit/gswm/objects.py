"""`Objects`, what is known of the objects of a frame, and how values are drawn.

An object's attributes lie side by side, in the order of upstream's networks: presence 1, depth 1, box 4, features,
motion. A box is (width, height, x, y): sides as a share of the image's, the centre in [-1, 1]. (Latents, as everywhere
in worldkit, have (y, x).)
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..distributions import Sampler
from .networks import std_of

CENTRE = slice(4, 6)
"""Columns of an object's centre."""
PLAIN = 6
"""Columns before the features: presence, depth, box."""


@dataclass(frozen=True)
class Attributes:
    """Values, or changes of them, by attribute; ``[B, N, dim]`` each.

    Attributes:
        presence, depth, box, features, motion: See the module's docstring; ``motion`` may be 0 wide.
    """

    presence: Tensor
    depth: Tensor
    box: Tensor
    features: Tensor
    motion: Tensor

    @classmethod
    def of(cls, z: Tensor, feature_dim: int) -> Attributes:
        """Attributes of objects ``[B, N, Z]``."""
        return cls(*z.split([1, 1, 4, feature_dim, z.shape[-1] - PLAIN - feature_dim], -1))

    def join(self) -> Tensor:
        """Objects, ``[B, N, Z]``."""
        return torch.cat([self.presence, self.depth, self.box, self.features, self.motion], -1)


@dataclass(frozen=True)
class Objects:
    """N objects of a frame.

    Attributes:
        z: ``[B, N, Z]``.
        posterior, prior: States of the two LSTMs, output and cell side by side, ``[B, N, 2 S]``.
        ids: Numbers that objects keep, int64 ``[B, N]``.
        proposal: Box in which an object was looked for, ``[B, N, 4]`` (of a new one, where it was found).
    """

    z: Tensor
    posterior: Tensor
    prior: Tensor
    ids: Tensor
    proposal: Tensor

    def _parts(self) -> tuple[Tensor, ...]:
        return self.z, self.posterior, self.prior, self.ids, self.proposal

    def cat(self, other: Objects) -> Objects:
        """These and other ones."""
        return Objects(*(torch.cat(pair, 1) for pair in zip(self._parts(), other._parts(), strict=True)))

    def take(self, index: Tensor) -> Objects:
        """Some of them, in the order of ``index``, int64 ``[B, K]``."""
        return Objects(*(take(x, index) for x in self._parts()))

    def strongest(self, most: int) -> Objects:
        """The ``most`` of highest presence, in this order."""
        return self.take(self.z[..., 0].argsort(dim=1, descending=True, stable=True)[:, :most])


def take(x: Tensor, index: Tensor) -> Tensor:
    """Entries ``index`` ``[B, K]`` of the second axis of ``x`` ``[B, N, ...]``."""
    return x.gather(1, index.reshape(*index.shape, *[1] * (x.ndim - 2)).expand(-1, -1, *x.shape[2:]))


def gaussian(mean: Tensor, raw: Tensor, sampler: Sampler, name: str) -> tuple[Tensor, Tensor]:
    """A draw from N(mean, (softplus(raw) + 1e-4)^2), and the deviation."""
    std = std_of(raw)
    zeros = torch.zeros_like(mean)
    return mean + std * sampler.normal(name, zeros, zeros), std


def present(logit: Tensor, temperature: float, sampler: Sampler, name: str) -> Tensor:
    """A relaxed draw whether something is there, in (0, 1): the binary concrete distribution."""
    limits = torch.finfo(logit.dtype)
    p = torch.sigmoid(logit).clamp(limits.eps, 1 - limits.eps)
    u = sampler.uniform(name, logit).clamp(limits.eps, 1 - limits.eps)
    drawn = torch.sigmoid((u.log() - (-u).log1p() + p.log() - (-p).log1p()) / temperature)
    return drawn.clamp(limits.tiny, 1 - limits.eps)


def normal_kl(mean: Tensor, std: Tensor, prior_mean: Tensor | float, prior_std: Tensor | float) -> Tensor:
    """KL of two diagonal Gaussians, number by number."""
    prior_std = torch.as_tensor(prior_std, dtype=std.dtype, device=std.device)
    ratio = (std / prior_std).square()
    return 0.5 * (ratio + ((mean - prior_mean) / prior_std).square() - 1 - ratio.log())


def presence_kl(logit: Tensor, prior: float) -> Tensor:
    """KL of Bernoulli(sigmoid(logit)) and Bernoulli(prior), with upstream's 1e-15 in every logarithm."""
    p, q, eps = torch.sigmoid(logit), torch.as_tensor(prior, dtype=logit.dtype, device=logit.device), 1e-15
    return p * ((p + eps).log() - (q + eps).log()) + (1 - p) * ((1 - p + eps).log() - (1 - q + eps).log())
