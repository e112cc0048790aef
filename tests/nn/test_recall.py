"""The transformer that keeps its past in a vector: it is causal attention in a window, one row at a time."""

import pytest
import torch

from worldkit.errors import ConfigError
from worldkit.nn.recall import RecallTransformer


def shaken(**options):
    torch.manual_seed(0)
    model = RecallTransformer(8, **{"num_layers": 2, "num_heads": 2, "window": 3, **options}).double()
    for parameter in model.parameters():
        parameter.data.add_(0.3 * torch.randn_like(parameter))
    return model


def run(model, xs, memory=None):
    memory = xs.new_zeros(xs.shape[1], model.memory_dim) if memory is None else memory
    out = []
    for x in xs:
        h, memory = model(x, memory)
        out.append(h)
    return torch.stack(out), memory


def banded(model, xs):
    """The same as one causal attention over all times ``[T, N, D]``, each seeing its window."""
    time, rows, dim = xs.shape
    x = xs.transpose(0, 1)
    apart = torch.arange(time)[:, None] - torch.arange(time)
    for layer in model.layers:
        q, k, v = (part.unflatten(-1, (layer.num_heads, -1)) for part in layer.qkv(layer.norm1(x)).chunk(3, -1))
        logits = torch.einsum("nthd,nshd->nhts", q, k) * (dim // layer.num_heads) ** -0.5
        seen = (apart >= 0) & (apart < model.window)
        bias = layer.distance[:, (model.window - 1 - apart).clamp(0, model.window - 1)]
        weights = (logits + bias).masked_fill(~seen, -torch.inf).softmax(-1)
        x = x + layer.proj(torch.einsum("nhts,nshd->nthd", weights, v).flatten(2))
        x = x + layer.feed_forward(layer.norm2(x))
    return model.norm(x).transpose(0, 1)


@pytest.mark.parametrize("window", [1, 2, 3, 9])
def test_steps_are_causal_attention_in_a_window(window):
    model, xs = shaken(window=window), torch.randn(6, 4, 8, dtype=torch.float64)
    assert torch.allclose(run(model, xs)[0], banded(model, xs), atol=1e-12)


def test_rows_do_not_see_one_another_and_the_past_matters():
    model, xs = shaken(), torch.randn(5, 3, 8, dtype=torch.float64)
    base, _ = run(model, xs)
    other = xs.clone()
    other[:, 1] += 1
    assert torch.equal(run(model, other)[0][:, [0, 2]], base[:, [0, 2]])
    past = xs.clone()
    past[0] += 1
    moved = (run(model, past)[0] - base).abs().amax((1, 2))
    assert (moved[:5] > 1e-3).all()  # two layers see 2 * (3 - 1) steps back
    later = xs.clone()
    later[3] += 1
    assert torch.equal(run(model, later)[0][:3], base[:3])


def test_it_goes_on_from_a_memory_and_zeros_remember_nothing():
    model, xs = shaken(), torch.randn(5, 3, 8, dtype=torch.float64)
    base, _ = run(model, xs)
    _, memory = run(model, xs[:2])
    assert torch.equal(run(model, xs[2:], memory)[0], base[2:])
    assert torch.equal(run(model, xs[2:], torch.zeros_like(memory))[0], run(model, xs[2:])[0])
    assert not torch.allclose(run(model, xs[2:])[0], base[2:])


def test_gradients_reach_the_past():
    model, xs = shaken(), torch.randn(4, 2, 8, dtype=torch.float64, requires_grad=True)
    run(model, xs)[0][-1].square().sum().backward()
    assert (xs.grad.abs().amax((1, 2)) > 0).all()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in model.parameters())


def test_heads_must_divide():
    with pytest.raises(ConfigError, match="does not divide into 3 heads; num_heads that do: 1, 2, 4, 8"):
        RecallTransformer(8, num_layers=1, num_heads=3, window=2)
