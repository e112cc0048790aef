"""Which action explains what happened: searches over the numbers of actions, many problems at once.

A cost takes candidates ``[P, C, A]`` and gives ``[P, C]``. What is not searched stays as it is given.

Source: semantic-wm's controllability (arXiv:2605.06388), written from a description of the facts. Unusual, as there:
CEM returns the best candidate of all rounds; its first round is drawn around ``start``, upstream's around the TRUTH.
Upstream's gradient search returns the action behind the step whose loss was best; ours the one that had it (``behind``
asks for theirs).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import ShapeError

ActionCost = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Found:
    """Attributes:
        action: ``[P, A]``.
        cost: Of it, ``[P]``.
    """

    action: Tensor
    cost: Tensor


def cem_search(
    cost: ActionCost, start: Tensor, low: Tensor, high: Tensor, searched: Sequence[int] | None = None, *,
    candidates: int = 256, elites: int = 25, rounds: int = 5, generator: torch.Generator | None = None,
    noise: Sequence[Tensor] | None = None,
) -> Found:
    """Cross-entropy method inside bounds.

    Args:
        cost: See the module's docstring.
        start: Mean of the first round, and values of what is not searched, ``[P, A]``; its deviation is a quarter of
            the bounds' distance.
        low, high: Bounds, ``[A]``.
        searched: Which numbers; None: all.
        candidates, elites, rounds: Of the method.
        generator: Source of noise.
        noise: In its place, one tensor ``[P, C, searched]`` a round.
    Example:
        >>> wanted = torch.tensor([[0.3, -0.5]])
        >>> found = cem_search(lambda a: (a - wanted[:, None]).square().sum(-1), torch.zeros(1, 2), -torch.ones(2),
        ...                    torch.ones(2), generator=torch.Generator().manual_seed(0))
        >>> (found.action - wanted).abs().max().item() < 0.05
        True
    """
    if not 2 <= elites <= candidates:
        raise ShapeError(f"CEM needs at least 2 elites and as many candidates, got {elites} of {candidates}")
    chosen = list(range(start.shape[1])) if searched is None else list(searched)
    low, high = low[chosen], high[chosen]
    mean, std = start[:, chosen], ((high - low) / 4).expand(len(start), -1)
    best, least = start.clone(), start.new_full((len(start),), torch.inf)
    for turn in range(rounds):
        if noise is None:
            drawn = torch.randn(len(start), candidates, len(chosen), generator=generator, dtype=start.dtype)
            drawn = drawn.to(start.device)
        else:
            drawn = noise[turn]
        values = torch.minimum(torch.maximum(mean[:, None] + std[:, None] * drawn, low), high)
        tried = start[:, None].repeat(1, values.shape[1], 1)
        tried[..., chosen] = values
        costs = cost(tried)
        order = costs.topk(elites, largest=False).indices
        kept = values.gather(1, order[..., None].expand(-1, -1, len(chosen)))
        mean, std = kept.mean(1), kept.std(1).clamp(min=1e-4)
        best, least = _better(best, least, tried, costs)
    return Found(best, least)


def grid_search(cost: ActionCost, start: Tensor, low: Tensor, high: Tensor, searched: Sequence[int], *,
                points: int = 30) -> Found:
    """Every combination of evenly spaced values; of equals the first one wins.

    Args:
        cost, start, low, high: As of `cem_search`.
        searched: Which numbers, few: there are ``points`` to their power combinations.
        points: Values of every number, bounds included.
    """
    chosen = list(searched)
    axes = [torch.linspace(low[i].item(), high[i].item(), points, dtype=start.dtype, device=start.device)
            for i in chosen]
    values = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).flatten(0, -2)
    tried = start[:, None].repeat(1, len(values), 1)
    tried[..., chosen] = values
    costs = cost(tried)
    return Found(*_better(start.clone(), start.new_full((len(start),), torch.inf), tried, costs))


def gradient_search(
    cost: ActionCost, start: Tensor, low: Tensor, high: Tensor, searched: Sequence[int] | None = None, *,
    steps: int = 50, lr: float = 0.01, behind: bool = False,
) -> Found:
    """Adam from ``start``, inside bounds; the best action of all steps.

    Args:
        cost, start, low, high, searched: As of `cem_search`; the cost has gradients.
        steps, lr: Of Adam.
        behind: Return what the best action became by its step, as upstream.
    """
    chosen = list(range(start.shape[1])) if searched is None else list(searched)
    values = start[:, chosen].clone().requires_grad_(True)
    optimizer = torch.optim.Adam([values], lr=lr)
    best, least = start.clone(), start.new_full((len(start),), torch.inf)
    for _ in range(steps):
        tried = start.clone()
        with torch.enable_grad():
            tried = tried.index_copy(1, torch.tensor(chosen, device=start.device), values)
            costs = cost(tried[:, None])[:, 0]
            (values.grad,) = torch.autograd.grad(costs.sum(), values)
        optimizer.step()
        with torch.no_grad():
            values.copy_(torch.minimum(torch.maximum(values, low[chosen]), high[chosen]))
            after = start.clone()
            after[:, chosen] = values
        best, least = _better(best, least, (after if behind else tried.detach())[:, None], costs.detach()[:, None])
    return Found(best, least)


def _better(best: Tensor, least: Tensor, tried: Tensor, costs: Tensor) -> tuple[Tensor, Tensor]:
    """The best so far and of these: actions ``[P, A]``, costs ``[P]``."""
    now, which = costs.min(1)
    action = tried.gather(1, which[:, None, None].expand(-1, 1, tried.shape[-1]))[:, 0]
    return torch.where((now < least)[:, None], action, best), torch.minimum(now, least)
