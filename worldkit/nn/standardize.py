"""Standardisation by running statistics, for targets whose scale is not known beforehand."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn


class RunningStandardizer(nn.Module):
    """Brings every column of packed tokens ``[B, T, N, D]`` to mean 0 and variance 1, per token group.

    Mean and variance are buffers, saved with the model. `update` averages over all batches at first (exactly), then
    forgets older ones, because a latent drifts while its encoder learns. In several processes a batch is what all of
    them hold together, so call `update` in each. Padding columns stay zero.

    Args:
        groups: Per token group: number of tokens, and how many of the columns it uses.
        width: Columns.
        memory: Batches after which the average starts to forget.
    """

    def __init__(self, groups: Sequence[tuple[int, int]], width: int, *, memory: int = 200):
        super().__init__()
        self.sizes, self.memory = [size for size, _ in groups], memory
        used = torch.arange(width) < torch.tensor([columns for _, columns in groups])[:, None]
        self.register_buffer("used", self._spread(used.float()), persistent=False)  # [N, D], 1 where not padding
        self.register_buffer("mean", torch.zeros(len(groups), width))
        self.register_buffer("variance", torch.ones(len(groups), width))
        self.register_buffer("batches", torch.zeros(()))

    def _spread(self, rows: Tensor) -> Tensor:
        """One row per group -> one per token, ``[N, D]``."""
        return torch.cat([row.expand(size, -1) for row, size in zip(rows, self.sizes, strict=True)])

    def _deviation(self) -> Tensor:
        return self._spread((self.variance + 1e-6).sqrt())  # columns that never vary stay finite

    @torch.no_grad()
    def update(self, x: Tensor) -> None:
        """Take a batch ``[B, T, N, D]`` (of the same size in every process) into the statistics."""
        groups = x.split(self.sizes, 2)
        mean = _over_processes(torch.stack([g.mean((0, 1, 2)) for g in groups]))
        around = (x - self._spread(mean)).square().split(self.sizes, 2)
        variance = _over_processes(torch.stack([g.mean((0, 1, 2)) for g in around]))
        self.batches += 1
        share = 1 / self.batches.clamp(max=self.memory)
        shift = mean - self.mean
        self.variance.copy_((1 - share) * (self.variance + share * shift.square()) + share * variance)
        self.mean += share * shift

    def forward(self, x: Tensor) -> Tensor:
        """Standardise."""
        return (x - self._spread(self.mean)) / self._deviation() * self.used

    def inverse(self, x: Tensor) -> Tensor:
        """Undo `forward`."""
        return (x * self._deviation() + self._spread(self.mean)) * self.used


def _over_processes(x: Tensor) -> Tensor:
    """Mean over the processes of a distributed training; itself in one process."""
    if not (dist.is_available() and dist.is_initialized()):
        return x
    dist.all_reduce(x)
    return x / dist.get_world_size()
