"""Muon: hidden matrices move by their orthogonalised momentum, everything else by Adam.

The momentum of a matrix is replaced by the nearest matrix whose singular values are all about 1 (five steps of a
Newton-Schulz iteration), so that rare directions of the gradient count as much as common ones. Such an update is scaled
until the root mean square of its entries is the learning rate, about what an update of Adam has: one learning rate
serves both.

Source: Jordan et al. (2024), kellerjordan.github.io/posts/muon; scale after Liu et al. (2025, arXiv:2502.16982), who
take 0.2 of it. Written from their descriptions. torch.optim.Muon takes matrices alone, one by one and in bfloat16,
which few CPUs have.
"""

from __future__ import annotations

import math
from collections import defaultdict

import torch
from torch import Tensor, nn

MOMENTUM, STEPS, LEAST = 0.95, 5, 16
"""Of the mean of gradients; Newton-Schulz steps; rows and columns that a hidden matrix has at least."""
_QUINTIC = (3.4445, -4.7750, 2.0315)


def hidden_matrices(module: nn.Module) -> list[nn.Parameter]:
    """Weights of linear layers that have `LEAST` inputs and outputs or more: not those that read or give few numbers.

    Example:
        >>> net = nn.Sequential(nn.Linear(2, 32), nn.Linear(32, 64), nn.Linear(64, 3))
        >>> [tuple(p.shape) for p in hidden_matrices(net)]
        [(64, 32)]
    """
    return [layer.weight for layer in module.modules()
            if isinstance(layer, nn.Linear) and min(layer.weight.shape) >= LEAST]


def orthogonalized(matrices: Tensor) -> Tensor:
    """Matrices ``[K, rows, columns]`` -> the same with all singular values between about 0.7 and 1.2.

    Example:
        >>> s = torch.linalg.svdvals(orthogonalized(torch.diag(torch.tensor([9.0, 1.0, 0.1]))[None]))
        >>> bool((s > 0.6).all() and (s < 1.3).all())
        True
    """
    a, b, c = _QUINTIC
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if tall else matrices
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7)
    for _ in range(STEPS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x


@torch.no_grad()
def move_matrices(parameters: list[Tensor], gradients: list[Tensor], mean: list[Tensor], lr: float) -> None:
    """One update in place; ``mean`` is the momentum. Matrices of one shape are orthogonalised together."""
    torch._foreach_lerp_(mean, gradients, 1 - MOMENTUM)
    ahead = torch._foreach_lerp(gradients, mean, MOMENTUM)  # Nesterov's: the mean once the gradient comes again
    shapes: dict[torch.Size, list[int]] = defaultdict(list)
    for i, p in enumerate(parameters):
        shapes[p.shape].append(i)
    for shape, numbers in shapes.items():
        updates = orthogonalized(torch.stack([ahead[i] for i in numbers]))
        torch._foreach_add_([parameters[i] for i in numbers], list(updates), alpha=-lr * math.sqrt(max(shape)))
