"""Large products through oneDNN are the products that PyTorch's own kernels give."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from worldkit.nn import products

pytestmark = pytest.mark.skipif(not hasattr(torch.ops.mkldnn, "_linear_pointwise")
                                or not torch.backends.mkldnn.is_available(), reason="this PyTorch has no oneDNN")


@pytest.fixture(autouse=True)
def everywhere(monkeypatch):
    """Small products, too, and on any processor."""
    monkeypatch.setattr(products, "LARGE", 1)
    monkeypatch.setattr(products, "halved", lambda: True)


def graph(call, *tensors):
    """A result and the gradients of all that went in."""
    tensors = [x.clone().requires_grad_() for x in tensors]
    out = call(*tensors)
    return [out.detach(), *torch.autograd.grad(out.sin().sum(), tensors)]


def agree(found, wanted):
    for x, y in zip(found, wanted, strict=True):
        assert x.shape == y.shape
        torch.testing.assert_close(x.double(), y, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", [(5,), (2, 3), (1, 2, 2)])
def test_products_and_gradients(shape):
    x, weight, bias = torch.randn(*shape, 7), torch.randn(4, 7), torch.randn(4)
    assert products._pays(x, weight, bias)
    agree(graph(products.linear, x, weight, bias), graph(F.linear, x.double(), weight.double(), bias.double()))
    agree(graph(products.linear, x, weight), graph(F.linear, x.double(), weight.double()))


def test_what_is_added():
    given = torch.randn(5, 4), torch.randn(5, 7), torch.randn(4, 7)
    wanted = graph(lambda plus, x, w: plus + x @ w.t(), *(x.double() for x in given))
    agree(graph(products.plus_linear, *given), wanted)
    agree(graph(products.plus_linear, given[0][:1], *given[1:]),  # one row for all goes the usual way
          graph(lambda plus, x, w: plus + x @ w.t(), given[0][:1].double(), *(x.double() for x in given[1:])))


@pytest.mark.parametrize("cut", [lambda w: w[:, 2:9], lambda w: w[:7, :4].t(), lambda w: w.t()[3:10].t()])
def test_parts_of_weights(cut):
    """oneDNN takes minutes for rows of a wider matrix, so they are made dense."""
    weight, x = cut(torch.randn(12, 12)), torch.randn(3, 14)[:, ::2]
    agree([products.linear(x, weight)], [x.double() @ weight.double().t()])


def test_layers():
    torch.manual_seed(0)
    layer = products.Linear(7, 4)
    torch.manual_seed(0)
    usual = nn.Linear(7, 4)
    assert usual.state_dict().keys() == layer.state_dict().keys() and torch.equal(layer.weight, usual.weight)
    x, twice = torch.randn(2, 3, 7), usual.double()
    agree(graph(layer, x), graph(twice, x.double()))
    assert torch.equal(copy.deepcopy(layer).double()(x.double()), twice(x.double()))
    assert layer.to("meta")(x.to("meta")).shape == (2, 3, 4)


def test_second_derivatives_and_transforms():
    """They are as those of the usual product, though nothing here takes them."""
    x, weight = torch.randn(5, 7), torch.randn(4, 7)

    def slope(product, x, weight):
        (first,) = torch.autograd.grad(product(x, weight).sin().sum(), x, create_graph=True)
        return first

    agree(graph(lambda x, w: slope(products.linear, x, w), x, weight),
          graph(lambda x, w: slope(F.linear, x, w), x.double(), weight.double()))
    each = torch.func.vmap(lambda x: products.linear(x, weight))(torch.stack([x, -x]))
    agree([each], [torch.stack([x, -x]).double() @ weight.double().t()])


def test_wrong_widths_and_any_batch():
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        products.linear(torch.randn(5, 6), torch.randn(4, 7))
    exported = torch.export.export(products.Linear(7, 4), (torch.randn(5, 7),),
                                   dynamic_shapes={"x": {0: torch.export.Dim("rows", min=2, max=2**24)}})
    assert exported.module()(torch.randn(9, 7)).shape == (9, 4)


def test_rows_keep_apart():
    x, weight = torch.randn(64, 96), torch.randn(32, 96)
    whole = products.linear(x, weight)
    assert all(torch.equal(products.linear(x[a:b], weight), whole[a:b]) for a, b in ((0, 2), (5, 8), (3, 64)))


def test_left_alone(monkeypatch):
    x, weight = torch.randn(4, 6), torch.randn(5, 6)
    assert not products._pays(x.double(), weight.double(), None)
    assert not products._pays(x[:1], weight, None) and not products._pays(x[:0], weight, None)
    with torch.autocast("cpu", torch.bfloat16):
        assert not products._pays(x, weight, None) and products.linear(x, weight).dtype == torch.bfloat16
    monkeypatch.setattr(products, "LARGE", 4 * 5 * 6 + 1)
    assert not products._pays(x, weight, None)


def test_only_where_half_is_lost(monkeypatch):
    monkeypatch.undo()
    for name, has, want in (("AMD EPYC", True, True), ("AMD EPYC", False, False), ("Intel(R) Xeon(R)", True, False)):
        told = {"cpu_name": name, "avx512_f": has}
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda told=told: told, raising=False)
        products.halved.cache_clear()
        assert products.halved() == (want and torch.backends.mkl.is_available())
    products.halved.cache_clear()
