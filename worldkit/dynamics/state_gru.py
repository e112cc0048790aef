"""PLDM's recurrent dynamics: the latent IS the hidden state of a GRU cell, its input the action.

The frame before is all it sees, and it remembers nothing besides. All tokens are laid side by side. Dynamics `gru` is
another one: its hidden state is its own, and latents are its input.

Source: PLDM (arXiv:2502.14819; vladisai/PLDM @ cbaf674), written from a description of the facts. The norm has weights
of its own; upstream's are those of the norm at the encoder's end.
"""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import Field
from torch import Tensor, nn

from ..config import ComponentConfig
from ..latents import LatentSpec
from .markov import Markov


class StateGRUConfig(ComponentConfig):
    """Options of the recurrent dynamics of states.

    Attributes:
        norm: A layer norm over the next state, where the encoder ends with one, as `impala` does; a state of a few
            numbers that mean something (a place) would lose it.
        cond_dim: Width of the conditions; None: of the raw actions that it is told (conditioner ``raw-action``), or, of
            other conditions, 64.
    """

    name: str = "state-gru"
    norm: bool = False
    cond_dim: int | None = Field(default=None, ge=0)


class StateGRU(Markov):
    """[latent, condition] -> next latent. Told nothing, its input is the number 1.

    Example:
        >>> import torch
        >>> from worldkit.conditions import Condition
        >>> from worldkit.distributions import Delta
        >>> from worldkit.latents import Field as LatentField
        >>> from worldkit.latents import Latent, TokenGroup
        >>> spec = LatentSpec((TokenGroup("state", 1, (LatentField("embedding", 16, Delta()),)),))
        >>> dynamics = StateGRU(StateGRUConfig(cond_dim=2), spec=spec, anchors={}, window=1)
        >>> z = Latent(spec, {("state", "embedding"): torch.zeros(3, 4, 1, 16)})
        >>> dynamics.prior(z, Condition(frame=torch.zeros(3, 4, 2))).mode().get("embedding").shape
        torch.Size([3, 4, 1, 16])
    """

    Config = StateGRUConfig
    config: StateGRUConfig

    def __init__(self, config: StateGRUConfig, *, spec: LatentSpec, anchors: Mapping[str, Tensor], window: int,
                 memory_length: int = 0):
        super().__init__(config, spec=spec, anchors=anchors, window=window, memory_length=memory_length)
        self.cond_dim = 64 if config.cond_dim is None else config.cond_dim
        self.cell = nn.GRUCell(self.cond_dim or 1, self.width)
        self.norm = nn.LayerNorm(self.width) if config.norm else nn.Identity()
        self.spread = nn.Identity() if self.outputs == self.width else nn.Linear(self.width, self.outputs)

    def advance(self, left: Tensor, told: Tensor) -> Tensor:
        told = told if self.cond_dim else left.new_ones(*left.shape[:2], 1)
        reached = self.cell(told.flatten(0, 1), left.flatten(0, 1)).unflatten(0, left.shape[:2])
        return self.spread(self.norm(reached))
