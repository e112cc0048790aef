"""What heads begin with, a set of tokens to a vector.

`TokenReadout` looks for the tokens that count; `MLPReadout` is that of Dreamer's heads.
"""

from __future__ import annotations

import torch
from einops import einsum, rearrange
from pydantic import Field
from torch import Tensor, nn

from ..config import Config
from .attention import RMSNorm
from .dense import Activation, DenseStack, Init, Norm, linear

_QUERIES = 4


class TokenReadout(nn.Module):
    """Tokens ``[..., K, D]``, in any order and of any number, -> ``[..., outputs]``.

    Every token goes through two layers; then a few learned queries look at all of them, so that one token (the ball)
    can count and the others (the rest) need not, and their mean is beside it. The last layer begins at zero.

    Args:
        dim: Width of a token.
        hidden_dim: Width of the layers.
        outputs: Numbers that come out.
    Example:
        >>> TokenReadout(5, 16, 2)(torch.randn(3, 4, 7, 5)).shape
        torch.Size([3, 4, 2])
    """

    def __init__(self, dim: int, hidden_dim: int, outputs: int):
        super().__init__()
        self.tokens = nn.Sequential(
            nn.Linear(dim, hidden_dim), RMSNorm(hidden_dim), nn.SiLU(), nn.Linear(hidden_dim, hidden_dim),
            RMSNorm(hidden_dim), nn.SiLU(),
        )
        self.scores = nn.Linear(hidden_dim, _QUERIES)
        last = nn.Linear(hidden_dim, outputs)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        joined = nn.Linear((1 + _QUERIES) * hidden_dim, hidden_dim)
        self.out = nn.Sequential(joined, RMSNorm(hidden_dim), nn.SiLU(), last)

    def forward(self, tokens: Tensor) -> Tensor:
        h = self.tokens(tokens)
        seen = einsum(self.scores(h).softmax(-2), h, "... k q, ... k d -> ... q d")
        return self.out(torch.cat([rearrange(seen, "... q d -> ... (q d)"), h.mean(-2)], -1))


class MLPReadoutConfig(Config):
    """Options of `MLPReadout`, the readout of Dreamer's heads. The defaults are those of version 3.

    Attributes:
        layers, units: How many layers, and how wide each is.
        norm, eps: Between linear layer and activation; PlaNet and versions 1 and 2 have none.
        activation: Version 3 ``"silu"``, 1 and 2 ``"elu"``, PlaNet ``"relu"``.
        init: Initial weights; before version 3 ``"glorot"``; IRIS ``"normal"``.
        outscale: Factor on the initial weights of the last layer; 0: the first prediction is that of zeros.
        bias: Of the last layer.
    """

    layers: int = Field(default=1, ge=0)
    units: int = Field(default=256, gt=0)
    norm: Norm = "rms"
    eps: float = Field(default=1e-4, gt=0)
    activation: Activation = "silu"
    init: Init = "truncated-normal"
    outscale: float = Field(default=1.0, ge=0)
    bias: bool = True


class MLPReadout(nn.Module):
    """Tokens ``[..., K, D]`` -> ``[..., outputs]``: layers over every token, the mean of tokens, a linear layer.

    With one token, as the state of a Dreamer, a plain MLP.

    Example:
        >>> MLPReadout(MLPReadoutConfig(units=16), 5, 2)(torch.randn(3, 4, 7, 5)).shape
        torch.Size([3, 4, 2])
    """

    def __init__(self, config: MLPReadoutConfig, dim: int, outputs: int):
        super().__init__()
        self.layers = DenseStack(
            dim, units=config.units, layers=config.layers, norm=config.norm, activation=config.activation,
            eps=config.eps, init=config.init,
        )
        self.out = linear(self.layers.width, outputs, init=config.init, scale=config.outscale, bias=config.bias)

    def forward(self, tokens: Tensor) -> Tensor:
        hidden = self.layers(tokens)
        return self.out(hidden[..., 0, :] if hidden.shape[-2] == 1 else hidden.mean(-2))


def make_readout(config: MLPReadoutConfig | None, hidden_dim: int, dim: int, outputs: int) -> nn.Module:
    """A head's readout: an MLP if it is asked for, else a `TokenReadout` of this width."""
    return TokenReadout(dim, hidden_dim, outputs) if config is None else MLPReadout(config, dim, outputs)
