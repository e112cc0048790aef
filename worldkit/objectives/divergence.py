"""How far a posterior is from its prior, and how PlaNet and the three Dreamers count that.

Divergences are in nats, summed over what is drawn and over tokens: ``[B, T]``. A "free" amount costs nothing:

| | forms |
| --- | --- |
| PlaNet | `beyond`: ``max(0, KL - free)`` of every frame |
| v1 | `of_mean`: ``max(mean KL, free)`` of one divergence that trains both sides |
| v2 | two sides, weighed (`balanced`); `of_mean` of each side, or `of_each` |
| v3 | two sides with scales of their own; `of_each`: ``max(KL, free)`` of every frame |

Where a maximum leaves the divergence out, its gradient is exactly 0 (at a tie, half of it).

Source: google-research/planet @ c04226b, danijar/dreamer @ 56d4d44, danijar/dreamerv2 @ 07d906e, danijar/dreamerv3 @
e3f0224, written from their description.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from ..latents import Key, Latent, LatentDist
from .terms import by_field


def divergence(posterior: LatentDist, prior: LatentDist, z: Latent | None = None) -> Tensor:
    """KL(posterior || prior) of what is drawn, summed over fields, tokens and views: ``[B, T]``.

    Args:
        posterior, prior: Of the same states. Points (what is remembered) have none and are left out.
        z: With transparencies: a token counts as much as it is present in this latent.
    """
    spec, found = posterior.spec, dict[Key, Tensor]()
    for key, params in posterior.params.items():
        dist = spec.field(key).dist
        if not dist.point:
            found[key] = dist.kl(params, prior.params[key])
    return torch.stack(list(by_field(found, spec, z).values())).sum((0, 2))


def two_sides(posterior: LatentDist, prior: LatentDist, z: Latent | None = None) -> dict[str, Tensor]:
    """The divergence twice: ``"dyn"`` trains the prior alone, ``"rep"`` the posterior alone."""
    return {"dyn": divergence(posterior.detach(), prior, z), "rep": divergence(posterior, prior.detach(), z)}


def of_each(kl: Tensor, free: float) -> Tensor:
    """``max(KL, free)`` of every entry.

    Example:
        >>> of_each(torch.tensor([0.5, 2.0]), 1.0).tolist()
        [1.0, 2.0]
    """
    return torch.maximum(kl, kl.new_tensor(free)) if free else kl


def of_mean(kl: Tensor, free: float) -> Tensor:
    """``max(mean KL, free)``, one number."""
    return of_each(kl.mean(), free)


def beyond(kl: Tensor, free: float) -> Tensor:
    """``max(0, KL - free)`` of every entry."""
    return torch.maximum(kl - free, kl.new_zeros(()))


FREE: Mapping[str, Callable[[Tensor, float], Tensor]] = {"frame": of_each, "mean": of_mean}


def balanced(
    posterior: LatentDist, prior: LatentDist, *, balance: float = 0.8, free: float = 0.0, of: str = "mean",
    forward: bool = False,
) -> tuple[Tensor, Tensor]:
    """The divergence of Dreamer v2 in all its forms.

    Args:
        posterior, prior: Of the same states.
        balance: Share of the side that trains the prior; 0.5: one divergence for both, ``of`` every frame.
        free: Nats that cost nothing, on either side.
        of: ``"mean"`` or ``"frame"``.
        forward: KL(prior || posterior) instead, with the share of the side that trains the prior as before.
    Returns:
        What to minimise, a number; and the divergence, ``[B, T]``.
    """
    first, second = (prior, posterior) if forward else (posterior, prior)
    if balance == 0.5:
        value = divergence(first, second)
        return of_each(value, free).mean(), value
    mix, count = balance if forward else 1 - balance, FREE[of]
    value = divergence(first, second.detach())
    other = divergence(first.detach(), second)
    return mix * count(value, free).mean() + (1 - mix) * count(other, free).mean(), value
