"""Glimpses of all particles come from one grid per image: nothing as large as a copy of the image per particle."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from worldkit.nn.glimpse import crop


class Largest(TorchDispatchMode):
    """Most numbers that any tensor has which an operation gives."""

    def __init__(self):
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        self.numbers = max([self.numbers, *(x.numel() for x in tree_leaves(out) if torch.is_tensor(x))])
        return out


@pytest.mark.parametrize("corners", [False, True])
def test_crops_share_a_grid(corners):
    image = torch.rand(2, 3, 64, 64, requires_grad=True)
    position, scale = (torch.rand(2, 50, 2, requires_grad=True) for _ in range(2))
    with Largest() as largest:
        glimpses = crop(image, position, scale, 8, corners=corners)
        glimpses.sum().backward()
    assert glimpses.numel() <= largest.numbers < 50 * image.numel() / 10
