"""A transformer as an RSSM's cell: it attends over TIME, to the last transitions of its own state.

h_t is what a causal transformer makes of the transitions (z, a) of the last ``window`` steps. Keys and values of the
earlier ones ride in the state as "memory", so the state holds everything: a rollout, a policy or a replay goes on from
one state, and acting frame by frame gives what a whole clip gives. The price is the width of the state:
(2 x num_layers x width + 1) x (window - 1) numbers per token. Keep the window as short as the task allows.

See `worldkit.nn.recall` for the network, its sources, and how time is told.
"""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from ..nn.dense import linear
from ..nn.recall import RecallTransformer
from .base import Cell, CellConfig, Hoist, InputLayer, Step, as_given


class TransformerConfig(CellConfig):
    """Options of the transformer.

    Attributes:
        window: Transitions that it sees, the newest included; at least 2.
        num_layers, num_heads: Of the transformer; its width is that of the deterministic state.
    """

    name: str = "transformer"
    window: int = Field(default=8, gt=1)
    num_layers: int = Field(default=2, gt=0)
    num_heads: int = Field(default=4, gt=0)


class Transformer(Cell):
    """Input layer, projection to the state's width, `RecallTransformer`.

    Raises:
        ConfigError: the heads do not divide ``dim``.
    Example:
        >>> import torch
        >>> cell = Transformer(TransformerConfig(hidden=8, window=3, num_layers=1, num_heads=2), dim=6, drawn=4)
        >>> state = torch.zeros(2, 6), torch.zeros(2, cell.memory_dim)
        >>> deter, memory = cell.begin()[1](*state, torch.randn(2, 4), torch.randn(2, 8))
        >>> deter.shape, memory.shape
        (torch.Size([2, 6]), torch.Size([2, 26]))
    """

    Config = TransformerConfig

    def __init__(self, config: TransformerConfig, *, dim: int, drawn: int):
        super().__init__(config, dim=dim, drawn=drawn)
        self.inputs = InputLayer(config, drawn)
        self.projection = linear(config.hidden, dim, init=config.init)
        self.recall = RecallTransformer(dim, num_layers=config.num_layers, num_heads=config.num_heads,
                                        window=config.window)
        self.memory_dim = self.recall.memory_dim

    def begin(self) -> tuple[Hoist, Step]:
        def step(deter: Tensor, memory: Tensor, drawn: Tensor, told: Tensor) -> tuple[Tensor, Tensor]:
            h, memory_after = self.recall(self.projection(self.inputs(drawn, told)), memory)
            return h.to(deter.dtype), memory_after.to(memory.dtype)

        return as_given, step
