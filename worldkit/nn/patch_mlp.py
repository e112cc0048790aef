"""Square by square: an image as a map of its squares, each through the same small network, and back.

A place of the map knows its own square and nothing else. Codes of such a map stand for what lies there, so that a plain
background is one code wherever it is, whatever happens elsewhere; convolutions with norms and attention over the whole
image (`worldkit.nn.vqgan`) may give every place of every frame another one, which is hard to predict.
"""

from __future__ import annotations

from einops import rearrange
from torch import Tensor, nn


def _mlp(inputs: int, hidden: int, layers: int, outputs: int) -> nn.Sequential:
    widths = [inputs, *[hidden] * layers]
    parts = [part for a, b in zip(widths, widths[1:], strict=False) for part in (nn.Linear(a, b), nn.SiLU())]
    return nn.Sequential(*parts, nn.Linear(hidden, outputs))


class PatchDown(nn.Module):
    """Images ``[M, C, H, W]`` -> maps ``[M, outputs, H / patch, W / patch]``.

    Args:
        inputs: Channels of the images.
        patch: Side of a square in pixels; divides both sides.
        hidden, layers: Width and number of hidden layers.
        outputs: Width of the map.
    Example:
        >>> import torch
        >>> PatchDown(3, patch=4, hidden=8, layers=2, outputs=5)(torch.rand(2, 3, 16, 8)).shape
        torch.Size([2, 5, 4, 2])
    """

    def __init__(self, inputs: int, *, patch: int, hidden: int, layers: int, outputs: int):
        super().__init__()
        self.patch, self.net = patch, _mlp(inputs * patch**2, hidden, layers, outputs)

    def forward(self, x: Tensor) -> Tensor:
        squares = rearrange(x, "m c (h p) (w q) -> m h w (c p q)", p=self.patch, q=self.patch)
        return rearrange(self.net(squares), "m h w d -> m d h w")


class PatchUp(nn.Module):
    """Maps ``[M, inputs, h, w]`` -> images ``[M, C, h * patch, w * patch]``.

    Args:
        inputs: Width of the map.
        patch, hidden, layers: As of `PatchDown`.
        outputs: Channels of the images.
    Example:
        >>> import torch
        >>> PatchUp(5, patch=4, hidden=8, layers=2, outputs=3)(torch.rand(2, 5, 4, 2)).shape
        torch.Size([2, 3, 16, 8])
    """

    def __init__(self, inputs: int, *, patch: int, hidden: int, layers: int, outputs: int):
        super().__init__()
        self.patch, self.net = patch, _mlp(inputs, hidden, layers, outputs * patch**2)

    def forward(self, x: Tensor) -> Tensor:
        squares = self.net(rearrange(x, "m d h w -> m h w d"))
        return rearrange(squares, "m h w (c p q) -> m c (h p) (w q)", p=self.patch, q=self.patch)
