"""The check that a gradient reaches every parameter: certain in both directions, whatever rounding does."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from worldkit.nn.products import _Product
from worldkit.nn.replicated import replicated_conv
from worldkit.testing.gradients import _with_terms, without_gradient
from worldkit.testing.report import Reporter

SEEDS = 40


class Net(nn.Module):
    """A linear layer, something in the middle that a test writes, and a linear layer."""

    def __init__(self, middle, **parts):
        super().__init__()
        self.first, self.last, self.middle = nn.Linear(3, 4), nn.Linear(4, 2), middle
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x):
        return self.last(self.middle(self, self.first(x)))


def per_channel(x):
    """Every channel of ``[B, T, C]`` normalised over time: what is the same at all times is subtracted."""
    return F.instance_norm(x.transpose(1, 2)).transpose(1, 2)


class Keys(nn.Module):
    """Attention with a bias of the keys, which no softmax notices."""

    def __init__(self):
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(4, 4) for _ in range(3))

    def forward(self, x):
        return (self.query(x) @ self.key(x).transpose(1, 2)).softmax(-1) @ self.value(x)


def vector(*shape):
    return nn.Parameter(torch.randn(*(shape or (4,))))


CANCEL = {
    "bias before a norm": lambda: Net(lambda net, x: per_channel(x)),
    "bias of a convolution before a norm": lambda: Net(
        lambda net, x: per_channel(net.conv(x.transpose(1, 2)).transpose(1, 2)), conv=nn.Conv1d(4, 4, 3)),
    "bias of a convolution over repeated borders before a norm": lambda: Net(
        lambda net, x: F.instance_norm(replicated_conv(x[..., None], net.conv.weight, net.conv.bias))[..., 0],
        conv=nn.Conv2d(5, 5, 3)),
    "bias of a norm before a norm": lambda: Net(lambda net, x: per_channel(net.norm(x)), norm=nn.LayerNorm(4)),
    "bias of keys": lambda: Net(lambda net, x: net.attention(x), attention=Keys()),
    "one number before a norm": lambda: Net(lambda net, x: F.layer_norm(x + net.shift, (4,)), shift=vector(1)),
    "a norm written by hand": lambda: Net(lambda net, x: x + net.shift - (x + net.shift).mean(1, keepdim=True),
                                          shift=vector()),
    "seen through views": lambda: Net(
        lambda net, x: per_channel(x + torch.cat([net.a, net.b])[None, None].expand(1, 5, 4)),
        a=vector(1), b=vector(3)),
}

CANCELLED = dict(zip(CANCEL, ("first.bias", "conv.bias", "conv.bias", "norm.bias", "attention.key.bias", "shift",
                              "shift", "b"), strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("case", CANCEL)
def test_sums_that_cancel_are_gradients(case, dtype):
    """Whether rounding leaves something or exactly nothing."""
    for seed in range(SEEDS):
        torch.manual_seed(seed)
        net, x = CANCEL[case]().to(dtype), torch.randn(3, 5, 3, dtype=dtype)
        out = net(x.round() if seed % 2 else x)  # rounding errors are rare among numbers with few digits
        loss = (out * torch.randn_like(out)).sum()
        assert without_gradient(net, loss) == [], seed
        name = CANCELLED[case]  # as if its sum were exactly zero
        assert _with_terms(loss, {name: net.get_parameter(name)}) == {name}, seed


@pytest.mark.skipif(not hasattr(torch.ops.mkldnn, "_linear_pointwise"), reason="needs oneDNN")
@pytest.mark.parametrize("place", [2, 3])
def test_what_a_product_of_ours_adds_is_seen(place):
    x, weight, added = torch.randn(6, 3), torch.randn(4, 3, requires_grad=True), [None, None]
    added[place - 2] = torch.randn((4,) if place == 2 else (6, 4), requires_grad=True)
    loss = (_Product.apply(x, weight, *added) * torch.tensor([[1.0], [-1.0]]).repeat(3, 1)).sum()
    assert _with_terms(loss, {"added": added[place - 2]}) == {"added"}


def test_an_exact_zero_that_cancels():
    """Two rows with opposite gradients: the bias's is 0.0 to the last digit."""
    net = nn.Linear(1, 1)
    loss = (net(torch.tensor([[1.0], [3.0]])) * torch.tensor([[1.0], [-1.0]])).sum()
    assert torch.autograd.grad(loss, net.bias, retain_graph=True)[0].item() == 0.0
    assert without_gradient(net, loss) == [] and net.bias.grad is None


def hidden(net, x):
    return torch.where(torch.ones_like(x, dtype=torch.bool), x, net.part)


IDLE = {
    "never used": lambda net, x: x,
    "detached": lambda net, x: x + net.part.detach(),
    "result detached": lambda net, x: x + per_channel(x.detach() + net.part).detach(),
    "in a branch not taken": hidden,
    "added, then hidden": lambda net, x: torch.where(x == x, x, x + net.part),
    "times zero": lambda net, x: x + 0 * net.part,
    "masked": lambda net, x: x + torch.zeros(5, 1, dtype=x.dtype) * (x + net.part),
    "hidden in front of a norm": lambda net, x: per_channel(x + torch.zeros(1, dtype=x.dtype) * net.part),
    "picked from, elsewhere": lambda net, x: x + F.pad(net.part, (0, 1))[4:],
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("case", IDLE)
def test_parameters_without_influence_are_named(case, dtype):
    for seed in range(SEEDS):
        torch.manual_seed(seed)
        net, x = Net(IDLE[case], part=vector()).to(dtype), torch.randn(3, 5, 3, dtype=dtype)
        out = net(x)
        assert without_gradient(net, (out * torch.randn_like(out)).sum()) == ["part"], seed


def test_frozen_and_ignored_parameters_are_left_out():
    net = Net(IDLE["never used"], part=vector(), other=vector())
    loss = net(torch.randn(3, 5, 3)).sum()
    assert sorted(without_gradient(net, loss)) == ["other", "part"]
    net.part.requires_grad_(False)
    assert without_gradient(net, loss, ["other"]) == []
    for p in net.parameters():
        p.requires_grad_(False)
    assert without_gradient(net, net(torch.randn(3, 5, 3)).sum()) == []


def test_nan_is_named():
    net = Net(lambda net, x: x + net.part * float("nan"), part=vector())
    assert "part" in without_gradient(net, net(torch.randn(3, 5, 3)).sum())
    with pytest.raises(AssertionError, match="test: gradient reaches every parameter: .*part"):
        Reporter("test").gradients(net, net(torch.randn(3, 5, 3)).sum())
