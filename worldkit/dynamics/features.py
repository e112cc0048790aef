"""`transition_tokens`: what heads read of a transition, of any latent."""

from __future__ import annotations

import torch
from einops import repeat
from torch import Tensor

from ..conditions import Condition
from ..latents import Latent, LatentSpec


def token_dim(spec: LatentSpec, cond_dim: int) -> int:
    """Width of the tokens of `transition_tokens`."""
    kinds = len(spec.groups) if len(spec.groups) > 1 else 0
    return 2 * spec.packed_dim + kinds + cond_dim


def transition_tokens(left: Latent, reached: Latent, cond: Condition, cond_dim: int) -> Tensor:
    """The latents that transitions lead from and to, and their conditions, side by side for every token.

    Args:
        left, reached: Latents ``[B, T]``: index t of one leads to index t of the other.
        cond: Conditions of the T transitions.
        cond_dim: Their width; where there are none, zeros stand in.
    Returns:
        ``[B, T, N, D]``: all fields before, all fields after, the token's group where there are several, condition.
    Example:
        >>> from worldkit.testing import example_latent, example_spec
        >>> z = example_latent(example_spec(), batch=2, time=3)
        >>> transition_tokens(z[:, :-1], z[:, 1:], Condition(), 4).shape[-1] == token_dim(z.spec, 4)
        True
    """
    parts = [left.pack(), reached.pack()]
    b, t, n, _ = parts[0].shape
    groups = left.spec.groups
    if len(groups) > 1:
        numbers = torch.arange(len(groups), device=parts[0].device)
        kinds = torch.repeat_interleave(numbers, torch.tensor([g.size for g in groups], device=numbers.device))
        one_hot = (kinds[:, None] == numbers).to(parts[0].dtype)
        parts.append(repeat(one_hot, "n g -> b t n g", b=b, t=t))
    told = parts[0].new_zeros(b, t, n, cond_dim)
    for part in (None if cond.frame is None else cond.frame[:, :, None], cond.token,
                 None if cond.memory is None else cond.memory.mean(1)[:, None, None]):
        told = told if part is None else told + part
    return torch.cat([*parts, told], -1)
