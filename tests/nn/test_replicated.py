"""Convolutions over repeated borders: the same numbers and gradients as padding and convolving."""

import pytest
import torch
import torch.nn.functional as F

from worldkit.nn.replicated import replicate, replicated_conv


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("how", [
    {}, {"before": 0, "stride": 2}, {"before": 2, "after": 1}, {"stride": 2, "padding": 3, "transposed": True},
])
def test_numbers_and_gradients_are_those_of_padding_first(how, layout):
    torch.manual_seed(0)
    wanted = [torch.randn(2, 3, 5, 4).contiguous(memory_format=layout), torch.randn(3, 3, 4, 4), torch.randn(3)]
    wanted = [x.double().requires_grad_() for x in wanted]
    given = [x.detach().clone().requires_grad_() for x in wanted]
    conv = F.conv_transpose2d if how.get("transposed") else F.conv2d
    padded = replicate(wanted[0], how.get("before", 1), how.get("after", 1))
    want = conv(padded, *wanted[1:], stride=how.get("stride", 1), padding=how.get("padding", 0))
    found = replicated_conv(*given, **how)
    assert torch.allclose(found, want)
    weight = torch.randn_like(want)
    (want * weight).sum().backward()
    (found * weight).sum().backward()
    assert all(torch.allclose(x.grad, y.grad) for x, y in zip(given, wanted, strict=True))


def test_inputs_that_want_no_gradient_cost_none():
    x, weight, bias = torch.randn(1, 2, 4, 4), torch.randn(2, 2, 3, 3, requires_grad=True), torch.randn(2)
    replicated_conv(x, weight, bias).sum().backward()
    assert x.grad is None and bias.grad is None and weight.grad is not None
