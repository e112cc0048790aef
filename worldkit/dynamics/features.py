"""What heads read: `transition_tokens` of a transition, of any latent; `state_tokens` of the state that it reached."""

from __future__ import annotations

import torch
import torch.nn.functional as F
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
    if len(left.spec.groups) > 1:
        parts.append(_kinds(left.spec, parts[0]))
    told = parts[0].new_zeros(b, t, n, cond_dim)
    for part in (None if cond.frame is None else cond.frame[:, :, None], cond.token,
                 None if cond.memory is None else cond.memory.mean(1)[:, None, None]):
        told = told if part is None else told + part
    return torch.cat([*parts, told], -1)


def state_dim(spec: LatentSpec) -> int:
    """Width of the tokens of `state_tokens`."""
    widths = [spec.flat_dim(group.name) for group in spec.groups]
    return widths[0] if len(widths) == 1 else max(widths) + len(widths)


def state_tokens(z: Latent) -> Tensor:
    """Every token of states by itself, ``[B, T, N, D]``: fields but hidden ones, and its group where there are more.

    Example:
        >>> from worldkit.testing import example_latent, example_spec
        >>> z = example_latent(example_spec(), batch=2, time=3)
        >>> state_tokens(z).shape[-1] == state_dim(z.spec)
        True
    """
    parts = [z.flat(group.name) for group in z.spec.groups]
    if len(parts) == 1:
        return parts[0]
    width = max(part.shape[-1] for part in parts)
    tokens = torch.cat([F.pad(part, (0, width - part.shape[-1])) for part in parts], 2)
    return torch.cat([tokens, _kinds(z.spec, tokens)], -1)


def _kinds(spec: LatentSpec, like: Tensor) -> Tensor:
    """The group of every token as a one-hot vector, ``[B, T, N, groups]``."""
    numbers = torch.arange(len(spec.groups), device=like.device)
    kinds = torch.repeat_interleave(numbers, torch.tensor([g.size for g in spec.groups], device=like.device))
    return repeat((kinds[:, None] == numbers).to(like.dtype), "n g -> b t n g", b=like.shape[0], t=like.shape[1])


def flat_frames(z: Latent) -> Tensor:
    """All numbers of a frame side by side, ``[B, T, width]``.

    Example:
        >>> from worldkit.testing import example_latent, example_spec
        >>> flat_frames(example_latent(example_spec(kind="slots"), batch=2, time=3)).shape
        torch.Size([2, 3, 12])
    """
    parts = [x.flatten(2) for x in z.values.values()]
    return parts[0] if len(parts) == 1 else torch.cat(parts, -1)


def told_frames(cond: Condition, like: Tensor, dim: int) -> Tensor:
    """What conditions say about every transition, as one vector ``[B, T, dim]``; zeros where nothing is said.

    What is said of tokens, or to attend to, is averaged.
    """
    told = like.new_zeros(*like.shape[:2], dim)
    for part in (cond.frame, None if cond.token is None else cond.token.mean(2),
                 None if cond.memory is None else cond.memory.mean(1)[:, None]):
        told = told if part is None else told + part
    return told
