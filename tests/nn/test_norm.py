"""GroupNorm and GELU, against float64, in the layouts, types and modes that the convolution stacks meet."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from worldkit.nn.conv import ConvBlock, ConvConfig, ConvDecoder, ConvEncoder, ResnetBlock
from worldkit.nn.norm import GroupNormGELU, GroupNormReLU

LAST = torch.channels_last
SIZES = [(4, 32, 64, 64), (16, 128, 16, 16), (2, 4, 63, 64), (64, 256, 4, 4)]


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


KINDS = pytest.mark.parametrize("kind", [GroupNormGELU, GroupNormReLU])


def plain(layer, x):
    return getattr(F, layer.follow)(nn.GroupNorm.forward(layer, x))


def errors(layer, x):
    """Largest errors of value and gradients, relative to the largest gradient, against float64."""
    exact = type(layer)(layer.num_groups, layer.num_channels).double()
    exact.load_state_dict(layer.state_dict())
    above, wide = torch.randn(x.shape), x.detach().double().requires_grad_()
    x = x.detach().contiguous(memory_format=LAST).requires_grad_()
    ours, theirs = layer(x), plain(exact, wide)
    got = torch.autograd.grad(ours, (x, *layer.parameters()), above)
    want = torch.autograd.grad(theirs, (wide, *exact.parameters()), above.double())
    pairs = zip(got, want, strict=True)
    return (ours - theirs).abs().max().item(), max(((a - b).abs().max() / b.abs().max()).item() for a, b in pairs)


def layer_of(channels, kind=GroupNormGELU):
    layer = kind(4, channels)
    nn.init.normal_(layer.weight, mean=1, std=0.2)
    nn.init.normal_(layer.bias, std=0.2)
    return layer


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize(("mean", "tolerance"), [(0, 5e-6), (10, 1e-5), (100, 5e-5)])
@KINDS
def test_statistics_are_accurate_far_from_zero(kind, size, mean, tolerance):
    """nn.GroupNorm: up to 1e-3 at a mean of 10 deviations, and 1e-1 at 100."""
    value, gradient = errors(layer_of(size[1], kind), torch.randn(size) + mean)
    assert value < tolerance and gradient < tolerance


def test_a_small_object_on_a_flat_ground():
    """Thousands of equal numbers, added up one after the other, lose digits at any mean: 4e-4 with nn.GroupNorm."""
    x = torch.randn(4, 32, 1, 1).expand(4, 32, 128, 128).clone()
    x[..., 100:, 100:] += 3 * torch.randn(4, 32, 1, 1)
    value, gradient = errors(layer_of(32), x)
    assert value < 5e-6 and gradient < 5e-6


@pytest.mark.parametrize("channels", [4, 8])  # groups of one channel, and of two
def test_values_and_gradients_in_float64(channels):
    layer = layer_of(channels).double()
    x = torch.randn(7, channels, 3, 5, dtype=torch.float64).contiguous(memory_format=LAST).requires_grad_()
    inputs, above = (x, *layer.parameters()), torch.randn(x.shape, dtype=torch.float64)
    grads = [torch.autograd.grad(y, inputs, above) for y in (layer(x), plain(layer, x))]
    torch.testing.assert_close(layer(x), plain(layer, x), rtol=1e-12, atol=1e-12)
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)
    assert layer(x).is_contiguous(memory_format=LAST) and grads[0][0].is_contiguous(memory_format=LAST)


def test_gradcheck():
    layer = layer_of(4).double()
    x = torch.randn(2, 4, 2, 3, dtype=torch.float64).contiguous(memory_format=LAST).requires_grad_()
    values = [v.detach().clone().requires_grad_() for v in layer.parameters()]
    names = [name for name, _ in layer.named_parameters()]
    assert torch.autograd.gradcheck(
        lambda x, *v: torch.func.functional_call(layer, dict(zip(names, v, strict=True)), (x,)), (x, *values)
    )


def test_gradients_that_arrive_in_another_layout():
    layer, x = layer_of(4), torch.randn(3, 4, 5, 6).contiguous(memory_format=LAST).requires_grad_()
    contiguous, spread = torch.randn(3, 4, 5, 6), torch.randn(3, 1, 1, 1).expand(3, 4, 5, 6)
    for above in (contiguous, spread):
        ours, theirs = (torch.autograd.grad(y, x, above)[0] for y in (layer(x), plain(layer, x)))
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_other_layouts_and_sizes_are_those_of_the_plain_layer():
    layer = layer_of(8)
    for x in (torch.randn(3, 8, 5, 4), torch.randn(3, 8, 5), torch.randn(3, 8, 1, 1), torch.randn(0, 8, 4, 4)):
        torch.testing.assert_close(layer(x), plain(layer, x), rtol=1e-5, atol=1e-5)
    empty = torch.randn(0, 8, 4, 4).contiguous(memory_format=LAST).requires_grad_()
    layer(empty).sum().backward()
    assert empty.grad.shape == empty.shape and not layer.weight.grad.any()


def test_names_of_parameters():
    assert list(GroupNormGELU(4, 8).state_dict()) == list(nn.GroupNorm(4, 8).state_dict())
    assert [k for k in ConvBlock(4, 8, "zeros").state_dict() if "norm" in k] == ["norm.weight", "norm.bias"]
    assert [k for k in ResnetBlock(4, 4, "zeros").state_dict() if "norm" in k] == [
        "norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias"
    ]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype):
    """Statistics in float32, results in the type of the input, as the plain layer has it."""
    layer = layer_of(8)
    x = (torch.randn(3, 8, 6, 6) + 10).to(dtype).contiguous(memory_format=LAST).requires_grad_()
    out, exact = layer(x), plain(layer, x.detach().float())
    assert out.dtype == dtype and out.is_contiguous(memory_format=LAST)
    torch.testing.assert_close(out.float(), exact, rtol=1e-2, atol=1e-2)
    out.sum().backward()
    assert x.grad.dtype == dtype and layer.weight.grad.dtype == torch.float32


def test_autocast():
    block, x = ConvBlock(3, 8, "replicate"), torch.rand(2, 3, 8, 8)
    block, x = block.to(memory_format=LAST), x.contiguous(memory_format=LAST)
    exact = block(x)
    with torch.autocast("cpu", torch.bfloat16):
        out = block(x)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.float(), exact, rtol=0.05, atol=0.05)
    out.float().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in block.parameters())


def test_meta_device():
    with torch.device("meta"):
        net = ConvEncoder(ConvConfig(base_channels=4, channel_multipliers=(1, 2)))
        out = net(torch.empty(3, 3, 8, 8))
        out.sum().backward()
    assert out.shape == (3, 32, 4, 4) and out.is_meta


@pytest.mark.parametrize("block", ["conv", "resnet"])
@pytest.mark.parametrize("offset", [10, 100])
def test_stacks_with_large_offsets(block, offset):
    """Biases move every norm's input far from zero; a stack may lose no more than contiguous layers would."""
    config = ConvConfig(base_channels=8, channel_multipliers=(1, 2), latent_channels=4, block=block, mid_blocks=True)
    for net, x in ((ConvEncoder(config), torch.rand(4, 3, 32, 32)),
                   (ConvDecoder(config, inputs=3, outputs=3, ups=1), torch.randn(4, 3, 16, 16))):
        for layer in net.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.normal_(layer.weight, std=layer.weight[0].numel() ** -0.5)
                nn.init.constant_(layer.bias, offset)
        nn.init.zeros_(net.conv_out.bias)
        exact, ours = [net.double()(x.double()).detach(), net.float()(x).detach()]
        off = ((ours - exact).abs().max() / exact.abs().max()).item()
        assert off < 5e-6 * offset


@pytest.mark.slow
def test_compiled_code_is_accurate():
    x = (torch.randn(4, 32, 32, 32) + 100).contiguous(memory_format=LAST)
    layer = layer_of(32)
    exact = plain(layer.double(), x.double())
    assert (torch.compile(layer.float())(x) - exact).abs().max() < 2e-4


@pytest.mark.parametrize("images", [1, 3, 7])
def test_without_a_graph_parts_of_a_batch_give_the_same_numbers(images, monkeypatch):
    monkeypatch.setattr("worldkit.nn.norm._AT_ONCE", 2 * 8 * 36)
    norm = GroupNormReLU(4, 8)
    x = torch.randn(images, 8, 6, 6).contiguous(memory_format=torch.channels_last)
    whole = norm(x).detach()
    with torch.no_grad():
        parts = norm(x)
    assert torch.equal(parts, whole) and parts.is_contiguous(memory_format=torch.channels_last)
