"""Distributions of a plugin, with parameters in another order than ours, through everything that reads fields."""

import ast
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

import worldkit
from worldkit.conditions import EMPTY
from worldkit.distributions import MEANS, Beta, ClipSampler, Delta, Distribution, Normal, Sampler
from worldkit.dynamics.gru import GRU, GRUConfig
from worldkit.dynamics.pint import PINT, PINTConfig
from worldkit.errors import IncompatibleComponentsError
from worldkit.latents import Field, Latent, LatentDist, LatentSpec, TokenGroup
from worldkit.nn.spec import LatentHead
from worldkit.testing import check_distribution, check_dynamics, check_latent_action, example_latent
from worldkit.testing.examples import LAST, changed


@dataclass(frozen=True)
class Backwards(Distribution):
    """A Gaussian with parameters [log deviation, mean]."""

    def param_dim(self, dim):
        return 2 * dim

    @staticmethod
    def ours(params):
        log_std, mean = params.chunk(2, -1)
        return Normal.pack(mean, 2 * log_std)

    def from_raw(self, raw, anchor=None):
        log_std, mean = raw.chunk(2, -1)
        return raw if anchor is None else torch.cat([log_std, anchor + mean.tanh()], -1)

    def raw_at(self, mean, variance):
        return torch.cat([torch.full_like(mean, variance**0.5).log(), mean], -1)

    def shift(self, params, change):
        log_std, mean = params.chunk(2, -1)
        return torch.cat([log_std, mean + change], -1)

    def sample(self, params, sampler, name):
        return Normal().sample(self.ours(params), sampler, name)

    def kl(self, params, prior):
        return Normal().kl(self.ours(params), self.ours(prior))

    def nll(self, params, value):
        return Normal().nll(self.ours(params), value)


@dataclass(frozen=True)
class Unmoved(Backwards):
    """The same without what may be left out."""

    raw_at, shift = Distribution.raw_at, Distribution.shift


@dataclass(frozen=True)
class Angle(Unmoved):
    """Between -3 and 3."""

    support = (-3.0, 3.0)

    def sample(self, params, sampler, name):
        return super().sample(params, sampler, name).clamp(-3, 3)


def spec_of(dist):
    fields = (Field("position", 2, dist), Field("scale", 2, dist), Field("colour", 3, dist))
    return LatentSpec((TokenGroup("things", 3, fields),))


ANCHORS = {"position": torch.tensor([[0.5, -0.5], [0.0, 0.25], [-0.5, 0.0]])}
BUILT_IN = [Normal(), Delta(), Beta(tied=False)]


@pytest.mark.parametrize("dist", [*BUILT_IN, Backwards(), Unmoved()], ids=repr)
def test_conforms(dist):
    check_distribution(dist)
    check_distribution(dist, dim=1)


def test_a_tied_beta_conforms_but_for_its_likelihood():
    check_distribution(Beta(), exact=False)


@pytest.mark.parametrize("dist", [Backwards(), Unmoved(), Angle()], ids=repr)
@pytest.mark.parametrize("dynamics", ["gru", "pint", "slotformer", "diffusion"])
def test_dynamics_take_it(dynamics, dist):
    check_dynamics(dynamics, spec=spec_of(dist))


def test_latent_actions_take_it():
    check_latent_action("gaussian", spec=spec_of(Backwards()))


def dynamics_of(kind, spec, **options):
    torch.manual_seed(0)
    cls, config = {"gru": (GRU, GRUConfig), "pint": (PINT, PINTConfig)}[kind]
    small = {"dim": 16, "num_heads": 2, "num_layers": 1, **options}
    return cls(config(**small), spec=spec, anchors=ANCHORS, window=4).eval()


@pytest.mark.parametrize("dist", [Normal(), Delta(), Backwards()], ids=repr)
def test_gru_adds_changes_to_the_mean_and_to_nothing_else(dist):
    """Untrained it repeats the last frame with a variance of 0.01, whatever the order of parameters."""
    spec = spec_of(dist)
    z, dynamics = example_latent(spec), dynamics_of("gru", spec)
    with torch.no_grad():
        out = dynamics.prior(z, EMPTY)
    for key, value in z.values.items():
        torch.testing.assert_close(out.mode().values[key], value)
        if dist == Backwards():
            torch.testing.assert_close(out.params[key].chunk(2, -1)[0].exp(), torch.full_like(value, 0.1))


def test_gru_predicts_values_of_what_cannot_be_moved():
    z, dynamics = example_latent(spec_of(Unmoved())), dynamics_of("gru", spec_of(Unmoved()))
    with torch.no_grad():
        out, moved = (dynamics._predict(dynamics._inputs(z, EMPTY), other) for other in (z, changed(z, LAST)))
    for key in out.params:
        assert torch.equal(out.params[key], moved.params[key])


def test_a_latent_moves_what_can_be_moved():
    spec = LatentSpec((TokenGroup("things", 1, (Field("a", 1, Backwards()), Field("b", 1), Field("c", 1, Beta()))),))
    params = {("things", name): torch.tensor([[[[1.0, 2.0]]]]) for name in "abc"}
    change = Latent.build(spec, {("things", name): torch.full((1, 1, 1, 1), 0.5) for name in "abc"})
    moved = LatentDist(spec, params).shift(change)
    assert {name: p.flatten().tolist() for (_, name), p in moved.params.items()} == {
        "a": [1.0, 2.5], "b": [1.5, 2.0], "c": [1.0, 2.0]
    }


@pytest.mark.parametrize("dist", [Normal(), Backwards()], ids=repr)
def test_heads_start_where_they_should(dist):
    """Positions at their anchors, boxes of a given side, whatever the tokens say."""
    torch.manual_seed(0)
    head = LatentHead(spec_of(dist), 8, anchors=ANCHORS)
    head.start_from(0.25)
    with torch.no_grad():
        out = head(torch.randn(2, 4, 3, 8)).mode()
    torch.testing.assert_close(out.positions, ANCHORS["position"].expand(2, 4, 3, 2))
    torch.testing.assert_close(out.get("scale").sigmoid(), torch.full((2, 4, 3, 2), 0.25), atol=1e-4, rtol=0)


def test_pint_adds_changes_to_positions():
    spec = spec_of(Backwards())
    z, plain, delta = example_latent(spec), dynamics_of("pint", spec), dynamics_of("pint", spec, predict_delta=True)
    with torch.no_grad():
        value, change = (d.prior(z, EMPTY).mode().positions for d in (plain, delta))
    torch.testing.assert_close(change, value + z.positions)
    with pytest.raises(IncompatibleComponentsError, match="Unmoved.* cannot be moved: set dynamics.predict_delta = f"):
        dynamics_of("pint", spec_of(Unmoved()), predict_delta=True)


def test_bounds_are_kept():
    spec = spec_of(Angle())
    z = example_latent(spec)
    assert all(3 > v.abs().max() > 1.5 for v in z.values.values())
    assert all(torch.allclose(v, -z.values[key]) for key, v in changed(z, (slice(None),)).values.items())
    wide = Latent.build(spec, {key: 10 * v for key, v in z.values.items()})
    assert max(v.abs().max() for v in wide.bounded(1e-5).values.values()) == 3 - 1e-5


def test_half_bounded_fields_have_examples():
    @dataclass(frozen=True)
    class Positive(Unmoved):
        support = (0.0, float("inf"))

    z = example_latent(spec_of(Positive()))
    for values in (z, changed(z, LAST)):
        assert min(v.min() for v in values.values.values()) > 0
    assert not any(torch.equal(a, b) for a, b in zip(z.values.values(), changed(z, LAST).values.values(), strict=True))


FAULTS = {
    "nll": (lambda self, params, value: Normal().nll(params, value), r"kl\(\) is the mean difference of nll"),
    "shift": (lambda self, params, change: params + F.pad(change, (0, 3)), r"shift\(\) moves"),
    "raw_at": (lambda self, mean, variance: Normal().raw_at(mean, variance), r"raw_at\(\) gives the mean"),
    "sample": (lambda self, params, sampler, name: params.chunk(2, -1)[1] + torch.randn(params.shape[:-1] + (3,)),
               "determinism under a generator"),
    "kl": (lambda self, params, prior: 1.0 - Normal().kl(self.ours(params), self.ours(prior)), "kl.. is not negative"),
    "mode": (lambda self, params: params.chunk(2, -1)[0], "deterministic samplers"),
    "support": ((0.0, 0.1), "outside"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_faults_are_found(name):
    value, message = FAULTS[name]
    with pytest.raises(AssertionError, match=message):
        check_distribution(type("Wrong", (Backwards,), {name: value})())


def test_noise_must_come_clip_by_clip():
    class Together(Backwards):
        def sample(self, params, sampler, name):
            return super().sample(params.flip(0), sampler, name).flip(0)

    with pytest.raises(AssertionError, match="clip by clip"):
        check_distribution(Together())


def test_classes_are_drawn_as_often_as_they_should():
    logits = torch.tensor([0.05, 0.15, 0.3, 0.5]).log().expand(40_000, 4)
    sampler = Sampler(generator=torch.Generator().manual_seed(0))
    drawn = sampler.categorical("kind", logits)
    assert drawn.shape == (40_000,) and drawn.dtype == torch.int64
    shares = drawn.bincount(minlength=4) / len(drawn)
    torch.testing.assert_close(shares, logits[0].exp(), atol=0.01, rtol=0)
    assert not torch.equal(drawn, sampler.categorical("kind", logits))


def test_draws_of_classes_obey_the_sampler():
    logits = torch.randn(4, 3, 6, generator=torch.Generator().manual_seed(0))
    assert torch.equal(MEANS.categorical("kind", logits), logits.argmax(-1))
    first, second = (Sampler(generator=torch.Generator().manual_seed(1)).categorical("k", logits) for _ in range(2))
    assert torch.equal(first, second)
    both, alone = (ClipSampler(0, 5, clips).categorical("k", logits[:, None].flatten(0, 1)[-rows:])
                   for clips, rows in (([0, 1], 4), ([1], 2)))
    assert torch.equal(both[2:], alone)
    half = logits.to(torch.bfloat16).requires_grad_()
    assert not MEANS.categorical("k", half).requires_grad
    torch.testing.assert_close(MEANS.gumbel("k", logits), torch.zeros_like(logits))


def test_gumbel_noise():
    noise = Sampler(generator=torch.Generator().manual_seed(0)).gumbel("g", torch.empty(200_000, dtype=torch.float64))
    assert noise.dtype == torch.float64 and noise.isfinite().all()
    assert noise.mean().item() == pytest.approx(0.5772, abs=0.02)
    assert noise.var().item() == pytest.approx(1.6449, abs=0.03)


def test_no_component_asks_for_the_type_of_a_distribution():
    """They ask its methods: then a plugin's is as good as ours."""
    kinds, found = {"Distribution"} | {c.__name__ for c in Distribution.__subclasses__()}, []
    for path in Path(worldkit.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("isinstance", "issubclass", "type"):
                names = {n.id for a in node.args for n in ast.walk(a) if isinstance(n, ast.Name)}
                found += [f"{path.name}:{node.lineno}"] if names & kinds else []
    assert found == []
