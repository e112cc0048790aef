"""The values of latents and actions: an ensemble of two-hot networks, and slowly following copies of them."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ...distributions import Sampler
from ...nn.simnorm import NormedEnsemble
from ...nn.symlog import SymlogBins


class Values(nn.Module):
    """Latent and action -> value, of several networks.

    A value is read from two of them, drawn at random: the mean of both to act by, the lesser one to learn from.

    Args:
        latent_dim, action_dim: Widths.
        members: Networks.
        hidden: Widths of their layers.
        bins: How numbers are told.
        dropout: Of the first layer, in training mode. The slow copies never drop.
    Example:
        >>> values = Values(16, 2, members=5, hidden=(8, 8), bins=SymlogBins(101, 10.0))
        >>> z, action = torch.zeros(3, 16), torch.zeros(3, 2)
        >>> values(z, action).shape, values.mean(z, action, Sampler()).abs().max() < 1e-5
        (torch.Size([5, 3, 101]), tensor(True))
    """

    def __init__(self, latent_dim: int, action_dim: int, *, members: int, hidden: Sequence[int], bins: SymlogBins,
                 dropout: float = 0.0):
        super().__init__()
        self.bins = bins
        self.nets = NormedEnsemble(members, latent_dim + action_dim, hidden, bins.count, dropout=dropout, zero=True)
        self.slow = copy.deepcopy(self.nets).requires_grad_(False).eval()

    def train(self, mode: bool = True) -> Values:
        super().train(mode)
        self.slow.eval()
        return self

    def forward(self, z: Tensor, action: Tensor) -> Tensor:
        """Logits of all networks, ``[members, ..., bins]``."""
        return self.nets(torch.cat([z, action], -1))

    def _two(self, z: Tensor, action: Tensor, sampler: Sampler, nets: NormedEnsemble) -> Tensor:
        like = torch.zeros(1, nets.members, device=z.device)  # a first axis, which samplers may split by clips
        chosen = sampler.uniform("members", like)[0].argsort(stable=True)[:2]
        return self.bins.expected(nets(torch.cat([z, action], -1), members=chosen))

    def mean(self, z: Tensor, action: Tensor, sampler: Sampler) -> Tensor:
        """Mean of two networks, ``[...]``."""
        return self._two(z, action, sampler, self.nets).mean(0)

    def least(self, z: Tensor, action: Tensor, sampler: Sampler) -> Tensor:
        """The lesser value of two slow copies, ``[...]``."""
        return self._two(z, action, sampler, self.slow).amin(0)

    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """Cross-entropy in nats, mean over networks: ``[members, ..., bins]`` and ``[...]`` -> ``[...]``."""
        return self.bins.loss(logits, target).mean(0)

    @torch.no_grad()
    def follow(self, share: float) -> None:
        """Move the slow copies towards the networks by a share of the distance."""
        torch._foreach_lerp_(list(self.slow.parameters()), list(self.nets.parameters()), share)
