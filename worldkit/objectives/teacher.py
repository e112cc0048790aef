"""`Teacher`: a slow copy of a part of the model, which gives targets and follows the weights that learn."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn


class Teacher(nn.Module):
    """A copy of a module that is never trained: no gradients, evaluation mode whatever the model's mode is.

    Buffers are copied when it is made and stay; parameters alone follow.

    Args:
        source: What it is a copy of.
    Example:
        >>> student = nn.Linear(2, 1, bias=False)
        >>> teacher, before = Teacher(student), student.weight.detach().clone()
        >>> with torch.no_grad():
        ...     _ = student.weight.add_(1.0)
        >>> teacher.follow(student, momentum=0.75)
        >>> torch.allclose(teacher.net.weight - before, torch.full((1, 2), 0.25)), teacher.train().training
        (True, False)
    """

    def __init__(self, source: nn.Module):
        super().__init__()
        self.net = copy.deepcopy(source).requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> Teacher:
        """Evaluation mode, always."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.net(*args, **kwargs)

    @torch.no_grad()
    def begin(self, source: nn.Module) -> None:
        """Be a copy of it again."""
        self.net.load_state_dict(source.state_dict())

    @torch.no_grad()
    def follow(self, source: nn.Module, *, momentum: float) -> None:
        """``parameter = momentum * parameter + (1 - momentum) * the source's``."""
        own, others = list(self.net.parameters()), list(source.parameters())
        torch._foreach_mul_(own, momentum)
        torch._foreach_add_(own, [p.detach() for p in others], alpha=1 - momentum)
