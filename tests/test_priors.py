"""Priors over first frames: on every kind of latent, in training, in sampling, and what is refused."""

import json

import pytest
import torch
from torch import nn

import worldkit as wk
from worldkit.assembly import build
from worldkit.distributions import MEANS, Sampler
from worldkit.errors import ConfigError, IncompatibleComponentsError, ShapeError, TrainingError, WorldkitError
from worldkit.latents import Field, Latent, LatentSpec, TokenGroup, particle_spec
from worldkit.nn.diffusion import SAMPLERS, CosineSteps, denoise
from worldkit.nn.standardize import SetScaler
from worldkit.priors import Prior, PriorConfig
from worldkit.priors.diffusion import DiffusionPrior, DiffusionPriorConfig, Sampling
from worldkit.priors.tokens import TokenLayout
from worldkit.testing import check_model, check_prior, example_latent, example_spec
from worldkit.testing.examples import example_batch, small_config

OFF = {"latent_action": None}
TRAINED = {"prior": "diffusion", "objective": "first-frames"}


def seeded(seed=0):
    return Sampler(generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("options", [
    {}, {"frames": 1}, {"target": "epsilon", "loss": "l2"}, {"target": "v", "normalize": "standard"},
    {"causal": True, "noisy_padding": True, "sampling_dropout": True, "dropout": 0.1}, {"sampler": "ddim"},
    {"sampling_steps": 3}])
def test_every_option(options):
    if options.get("dropout"):  # a sample of what it does to `check_prior` is below; losses in training are random
        prior = DiffusionPrior(DiffusionPriorConfig(dim=16, num_heads=2, num_layers=2, frames=2, steps=8, **options),
                               spec=example_spec()).eval()
        first, second = (prior.sample(2, seeded(1)).pack() for _ in range(2))
        assert torch.equal(first, second) and not prior.network.training
        prior.config = prior.config.replace("sampling_dropout", False)
        assert not torch.equal(prior.sample(2, seeded(1)).pack(), first)
        return
    check_prior("diffusion", **options)


@pytest.mark.parametrize("kind", ["particles", "slots", "patches"])
@pytest.mark.parametrize("views", [1, 2])
def test_every_latent(kind, views):
    check_prior("diffusion", spec=example_spec(views, kind))


@pytest.mark.parametrize("encoder", [{}, {"encoder": "slot"}, {"encoder": "patch"}])
def test_models(encoder):
    config = small_config(**OFF, **TRAINED, **encoder)
    check_model(config)
    model = build(config)
    rollout = model.sample(3, horizon=4, generator=torch.Generator().manual_seed(0))
    assert rollout.context_video.shape[:2] == (3, 2) and rollout.video.shape[:2] == (3, 4)
    again = model.sample(3, horizon=4, generator=torch.Generator().manual_seed(0))
    assert torch.equal(again.video, rollout.video)
    if model.encoder.spec.kind == "particles":
        opaque = rollout.context_latents.transparency
        assert (opaque > 0).all() and (opaque < 1).all()


def test_latent_actions_follow_first_frames():
    model = build(small_config(**TRAINED))
    assert model.sample(2, horizon=2).latent_actions.shape[1] == 3


def test_training_mode_is_left_as_it_was():
    model = build(small_config(**OFF, **TRAINED)).train()
    model.sample(1, horizon=1)
    assert model.prior.training and not model.encoder.training


def test_first_frame_of_an_encoder_with_a_prior_of_its_own():
    assert build(small_config(**OFF)).sample(2, horizon=2).context_latents.shape == (2, 1)


def test_nothing_to_sample_from():
    model = build(small_config(**OFF, encoder="patch"))
    if model.encoder.first_frame_prior(1) is not None:
        model.encoder.first_frame_prior = lambda batch_size: None
    with pytest.raises(WorldkitError, match=r"no prior over first frames.*rollout\(\).*-o prior=diffusion"):
        model.sample(1, horizon=1)
    with pytest.raises(ShapeError, match="batch_size must be at least 1, got 0"):
        model.sample(0, horizon=1)


@pytest.mark.parametrize(("parts", "message"), [
    ({"prior": "diffusion"}, "objective 'elbo' would leave prior 'diffusion' untrained.*objective='first-frames'"),
    ({"objective": "first-frames"}, "trains a prior over first frames, but none is set; set prior='diffusion'"),
])
def test_combinations_that_are_refused(parts, message):
    with pytest.raises(IncompatibleComponentsError, match=message):
        build(small_config(**OFF, **parts))


def test_a_prior_that_needs_more_than_the_latent_has(monkeypatch):
    monkeypatch.setattr(DiffusionPrior, "requires", frozenset({"grid"}))
    with pytest.raises(IncompatibleComponentsError, match="prior 'diffusion' needs a grid.*Priors that fit: none"):
        build(small_config(**OFF, **TRAINED))


@pytest.mark.parametrize(("options", "message"), [
    ({"dim": 10, "num_heads": 4}, "dim 10 must be a multiple of num_heads 4"), ({"dim": 7, "num_heads": 7}, "dim"),
    ({"steps": 5, "sampling_steps": 6}, "sampling_steps 6 must not be more than steps 5"),
])
def test_options_that_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        DiffusionPriorConfig.parse(options)


def test_clips_of_another_length():
    prior = DiffusionPrior(DiffusionPriorConfig(dim=8, num_heads=2, num_layers=1), spec=example_spec())
    with pytest.raises(ShapeError, match="latents of first frames"):
        prior.loss(example_latent(example_spec(), time=3), seeded())


def test_clamp_follows_the_normalisation():
    assert DiffusionPriorConfig().clamp == 1 and DiffusionPriorConfig(normalize="standard").clamp is None
    config = DiffusionPriorConfig(normalize="standard", clamp=3.0)
    assert config.clamp == 3 and DiffusionPriorConfig.parse(config.to_dict()) == config
    none = DiffusionPriorConfig(normalize="standard")
    assert DiffusionPriorConfig.parse(json.loads(none.to_json())) == none


def test_clip_length_is_the_priors():
    config = small_config(**OFF, **TRAINED)
    assert config.clip_length == config.prior.frames == 2
    assert small_config(**OFF).clip_length == 5


def test_layout():
    layout, z = TokenLayout(example_spec()), example_latent(example_spec())
    packed = layout.pack(z)
    assert packed.shape == (2, 4, 6, 9) and not packed[:, :, 5, :2].any() and not packed[:, :, 5, 4:].any()
    assert torch.equal(packed[:, :, 5, 2:4], z.background[:, :, 0])
    assert layout.used[1].tolist() == [1] * 4 + [0] * 5
    back = layout.unpack(packed)
    assert all(torch.equal(back.values[key], value) for key, value in z.values.items())
    wide = TokenLayout(particle_spec(num_particles=2, feature_dim=1, background_dim=9))  # wider than its particles
    assert wide.width == 11 and wide.fields.sum(1).tolist() == [7, 9]


def test_statistics_of_a_whole_set():
    rows = torch.ones(2, 3)
    rows[1, 2] = 0
    x = 5 * torch.randn(7, 2, 5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 2
    x[:, :, 3:, 2] = 0
    for kind in ("minmax", "standard"):
        parts = SetScaler([3, 2], rows, kind=kind).double()
        for part in x.split([1, 4, 2]):
            parts.update(part)
        scaled = parts(x)
        for tokens, columns in ((slice(0, 3), slice(0, 3)), (slice(3, 5), slice(0, 2))):
            part = scaled[:, :, tokens, columns]
            if kind == "minmax":
                torch.testing.assert_close(part.amin((0, 1, 2)), -torch.ones(part.shape[-1]).double())
                torch.testing.assert_close(part.amax((0, 1, 2)), torch.ones(part.shape[-1]).double(), atol=1e-5, rtol=0)
            else:
                torch.testing.assert_close(part.flatten(0, 2).std(0), torch.ones(part.shape[-1]).double(), atol=1e-5,
                                           rtol=0)
        torch.testing.assert_close(parts.inverse(scaled), x)
        parts.settled.fill_(True)
        before = parts.state_dict() | {}
        before = {name: value.clone() for name, value in before.items()}
        parts.update(x + 100)
        assert all(torch.equal(value, before[name]) for name, value in parts.state_dict().items())


@pytest.mark.parametrize("steps", [1, 7, 1000])
def test_cosine_steps(steps):
    schedule = CosineSteps(steps)
    times = torch.arange(steps + 1, dtype=torch.float64) / steps
    alpha, sigma = schedule.alpha(times), schedule.sigma(times)
    torch.testing.assert_close(alpha.square() + sigma.square(), torch.ones_like(alpha))
    assert alpha[0] == 1 and sigma[0] == 0 and (alpha.diff() < 0).all()
    assert schedule.number(schedule.times(steps)).tolist() == list(range(steps, -1, -1))
    for kind in (torch.float32, torch.float64):
        assert schedule.alpha(torch.ones(2, dtype=kind)).dtype == kind
    with pytest.raises(ConfigError, match=f"sampled in 1 to {steps} steps, got {steps + 1}"):
        schedule.times(steps + 1)


@pytest.mark.parametrize("sampler", ["ddpm", "ddim"])
@pytest.mark.parametrize("steps", [40, 13])
def test_a_perfect_denoiser_gives_the_data(sampler, steps):
    """Data of one Gaussian, whose best denoiser is known: samples have its mean and its spread, in float32."""
    schedule, mean, spread = CosineSteps(40), 0.3, 0.5
    def best(noisy, t):
        alpha, sigma = schedule.alpha(t).item(), schedule.sigma(t).item()
        share = alpha * spread**2 / (alpha**2 * spread**2 + sigma**2)
        data = mean + share * (noisy - alpha * mean)
        return denoise("x0", schedule, noisy, data, t)
    start = torch.randn(20_000, generator=torch.Generator().manual_seed(0))
    drawn = SAMPLERS[sampler](schedule).sample(best, start, steps, seeded(1))
    assert drawn.dtype == torch.float32
    assert drawn.mean().item() == pytest.approx(mean, abs=0.02)
    assert drawn.std().item() == pytest.approx(spread, rel=0.2)


def test_dtype():
    prior = DiffusionPrior(DiffusionPriorConfig(dim=8, num_heads=2, num_layers=1, frames=2, steps=5),
                           spec=example_spec()).double().eval()
    z = example_latent(example_spec(), time=2).to(torch.float64)
    prior.measure([z])
    assert prior.loss(z, seeded())["denoising"].dtype == torch.float64
    assert prior.sample(2, seeded()).position.dtype == torch.float64


def test_frames_see_one_another_unless_causal():
    for causal in (False, True):
        prior = DiffusionPrior(DiffusionPriorConfig(dim=8, num_heads=2, num_layers=2, frames=3, steps=5, causal=causal),
                               spec=example_spec()).eval()
        x = torch.randn(1, 3, 6, 9)
        other = x.clone()
        other[:, 2] += 1
        with torch.no_grad():
            first, second = (prior.answer(noisy, torch.tensor([3]))[:, :2] for noisy in (x, other))
        assert torch.equal(first, second) == causal


def test_padding_is_silent_unless_asked():
    for noisy in (False, True):
        prior = DiffusionPrior(DiffusionPriorConfig(dim=8, num_heads=2, num_layers=1, frames=2, steps=5,
                                                    noisy_padding=noisy), spec=example_spec()).eval()
        x = torch.randn(1, 2, 6, 9)
        with torch.no_grad():
            assert bool((prior.answer(x, torch.tensor([3])) * (1 - prior.used)).any()) == noisy


def test_sampling_can_be_shortened():
    prior = DiffusionPrior(DiffusionPriorConfig(dim=8, num_heads=2, num_layers=1, frames=2, steps=50),
                           spec=example_spec()).eval()
    calls = []
    prior.network.register_forward_hook(lambda *args: calls.append(1))
    prior.sampling = Sampling("ddim", 4)
    prior.sample(1, seeded())
    assert len(calls) == 4


class SegmentConfig(PriorConfig):
    name: str = "test-segment"
    frames: int = 1


class Segment(Prior):
    """Learns one latent, and draws what lies between it and its opposite."""

    Config = SegmentConfig

    def __init__(self, config, *, spec):
        super().__init__(config, spec=spec)
        self.point = nn.Parameter(torch.zeros(spec.num_tokens, spec.packed_dim))

    def loss(self, z, sampler):
        return {"distance": (z.pack() - self.point).square().mean((1, 2, 3))}

    def sample(self, batch_size, sampler):
        where = 2 * sampler.uniform("where", self.point.new_zeros(batch_size, 1, 1, 1)) - 1
        return Latent.unpack(self.spec, where * self.point.expand(batch_size, self.config.frames, -1, -1)).bounded()


def test_a_prior_of_ones_own():
    check_prior(Segment, spec=LatentSpec((TokenGroup("things", 3, (Field("features", 4),)),)))


class Careless(Segment):
    def loss(self, z, sampler):
        return {"distance": (z.pack() - self.point).square().mean()}


class Forgetful(Segment):
    def sample(self, batch_size, sampler):
        return super().sample(batch_size, MEANS)


@pytest.mark.parametrize(("fault", "message"), [
    (Careless, r"shapes: loss term distance is \[\], expected \[2\]"), (Forgetful, "every generator gives the same")])
def test_faults_are_found(fault, message):
    with pytest.raises(AssertionError, match=message):
        check_prior(fault, spec=LatentSpec((TokenGroup("things", 3, (Field("features", 4),)),)))


def test_a_prior_that_is_none():
    with pytest.raises(IncompatibleComponentsError, match="prior 'Linear' is the class Linear, which is no prior"):
        check_prior(nn.Linear)


def test_only_the_prior_learns():
    model = build(small_config(**OFF, **TRAINED))
    loss = model.loss(example_batch(model.config))
    loss.total.backward()
    assert {name.split(".")[0] for name, p in model.named_parameters() if p.grad is not None} == {"prior"}
    assert set(loss.terms) == {"denoising"}


def test_untrained_parts_are_refused(tmp_path):
    from worldkit.training.recipes import make_trainer

    with pytest.raises(TrainingError, match="(?s)trains nothing in decoder and dyn.*-o prior=diffusion") as e:
        make_trainer("lpwm-balls-mini", "balls-32", run=tmp_path / "run",
                     overrides={"latent_action": None, **TRAINED}, data_options={"num_episodes": 12})
    assert "train.init_from=runs/lpwm-balls-mini" in str(e.value)


def test_names():
    assert wk.list_priors() == ["diffusion", "dit"] and issubclass(wk.create_config(
        "lpwm-balls-mini", latent_action=None, prior="diffuse-ddlp", objective="first-frames").prior.__class__,
        DiffusionPriorConfig)
