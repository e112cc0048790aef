"""Dense layers as Dreamer stacks them: linear, norm, activation; in one block or several; with its initial weights.

Unusual: biases are kept before norms; an RMS norm has no shift and a large epsilon (1e-4); the initial weights of
block-diagonal layers are drawn as if every output saw all inputs, so they start smaller than usual by the root of the
number of blocks.

Source: danijar/dreamerv3 @ e3f0224 (2026), danijar/dreamerv2 @ 07d906e, written from their description.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from ..errors import ConfigError
from .deferred import Linear, affine

Activation = Literal["silu", "elu", "relu", "gelu", "tanh", "none"]
Norm = Literal["rms", "layer", "none"]
Init = Literal["truncated-normal", "glorot", "normal"]

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": F.silu, "elu": F.elu, "relu": F.relu, "gelu": F.gelu, "tanh": torch.tanh, "none": lambda x: x,
}


class RMSNorm(nn.Module):
    r""":math:`x / \sqrt{\overline{x^2} + \epsilon} \cdot s` over the last axis, at least in float32.

    Example:
        >>> RMSNorm(4, eps=0)(torch.full((1, 4), 3.0))
        tensor([[1., 1., 1., 1.]], grad_fn=...)
    """

    def __init__(self, dim: int, eps: float = 1e-4):
        super().__init__()
        self.eps, self.scale = eps, nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        dtype = torch.promote_types(x.dtype, torch.float32)
        x, scale, given = x.to(dtype), self.scale.to(dtype), x.dtype
        if x.device.type != "cpu" or torch.compiler.is_compiling():
            return F.rms_norm(x, scale.shape, scale, eps=self.eps).to(given)
        if not torch.is_grad_enabled():
            return _rms_norm(x, scale, self.eps)[0].to(given)
        return _RMSNorm.apply(x, scale, self.eps).to(given)


def _rms_norm(x: Tensor, scale: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """The norm, what it is before its scale, and the factor ``[..., 1]`` that made it."""
    factor = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_().mul_(1 / len(scale)).add_(eps).rsqrt_()
    unit = x * factor
    return unit * scale, unit, factor


def _rms_norm_backward(
    grad: Tensor, unit: Tensor, factor: Tensor, scale: Tensor, *, learned: bool
) -> tuple[Tensor, Tensor | None]:
    """Gradients of ``x`` and ``scale``, in few operations: on a CPU, PyTorch 2.13 takes 16. Writes into ``grad``."""
    along = grad * unit
    rows = along if along.ndim == 2 else along.flatten(0, -2)
    total = torch.mv(rows, scale).view_as(factor)
    d_scale = rows.sum(0) if learned else None
    return grad.mul_(scale).addcmul_(unit, total, value=-1 / len(scale)).mul_(factor), d_scale


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, scale: Tensor, eps: float) -> Tensor:
        out, *rest = _rms_norm(x, scale, eps)
        ctx.save_for_backward(*rest, scale)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        return *_rms_norm_backward(grad.clone(), *ctx.saved_tensors, learned=ctx.needs_input_grad[1]), None


class _RMSNormSiLU(torch.autograd.Function):
    """Norm and activation in one node; beside small matrices on a CPU every operation counts."""

    @staticmethod
    def forward(ctx, x: Tensor, scale: Tensor, eps: float) -> Tensor:
        inner, *rest = _rms_norm(x, scale, eps)
        ctx.save_for_backward(*rest, scale, inner)
        return F.silu(inner)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        *saved, inner = ctx.saved_tensors
        grad = torch.ops.aten.silu_backward(grad, inner)
        return *_rms_norm_backward(grad, *saved, learned=ctx.needs_input_grad[1]), None


def normed(norm: nn.Module, activation: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """``activation(norm(x))``; of RMS norm and SiLU in as few operations as can be.

    Example:
        >>> norm, x = RMSNorm(4), torch.randn(3, 4)
        >>> torch.allclose(normed(norm, F.silu, x), F.silu(norm(x)))
        True
    """
    if activation is not F.silu or not isinstance(norm, RMSNorm) or x.device.type != "cpu":
        return activation(norm(x))
    scale, precise = norm.scale, x.dtype in (torch.float32, torch.float64)
    if not precise or x.dtype != scale.dtype or torch.compiler.is_compiling():
        return activation(norm(x))
    if torch.is_grad_enabled():
        return _RMSNormSiLU.apply(x, scale, norm.eps)
    return torch.ops.aten.silu_(_rms_norm(x, scale, norm.eps)[0])


def make_norm(kind: str, dim: int, eps: float = 1e-4) -> nn.Module:
    """``"rms"``, ``"layer"`` (with scale and shift) or ``"none"``, over the last axis.

    Args:
        kind: See above.
        dim: Size of the last axis.
        eps: Added to the mean of squares, or the variance: 1e-4 in Dreamer v3, 1e-3 in Keras and so in v2.
    Raises:
        ConfigError: for another kind.
    """
    if kind not in ("rms", "layer", "none"):
        raise ConfigError(f"a norm is 'rms', 'layer' or 'none', got {kind!r}")
    return RMSNorm(dim, eps) if kind == "rms" else nn.LayerNorm(dim, eps) if kind == "layer" else nn.Identity()


def init_weight_(weight: Tensor, init: str, *, fan_in: int, fan_out: int, scale: float = 1.0) -> None:
    """Draw initial weights in place.

    Args:
        weight: Any shape.
        init: ``"truncated-normal"`` (Dreamer v3: deviation about ``1 / sqrt(fan_in)``) or ``"glorot"`` (uniform; Keras,
            so Dreamer v1, v2 and PlaNet), or ``"normal"`` (deviation 0.02: GPT, so IRIS).
        fan_in, fan_out: Inputs of an output, and outputs of an input.
        scale: Factor on the result; 0 gives zeros.
    Raises:
        ConfigError: for another ``init``.
    """
    if init == "truncated-normal":
        std = 1.1368 * math.sqrt(1 / fan_in)  # cut at two deviations, which leaves 0.88 of it
        nn.init.trunc_normal_(weight, std=std, a=-2 * std, b=2 * std)
    elif init == "glorot":
        bound = math.sqrt(6 / (fan_in + fan_out))
        nn.init.uniform_(weight, -bound, bound)
    elif init == "normal":
        nn.init.normal_(weight, std=0.02)
    else:
        raise ConfigError(f"initial weights are 'truncated-normal', 'glorot' or 'normal', got {init!r}")
    with torch.no_grad():
        weight.mul_(scale)


def linear(inputs: int, outputs: int, *, init: str = "truncated-normal", scale: float = 1.0,
           bias: bool = True) -> nn.Linear:
    """A linear layer with Dreamer's initial weights and bias 0; see `init_weight_`."""
    layer = Linear(inputs, outputs, bias=bias)
    init_weight_(layer.weight, init, fan_in=inputs, fan_out=outputs, scale=scale)
    if bias:
        nn.init.zeros_(layer.bias)
    return layer


class BlockLinear(nn.Module):
    """A block-diagonal linear layer: the g-th part of the inputs alone makes the g-th part of the outputs.

    Args:
        inputs, outputs: Widths; multiples of ``blocks``.
        blocks: How many.
        init, scale: See `init_weight_`; the fan-in is ALL inputs, as upstream.
    Attributes:
        weight: ``[blocks, inputs / blocks, outputs / blocks]``.
        bias: ``[outputs]``.
    Raises:
        ConfigError: the widths do not divide.
    Example:
        >>> layer = BlockLinear(6, 4, 2)
        >>> x = torch.randn(3, 6)
        >>> torch.allclose(layer(x)[:, :2], x[:, :3] @ layer.weight[0] + layer.bias[:2], atol=1e-6)
        True
    """

    def __init__(self, inputs: int, outputs: int, blocks: int, *, init: str = "truncated-normal", scale: float = 1.0):
        super().__init__()
        if inputs % blocks or outputs % blocks:
            raise ConfigError(f"a layer of {blocks} blocks needs widths that are multiples of {blocks}, got {inputs} "
                              f"inputs and {outputs} outputs")
        self.weight = nn.Parameter(torch.empty(blocks, inputs // blocks, outputs // blocks))
        self.bias = nn.Parameter(torch.zeros(outputs))
        init_weight_(self.weight, init, fan_in=inputs, fan_out=outputs, scale=scale)

    def forward(self, x: Tensor) -> Tensor:
        blocks, width = self.weight.shape[:2]
        parts = x.reshape(-1, blocks, width).transpose(0, 1)
        made = torch.baddbmm(self.bias.view(blocks, 1, -1), parts, self.weight)
        return made.transpose(0, 1).reshape(*x.shape[:-1], -1)


class DenseLayer(nn.Module):
    """Linear, norm, activation: ``[..., inputs]`` -> ``[..., outputs]``."""

    def __init__(
        self, inputs: int, outputs: int, *, norm: str = "rms", activation: str = "silu", eps: float = 1e-4,
        init: str = "truncated-normal",
    ):
        super().__init__()
        self.linear = linear(inputs, outputs, init=init)
        self.norm = make_norm(norm, outputs, eps)
        self.activation = ACTIVATIONS[activation]

    def forward(self, x: Tensor) -> Tensor:
        layer = self.linear
        return normed(self.norm, self.activation, affine(x, layer.weight, layer.bias))


class DenseStack(nn.Sequential):
    """``layers`` of `DenseLayer`, ``units`` wide each: ``[..., inputs]`` -> ``[..., width]``.

    Attributes:
        width: ``units``, or ``inputs`` where there is no layer.
    Example:
        >>> stack = DenseStack(5, units=8, layers=2)
        >>> stack(torch.randn(2, 3, 5)).shape, stack.width
        (torch.Size([2, 3, 8]), 8)
    """

    def __init__(
        self, inputs: int, *, units: int, layers: int, norm: str = "rms", activation: str = "silu", eps: float = 1e-4,
        init: str = "truncated-normal",
    ):
        widths = [inputs, *[units] * layers]
        super().__init__(*(
            DenseLayer(before, after, norm=norm, activation=activation, eps=eps, init=init)
            for before, after in zip(widths, widths[1:])  # noqa: B905 - one shorter on purpose
        ))
        self.width = widths[-1]
