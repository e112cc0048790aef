"""Three gated recurrent units that differ in small things which checkpoints depend on.

| | reset gate acts | norm | update |
| --- | --- | --- | --- |
| `PlaNetGRU` | on the state, before its product | none | share of the old state |
| `GRU` (v1) | on the state's product, which has a bias of its own | none | share of the old state |
| `LayerNormGRU` (v2) | on the candidate | one over all gates | share of the candidate, less 1 before its sigmoid |

Source: google-research/planet @ c04226b (TF1's GRUBlockCell), danijar/dreamer @ 56d4d44 (Keras' GRUCell),
danijar/dreamerv2 @ 07d906e, written from their description.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from ..nn.deferred import Linear
from ..nn.dense import Activation, Init, Norm, init_weight_, linear
from .base import Cell, CellConfig, Hoist, InputLayer, Step, as_given


class PlaNetGRUConfig(CellConfig):
    """Options of PlaNet's cell.

    Attributes:
        gate_bias: Initial bias of both gates.
    """

    name: str = "planet-gru"
    hidden: int = Field(default=200, gt=0)
    norm: Norm = "none"
    activation: Activation = "relu"
    init: Init = "glorot"
    gate_bias: float = 1.0


class PlaNetGRU(Cell):
    """Rows of ``gates``: reset, update.

    Example:
        >>> cell = PlaNetGRU(PlaNetGRUConfig(hidden=8), dim=6, drawn=4)
        >>> _, step = cell.begin()
        >>> step(torch.zeros(2, 6), torch.zeros(2, 0), torch.randn(2, 4), torch.randn(2, 8))[0].shape
        torch.Size([2, 6])
    """

    Config = PlaNetGRUConfig

    def __init__(self, config: PlaNetGRUConfig, *, dim: int, drawn: int):
        super().__init__(config, dim=dim, drawn=drawn)
        self.inputs = InputLayer(config, drawn)
        self.gates = linear(config.hidden + dim, 2 * dim, init=config.init)
        nn.init.constant_(self.gates.bias, config.gate_bias)
        self.candidate = linear(config.hidden + dim, dim, init=config.init)

    def begin(self) -> tuple[Hoist, Step]:
        def step(deter: Tensor, memory: Tensor, drawn: Tensor, told: Tensor) -> tuple[Tensor, Tensor]:
            x = self.inputs(drawn, told)
            reset, update = torch.sigmoid(self.gates(torch.cat([x, deter], -1))).chunk(2, -1)
            candidate = torch.tanh(self.candidate(torch.cat([x, reset * deter], -1)))
            return torch.lerp(candidate.to(deter.dtype), deter, update.to(deter.dtype)), memory

        return as_given, step


class GRUConfig(CellConfig):
    """Options of the usual cell, as Dreamer v1 has it."""

    name: str = "gru"
    hidden: int = Field(default=200, gt=0)
    norm: Norm = "none"
    activation: Activation = "elu"
    init: Init = "glorot"


class GRU(Cell):
    """Rows of both products: reset, update, candidate, as in `torch.nn.GRUCell`."""

    Config = GRUConfig

    def __init__(self, config: GRUConfig, *, dim: int, drawn: int):
        super().__init__(config, dim=dim, drawn=drawn)
        self.inputs = InputLayer(config, drawn)
        self.from_input = linear(config.hidden, 3 * dim, init=config.init)
        self.from_state = linear(dim, 3 * dim, init=config.init)

    def begin(self) -> tuple[Hoist, Step]:
        def step(deter: Tensor, memory: Tensor, drawn: Tensor, told: Tensor) -> tuple[Tensor, Tensor]:
            dim = deter.shape[-1]
            given = self.from_input(self.inputs(drawn, told)).split([2 * dim, dim], -1)
            kept = self.from_state(deter).split([2 * dim, dim], -1)
            reset, update = torch.sigmoid(given[0] + kept[0]).chunk(2, -1)
            candidate = torch.tanh(torch.addcmul(given[1], reset, kept[1]))
            return torch.lerp(candidate.to(deter.dtype), deter, update.to(deter.dtype)), memory

        return as_given, step


class LayerNormGRUConfig(CellConfig):
    """Options of Dreamer v2's cell, whose ``norm`` is that of the layer before it: the gates' own is always there.

    Attributes:
        gate_norm_eps: Of the norm over the gates.
        gate_bias: Whether the product under that norm has a bias.
    """

    name: str = "layernorm-gru"
    hidden: int = Field(default=1024, gt=0)
    norm: Norm = "none"
    norm_eps: float = Field(default=1e-3, gt=0)
    activation: Activation = "elu"
    init: Init = "glorot"
    gate_norm_eps: float = Field(default=1e-3, gt=0)
    gate_bias: bool = True


class LayerNormGRU(Cell):
    """Rows of ``gates``: reset, candidate, update."""

    Config = LayerNormGRUConfig

    def __init__(self, config: LayerNormGRUConfig, *, dim: int, drawn: int):
        super().__init__(config, dim=dim, drawn=drawn)
        self.inputs = InputLayer(config, drawn)
        self.gates = Linear(config.hidden + dim, 3 * dim, bias=config.gate_bias)
        init_weight_(self.gates.weight, config.init, fan_in=config.hidden + dim, fan_out=3 * dim)
        if config.gate_bias:
            nn.init.zeros_(self.gates.bias)
        self.gate_norm = nn.LayerNorm(3 * dim, eps=config.gate_norm_eps)

    def begin(self) -> tuple[Hoist, Step]:
        norm, dim = self.gate_norm, self.gate_norm.weight.shape[0] // 3
        bias = sooner(norm.bias, dim)

        def step(deter: Tensor, memory: Tensor, drawn: Tensor, told: Tensor) -> tuple[Tensor, Tensor]:
            x = self.gates(torch.cat([self.inputs(drawn, told), deter], -1))
            return gated(deter, F.layer_norm(x, norm.normalized_shape, norm.weight, bias, norm.eps)), memory

        return as_given, step


def sooner(bias: Tensor, dim: int) -> Tensor:
    """Biases ``[..., 3 dim]`` of reset, candidate and update, less 1 for the update: what `gated` expects."""
    return torch.cat([bias[..., : 2 * dim], bias[..., 2 * dim :] - 1], -1)


def gated(state: Tensor, gates: Tensor, blocks: int = 0) -> Tensor:
    """``u tanh(sigmoid(reset) candidate) + (1 - u) state`` with ``u = sigmoid(update)``: of Dreamer v2 and v3.

    There the update is made less 1 before its sigmoid: `sooner` does so to its bias.

    Args:
        state: ``[N, D]``.
        gates: ``[N, 3 D]``: reset, candidate, update; or, of as many blocks, ``[blocks, N, 3 D / blocks]``.
        blocks: See there.
    Example:
        >>> gated(torch.ones(1, 2), torch.tensor([[0.0, 0.0, 0.0, 0.0, 0.0, 0.0]]))
        tensor([[0.5000, 0.5000]])
    """
    gates = gates.to(state.dtype)  # under autocast they come in bfloat16, and a state must not
    if state.device.type == "cpu" and not torch.compiler.is_compiling():
        return _Gated.apply(state, gates, blocks) if torch.is_grad_enabled() else _gated(state, gates, blocks)[0]
    reset, candidate, update = gates.chunk(3, -1)
    parts = _parts(state, blocks)
    new = torch.lerp(parts, torch.tanh(torch.sigmoid(reset) * candidate), torch.sigmoid(update))
    return new.transpose(0, 1).flatten(1) if blocks else new


def _parts(state: Tensor, blocks: int) -> Tensor:
    """Blocks of the state, a view ``[blocks, N, D / blocks]``; without any the state as it is."""
    return state.unflatten(-1, (blocks, -1)).transpose(0, 1) if blocks else state


def _gated(state: Tensor, gates: Tensor, blocks: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The next state, and what made it: reset, candidate, update."""
    reset, candidate, update = gates.chunk(3, -1)
    reset, update = reset.sigmoid(), update.sigmoid()
    new = (reset * candidate).tanh_()
    found = torch.empty_like(state, memory_format=torch.contiguous_format)
    torch.lerp(_parts(state, blocks), new, update, out=_parts(found, blocks))
    return found, reset, new, update


class _Gated(torch.autograd.Function):
    """The same in few operations, most of them in place: on a CPU they count, beside small matrices."""

    @staticmethod
    def forward(ctx, state: Tensor, gates: Tensor, blocks: int) -> Tensor:
        found, *made = _gated(state, gates, blocks)
        ctx.save_for_backward(state, gates, *made)
        ctx.blocks = blocks
        return found

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        state, gates, reset, new, update = ctx.saved_tensors
        found, d_state = torch.empty_like(gates), torch.empty_like(grad, memory_format=torch.contiguous_format)
        d_reset, d_candidate, d_update = found.chunk(3, -1)
        grad, state = (_parts(x, ctx.blocks) for x in (grad, state))
        d_new = grad * update
        torch.sub(grad, d_new, out=_parts(d_state, ctx.blocks))
        change = torch.sub(new, state).mul_(d_new)
        torch.addcmul(change, change, update, value=-1, out=d_update)
        inner = torch.addcmul(d_new, d_new * new, new, value=-1)
        torch.mul(inner, reset, out=d_candidate)
        inner = torch.mul(d_candidate, gates.chunk(3, -1)[1], out=inner)
        torch.addcmul(inner, inner, reset, value=-1, out=d_reset)
        return d_state, found, None
