"""Whether latent actions are the actions that were really taken: how much codes and true actions tell of one another.

Codes have no order and no names, and there may be more of them than actions. `agreement` gives the normalised mutual
information (0: they know nothing of one another, 1: one follows from the other), with an interval from resampled
clips, beside the same number of shuffled actions: with few transitions that is not 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..batch import check_shape
from ..errors import ShapeError


@dataclass(frozen=True)
class Agreement:
    """How codes and true actions agree.

    Attributes:
        nmi: Normalised mutual information.
        low, high: 95 % interval of it, from clips drawn anew.
        shuffled: The same of shuffled actions, mean of as many shuffles.
        accuracy: Share of transitions whose action is guessed right, when every code stands for the action it came with
            most often.
        codes_used: Perplexity of the codes: how many are in use.
        clips, transitions: How many were looked at.
    """

    nmi: float
    low: float
    high: float
    shuffled: float
    accuracy: float
    codes_used: float
    clips: int
    transitions: int

    def __str__(self) -> str:
        return (f"normalised mutual information {self.nmi:.3f} [{self.low:.3f}, {self.high:.3f}] (shuffled "
                f"{self.shuffled:.3f}), actions guessed from codes {100 * self.accuracy:.1f} %, {self.codes_used:.2f} "
                f"codes in use, {self.transitions} transitions of {self.clips} clips")


def counts_of(codes: Tensor, actions: Tensor) -> Tensor:
    """How often every pair came together, ``[codes, actions]``; whole numbers of any one shape."""
    _, a = codes.reshape(-1).unique(return_inverse=True)
    _, b = actions.reshape(-1).unique(return_inverse=True)
    rows, columns = int(a.max()) + 1, int(b.max()) + 1
    return torch.bincount(a * columns + b, minlength=rows * columns).view(rows, columns).double()


def normalized_mutual_information(counts: Tensor) -> float:
    """Mutual information over the mean of both entropies, of a table of pairs ``[codes, actions]``.

    0 where one of them never varies.

    Example:
        >>> normalized_mutual_information(torch.tensor([[5.0, 0.0], [0.0, 5.0]]))
        1.0
        >>> normalized_mutual_information(torch.ones(2, 3))
        0.0
    """
    joint = counts / counts.sum()
    entropies = [-torch.xlogy(p, p).sum() for p in (joint.sum(1), joint.sum(0), joint)]
    mutual, mean = entropies[0] + entropies[1] - entropies[2], (entropies[0] + entropies[1]) / 2
    return round(max(0.0, float(mutual / mean)), 12) if min(entropies[:2]) > 1e-12 else 0.0


def agreement(codes: Tensor, actions: Tensor, *, resamples: int = 200, generator: torch.Generator | None = None
              ) -> Agreement:
    """Agreement of the codes of transitions and the actions that were taken there.

    Args:
        codes: Whole numbers, ``[clips, transitions]``.
        actions: The same.
        resamples: Of clips, and shuffles of actions.
        generator: Source of randomness.
    Raises:
        ShapeError: they are not of one shape, or no whole numbers.
    Example:
        >>> actions = torch.randint(3, (40, 7), generator=torch.Generator().manual_seed(0))
        >>> found = agreement(2 - actions, actions, generator=torch.Generator().manual_seed(0))
        >>> found.nmi, found.accuracy, found.shuffled < 0.05
        (1.0, 1.0, True)
    """
    for name, x in (("codes", codes), ("actions", actions)):
        check_shape(x, "c t", name=name, c=codes.shape[0], t=codes.shape[1])
        if x.is_floating_point():
            raise ShapeError(f"{name} must be whole numbers, got {x.dtype}")
    codes, actions, clips = codes.cpu(), actions.cpu(), len(codes)

    def drawn(count: int) -> Tensor:
        return torch.randint(count, (count,), generator=generator)

    def shuffled() -> Tensor:
        return actions.reshape(-1)[torch.randperm(actions.numel(), generator=generator)]

    rows = [drawn(clips) for _ in range(resamples)]
    again = torch.tensor([normalized_mutual_information(counts_of(codes[i], actions[i])) for i in rows])
    chance = [normalized_mutual_information(counts_of(codes.reshape(-1), shuffled())) for _ in range(resamples)]
    counts = counts_of(codes, actions)
    shares = counts.sum(1) / counts.sum()
    low, high = torch.quantile(again, torch.tensor([0.025, 0.975])).tolist()
    return Agreement(
        normalized_mutual_information(counts), low, high, sum(chance) / len(chance),
        float(counts.amax(1).sum() / counts.sum()), float(torch.exp(-torch.xlogy(shares, shares).sum())), clips,
        codes.numel(),
    )
