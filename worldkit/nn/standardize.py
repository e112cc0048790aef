"""Columns of packed tokens brought to one scale, by statistics that are saved with the model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn


class _PerGroup(nn.Module):
    """What has one row of statistics per token group; ``rows`` ``[groups, D]`` is 1 in the columns that are used."""

    def __init__(self, sizes: Sequence[int], rows: Tensor):
        super().__init__()
        self.sizes = list(sizes)
        self.register_buffer("used", self._spread(rows), persistent=False)  # [N, D]

    def _spread(self, rows: Tensor) -> Tensor:
        """One row per group -> one per token, ``[N, D]``."""
        return torch.cat([row.expand(size, -1) for row, size in zip(rows, self.sizes, strict=True)])


class RunningStandardizer(_PerGroup):
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
        used = torch.arange(width) < torch.tensor([columns for _, columns in groups])[:, None]
        super().__init__([size for size, _ in groups], used.float())
        self.memory = memory
        self.register_buffer("mean", torch.zeros(len(groups), width))
        self.register_buffer("variance", torch.ones(len(groups), width))
        self.register_buffer("batches", torch.zeros(()))

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


class SetScaler(_PerGroup):
    """Brings every column of packed tokens ``[B, T, N, D]`` to the scale it has in a whole set, per token group.

    All tokens of a group are pooled: a column has one scale for the whole group. Columns that are not used stay zero.
    Before the first `update` it changes nothing but them.

    Args:
        sizes: Number of tokens of every group.
        rows: ``[groups, D]``, 1 in the columns that are used.
        kind: ``"minmax"``: the set's smallest value becomes -1 and its largest 1. ``"standard"``: mean 0 and deviation
            1 (that of n - 1). Both divide by 1e-5 more than that, so that what never varies stays finite.
    Attributes:
        settled: A buffer, true once the whole set has been seen: then `update` adds nothing any more.
    Example:
        >>> scaler = SetScaler([2], torch.ones(1, 1), kind="minmax")
        >>> for batch in (torch.tensor([2.0, 3.0]), torch.tensor([4.0, 6.0])):
        ...     scaler.update(batch.reshape(1, 1, 2, 1))
        >>> [round(x, 3) for x in scaler(torch.tensor([2.0, 5.0]).reshape(1, 1, 2, 1)).flatten().tolist()]
        [-1.0, 0.5]
    """

    def __init__(self, sizes: Sequence[int], rows: Tensor, *, kind: Literal["minmax", "standard"]):
        super().__init__(sizes, rows)
        self.kind = kind
        for name, value in (("mean", 0.0), ("scatter", 1.0), ("low", -1.0), ("high", 1.0)):
            self.register_buffer(name, torch.full_like(rows, value))
        self.register_buffer("count", torch.zeros(len(rows), dtype=torch.long))
        self.register_buffer("settled", torch.tensor(False))

    @torch.no_grad()
    def update(self, x: Tensor) -> None:
        """Add a batch ``[B, T, N, D]`` to what has been seen of the set, unless settled; exact, in any order."""
        parts = [part.flatten(0, 2) for part in x.split(self.sizes, 2)]
        seen, count = self.count[:, None] > 0, torch.tensor([len(part) for part in parts], device=x.device)
        mean = torch.stack([part.mean(0) for part in parts])
        scatter = torch.stack([(part - row).square().sum(0) for part, row in zip(parts, mean, strict=True)])
        low, high = (torch.stack([getattr(part, f)(0) for part in parts]) for f in ("amin", "amax"))
        shift, share = mean - self.mean, (count / (self.count + count))[:, None].to(mean)
        both = {"mean": self.mean + share * shift, "low": torch.minimum(self.low, low),
                "scatter": self.scatter + scatter + shift.square() * share * self.count[:, None],
                "high": torch.maximum(self.high, high)}
        alone = {"mean": mean, "low": low, "scatter": scatter, "high": high}
        for name in both:  # without a look at the values, which a dry run has none of
            own = getattr(self, name)
            own.copy_(torch.where(self.settled, own, torch.where(seen, both[name], alone[name])))
        self.count += torch.where(self.settled, 0, count)

    def _origin_and_unit(self) -> tuple[Tensor, Tensor]:
        """What is subtracted, and what it is divided by then; ``[N, D]`` each."""
        if self.kind == "standard":
            origin, unit = self.mean, (self.scatter / (self.count[:, None] - 1).clamp(min=1)).sqrt() + 1e-5
        else:
            unit = (self.high - self.low + 1e-5) / 2
            origin = self.low + unit
        fresh = self.count[:, None] == 0
        return self._spread(origin.masked_fill(fresh, 0)), self._spread(unit.masked_fill(fresh, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Scale."""
        origin, unit = self._origin_and_unit()
        return (x - origin) / unit * self.used

    def inverse(self, x: Tensor) -> Tensor:
        """Undo `forward`."""
        origin, unit = self._origin_and_unit()
        return (x * unit + origin) * self.used


def _over_processes(x: Tensor) -> Tensor:
    """Mean over the processes of a distributed training; itself in one process."""
    if not (dist.is_available() and dist.is_initialized()):
        return x
    dist.all_reduce(x)
    return x / dist.get_world_size()
