"""Attention of one query to a few keys, as a step of a rollout asks it of every token and its own past.

The fused kernels of CPUs are made for long sequences: for each of 35,000 pairs of token and head, PyTorch 2.13 sets up
blocks and threads anew, and takes 8 to 10 ms where one key is looked at, or five. Here every key is multiplied with all
queries at once, which takes 0.5 to 3.4 ms (one thread, AMD EPYC, 16 numbers a head). It pays for many queries, few keys
and without a graph, and nowhere else.
"""

from __future__ import annotations

import torch
from torch import Tensor

MOST_KEYS = 8
FEWEST_NUMBERS = 1 << 15
"""Numbers in all queries together, below which the operations' number counts."""


def pays(q: Tensor, k: Tensor) -> bool:
    """Whether `attend` is faster: queries ``[M, heads, L, d]``, keys ``[M, heads, S, d]``."""
    return (q.shape[-2] == 1 and not torch.is_grad_enabled() and not torch.compiler.is_compiling()
            and k.shape[-2] <= MOST_KEYS and q.device.type == "cpu" and q.numel() >= FEWEST_NUMBERS
            and q.dtype == torch.float32)


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Values ``[M, heads, S, d]`` mixed by attention of ``[M, heads, 1, d]`` to keys: ``[M, heads, 1, d]``.

    Example:
        >>> q, k, v = torch.randn(6, 2, 1, 4), torch.randn(6, 2, 3, 4), torch.randn(6, 2, 3, 4)
        >>> torch.allclose(attend(q, k, v), torch.nn.functional.scaled_dot_product_attention(q, k, v), atol=1e-6)
        True
    """
    if k.shape[-2] == 1:
        return v
    query, keys, values = q.squeeze(-2), k.unbind(-2), v.unbind(-2)
    logits = torch.stack([(query * key).sum(-1) for key in keys])  # keys first: what belongs to one lies together
    weights = logits.mul_(q.shape[-1] ** -0.5).softmax(0).unsqueeze(-1).unbind(0)
    mixed = weights[0] * values[0]
    for weight, value in zip(weights[1:], values[1:], strict=True):
        mixed.addcmul_(weight, value)
    return mixed.unsqueeze(-2)
