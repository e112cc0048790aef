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
        def step(deter: Tensor, memory: Tensor, drawn: Tensor, told: Tensor) -> tuple[Tensor, Tensor]:
            x = self.inputs(drawn, told)
            return gated(deter, self.gate_norm(self.gates(torch.cat([x, deter], -1)))), memory

        return as_given, step


def gated(state: Tensor, gates: Tensor) -> Tensor:
    """``u tanh(sigmoid(reset) candidate) + (1 - u) state`` with ``u = sigmoid(update - 1)``: of Dreamer v2 and v3.

    Args:
        state: ``[..., D]``.
        gates: ``[..., 3 D]``: reset, candidate, update.
    Example:
        >>> gated(torch.ones(2), torch.tensor([0.0, 0.0, 0.0, 0.0, 1.0, 1.0]))
        tensor([0.5000, 0.5000])
    """
    gates = gates.to(state.dtype)  # under autocast they come in bfloat16, and a state must not
    if state.device.type == "cpu" and not torch.compiler.is_compiling():
        return _Gated.apply(state, gates)
    reset, candidate, update = gates.chunk(3, -1)
    return torch.lerp(state, torch.tanh(torch.sigmoid(reset) * candidate), torch.sigmoid(update - 1))


class _Gated(torch.autograd.Function):
    """The same in few operations, most of them in place: on a CPU they count, beside small matrices."""

    @staticmethod
    def forward(ctx, state: Tensor, gates: Tensor) -> Tensor:
        reset, candidate, update = gates.chunk(3, -1)
        reset, update = reset.sigmoid(), (update - 1).sigmoid_()
        new = (reset * candidate).tanh_()
        ctx.save_for_backward(state, gates, reset, new, update)
        return torch.lerp(state, new, update)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        state, gates, reset, new, update = ctx.saved_tensors
        found = torch.empty_like(gates)
        d_reset, d_candidate, d_update = found.chunk(3, -1)
        d_new = grad * update
        d_state = grad - d_new
        change = (new - state).mul_(d_new)
        torch.addcmul(change, change, update, value=-1, out=d_update)
        inner = torch.addcmul(d_new, d_new * new, new, value=-1)
        torch.mul(inner, reset, out=d_candidate)
        inner = d_candidate * gates.chunk(3, -1)[1]
        torch.addcmul(inner, inner, reset, value=-1, out=d_reset)
        return d_state, found
