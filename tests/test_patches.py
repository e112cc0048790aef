"""Patch tokens: encoder and decoder, the DVAE presets, and what they refuse."""

import pytest
import torch

import worldkit as wk
from worldkit.assembly import build
from worldkit.config import ObsSpec
from worldkit.decoders.patch import PatchDecoder, PatchDecoderConfig
from worldkit.distributions import MEANS, Normal, Sampler
from worldkit.encoders.patch import PatchEncoder, PatchEncoderConfig
from worldkit.errors import ConfigError, IncompatibleComponentsError
from worldkit.testing import check_decoder, check_encoder, check_model, example_spec
from worldkit.testing.examples import small_config

TWO_VIEWS = ObsSpec(height=32, width=32, views=2)
CNN = {"base_channels": 8, "channel_multipliers": [1, 2], "latent_channels": 8}


def numbers(model):
    """Numbers in one frame's latent."""
    return sum(group.size * sum(f.dim for f in group.fields) for group in model.encoder.spec.groups)


@pytest.mark.parametrize("options", [
    {}, {"obs": TWO_VIEWS}, {"obs": ObsSpec(height=16, width=24)}, {"patch_size": 2}, {"padding": "replicate"},
    {"obs": ObsSpec(height=16, width=16, channels=1)},
])
def test_encoder(options):
    check_encoder("patch", **options)


@pytest.mark.parametrize("options", [
    {}, {"obs": TWO_VIEWS}, {"obs": ObsSpec(height=24, width=24, channels=1)},
    {"cnn": {**CNN, "channel_multipliers": [1, 2, 2, 2, 2, 2]}},  # more doublings than a token has pixels
])
def test_decoder(options):
    check_decoder("patch", **options)


@pytest.mark.parametrize("overrides", [
    {}, {"latent_action": None}, {"obs.views": 2, "conditioners": {"goal_image": {"name": "goal-image"}}},
    {"dynamics": None, "latent_action": None, "timestep_horizon": 1}, {"latent_action.pool": "mean"},
])
def test_model(overrides):
    check_model(small_config(encoder="patch", **overrides))


def test_tokens_lie_row_by_row():
    """What happens in one patch changes most the token of that patch, in its own view; and the decoder agrees."""
    torch.manual_seed(0)
    config = PatchEncoderConfig(patch_size=8, feature_dim=3, cnn={**CNN, "channel_multipliers": [1]})
    encoder = PatchEncoder(config, obs=ObsSpec(height=16, width=24, views=2))
    assert encoder.spec.grid == (2, 3) and encoder.spec.group("patches").size == 12
    video = torch.rand(1, 2, 1, 3, 16, 24)
    changed = video.clone()
    changed[:, 1, :, :, 8:, 16:] += 1  # second view, second row, third column
    a, b = (encoder(v, sampler=MEANS).latent.features for v in (video, changed))
    assert (b - a).abs().sum(-1)[0, 0].argmax() == 6 + 5
    assert torch.equal(a[:, :, :6], b[:, :, :6])  # the first view is untouched

    decoder = PatchDecoder(PatchDecoderConfig(cnn={**CNN, "channel_multipliers": [1]}), spec=encoder.spec,
                           obs=encoder.obs)
    z = encoder(video, sampler=MEANS).latent
    moved = z.map(lambda x: x.index_add(2, torch.tensor([7]), torch.ones_like(x[:, :, :1])))  # second view, (0, 1)
    difference = (decoder(moved).video - decoder(z).video).abs().detach()
    assert difference[:, 0].max() == 0
    rows, columns = (difference[0, 1].sum(dim) for dim in ((0, 1, 3), (0, 1, 2)))
    assert rows.argmax() < 8 and 8 <= columns.argmax() < 16
    assert decoder(z, masks=True).masks is None


def test_posterior_and_priors():
    config = PatchEncoderConfig(patch_size=8, feature_dim=3, cnn=CNN)
    encoder = PatchEncoder(config, obs=ObsSpec(height=32, width=32))
    encoding = encoder(torch.rand(2, 3, 3, 32, 32), sampler=Sampler(generator=torch.Generator().manual_seed(0)))
    assert not torch.equal(encoding.latent.features, encoding.posterior.mean("patches", "features"))
    for prior in (encoder.static_prior(encoding), encoder.first_frame_prior(4)):
        mean, logvar = Normal.split(prior.params["patches", "features"])
        assert not mean.any() and not logvar.any()
    assert encoder.first_frame_prior(4).shape == (4, 1)
    assert encoding.posterior.kl(encoder.static_prior(encoding))["patches", "features"].shape == (2, 3, 16)
    assert encoder.spec.properties == {"grid", "tracked", "normal", "continuous"}


def test_a_model_samples_from_nothing():
    model = build(small_config(encoder="patch"))
    assert model.sample(2, 3, generator=torch.Generator().manual_seed(0)).video.shape == (2, 3, 3, 32, 32)


@pytest.mark.parametrize("obs, options, message", [
    ((32, 32), {"patch_size": 12}, r"32 x 32 does not divide .* encoder.patch_size 12; .* 2, 4, 8, 16, 32"),
    ((32, 30), {"patch_size": 16}, r"32 x 30 .*; patch sizes that do: 2$"),
    ((32, 32), {"patch_size": 8, "cnn": {"channel_multipliers": [1] * 5}}, r"encoder.cnn halves its input 4 times, "
     r"which patches of 8 pixels do not allow; use fewer channel_multipliers than \[1, 1, 1, 1, 1\]"),
])
def test_encoder_refuses_sizes(obs, options, message):
    with pytest.raises(ConfigError, match=message):
        PatchEncoder(PatchEncoderConfig(**options), obs=ObsSpec(height=obs[0], width=obs[1]))


@pytest.mark.parametrize("obs", [(30, 30), (32, 64)])
def test_decoder_refuses_a_grid_that_is_no_grid_of_squares(obs):
    with pytest.raises(ConfigError, match=rf"a grid of 4 x 4 tokens does not allow for {obs[0]} x {obs[1]} pixels"):
        PatchDecoder(PatchDecoderConfig(), spec=example_spec(kind="patches"), obs=ObsSpec(height=obs[0], width=obs[1]))


def test_patches_are_not_drawn_as_particles():
    with pytest.raises(IncompatibleComponentsError, match="decoder 'particle' draws particles, but encoder 'patch' "
                                                          "gives patches. Decoders that fit: .*patch"):
        build(small_config(encoder="patch", decoder="particle"))


@pytest.mark.parametrize("dvae, lpwm", [("dvae", "lpwm"), ("dvae-sketchy", "lpwm-sketchy"),
                                        ("dvae-balls-mini", "lpwm-balls-mini")])
def test_dvae_is_lpwm_with_patches(dvae, lpwm):
    """Only encoder and decoder differ, and the size is about the same."""
    ours, base = wk.create_config(dvae), wk.create_config(lpwm)
    assert ours.encoder.name == ours.decoder.name == "patch"
    for part in ("obs", "timestep_horizon", "dynamics", "latent_action", "conditioners", "objective"):
        assert getattr(ours, part) == getattr(base, part)
    with torch.device("meta"):
        first, second = wk.create_model(dvae), wk.create_model(lpwm)
    assert numbers(first) == pytest.approx(numbers(second), rel=0.02)
    assert first.parameter_report()["total"] == pytest.approx(second.parameter_report()["total"], rel=0.12)


def test_counts_written_in_the_preset_file():
    with torch.device("meta"):
        model, lpwm = wk.create_model("dvae-sketchy"), wk.create_model("lpwm-sketchy")
    assert (model.parameter_report()["total"], model.encoder.spec.num_tokens, numbers(model)) == (110013959, 64, 640)
    assert (lpwm.parameter_report()["total"], lpwm.encoder.spec.num_tokens, numbers(lpwm)) == (109545263, 65, 644)


def test_swapping_in_patches_brings_sizes_of_the_presets_scale():
    swapped, preset = wk.create_config("lpwm-balls-mini", encoder="patch"), wk.create_config("dvae-balls-mini")
    assert (swapped.encoder, swapped.decoder) == (preset.encoder, preset.decoder)
    assert wk.create_config("lpwm-balls-mini", encoder="dvae").encoder == preset.encoder
    assert wk.create_config("lpwm-balls-mini", encoder="patch", encoder__feature_dim=4).encoder.patch_size == 8
    mini = wk.create_model("lpwm-mini", encoder="patch")
    assert mini.encoder.spec.grid == (4, 4) and mini.parameter_report()["total"] < 4e6


def test_dvae_learns():
    """A few dozen steps on moving squares: the reconstruction error falls."""
    torch.manual_seed(0)
    model = build(small_config(encoder="patch", latent_action=None))
    optimizer, generator, losses = torch.optim.Adam(model.parameters(), 5e-3), torch.Generator().manual_seed(0), []
    corners = torch.randint(0, 20, (4, 2))
    video = torch.zeros(4, 5, 3, 32, 32)
    for clip, (y, x) in zip(video, corners, strict=True):
        for t, frame in enumerate(clip):
            frame[:, y + t : y + t + 8, x : x + 8] = 1
    for _ in range(25):
        loss = model.loss(wk.Batch(video), generator=generator)
        optimizer.zero_grad()
        loss.total.backward()
        optimizer.step()
        losses.append(loss.terms["reconstruction"].item())
    assert losses[-1] < 0.4 * losses[0]
