"""Whether latent actions are the actions that were really taken: how much codes and true actions tell of one another.

Codes have no order and no names, and there may be more of them than actions. `agreement` gives the normalised mutual
information (0: they know nothing of one another, 1: one follows from the other), with an interval from resampled
clips, beside the same number of shuffled actions: with few transitions that is not 0.

A code may tell the action only to somebody who knows where it was taken: names of places, as colours on a map, in place
of names of moves. ``given=`` asks for that: how much codes and actions tell of one another where the place is known.
"""

from __future__ import annotations

import math
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
        low, high: 95 % interval of it, from clips drawn anew, around it.
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


def counts_of(*numbers: Tensor) -> Tensor:
    """How often all combinations came together, an axis for each of the ``numbers``; whole ones of any one shape."""
    found = [x.reshape(-1).unique(return_inverse=True) for x in numbers]
    shape = [len(values) for values, _ in found]
    cell = torch.zeros_like(found[0][1])
    for (_, index), size in zip(found, shape, strict=True):
        cell = cell * size + index
    return torch.bincount(cell, minlength=math.prod(shape)).view(shape).double()


def normalized_mutual_information(counts: Tensor) -> float:
    """Mutual information over the mean of both entropies, of a table of pairs ``[codes, actions]``.

    Of a table ``[places, codes, actions]`` that of codes and actions where the place is known. 0 where one of them
    never varies.

    Example:
        >>> normalized_mutual_information(torch.tensor([[5.0, 0.0], [0.0, 5.0]]))
        1.0
        >>> normalized_mutual_information(torch.ones(2, 3))
        0.0
    """
    joint = counts / counts.sum()
    codes, actions, both, places = (
        -torch.xlogy(p, p).sum() for p in (joint.sum(-1), joint.sum(-2), joint, joint.sum((-2, -1))))
    codes, actions, both = codes - places, actions - places, both - places
    mutual, mean = codes + actions - both, (codes + actions) / 2
    return round(max(0.0, float(mutual / mean)), 12) if min(codes, actions) > 1e-12 else 0.0


def agreement(codes: Tensor, actions: Tensor, *, given: Tensor | None = None, resamples: int = 200,
              generator: torch.Generator | None = None) -> Agreement:
    """Agreement of the codes of transitions and the actions that were taken there.

    Args:
        codes: Whole numbers, ``[clips, transitions]``.
        actions: The same.
        given: The same: places (say) where the transitions began. All numbers are then of codes and actions where the
            place is known: actions are guessed from code and place, and shuffled among transitions of one place.
        resamples: Of clips, and shuffles of actions.
        generator: Source of randomness.
    Raises:
        ShapeError: they are not of one shape, or no whole numbers.
    Example:
        >>> actions = torch.randint(3, (40, 7), generator=torch.Generator().manual_seed(0))
        >>> found = agreement(2 - actions, actions, generator=torch.Generator().manual_seed(0))
        >>> found.nmi, found.accuracy, found.shuffled < 0.05
        (1.0, 1.0, True)
        >>> places = torch.randint(3, (40, 7), generator=torch.Generator().manual_seed(1))
        >>> codes = (places + actions) % 3     # where it led to
        >>> agreement(codes, actions).nmi < 0.05, agreement(codes, actions, given=places).nmi
        (True, 1.0)
    """
    places = torch.zeros_like(codes) if given is None else given
    for name, x in (("codes", codes), ("actions", actions), ("given", places)):
        check_shape(x, "c t", name=name, c=codes.shape[0], t=codes.shape[1])
        if x.is_floating_point():
            raise ShapeError(f"{name} must be whole numbers, got {x.dtype}")
    codes, actions, places, clips = codes.cpu(), actions.cpu(), places.cpu(), len(codes)

    def drawn(count: int) -> Tensor:
        return torch.randint(count, (count,), generator=generator)

    by_place = places.reshape(-1).argsort(stable=True)

    def shuffled() -> Tensor:
        order, found = torch.randperm(actions.numel(), generator=generator), torch.empty_like(actions).reshape(-1)
        found[by_place] = actions.reshape(-1)[order[places.reshape(-1)[order].argsort(stable=True)]]
        return found

    rows = [drawn(clips) for _ in range(resamples)]
    again = torch.tensor([normalized_mutual_information(counts_of(places[i], codes[i], actions[i])) for i in rows])
    chance = [normalized_mutual_information(counts_of(places, codes, shuffled())) for _ in range(resamples)]
    counts = counts_of(places, codes, actions)
    shares = counts.sum((0, 2)) / counts.sum()
    nmi = normalized_mutual_information(counts)
    again += nmi - again.mean()  # a clip that is drawn twice agrees with itself: resamples lie too high
    low, high = torch.quantile(again, torch.tensor([0.025, 0.975])).clamp(0, 1).tolist()
    return Agreement(
        nmi, low, high, sum(chance) / len(chance),
        float(counts.amax(2).sum() / counts.sum()), float(torch.exp(-torch.xlogy(shares, shares).sum())), clips,
        codes.numel(),
    )
