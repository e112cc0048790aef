"""Activation checkpointing as a switch: recompute in the backward pass what would otherwise be stored.

Levels: ``"off"``; ``"cnn"`` recomputes convolution stacks and, in transformers, everything that needs no product with a
weight (norms, modulations, GELU, attention weights): on a CPU this costs hardly any time, because fewer large buffers
are touched; ``"all"`` recomputes every half-block of the spatio-temporal transformers as a whole.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Literal

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

Level = Literal["off", "cnn", "all"]
LEVELS = ("off", "cnn", "all")


class Checkpointed(nn.Module):
    """Base of modules whose work can be recomputed, at the levels that the class names."""

    when: ClassVar[frozenset[str]] = frozenset({"cnn", "all"})
    active = False

    def run(self, function: Callable[..., Any], *args: Any) -> Any:
        """Call ``function``, storing only its inputs if checkpointing is on and a gradient is wanted.

        Recomputation stops at the last stored tensor: a linear layer at the end of ``function`` is not run again.
        """
        if self.active and torch.is_grad_enabled():
            return checkpoint(function, *args, use_reentrant=False)
        return function(*args)


def set_checkpointing(module: nn.Module, level: Level) -> None:
    """Set the level on every `Checkpointed` module inside ``module``.

    Raises:
        ValueError: for an unknown level.
    """
    if level not in LEVELS:
        raise ValueError(f"checkpointing level must be one of {', '.join(LEVELS)}, got '{level}'")
    for part in module.modules():
        if isinstance(part, Checkpointed):
            part.active = level in part.when
