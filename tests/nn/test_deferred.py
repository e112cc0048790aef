"""Weight gradients at the end of a scan are those of every step added up, whatever is asked for."""

import pytest
import torch
from torch import nn

from worldkit.nn.deferred import Linear, block_product, deferred, plus_product
from worldkit.nn.dense import DenseLayer, RMSNorm, normed


class Scan(nn.Module):
    """Every kind of layer that is known, one that is not, a norm, and a slice of a weight."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.plain = Linear(4, 6), nn.Linear(6, 4)
        self.layer = DenseLayer(6, 6)
        self.blocks = nn.Parameter(torch.randn(2, 3, 3))
        self.bias = nn.Parameter(torch.randn(6))
        self.wide = nn.Parameter(torch.randn(9, 6))
        self.double()

    def begin(self):
        product = self.wide[:6]

        def run(x, told):
            found = []
            for now in told.unbind(0):
                h = self.layer(self.first(x).tanh())
                h = plus_product(now, h, product)
                h = h + block_product(h.unflatten(-1, (2, 3)).transpose(0, 1), self.blocks,
                                      self.bias.view(2, 1, 3)).transpose(0, 1).flatten(1)
                x = self.plain(h).tanh()
                found.append(x)
            return [x, torch.stack(found)]

        return run


@pytest.fixture
def case():
    scan = Scan()
    x, told = (torch.randn(*shape, dtype=torch.float64, requires_grad=True) for shape in ((3, 4), (5, 3, 6)))
    return scan, x, told, [x, told, *scan.parameters()]


def value(made):
    return made[0].square().sum() + made[1].sin().sum()


def same(ours, wanted):
    for a, b in zip(ours, wanted, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


def test_gradients_are_those_of_autograd(case):
    scan, x, told, wanted = case
    plain, whole = scan.begin()(x, told), deferred(scan.begin(), [x, told], [scan])
    same(whole, plain)
    same(torch.autograd.grad(value(whole), wanted), torch.autograd.grad(value(plain), wanted))


def test_more_than_once_and_in_parts(case):
    scan, x, told, wanted = case
    whole, plain = deferred(scan.begin(), [x, told], [scan]), scan.begin()(x, told)
    for loss in (lambda made: made[0].sum(), value, lambda made: made[1][:2].sum()):
        for part in ([x], wanted[2:], wanted):
            options = {"retain_graph": True, "allow_unused": True}
            same(torch.autograd.grad(loss(whole), part, **options), torch.autograd.grad(loss(plain), part, **options))
    value(whole).backward()
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        value(whole).backward()


def test_what_is_frozen_gets_none(case):
    scan, x, told, _ = case
    scan.first.requires_grad_(False)
    told = told.detach()
    whole = deferred(scan.begin(), [x, told], [scan])
    value(whole).backward()
    plain = torch.autograd.grad(value(scan.begin()(x, told)), [x, scan.blocks, scan.layer.norm.scale])
    assert scan.first.weight.grad is None
    same([x.grad, scan.blocks.grad, scan.layer.norm.scale.grad], plain)
    with torch.no_grad():
        assert not deferred(scan.begin(), [x, told], [scan])[0].requires_grad


def test_inputs_without_gradients_are_no_hindrance(case):
    scan, x, told, wanted = case
    x, told = x.detach(), told.detach()
    whole, plain = deferred(scan.begin(), [x, told], [scan]), scan.begin()(x, told)
    same(torch.autograd.grad(value(whole), wanted[2:]), torch.autograd.grad(value(plain), wanted[2:]))


def test_under_autocast():
    scan = Scan().float()
    x, told = torch.randn(3, 4), torch.randn(5, 3, 6)
    found = []
    for run in (lambda: deferred(scan.begin(), [x, told], [scan]), lambda: scan.begin()(x, told)):
        with torch.autocast("cpu", torch.bfloat16):
            total = value([y.float() for y in run()])
        found.append(torch.autograd.grad(total, list(scan.parameters())))
    for a, b in zip(*found, strict=True):
        assert a.dtype == torch.float32
        torch.testing.assert_close(a, b, rtol=0.1, atol=0.1)


@pytest.mark.parametrize("shape", [(5, 7), (2, 3, 7)])
def test_norm_and_activation_in_one(shape):
    norm = RMSNorm(7).double()
    nn.init.normal_(norm.scale)
    x, weight = (torch.randn(*shape, dtype=torch.float64) for _ in range(2))
    x.requires_grad_()
    silu = nn.functional.silu
    found = [torch.autograd.grad((out * weight).sum(), [x, norm.scale]) for out in (
        normed(norm, silu, x), silu(nn.functional.rms_norm(x, (7,), norm.scale, norm.eps)))]
    same(*found)
