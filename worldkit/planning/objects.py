"""A distance between scenes of objects that does not care about the order of slots or particles."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import permutations
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from ..errors import ConfigError
from ..latents import Latent
from .costs import _Distance
from .shooting import Goal, Imagined

_FEW = 4  # tokens up to which all pairings are tried: 24
_FAINT = 1e-3  # visibility below which nothing is divided


@dataclass(frozen=True)
class Things:
    """Tokens as objects.

    Attributes:
        position: ``[..., N, 2]`` or None.
        features: ``[..., N, D]`` or None.
        visible: ``[..., N]`` in [0, 1].
    """

    position: Tensor | None
    features: Tensor | None
    visible: Tensor

    @classmethod
    def of(cls, latent: Latent) -> Things:
        """The tokens of the group with positions, else of the first group."""
        key, spec = latent.spec.find("position"), latent.spec
        group = spec.groups[0] if key is None else spec.group(key[0])
        values = {name: x for (owner, name), x in latent.values.items() if owner == group.name}
        features = values.get("features")
        if features is None and key is None:
            features = torch.cat(list(values.values()), -1)
        visible = values["transparency"][..., 0] if "transparency" in values else torch.ones_like(
            next(iter(values.values()))[..., 0])
        return cls(values.get("position"), features, visible)

    def map(self, f: Callable[[Tensor], Tensor]) -> Things:
        """Every tensor changed by a function."""
        return Things(*(None if x is None else f(x) for x in (self.position, self.features)), f(self.visible))


@dataclass(frozen=True)
class ObjectDistance(_Distance):
    """How far apart two sets of objects are, each paired with one of the other set so that the sum is smallest.

    A pair costs ``min(v, w) * (position * |p - q|^2 + features * mean (f - g)^2) + missing * |v - w|``, v and w being
    how visible its two are; the sum over pairs is divided by how much the goal shows. The pairing (Hungarian) is found
    on exactly this, so tokens that show nothing cost nothing, and swapping tokens changes nothing.

    Where several particles draw one thing, and another number of them draws it in the goal, some are left without a
    partner. ``pairing="nearest"`` pairs every token with the nearest visible one of the other set, both ways.

    Attributes:
        frames: ``"last"`` predicted frame, or mean over ``"all"``.
        position: Weight of squared distances, the picture being 2 wide.
        features: Weight of the mean squared difference of features.
        missing: What an object costs that is there on one side only.
        pairing: ``"one-to-one"`` or ``"nearest"``.
    Raises:
        ConfigError: a negative weight, or an unknown pairing.
    Example:
        >>> from worldkit.latents import Field, LatentSpec, TokenGroup
        >>> spec = LatentSpec((TokenGroup("slots", 3, (Field("features", 2),)),), "exchangeable", kind="slots")
        >>> z = Latent.build(spec, {("slots", "features"): torch.tensor([[[[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]]]])})
        >>> other, apart = z.map(lambda x: x.flip(2)), z.map(lambda x: x + 1)
        >>> ObjectDistance().between(z, other).item(), ObjectDistance().between(z, apart).item()
        (0.0, 1.0)
    """

    position: float = 1.0
    features: float = 1.0
    missing: float = 0.1
    pairing: Literal["one-to-one", "nearest"] = "one-to-one"

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.position, self.features, self.missing) < 0:
            raise ConfigError(f"weights of ObjectDistance are not negative, got {self}")
        if self.pairing not in ("one-to-one", "nearest"):
            raise ConfigError(f"ObjectDistance: pairing must be 'one-to-one' or 'nearest', got {self.pairing!r}")

    def __call__(self, imagined: Imagined, goal: Goal) -> Tensor:
        wanted, now = Things.of(goal.latent), Things.of(imagined.latents[:, self.compared])
        return self.distance(now.map(imagined.split), wanted.map(lambda x: x[:, None])).mean(-1)

    def between(self, one: Latent, other: Latent) -> Tensor:
        """Distance of the frames of two latents, ``[B, T]``; ``other`` is the goal."""
        return self.distance(Things.of(one), Things.of(other))

    def distance(self, now: Things, goal: Things) -> Tensor:
        """``[..., N, .]`` and ``[..., M, .]`` (axes before may be 1) -> ``[...]``."""
        v, w = now.visible[..., :, None], goal.visible[..., None, :]
        apart = self._apart(now, goal)
        if self.pairing == "nearest":
            there = (apart + self.missing * (w - v).clamp(min=0)) / v.clamp(min=_FAINT)
            back = (apart + self.missing * (v - w).clamp(min=0)) / w.clamp(min=_FAINT)
            return (_weighted(there.amin(-2), goal.visible) + _weighted(back.amin(-1), now.visible)) / 2
        pairs = torch.minimum(v, w) * apart + self.missing * (v - w).abs()
        total = pairs.gather(-1, assign(pairs.detach())[..., None])[..., 0].sum(-1)
        return total / goal.visible.sum(-1).clamp(min=_FAINT)

    def _apart(self, now: Things, goal: Things) -> Tensor:
        """How far apart the two of every pair are, ``[..., N, M]``."""
        apart = torch.zeros((), device=now.visible.device)
        if now.position is not None and self.position:
            apart = apart + self.position * squared_distances(now.position, goal.position)
        if now.features is not None and self.features:
            apart = apart + self.features * squared_distances(now.features, goal.features) / now.features.shape[-1]
        return apart


def _weighted(x: Tensor, weight: Tensor) -> Tensor:
    return (x * weight).sum(-1) / weight.sum(-1).clamp(min=_FAINT)


def squared_distances(x: Tensor, y: Tensor) -> Tensor:
    """``[..., N, D]``, ``[..., M, D]`` -> ``[..., N, M]``."""
    if x.shape[-1] <= 4:
        return sum((x[..., :, None, d] - y[..., None, :, d]).square() for d in range(x.shape[-1]))
    product = x @ y.transpose(-1, -2)
    return (x.square().sum(-1)[..., :, None] + y.square().sum(-1)[..., None, :] - 2 * product).clamp(min=0)


def assign(cost: Tensor) -> Tensor:
    """The pairing of least total cost (Hungarian) of every square matrix.

    Args:
        cost: ``[..., N, N]``, finite or not (an infinite or NaN pair is avoided if it can be).
    Returns:
        int64 ``[..., N]``: the column of every row.
    Example:
        >>> assign(torch.tensor([[1.0, 0.0], [0.0, 5.0]])).tolist()
        [1, 0]
    """
    count = cost.shape[-1]
    cost = torch.nan_to_num(cost, nan=1e30, posinf=1e30, neginf=-1e30)
    if count <= _FEW:
        orders = torch.tensor(list(permutations(range(count))), device=cost.device)
        rows = torch.arange(count, device=cost.device).expand_as(orders)
        return orders[cost[..., rows, orders].sum(-1).argmin(-1)]
    from scipy.optimize import linear_sum_assignment

    matrices = cost.reshape(-1, count, count).double().cpu().numpy()
    chosen = np.stack([linear_sum_assignment(matrix)[1] for matrix in matrices])
    return torch.from_numpy(chosen).long().to(cost.device).reshape(cost.shape[:-1])
