"""Weight gradients of a scan: one product per weight when all steps are through, instead of one per step.

Autograd makes a gradient as large as the weight in every step and adds it up, so that a scan of 64 steps writes every
weight 128 times. Inside of `deferred` the layers below take part in the graph with weights that want no gradient; what
went into each and the gradients of what came out are kept, and multiplied once, over all steps. Other parameters (the
scales of norms) and other ways of using a weight are differentiated as always.

The graph of the scan is a graph of its own inside one node, so there is no gradient of gradients.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from .products import across, linear, plus_linear

_active = threading.local()


@dataclass
class _Use:
    """One weight: what went in and came out, step by step."""

    weight: Tensor
    bias: Tensor | None
    used: tuple[Tensor, Tensor | None]  # without gradient, in the precision of the products
    wide: Callable[[Tensor, Tensor], Tensor]  # inputs and gradients of outputs of all rows -> the weight's gradient
    rows: int  # axis of the rows
    inputs: list[Tensor] = field(default_factory=list)
    outputs: list[Tensor] = field(default_factory=list)

    def gradients(self, grads: Sequence[Tensor | None]) -> tuple[Tensor | None, Tensor | None]:
        """Of weight and bias, from the gradients of the outputs."""
        steps = [(x, g) for x, g in zip(self.inputs, grads, strict=True) if g is not None]
        if not steps:
            return None, None
        x, g = (torch.cat(parts, self.rows) for parts in zip(*steps, strict=True))
        weight = self.wide(x.detach().to(g.dtype), g).to(self.weight.dtype)
        if self.bias is None:
            return weight, None
        return weight, g.sum(self.rows).view_as(self.bias).to(self.bias.dtype)


class _Tape:
    def __init__(self) -> None:
        self.uses: dict[int, _Use] = {}

    def use(self, weight: Tensor, bias: Tensor | None, wide: Any, rows: int) -> _Use:
        found = self.uses.get(id(weight))
        if found is None:
            used = tuple(None if x is None else _precise(x.detach()) for x in (weight, bias))
            found = self.uses[id(weight)] = _Use(weight, bias, used, wide, rows)
        return found


def _precise(x: Tensor) -> Tensor:
    """As autocast would have it, once instead of in every step."""
    kind = x.device.type
    return x.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else x


def _taped(weight: Tensor, bias: Tensor | None, wide: Any, rows: int, x: Tensor, make: Any) -> Tensor | None:
    """What ``make(weight, bias)`` gives with weights that want no gradient, kept on the tape; None without one."""
    tape = getattr(_active, "tape", None)
    if tape is None or not weight.requires_grad:
        return None
    use = tape.use(weight, bias, wide, rows)
    out = make(*use.used)
    if not out.requires_grad:  # nothing before it wants a gradient, but the weight does
        out.requires_grad_()
    use.inputs.append(x)
    use.outputs.append(out)
    return out


def affine(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`torch.nn.functional.linear` of rows: ``[..., in]``, ``[out, in]``, ``[out]``."""
    if x.ndim != 2:
        return linear(x, weight, bias)
    out = _taped(weight, bias, _of_rows, 0, x, lambda w, b: linear(x, w, b))
    return linear(x, weight, bias) if out is None else out


class Linear(nn.Linear):
    """`torch.nn.Linear`, known to `deferred`."""

    def forward(self, x: Tensor) -> Tensor:
        return affine(x, self.weight, self.bias)


def plus_product(plus: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """``plus + linear(x, weight)`` of rows: ``[N, out]``, ``[N, in]``, ``[out, in]``."""
    out = _taped(weight, None, _of_rows, 0, x, lambda w, _: plus_linear(plus, x, w))
    return plus_linear(plus, x, weight) if out is None else out


def _of_rows(x: Tensor, grad: Tensor) -> Tensor:
    """The gradient ``[out, in]`` of a weight, from all that went in ``[N, in]`` and the gradients of what came out."""
    return across(grad, x)


def block_product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``x @ weight (+ bias)`` block by block: ``[g, N, in]``, ``[g, in, out]``, ``[g, 1, out]``."""
    def make(w: Tensor, b: Tensor | None) -> Tensor:
        return torch.bmm(x, w) if b is None else torch.baddbmm(b, x, w)

    out = _taped(weight, bias, lambda x, g: torch.bmm(x.transpose(1, 2), g), 1, x, make)
    return make(weight, bias) if out is None else out


def deferred(
    run: Callable[..., Sequence[Tensor]], inputs: Sequence[Tensor], modules: Iterable[nn.Module]
) -> Sequence[Tensor]:
    """``run(*inputs)``; backwards, weights used by the functions above get their gradients at the end.

    Args:
        run: The scan. Whatever it reads and wants a gradient must be in ``inputs``, a parameter of ``modules``, or a
            weight or bias of the functions above.
        inputs: What depends on other parts of the graph.
        modules: Whose parameters it uses.
    Example:
        >>> layer, x = Linear(3, 3), torch.randn(2, 3)
        >>> def run(x):
        ...     for _ in range(4):
        ...         x = layer(x).tanh()
        ...     return [x]
        >>> whole, wanted = (torch.autograd.grad(out[0].sum(), layer.weight)[0]
        ...                  for out in (deferred(run, [x], [layer]), run(x)))
        >>> torch.allclose(whole, wanted, atol=1e-6)
        True
    """
    wants = [p for module in modules for p in module.parameters() if p.requires_grad]
    if not torch.is_grad_enabled() or not wants or torch.compiler.is_compiling() or hasattr(_active, "tape"):
        return run(*inputs)
    leaves = [x.detach().requires_grad_(x.requires_grad) for x in inputs]
    _active.tape = tape = _Tape()
    try:
        made = run(*leaves)
    finally:
        del _active.tape
    uses = list(tape.uses.values())
    weights = [x for use in uses for x in (use.weight, use.bias) if x is not None]
    direct = {id(x) for x in weights}
    others = [p for p in wants if id(p) not in direct]
    return _Scan.apply((made, leaves, uses, others), *inputs, *weights, *others)


class _Scan(torch.autograd.Function):
    """The scan as one node. ``inside``: its results, inputs, uses of weights and other parameters, of its own graph."""

    @staticmethod
    def forward(ctx, inside: Any, *_: Tensor) -> tuple[Tensor, ...]:
        ctx.inside = inside
        found = tuple(x.detach() for x in inside[0])
        ctx.mark_non_differentiable(*(out for out, x in zip(found, inside[0], strict=True) if not x.requires_grad))
        ctx.set_materialize_grads(False)
        return found

    @staticmethod
    @once_differentiable
    def backward(ctx, *grads: Tensor | None):
        made, leaves, uses, others = ctx.inside
        ends = [(x, g) for x, g in zip(made, grads, strict=True) if g is not None and x.requires_grad]
        wanted = [x for x in leaves if x.requires_grad], others, [y for use in uses for y in use.outputs]
        flat = [x for part in wanted for x in part]
        found = iter([None] * len(flat))
        if ends:
            found = iter(torch.autograd.grad([x for x, _ in ends], flat, [g for _, g in ends], retain_graph=_kept(),
                                             allow_unused=True))
        to_inputs = [next(found) if x.requires_grad else None for x in leaves]
        to_others = [next(found) for _ in others]
        to_weights: list[Tensor | None] = []
        for use in uses:
            weight, bias = use.gradients([next(found) for _ in use.outputs])
            to_weights += [weight] if use.bias is None else [weight, bias]
        return None, *to_inputs, *to_weights, *to_others


def _kept() -> bool:
    """Whether whoever goes backwards keeps the graph for another time."""
    asked = getattr(torch._C._autograd, "_get_current_graph_task_keep_graph", None)
    return True if asked is None else asked()
