"""Which parameters a loss depends on, without resting on rounding.

What a bias in front of a normalisation adds is subtracted again, what a bias of keys adds does not change a softmax:
their gradients are sums that cancel, and whether rounding leaves 0 or 1e-9 is chance. A parameter that nothing depends
on has no gradient at all, or a sum of zeros. So where the sum is zero, its terms are looked at.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from torch import Tensor, nn
from torch.autograd.graph import get_gradient_edge

_ADDED = {  # operation in the graph -> inputs that it adds to its result, possibly once for many entries; None: all
    "AddBackward0": None, "SubBackward0": None, "AddmmBackward0": {0}, "AddmvBackward0": {0}, "BaddbmmBackward0": {0},
    "AddcmulBackward0": {0}, "LinearBackward0": {2}, "ConvolutionBackward0": {2}, "NativeLayerNormBackward0": {2},
    "NativeGroupNormBackward0": {2}, "NativeBatchNormBackward0": {2},
    "_ProductBackward": {2, 3}, "_ConvBackward": {2},  # nn/products.py, nn/replicated.py
}
_PASSED_ON = (  # names of operations that only give their input another shape, type or place begin like this
    "View", "UnsafeView", "ReshapeAlias", "Alias", "Expand", "Repeat", "Unsqueeze", "Squeeze", "Permute", "Transpose",
    "TBackward", "ToCopy", "Clone", "Select", "Slice", "Split", "Unbind", "Chunk", "Cat", "Stack", "Index", "Flip",
)


def without_gradient(module: nn.Module, loss: Tensor, ignore: Iterable[str] = ()) -> list[str]:
    """Names of the parameters that do not move a loss, or have NaN in their gradients; ``module``'s are cleared.

    Example:
        >>> import torch
        >>> class Net(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.linear, self.norm = nn.Linear(2, 4), nn.InstanceNorm1d(4)  # the bias is subtracted again
        ...         self.idle, self.hidden = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))
        ...     def forward(self, x):
        ...         y = self.linear(x).transpose(1, 2)
        ...         return torch.where(y == y, self.norm(y), self.hidden)
        >>> net = Net()
        >>> without_gradient(net, net(torch.randn(3, 5, 2)).square().sum())
        ['idle', 'hidden']
    """
    left_out = set(ignore)
    names = {name: p for name, p in module.named_parameters() if p.requires_grad and name not in left_out}
    module.zero_grad()
    if loss.requires_grad:  # not if the module is frozen as a whole
        loss.backward(retain_graph=True)
    missing = {name for name, p in names.items() if p.grad is None or p.grad.isnan().any()}
    zero = {name: p for name, p in names.items() if name not in missing and not p.grad.any()}
    if zero:
        missing |= zero.keys() - _with_terms(loss, zero)
    module.zero_grad()
    return [name for name in names if name in missing]


def _consumers(loss: Tensor) -> dict[Any, list[tuple[Any, int]]]:
    """Node of the graph -> (node that reads it, number of the input there)."""
    found: dict[Any, list[tuple[Any, int]]] = {}
    todo, seen = [loss.grad_fn], {loss.grad_fn}
    while todo:
        node = todo.pop()
        for index, (child, _) in enumerate(node.next_functions):
            if child is None:
                continue
            found.setdefault(child, []).append((node, index))
            if child not in seen:
                seen.add(child)
                todo.append(child)
    return found


def _with_terms(loss: Tensor, parameters: dict[str, Tensor]) -> set[str]:
    """Those of the parameters whose gradient is a sum of terms that are not all zero."""
    readers, found = _consumers(loss), set()
    for name, p in parameters.items():
        for node in _adding(get_gradient_edge(p).node, readers):
            node.register_prehook(lambda grads, name=name: _note(found, name, grads))
    loss.backward(retain_graph=True)
    return found


def _adding(node: Any, readers: dict[Any, list[tuple[Any, int]]]) -> Iterator[Any]:
    """Operations that add what a node gives to something else."""
    for reader, index in readers.get(node, ()):
        name = reader.name()
        if name in _ADDED:
            if _ADDED[name] is None or index in _ADDED[name]:
                yield reader
        elif name.startswith(_PASSED_ON):
            yield from _adding(reader, readers)


def _note(found: set[str], name: str, grads: tuple[Tensor | None, ...]) -> None:
    if any(g is not None and bool((g != 0).any()) for g in grads):
        found.add(name)
