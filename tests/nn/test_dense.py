"""Dreamer's dense layers against their definitions."""

import pytest
import torch
import torch.nn.functional as F

from worldkit.errors import ConfigError
from worldkit.nn.dense import BlockLinear, DenseStack, RMSNorm, _RMSNorm, init_weight_, linear

D = torch.float64


def test_rms_norm_and_its_gradient():
    x, norm = torch.randn(3, 2, 5, dtype=D, requires_grad=True), RMSNorm(5).to(D)
    torch.testing.assert_close(norm(x), F.rms_norm(x, (5,), norm.scale, eps=1e-4))
    scale = torch.randn(5, dtype=D, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, s: _RMSNorm.apply(x, s, 1e-4), (x, scale))


def test_rms_norm_of_half_precision_is_taken_in_float32():
    x, norm = (300 * torch.randn(4, 64)).bfloat16(), RMSNorm(64)
    assert norm(x).dtype == torch.bfloat16 and norm(x).equal(norm(x.float()).bfloat16())


def test_initial_weights():
    torch.manual_seed(0)
    assert linear(400, 300).weight.std().item() == pytest.approx(0.05, rel=0.02)
    assert linear(400, 300).weight.abs().max() <= 2 * 1.1368 / 20
    assert linear(300, 300, init="glorot").weight.std().item() == pytest.approx((2 / 600) ** 0.5, rel=0.02)
    assert not linear(8, 4, scale=0.0).weight.any()
    layer = BlockLinear(400, 800, 8)  # as if every output saw all 400
    assert layer.weight.std().item() == pytest.approx(0.05, rel=0.02)
    with pytest.raises(ConfigError, match="glorot"):
        init_weight_(torch.zeros(2, 2), "xavier", fan_in=2, fan_out=2)


def test_block_linear_is_a_block_diagonal_matrix():
    layer = BlockLinear(6, 9, 3).to(D)
    torch.nn.init.normal_(layer.bias)
    x = torch.randn(2, 4, 6, dtype=D)
    torch.testing.assert_close(layer(x), x @ torch.block_diag(*layer.weight) + layer.bias)
    with pytest.raises(ConfigError, match="multiples of 4"):
        BlockLinear(6, 8, 4)


def test_a_stack_without_layers_passes_on():
    stack = DenseStack(5, units=8, layers=0)
    assert stack.width == 5 and stack(torch.ones(2, 5)).equal(torch.ones(2, 5))
