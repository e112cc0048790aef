"""TD-MPC2's layers: Linear, LayerNorm and an activation in one; SimNorm; and ensembles of such networks.

`NormedEnsemble` runs all members, or a few chosen ones, in one batched product per layer; nothing loops over them.
Weights have the names of the official code (``0.weight``, ``0.ln.weight``, ...), members as a leading axis.

Source: TD-MPC2 (Hansen et al., 2024, arXiv:2310.16828), written from its description.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ..errors import ConfigError
from .dropout import Dropout
from .mish import Mish, mish

_STD = 0.02


class SimNorm(nn.Module):
    """Softmax over groups of neighbouring numbers: every group lies on a simplex.

    Args:
        group: Numbers in a group; divides the width.
    Example:
        >>> SimNorm(2)(torch.tensor([0.0, 0.0, 9.0, 9.0]))
        tensor([0.5000, 0.5000, 0.5000, 0.5000])
    """

    def __init__(self, group: int):
        super().__init__()
        self.group = group

    def forward(self, x: Tensor) -> Tensor:
        return rearrange(x, "... (n g) -> ... n g", g=self.group).softmax(-1).flatten(-2)

    def extra_repr(self) -> str:
        return f"{self.group}"


class NormedLinear(nn.Linear):
    """Linear, dropout, LayerNorm, activation.

    Example:
        >>> NormedLinear(3, 8, SimNorm(4))(torch.randn(5, 3)).sum(-1).round().tolist()
        [2.0, 2.0, 2.0, 2.0, 2.0]
    """

    def __init__(self, inputs: int, outputs: int, activation: nn.Module | None = None, *, dropout: float = 0.0):
        super().__init__(inputs, outputs)
        _begin(self)
        self.ln = nn.LayerNorm(outputs)
        self.activation = activation or Mish()
        self.dropout = Dropout(dropout) if dropout else None

    def forward(self, x: Tensor) -> Tensor:
        x = super().forward(x)
        return self.activation(self.ln(x if self.dropout is None else self.dropout(x)))


def normed_mlp(inputs: int, hidden: Sequence[int], outputs: int, *, last: nn.Module | None = None,
               zero: bool = False) -> nn.Sequential:
    """Normed layers with Mish, then a plain layer, or a normed one with the activation ``last``.

    Args:
        inputs, outputs: Widths.
        hidden: Widths of the layers between.
        last: Activation of the last layer; None: a plain Linear.
        zero: The last weights begin at 0.
    """
    widths = [inputs, *hidden]
    layers: list[nn.Module] = [NormedLinear(a, b) for a, b in zip(widths[:-1], widths[1:], strict=True)]
    layers.append(_begin(nn.Linear(widths[-1], outputs)) if last is None else
                  NormedLinear(widths[-1], outputs, last))
    if zero:
        nn.init.zeros_(layers[-1].weight)  # type: ignore[arg-type]
    return nn.Sequential(*layers)


def _begin(layer: nn.Linear) -> nn.Linear:
    nn.init.trunc_normal_(layer.weight, std=_STD)
    nn.init.zeros_(layer.bias)
    return layer


class _Scale(nn.Module):
    """Weights and shift of a LayerNorm of every member, ``[members, D]``."""

    def __init__(self, members: int, dim: int):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(members, dim)), nn.Parameter(torch.zeros(members, dim))


class _Layer(nn.Module):
    """A layer of every member; the last one has no norm."""

    def __init__(self, members: int, inputs: int, outputs: int, *, plain: bool, zero: bool, dropout: float):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(members, outputs, inputs))
        self.bias = nn.Parameter(torch.zeros(members, outputs))
        if not zero:
            nn.init.trunc_normal_(self.weight, std=_STD)
        self.ln = None if plain else _Scale(members, outputs)
        self.dropout = Dropout(dropout) if dropout else None

    def forward(self, x: Tensor, pick: Callable[[Tensor], Tensor]) -> Tensor:
        """``[N, inputs]``, the same for all members, or ``[members, N, inputs]`` -> ``[members, N, outputs]``."""
        weight, bias = pick(self.weight), pick(self.bias)
        if x.ndim == 2:
            joined = F.linear(x, weight.flatten(0, 1), bias.flatten())
            x = joined.unflatten(-1, bias.shape).transpose(0, 1)
        else:
            x = torch.baddbmm(bias[:, None], x, weight.transpose(1, 2))
        if self.ln is None:
            return x
        x = F.layer_norm(x if self.dropout is None else self.dropout(x), x.shape[-1:])
        return mish(torch.addcmul(pick(self.ln.bias)[:, None], x, pick(self.ln.weight)[:, None]))


class NormedEnsemble(nn.Module):
    """Networks of one shape, as in `normed_mlp`, that start from different weights.

    Args:
        members: How many.
        inputs, outputs: Widths.
        hidden: Widths of the layers between.
        dropout: Of the first layer, in training mode.
        zero: The last weights begin at 0.
    Example:
        >>> nets = NormedEnsemble(5, 3, (16, 16), 2)
        >>> x = torch.randn(4, 7, 3)
        >>> some = nets(x, members=torch.tensor([3, 1]))
        >>> nets(x).shape, bool((some - nets(x)[[3, 1]]).abs().max() < 1e-6)
        (torch.Size([5, 4, 7, 2]), True)
    """

    def __init__(self, members: int, inputs: int, hidden: Sequence[int], outputs: int, *, dropout: float = 0.0,
                 zero: bool = False):
        super().__init__()
        if members < 1 or not hidden:
            raise ConfigError(f"an ensemble has members and hidden layers, got {members} and {list(hidden)}")
        self.members = members
        widths = [inputs, *hidden, outputs]
        count = len(widths) - 1
        self.params = nn.ModuleList(
            _Layer(members, widths[i], widths[i + 1], plain=i == count - 1, zero=zero and i == count - 1,
                   dropout=0.0 if i else dropout)
            for i in range(count)
        )

    def forward(self, x: Tensor, *, members: Tensor | None = None) -> Tensor:
        """``[..., inputs]`` -> ``[members, ..., outputs]``: of all members, or of those chosen ``[M]`` by number."""
        pick = (lambda w: w) if members is None else (lambda w: w[members])
        out = x.reshape(-1, x.shape[-1])
        for layer in self.params:
            out = layer(out, pick)
        return out.unflatten(1, x.shape[:-1])
