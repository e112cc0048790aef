"""Doubling and the convolution behind it as one, and norms without a graph: the same numbers as written out."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from worldkit.nn.adagn import norm_silu
from worldkit.nn.doubling import Double


def test_doubling_has_the_values_and_gradients_of_both_parts():
    torch.manual_seed(0)
    up = Double(6).double()
    x = torch.randn(2, 6, 3, 5, dtype=torch.float64, requires_grad=True)

    def gradients(y: Tensor) -> list[Tensor]:
        return [y.detach(), *torch.autograd.grad(y.sin().sum(), [x, up.weight, up.bias])]

    want = gradients(F.conv2d(F.interpolate(x, scale_factor=2), up.weight, up.bias, padding=1))
    for got, wanted in zip(gradients(up(x)), want, strict=True):
        torch.testing.assert_close(got, wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("side", [8, 64])
def test_a_norm_without_a_graph_is_as_exact_as_with_one(side: int):
    """Far from zero, where sums of pixels one after the other are not; both ways to take statistics."""
    torch.manual_seed(0)
    x = (torch.randn(2, 64, side, side) + 30).contiguous(memory_format=torch.channels_last)
    scale, shift = torch.randn(2, 2, 64).mul(0.1).unbind()
    exact = F.group_norm(x.double(), 2) * (1 + scale.double()[..., None, None]) + shift.double()[..., None, None]
    got = norm_silu(x, scale, shift, 2)
    torch.testing.assert_close(got.double(), F.silu(exact), rtol=0, atol=2e-5)
    torch.testing.assert_close(got, norm_silu(x, scale.requires_grad_(), shift, 2), rtol=0, atol=2e-5)
