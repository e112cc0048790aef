"""What a policy carries from frame to frame, as a list of tensors, so that a run can go on exactly."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode


class _Copying(TorchFunctionMode):
    """Inside, deep copies note every tensor, and may put others in their places."""

    def __init__(self, instead: list[Tensor] | None = None):
        self.found: list[Tensor] = []
        self._instead = None if instead is None else list(instead)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not torch.Tensor.__deepcopy__:
            return func(*args, **(kwargs or {}))
        x, memo = args
        self.found.append(x.detach().clone())
        twin = self.found[-1] if self._instead is None else self._instead.pop(0).to(x.device)
        memo[id(x)] = twin
        return twin


def tensors_of(carry: Any) -> list[Tensor]:
    """Copies of all tensors in a carry, at any depth.

    Example:
        >>> tensors_of({"a": torch.ones(2), "b": (torch.zeros(1), "text")})
        [tensor([1., 1.]), tensor([0.])]
    """
    mode = _Copying()
    with mode:
        copy.deepcopy(carry)
    return mode.found


def with_tensors(carry: Any, tensors: list[Tensor]) -> Any:
    """A copy of a carry with other tensors, in the order of `tensors_of`.

    Raises:
        ValueError: there are more or fewer.
    Example:
        >>> with_tensors({"a": torch.ones(2)}, [torch.zeros(2)])
        {'a': tensor([0., 0.])}
    """
    if len(tensors_of(carry)) != len(tensors):
        raise ValueError(f"{len(tensors)} tensors for a carry of {len(tensors_of(carry))}")
    with _Copying(tensors):
        return copy.deepcopy(carry)
