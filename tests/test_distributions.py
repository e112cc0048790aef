"""Distributions against torch.distributions, in double precision."""

import math

import pytest
import torch
from torch import distributions as td

from worldkit.distributions import MEANS, Beta, Categorical, ClipSampler, Delta, Normal, Sampler
from worldkit.errors import ConfigError
from worldkit.testing import check_distribution

torch_double = {"dtype": torch.float64}


def rand(*shape, seed=0, low=0.0, high=1.0):
    g = torch.Generator().manual_seed(seed)
    return low + (high - low) * torch.rand(*shape, generator=g, **torch_double)


def normal(seed):
    return Normal.pack(rand(5, 3, seed=seed, low=-2, high=2), rand(5, 3, seed=seed + 1, low=-3, high=2))


def as_torch(params):
    mean, logvar = Normal.split(params)
    return td.Normal(mean, (0.5 * logvar).exp())


def test_normal_kl_and_nll():
    p, q = normal(0), normal(2)
    assert torch.allclose(Normal().kl(p, q), td.kl_divergence(as_torch(p), as_torch(q)).sum(-1), rtol=1e-10)
    value = rand(5, 3, seed=9)
    assert torch.allclose(Normal().nll(p, value), -as_torch(p).log_prob(value).sum(-1), rtol=1e-10)
    assert torch.equal(Normal().mode(p), Normal.split(p)[0])
    assert Normal().param_dim(3) == Normal().raw_dim(3) == 6


def test_normal_with_an_anchor_moves_at_most_one():
    raw, anchor = 10 * normal(0), rand(5, 3, seed=3)
    mean, logvar = Normal.split(Normal().from_raw(raw, anchor))
    assert torch.allclose(mean, anchor + torch.tanh(raw[:, :3])) and torch.equal(logvar, raw[:, 3:])
    assert torch.equal(Normal().from_raw(raw), raw)


@pytest.mark.parametrize("low, high, tolerance", [(1.0, 20.0, 1e-4), (0.1, 2.0, 2e-3)])
def test_beta_kl(low, high, tolerance):
    """Upstream's eps of 1e-5 in every argument is the only difference."""
    p, q = (torch.cat([rand(50, 2, seed=s, low=low, high=high) for s in (k, k + 1)], -1) for k in (0, 2))
    expected = td.kl_divergence(td.Beta(*Beta.split(p)), td.Beta(*Beta.split(q))).sum(-1)
    assert torch.allclose(Beta().kl(p, q), expected, rtol=tolerance, atol=tolerance)


def test_beta_kl_against_the_prior_of_the_particles():
    """Beta(0.01, 0.01) and the initial posterior Beta(0.1, 0.1)."""
    p, q = torch.full((1, 2), 0.1, **torch_double), torch.full((1, 2), 0.01, **torch_double)
    expected = td.kl_divergence(td.Beta(*Beta.split(p)), td.Beta(*Beta.split(q))).sum(-1)
    assert torch.allclose(Beta().kl(p, q), expected, rtol=1e-2)


def test_beta_nll():
    params, value = rand(5, 4, seed=0, low=0.5, high=3), rand(5, 2, seed=4, low=0.1, high=0.9)
    assert torch.allclose(Beta().nll(params, value), -td.Beta(*Beta.split(params)).log_prob(value).sum(-1), rtol=1e-10)
    assert torch.isfinite(Beta().nll(params, torch.ones(5, 2, **torch_double))).all()


def test_tied_beta_has_one_degree_of_freedom():
    raw = torch.linspace(-8, 8, 33, **torch_double)[:, None]
    a, b = Beta.split(Beta().from_raw(raw))
    assert torch.allclose(a * b, torch.full_like(a, 1e-4 * 100), rtol=1e-9)
    g = torch.sigmoid(raw)
    assert torch.allclose(a, 1e-4 ** (1 - g) * 100**g) and torch.allclose(b, 1e-4**g * 100 ** (1 - g))
    mean = Beta().mode(torch.cat([a, b], -1))
    assert (mean[1:] > mean[:-1]).all() and mean[16].item() == pytest.approx(0.5)
    assert a[16].item() == pytest.approx(0.1)
    assert (Beta().raw_dim(1), Beta().param_dim(1), Beta(tied=False).raw_dim(1)) == (1, 2, 2)


def test_free_beta_and_anchors():
    params = Beta(tied=False).from_raw(torch.tensor([[-50.0, 50.0]]))
    assert (params > 0).all() and params[0, 1] == pytest.approx(50, rel=1e-3)
    with pytest.raises(TypeError, match="no anchor"):
        Beta().from_raw(torch.zeros(1, 1), torch.zeros(1, 1))


def test_delta():
    p, q = rand(4, 3), rand(4, 3, seed=1)
    assert torch.equal(Delta().sample(p, Sampler(), "x"), p)
    assert torch.allclose(Delta().kl(p, q), 0.5 * (p - q).square().sum(-1))
    assert torch.equal(Delta().nll(p, p), p.new_zeros(4))


# -- sampling

def test_deterministic_sampler_returns_means():
    a, b = rand(4, 3, low=0.1), rand(4, 3, seed=1, low=0.1)
    assert MEANS.normal("x", a, b) is a
    assert torch.equal(MEANS.beta("x", a, b), a / (a + b))


def test_samplers_follow_their_generator_alone():
    a, b = rand(100, 3, low=0.1), rand(100, 3, seed=1, low=0.1)

    def draw(seed):
        sampler = Sampler(generator=torch.Generator().manual_seed(seed))
        return sampler.normal("x", a, b), sampler.beta("y", a, b)

    state = torch.random.get_rng_state()
    first = draw(0)
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.rand(5)
    again, other = draw(0), draw(1)
    assert all(torch.equal(x, y) for x, y in zip(first, again, strict=True))
    assert not any(torch.equal(x, y) for x, y in zip(first, other, strict=True))


def test_moments_of_samples():
    sampler, n = Sampler(generator=torch.Generator().manual_seed(0)), 200_000
    x = sampler.normal("x", torch.full((n,), 1.5), torch.full((n,), math.log(4.0)))
    assert x.mean().item() == pytest.approx(1.5, abs=0.02) and x.std().item() == pytest.approx(2.0, abs=0.02)
    y = sampler.beta("y", torch.full((n,), 2.0), torch.full((n,), 3.0))
    assert y.mean().item() == pytest.approx(0.4, abs=0.005) and y.var().item() == pytest.approx(0.04, abs=0.001)


def test_normal_samples_carry_gradients():
    mean, logvar = torch.zeros(3, requires_grad=True), torch.zeros(3, requires_grad=True)
    x = Sampler(generator=torch.Generator().manual_seed(0)).normal("x", mean, logvar)
    x.sum().backward()
    assert torch.equal(mean.grad, torch.ones(3)) and torch.allclose(logvar.grad, 0.5 * x.detach())


def test_beta_samples_and_gradients_equal_torchs():
    a, b = (rand(50, 2, seed=s, low=0.05, high=5).requires_grad_() for s in (0, 1))
    torch.manual_seed(3)
    ours = Sampler().beta("x", a, b)
    gradients = torch.autograd.grad((ours.sin() * 3).sum(), [a, b])
    torch.manual_seed(3)
    theirs = td.Beta(a, b).rsample()
    assert torch.equal(ours, theirs)
    for x, y in zip(gradients, torch.autograd.grad((theirs.sin() * 3).sum(), [a, b]), strict=True):
        assert torch.allclose(x, y, rtol=1e-10) and (x != 0).any()


def test_a_beta_of_two_numbers_by_exponentials():
    """As in DDLP: any positive a and b; what is tiny is drawn as the floor, but stays what it is in the KL."""
    beta = Beta(tied=False, link="exp", floor=1e-5)
    raw = torch.tensor([[0.3, -0.7], [-20.0, -30.0]], dtype=torch.float64)
    params = beta.from_raw(raw)
    assert torch.equal(params, raw.exp())
    assert beta.mode(params)[1] == 0.5  # 1e-5 and 1e-5
    assert torch.isfinite(beta.sample(params, Sampler(), "x")).all()
    assert torch.equal(beta.kl(params, params), torch.zeros(2, dtype=torch.float64))
    assert torch.equal(beta.kl(params, params.flip(0)), Beta(tied=False).kl(params, params.flip(0)))


# -- links and classes


@pytest.mark.parametrize("link, std", [
    ("softplus", lambda x: math.log1p(math.exp(x)) + 0.1), ("sigmoid", lambda x: 2 / (1 + math.exp(-x / 2)) + 0.1),
])
def test_deviations_by_link(link, std):
    dist, raw = Normal(link=link, floor=0.1), torch.tensor([0.3, -0.7], **torch_double)
    mean, logvar = Normal.split(dist.from_raw(raw))
    assert mean.item() == 0.3 and (0.5 * logvar).exp().item() == pytest.approx(std(-0.7), rel=1e-12)
    for variance in (0.04, 1.0):
        found = dist.from_raw(dist.raw_at(torch.tensor([0.5], **torch_double), variance))
        assert found.tolist() == pytest.approx([0.5, math.log(variance)], abs=1e-6)
    check_distribution(dist)


@pytest.mark.parametrize("dist", [Normal(), Categorical(4), Categorical(4, unimix=0.2)], ids=str)
def test_draws_from_noise_are_samples(dist):
    """Noise is drawn before the parameters are known; the value is what `sample` gives with the same noise."""
    params, like = rand(50, dist.param_dim(8), seed=1, low=-2, high=2), torch.zeros(50, 8, **torch_double)
    seeded = [Sampler(generator=torch.Generator().manual_seed(3)) for _ in range(2)]
    drawn = dist.draw(params, dist.noise(like, seeded[0], "x"))
    assert torch.allclose(drawn, dist.sample(params, seeded[1], "x"), rtol=1e-12)
    assert torch.allclose(dist.draw(params, dist.noise(like, MEANS, "x")), dist.mode(params), rtol=1e-12)


def test_classes_against_torch():
    dist, logits, other = Categorical(5), rand(7, 10, seed=0, low=-3, high=3), rand(7, 10, seed=1, low=-3, high=3)
    ours, theirs = (td.Categorical(logits=dist.choices(x)) for x in (logits, other))
    assert torch.allclose(dist.kl(logits, other), td.kl_divergence(ours, theirs).sum(-1), rtol=1e-10)
    assert torch.allclose(dist.entropy(logits), ours.entropy().sum(-1), rtol=1e-10)
    value = dist.sample(logits, Sampler(generator=torch.Generator().manual_seed(0)), "x")
    chosen = dist.choices(value).argmax(-1)
    assert torch.allclose(dist.nll(logits, value), -ours.log_prob(chosen).sum(-1), rtol=1e-10)
    numbers = Categorical(5, index=True)
    assert torch.equal(numbers.nll(logits, chosen), dist.nll(logits, value))
    assert torch.equal(numbers.sample(logits, Sampler(generator=torch.Generator().manual_seed(0)), "x"), chosen)
    assert (numbers.param_dim(2), dist.param_dim(10), numbers.support, dist.support) == (10, 10, (0, 4), (0.0, 1.0))


@pytest.mark.parametrize("unimix", [0.0, 0.1])
def test_straight_through(unimix):
    """The gradient of one_hot + probability - probability without gradient."""
    dist, logits = Categorical(4, unimix=unimix), rand(6, 8, seed=0, low=-2, high=2).requires_grad_()
    weight = rand(6, 8, seed=4)
    sample = dist.sample(logits, Sampler(generator=torch.Generator().manual_seed(0)), "x")
    assert set(sample.unique().tolist()) == {0.0, 1.0} and (dist.choices(sample).sum(-1) == 1).all()
    (ours,) = torch.autograd.grad((sample * weight).sum(), logits)
    probs = (1 - unimix) * dist.choices(logits).softmax(-1) + unimix / 4
    (wanted,) = torch.autograd.grad((probs.flatten(-2) * weight).sum(), logits)
    assert torch.allclose(ours, wanted, rtol=1e-10, atol=1e-14)


def test_unimix_is_in_samples_and_divergences():
    dist, sure = Categorical(2, unimix=0.2), torch.tensor([50.0, -50.0])
    draws = dist.sample(sure.expand(20_000, 2), Sampler(generator=torch.Generator().manual_seed(0)), "x")
    assert draws.mean(0).tolist() == pytest.approx([0.9, 0.1], abs=0.01)
    assert dist.kl(sure, -sure).item() == pytest.approx(0.8 * math.log(9), rel=1e-5)
    assert dist.nll(sure, torch.tensor([0.0, 1.0])).item() == pytest.approx(-math.log(0.1), rel=1e-5)
    check_distribution(Categorical(3))
    check_distribution(Categorical(3, unimix=0.1), dim=6)


def test_classes_are_checked():
    with pytest.raises(ConfigError, match=r"at least 2 classes and an unimix in \[0, 1\), got 1 and 0.0"):
        Categorical(1)
    with pytest.raises(ConfigError, match="one-hot choices among 3 classes cannot be 4 wide"):
        Categorical(3).param_dim(4)


def test_a_sampler_of_this_device_stays_as_it_is():
    one = Sampler(generator=torch.Generator().manual_seed(0))
    assert one.on("cpu") is one and one.on(torch.device("cpu")) is one
    assert (free := Sampler()).on("meta") is free and (mean := Sampler(deterministic=True)).on("meta") is mean
    assert (clip := ClipSampler(0, 0, [0])).on("meta") is clip
