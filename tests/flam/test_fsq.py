"""Finite scalar quantisation: levels, codes, gradients."""

import itertools

import pytest
import torch

import worldkit as wk
from worldkit.config import ObsSpec
from worldkit.distributions import Sampler
from worldkit.nn.fsq import FiniteScalarQuantizer
from worldkit.registry import encoders
from worldkit.testing.examples import SMALL


@pytest.mark.parametrize("levels", [(2,), (3, 4), (8, 5, 5, 5)])
def test_every_code_is_reached_and_comes_back(levels):
    quantizer = FiniteScalarQuantizer(levels)
    codes = torch.arange(quantizer.num_codes)
    values = quantizer.look_up(codes)
    assert values.min() == -1 and values.max() <= 1 and len(values.unique(dim=0)) == quantizer.num_codes
    assert torch.equal(quantizer.codes(values), codes) and torch.equal(quantizer.nearest(values), values)
    wide = torch.tensor(list(itertools.product(*[torch.linspace(-4, 4, 40).tolist()] * min(2, len(levels)))))
    wide = torch.nn.functional.pad(wide, (0, len(levels) - wide.shape[-1]))
    for number, count in enumerate(levels[:2]):
        assert len(quantizer(wide)[:, number].unique()) == count


def test_what_is_predicted_goes_to_the_nearest_level():
    quantizer = FiniteScalarQuantizer([5, 4])
    values = quantizer.look_up(torch.arange(20))
    assert torch.equal(quantizer.nearest(values + 0.2 * torch.rand_like(values)), values)
    assert torch.equal(quantizer.nearest(torch.tensor([[9.0, -9.0], [-9.0, 9.0]])), torch.tensor([[1, -1], [-1, 0.5]]))


def test_distances_are_least_at_the_code():
    quantizer, z = FiniteScalarQuantizer([3, 4, 5]), torch.randn(50, 3)
    assert torch.equal(quantizer.distances(z).argmin(-1), quantizer.codes(quantizer(z)))


def test_the_gradient_goes_straight_through():
    quantizer, z = FiniteScalarQuantizer([5, 4]), torch.randn(6, 2, requires_grad=True)
    quantizer(z).sum().backward()
    bounded, = torch.autograd.grad((quantizer.bounded(z) / quantizer.middle).sum(), z)
    assert torch.equal(z.grad, bounded) and (z.grad > 0).all()


def test_an_encoder_of_codes_and_one_of_vectors_draw_the_same():
    obs, video = ObsSpec(height=16, width=16), torch.rand(1, 2, 3, 16, 16)
    made = []
    for gives in ("vectors", "codes"):
        torch.manual_seed(0)
        cls = encoders.get("fsq")
        made.append(cls(cls.Config(**SMALL["encoder"]["fsq"], gives=gives), obs=obs))
    vectors, codes = (encoder(video, sampler=Sampler()) for encoder in made)
    assert codes.latent.values["patches", "code"].dtype == torch.int64 and "codes" in made[1].spec.properties
    drawn = [e.look_up(found.latent).flat("patches") for e, found in zip(made, (vectors, codes), strict=True)]
    torch.testing.assert_close(*drawn)
    torch.testing.assert_close(drawn[0], vectors.drawn.flat("patches"))
    between = vectors.latent.map(lambda x: x + 0.01)
    assert torch.equal(made[0].look_up(between).flat("patches"), drawn[0])


@pytest.mark.parametrize("levels", [[], [5, 1]])
def test_too_few_levels(levels):
    with pytest.raises(wk.ConfigError, match="levels must be whole numbers of at least 2"):
        FiniteScalarQuantizer(levels)


def test_codes_that_there_are_not():
    quantizer = FiniteScalarQuantizer([3, 4])
    with pytest.raises(wk.errors.ShapeError, match="from 0 to 11 .*got 0 to 12"):
        quantizer.look_up(torch.tensor([0, 12]))
    with pytest.raises(wk.errors.ShapeError, match="whole numbers"):
        quantizer.look_up(torch.tensor([0.0]))
