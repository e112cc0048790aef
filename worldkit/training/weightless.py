"""Models without memory: parameters that have a shape and a type, but no values. For counting, not for computing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from ..batch import Batch

M = TypeVar("M", bound=nn.Module)


def weightless(make: Callable[[], M]) -> M:
    """Build a module without its weights; one that reads values while it is built is made whole.

    Args:
        make: Builds it.
    Returns:
        The module, in fake tensors that say they are on the CPU (`torch.device("meta")` knows no autocast).
    Example:
        >>> isinstance(weightless(lambda: nn.Linear(2, 3)).weight.data, FakeTensor)
        True
    """
    try:
        with torch.device("meta"):
            module = make()
    except (RuntimeError, NotImplementedError):
        return make()
    with FakeTensorMode(allow_non_fake_inputs=True):
        return module.to_empty(device="cpu")


def mode_of(module: nn.Module) -> FakeTensorMode | None:
    """The mode that computes with a weightless module; None for one with weights."""
    first = next(module.parameters(), None)
    return first.data.fake_mode if first is not None and isinstance(first.data, FakeTensor) else None


def emptied(batch: Batch, mode: FakeTensorMode) -> Batch:
    """The same batch without its values."""
    def empty(x: Any) -> Any:
        return mode.from_tensor(x) if isinstance(x, Tensor) else x

    parts = ({name: empty(x) for name, x in part.items()} for part in (batch.conditions, batch.masks, batch.targets))
    conditions, masks, targets = parts
    vectors = {name: empty(value) for name, value in batch.vectors.items()}
    return Batch(empty(batch.video), conditions, masks, empty(batch.done_mask), targets, empty(batch.first), vectors)
