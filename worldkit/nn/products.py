"""Large products of matrices in float32 where PyTorch's own use half of a processor.

On x86 PyTorch hands them to MKL, which on AMD's processors leaves half of every AVX-512 vector unused: torch 2.13 on
one core of an EPYC (Zen 5) reaches 100 GFLOP/s for ``[256, 2304] @ [2304, 6144]``. oneDNN, which every such PyTorch
brings along for convolutions and lower precisions, reaches 220 with the same float32 numbers, from about 4 million
multiplications on. So on those processors, and nowhere else, `linear`, `Linear` and `plus_linear` ask oneDNN. Sums are
taken in another order, so results differ in the last digits, as between any two processors. On an EPYC of Zen 4, whose
vectors take two steps, the same product goes at 82 and 107 GFLOP/s.

Rows keep apart: from two rows on, a row's result is the same bit for bit whatever rows stand beside it.
"""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LARGE = 1 << 22
"""Multiplications beyond which it pays."""


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`torch.nn.functional.linear`: ``[..., in]``, ``[out, in]``, ``[out]``.

    Example:
        >>> x, weight = torch.randn(2, 512, 64), torch.randn(128, 64)
        >>> torch.allclose(linear(x, weight), x @ weight.t(), atol=1e-4)
        True
    """
    if not _pays(x, weight, bias):
        return F.linear(x, weight, bias)
    return _product(x.reshape(-1, x.shape[-1]), weight, bias, None).view(*x.shape[:-1], -1)


class Linear(nn.Linear):
    """`torch.nn.Linear`, by `linear`.

    Example:
        >>> layer, usual = Linear(64, 128), torch.nn.Linear(64, 128)
        >>> layer.load_state_dict(usual.state_dict())
        <All keys matched successfully>
        >>> x = torch.randn(2, 512, 64)
        >>> torch.allclose(layer(x), usual(x), atol=1e-5)
        True
    """

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)


def plus_linear(plus: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """``plus + linear(x, weight)`` of rows: ``[N, out]``, ``[N, in]``, ``[out, in]``.

    Example:
        >>> plus_linear(torch.ones(1, 2), torch.ones(1, 3), torch.ones(2, 3))
        tensor([[4., 4.]])
    """
    if plus.shape != (x.shape[0], weight.shape[0]) or not _pays(x, weight, plus):
        return torch.addmm(plus, x, weight.t())
    return _product(x, weight, None, plus)


def across(grad: Tensor, x: Tensor) -> Tensor:
    """Gradient of a weight: ``grad.t() @ x`` of rows ``[N, out]``, ``[N, in]``.

    oneDNN wants one of the two transposed, which is a copy: the narrower.
    """
    if grad.shape[1] > x.shape[1]:
        return linear(x.t(), grad.t()).t()
    return linear(grad.t(), x.t())


def _pays(x: Tensor, weight: Tensor, beside: Tensor | None) -> bool:
    """Most products are small, so that is asked first; but not of a compiler, for which sizes may be unknown."""
    return (not torch.compiler.is_compiling() and x.numel() * weight.size(0) > LARGE
            and x.numel() > x.shape[-1] == weight.shape[-1] and x.device.type == "cpu" and halved()
            and all(part is None or part.dtype == torch.float32 for part in (x, weight, beside))
            and not torch.is_autocast_enabled("cpu") and not torch._C._are_functorch_transforms_active())


@functools.cache
def halved() -> bool:
    """Whether MKL computes with half of this processor's vectors, and oneDNN is there to do better."""
    if not torch.backends.mkl.is_available() or not torch.backends.mkldnn.is_available():
        return False
    if not hasattr(torch.cpu, "get_capabilities") or not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return False  # an older PyTorch
    has = torch.cpu.get_capabilities()
    return "AMD" in str(has.get("cpu_name")) and bool(has.get("avx512_f"))


def _onednn(x: Tensor, weight: Tensor, bias: Tensor | None = None, plus: Tensor | None = None) -> Tensor:
    """``x @ weight.t()`` and what is added to it."""
    x, product = x.contiguous(), torch.ops.mkldnn._linear_pointwise
    if not weight.t().is_contiguous():
        weight = weight.contiguous()  # with rows of a wider matrix it takes minutes
    if plus is None:
        return product(x, weight, bias, "none", [], "")
    return product.binary(x, plus.contiguous(), weight, bias, "add")


def _product(x: Tensor, weight: Tensor, bias: Tensor | None, plus: Tensor | None) -> Tensor:
    return (_Product.apply if torch.is_grad_enabled() else _onednn)(x, weight, bias, plus)


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor | None, plus: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _onednn(x, weight, bias, plus)

    @staticmethod
    def backward(ctx, grad: Tensor):
        x, weight = ctx.saved_tensors
        wants_x, wants_weight, wants_bias, wants_plus = ctx.needs_input_grad
        return (linear(grad, weight.t()) if wants_x else None,
                across(grad, x) if wants_weight else None,
                grad.sum(0) if wants_bias else None, grad if wants_plus else None)
