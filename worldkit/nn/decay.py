"""Which parameters weight decay is for."""

from __future__ import annotations

from typing import Literal

from torch import nn

Decay = Literal["all", "arrays", "weights"]
"""What weight decay is for: all parameters; those of more than one axis (no biases and norms: I-JEPA); or
`weights_of_layers` alone (IRIS, DIAMOND)."""
_LAYERS = (nn.Linear, nn.modules.conv._ConvNd, nn.RNNBase, nn.RNNCellBase)


def weights_of_layers(module: nn.Module) -> list[nn.Parameter]:
    """Matrices and kernels of linear, convolutional and recurrent layers; no biases, norms, tables of rows.

    A linear layer called ``actions`` reads one-hot choices: it is such a table.

    Example:
        >>> net = nn.Sequential(nn.Embedding(3, 4), nn.Linear(4, 4), nn.LayerNorm(4), nn.Conv1d(4, 4, 3))
        >>> [tuple(p.shape) for p in weights_of_layers(net)]
        [(4, 4), (4, 4, 3)]
    """
    return [p for place, layer in module.named_modules()
            if isinstance(layer, _LAYERS) and place.rpartition(".")[2] != "actions"
            for name, p in layer.named_parameters(recurse=False) if name.startswith("weight")]


def decaying(module: nn.Module, which: Decay) -> list[nn.Parameter] | None:
    """Parameters that weight decay is for; None: all.

    Example:
        >>> net = nn.Sequential(nn.Embedding(3, 4), nn.Linear(4, 4), nn.LayerNorm(4))
        >>> [len(decaying(net, which) or []) for which in ("all", "arrays", "weights")]
        [0, 2, 1]
    """
    if which == "all":
        return None
    return weights_of_layers(module) if which == "weights" else [p for p in module.parameters() if p.ndim > 1]
