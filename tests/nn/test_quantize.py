"""Vectors to codes and back."""

import pytest
import torch

from worldkit.distributions import Sampler
from worldkit.errors import ShapeError
from worldkit.nn.quantize import QuantizerConfig, VectorQuantizer, clear_moments, perplexity


def make(**options):
    torch.manual_seed(0)
    return VectorQuantizer(QuantizerConfig(**{"codes": 6, "dim": 3, **options}))


def test_the_nearest_code_is_chosen_and_the_first_of_equals():
    quantizer, z = make(), torch.randn(4, 5, 3)
    found = quantizer(z)
    assert torch.equal(found.codes, torch.cdist(z, quantizer.codebook).argmin(-1))
    with torch.no_grad():
        quantizer.codebook[4] = quantizer.codebook[1]
    again = quantizer.nearest(quantizer.codebook[[4, 1]])
    assert again.tolist() == [1, 1]


def test_every_gradient_goes_where_it_should():
    quantizer, z = make(), torch.randn(4, 5, 3, requires_grad=True)
    found = quantizer(z)
    weights = torch.randn(4, 5, 3)
    (found.vectors * weights).sum().backward()
    assert torch.equal(z.grad, weights) and quantizer.codebook.grad is None
    z.grad = None
    found = quantizer(z)
    found.codebook.sum().backward(retain_graph=True)
    assert z.grad is None and quantizer.codebook.grad.abs().sum() > 0
    quantizer.codebook.grad = None
    found.commitment.sum().backward()
    assert z.grad.abs().sum() > 0 and quantizer.codebook.grad is None
    assert torch.allclose(found.loss, 2 * found.commitment)


def test_unit_codes():
    quantizer, z = make(cosine=True), torch.randn(4, 3)
    found = quantizer(z)
    assert torch.allclose(found.vectors.norm(dim=-1), torch.ones(4))
    assert torch.equal(found.codes, quantizer(7 * z).codes)


def test_moving_averages_follow_their_vectors_without_an_optimiser():
    quantizer, centres = make(codebook="ema", decay=0.5), torch.tensor([[5.0, 0, 0], [0, 5.0, 0]])
    assert not list(quantizer.parameters())
    with torch.no_grad():
        quantizer.codebook[0], quantizer.codebook[1] = torch.tensor([1.0, 0, 0]), torch.tensor([0, 1.0, 0])
    for _ in range(40):
        quantizer(centres.repeat(3, 1) + 0.01 * torch.randn(6, 3))
    assert (quantizer.codebook[:2] - centres).abs().max() < 0.05
    before = quantizer.codebook.clone()
    quantizer.eval()(centres)
    assert torch.equal(quantizer.codebook, before)


@pytest.mark.parametrize("codebook", ["gradient", "ema"])
def test_idle_codes_restart_from_data_and_used_ones_stay(codebook):
    quantizer, z = make(restart_after=3, codebook=codebook, decay=0.999999), torch.randn(50, 3) + 4
    sampler = Sampler(generator=torch.Generator().manual_seed(0))
    used = quantizer(z, sampler).codes.unique()
    for _ in range(2):
        quantizer(z, sampler)
    assert not quantizer.restarted.any()
    before = quantizer.codebook.detach().clone()
    found = quantizer(z, sampler)
    assert set(quantizer.restarted.nonzero()[:, 0].tolist()) == set(range(6)) - set(used.tolist())
    assert (quantizer.codebook[used] - before[used]).abs().max() < 1e-3
    new = quantizer.codebook[quantizer.restarted]
    assert ((new[:, None] - z).abs().sum(-1).amin(1) < 1e-3).all() and len(found.codes.unique()) > len(used)
    assert perplexity(found.codes, 6) > perplexity(used.new_zeros(4), 6) == 1
    if codebook == "gradient":
        optimizer = torch.optim.Adam(quantizer.parameters())
        found.codebook.sum().backward()
        optimizer.step()
        moments = optimizer.state[quantizer.codebook]["exp_avg_sq"]
        moments[~quantizer.restarted] = 1.0
        assert moments[quantizer.restarted].any()
        clear_moments(optimizer, quantizer)
        assert not moments[quantizer.restarted].any() and (moments[~quantizer.restarted] == 1).all()


def test_codes_that_there_are_not():
    quantizer = make()
    with pytest.raises(ShapeError, match="from 0 to 5 .*got -1 to 6"):
        quantizer.look_up(torch.tensor([-1, 6]))
    with pytest.raises(ShapeError, match="whole numbers"):
        quantizer.look_up(torch.tensor([0.5]))
