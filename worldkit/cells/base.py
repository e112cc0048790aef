"""The contract of cells: (what is remembered, what was drawn, action) -> what is remembered after it.

A cell is the recurrent part of an RSSM. Its rows (clips, or tokens of clips) never see one another. Zeros stand for
"nothing is known": an episode begins with them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar

from pydantic import Field
from torch import Tensor, nn

from ..component import Component
from ..config import ComponentConfig
from ..nn.dense import ACTIVATIONS, Activation, Init, Norm, linear, make_norm, normed

Hoist = Callable[[Tensor], Tensor]
"""Actions' embeddings ``[..., cond_dim]`` -> what a step is told, ``[..., any]``; of all frames at once."""
Step = Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
"""(deterministic ``[N, D]``, memory ``[N, M]``, drawn ``[N, S]``, told ``[N, any]``) -> (deterministic, memory)."""


def as_given(told: Tensor) -> Tensor:
    """The `Hoist` of cells that read the embeddings themselves."""
    return told


class CellConfig(ComponentConfig):
    """Options that all cells have.

    Attributes:
        hidden: Width of the layer that takes in what was drawn and the action.
        norm, norm_eps: Of that layer: ``"rms"``, ``"layer"`` or ``"none"``, and what it adds to what it divides by.
        activation: Of that layer.
        init: Of the initial weights.
    """

    hidden: int = Field(default=256, gt=0)
    norm: Norm = "rms"
    norm_eps: float = Field(default=1e-4, gt=0)
    activation: Activation = "silu"
    init: Init = "truncated-normal"


class Cell(Component, ABC):
    """What an RSSM remembers.

    Args:
        config: Its options.
        dim: Width of what is remembered and read by everybody, the state's field "deterministic".
        drawn: Width of what is drawn, the state's field "stochastic".
    Attributes:
        cond_dim: Width of the action's embedding that it is told.
        memory_dim: Numbers that it remembers for itself, the state's field "memory"; 0: none.
    """

    Config: ClassVar[type[CellConfig]]
    config: CellConfig
    cond_dim: int
    memory_dim: int

    def __init__(self, config: CellConfig, *, dim: int, drawn: int):
        super().__init__()
        self.config, self.cond_dim, self.memory_dim = config, config.hidden, 0

    @abstractmethod
    def begin(self) -> tuple[Hoist, Step]:
        """What prepares actions and what steps, for one scan or rollout; what depends on weights alone is made here."""


class InputLayer(nn.Module):
    """``activation(norm(W drawn + b + told))``: the layer in front of the cells of PlaNet and Dreamer v1 and v2."""

    def __init__(self, config: CellConfig, drawn: int):
        super().__init__()
        self.linear = linear(drawn, config.hidden, init=config.init)
        self.norm = make_norm(config.norm, config.hidden, config.norm_eps)
        self.activation = ACTIVATIONS[config.activation]

    def forward(self, drawn: Tensor, told: Tensor) -> Tensor:
        return normed(self.norm, self.activation, self.linear(drawn) + told)
