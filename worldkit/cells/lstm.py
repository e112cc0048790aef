"""Long short-term memory (Hochreiter & Schmidhuber 1997) as an RSSM's cell.

Its output is the state's field "deterministic", which everybody reads; its cell state rides beside it as "memory", so
the state holds all that is remembered. Forgetting starts with a bias of 1 (Jozefowicz et al. 2015).
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..nn.dense import linear
from .base import Cell, CellConfig, Hoist, InputLayer, Step, as_given


class LSTMConfig(CellConfig):
    """Options of the LSTM.

    Attributes:
        forget_bias: Initial bias of the gate that keeps the memory.
    """

    name: str = "lstm"
    forget_bias: float = 1.0


class LSTM(Cell):
    """Rows of ``gates``: input, forget, candidate, output, as in `torch.nn.LSTMCell`.

    Example:
        >>> cell = LSTM(LSTMConfig(hidden=8), dim=6, drawn=4)
        >>> deter, memory = cell.begin()[1](torch.zeros(2, 6), torch.zeros(2, 6), torch.randn(2, 4), torch.randn(2, 8))
        >>> deter.shape, memory.shape
        (torch.Size([2, 6]), torch.Size([2, 6]))
    """

    Config = LSTMConfig

    def __init__(self, config: LSTMConfig, *, dim: int, drawn: int):
        super().__init__(config, dim=dim, drawn=drawn)
        self.memory_dim = dim
        self.inputs = InputLayer(config, drawn)
        self.gates = linear(config.hidden + dim, 4 * dim, init=config.init)
        with torch.no_grad():
            self.gates.bias[dim : 2 * dim] = config.forget_bias

    def begin(self) -> tuple[Hoist, Step]:
        def step(deter: Tensor, memory: Tensor, drawn: Tensor, told: Tensor) -> tuple[Tensor, Tensor]:
            gates = self.gates(torch.cat([self.inputs(drawn, told), deter], -1))
            take, keep, candidate, show = gates.chunk(4, -1)
            memory = torch.sigmoid(keep) * memory + torch.sigmoid(take) * torch.tanh(candidate)
            return torch.sigmoid(show) * torch.tanh(memory), memory

        return as_given, step
