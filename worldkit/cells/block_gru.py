"""Dreamer v3's cell: a GRU whose products with its own wide state are block-diagonal.

State, what was drawn and the action go through a layer each; every block of the state then sees its own part of the
state and all three. As the three are the same for all blocks, what they give is ONE product, and the action's share of
it is made for all frames at once; only the state's own share goes block by block.

Source: danijar/dreamerv3 @ e3f0224 (2026), written from its description.
"""

from __future__ import annotations

import torch
from einops import rearrange
from pydantic import Field
from torch import Tensor, nn

from ..errors import ConfigError
from ..nn.deferred import block_product, plus_product
from ..nn.dense import ACTIVATIONS, BlockLinear, DenseLayer, make_norm, normed
from ..nn.products import linear
from .base import Cell, CellConfig, Hoist, Step
from .gru import gated, sooner


class BlockGRUConfig(CellConfig):
    """Options of the block-diagonal cell.

    Attributes:
        blocks: Of the state; they divide its width.
        layers: Block-diagonal layers before the gates.
    """

    name: str = "block-gru"
    blocks: int = Field(default=8, gt=0)
    layers: int = Field(default=1, gt=0)


class BlockGRU(Cell):
    """Each block of ``gates`` gives its part of reset, candidate and update, in this order.

    What it is told has passed its layer already: linear, norm, activation, ``hidden`` wide (conditioner
    "transition-action").

    Raises:
        ConfigError: the blocks do not divide ``dim``.
    Example:
        >>> cell = BlockGRU(BlockGRUConfig(hidden=5, blocks=2), dim=6, drawn=4)
        >>> hoist, step = cell.begin()
        >>> step(torch.zeros(2, 6), torch.zeros(2, 0), torch.randn(2, 4), hoist(torch.randn(2, 5)))[0].shape
        torch.Size([2, 6])
    """

    Config = BlockGRUConfig
    config: BlockGRUConfig

    def __init__(self, config: BlockGRUConfig, *, dim: int, drawn: int):
        super().__init__(config, dim=dim, drawn=drawn)
        blocks, hidden = config.blocks, config.hidden
        if dim % blocks:
            raise ConfigError(f"a deterministic state of {dim} does not divide into {blocks} blocks; use a multiple of "
                              f"{blocks}, or other cell.blocks")
        options = {"norm": config.norm, "activation": config.activation, "eps": config.norm_eps, "init": config.init}
        self.from_state, self.from_drawn = DenseLayer(dim, hidden, **options), DenseLayer(drawn, hidden, **options)
        widths = [dim + 3 * hidden * blocks, *[dim] * (config.layers - 1)]
        self.layers = nn.ModuleList(BlockLinear(width, dim, blocks, init=config.init) for width in widths)
        self.norms = nn.ModuleList(make_norm(config.norm, dim, config.norm_eps) for _ in widths)
        self.gates = BlockLinear(dim, 3 * dim, blocks, init=config.init)
        self.activation = ACTIVATIONS[config.activation]

    def begin(self) -> tuple[Hoist, Step]:
        blocks, hidden, first = self.config.blocks, self.config.hidden, self.layers[0]
        own, shared = first.weight.tensor_split([-3 * hidden], 1)
        # what all blocks see, as matrices: of state and draw [D, 2 hidden], of the action [D, hidden]
        both, action = (x.contiguous() for x in rearrange(shared, "g i o -> (g o) i").split([2 * hidden, hidden], 1))
        gates, width = self.gates.weight, self.gates.weight.shape[-1] // 3
        gate_bias = sooner(rearrange(self.gates.bias, "(g o) -> g 1 o", g=blocks), width)

        def hoist(told: Tensor) -> Tensor:
            return linear(told, action, first.bias)

        def step(deter: Tensor, memory: Tensor, drawn: Tensor, told: Tensor) -> tuple[Tensor, Tensor]:
            parts = deter.unflatten(-1, (blocks, -1)).transpose(0, 1)  # [g, N, D / g]
            x = plus_product(told, torch.cat([self.from_state(deter), self.from_drawn(drawn)], -1), both)
            x = (x.unflatten(-1, (blocks, -1)) + block_product(parts, own).transpose(0, 1)).flatten(1)
            x = normed(self.norms[0], self.activation, x)
            for layer, norm in zip(self.layers[1:], self.norms[1:], strict=True):
                x = normed(norm, self.activation, layer(x))
            x = x.unflatten(-1, (blocks, -1)).transpose(0, 1)
            return gated(deter, block_product(x, gates, gate_bias), blocks), memory

        return hoist, step
