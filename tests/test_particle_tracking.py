"""DLPv2 / DDLP's perception: what it should do, whatever its weights are."""

import pytest
import torch
from torch import nn

import worldkit as wk
from worldkit.assembly import build
from worldkit.config import ObsSpec
from worldkit.decoders.particle_tracking import ParticleTrackingDecoder, ParticleTrackingDecoderConfig
from worldkit.distributions import MEANS, Beta, Normal, Sampler
from worldkit.encoders.particle_tracking import ParticleTrackingEncoder, ParticleTrackingEncoderConfig
from worldkit.errors import ConfigError, IncompatibleComponentsError, ShapeError
from worldkit.latents import particle_spec
from worldkit.testing import check_decoder, check_encoder, check_model, example_latent
from worldkit.testing.examples import SMALL, example_video, small_config

OBS = ObsSpec(height=32, width=32)
IMAGES = {"encoder": {"name": "particle-tracking", "tracking": False}, "dynamics": None, "latent_action": None,
          "objective": "reconstruction", "timestep_horizon": 1}


def encoder(obs=OBS, **options):
    torch.manual_seed(0)
    config = ParticleTrackingEncoderConfig(**SMALL["encoder"]["particle-tracking"] | options)
    return ParticleTrackingEncoder(config, obs=obs).eval()


def seeded(seed=0):
    return Sampler(generator=torch.Generator().manual_seed(seed))


VARIANTS = {
    "distance": {"select": "distance"}, "random": {"select": "random"}, "mixer": {"select": "mixer"},
    "images": {"tracking": False}, "images, mixer": {"tracking": False, "select": "mixer"},
    "no correlation": {"correlation": False}, "proposals of all frames": {"proposal_frames": None},
    "lost layers": {"lost_layers": True, "background_channels": (8, 8, 8)},
}


@pytest.mark.parametrize("name", VARIANTS)
def test_variants(name):
    check_encoder("particle-tracking", **VARIANTS[name])


def test_two_views_and_frames_that_are_not_square():
    check_encoder("particle-tracking", obs=ObsSpec(height=32, width=32, views=2))
    for obs in (ObsSpec(height=24, width=32), ObsSpec(height=40, width=32)):
        ratio = 8.4 / max(obs.height, obs.width)
        check_encoder("particle-tracking", obs=obs, glimpse_ratio=ratio)
        check_decoder("particle-tracking", obs=obs, glimpse_ratio=ratio)
        check_model(small_config(encoder={"name": "particle-tracking", "glimpse_ratio": ratio}, latent_action=None,
                                 decoder={"name": "particle-tracking", "glimpse_ratio": ratio},
                                 **{"obs.height": obs.height, "obs.width": obs.width}))


def test_a_model_of_images():
    check_model(small_config(**IMAGES))


class Unstaged(ParticleTrackingEncoder):
    """Says that it has stages, and takes another for the full one."""

    def forward(self, video, *, sampler, stage="noisy"):
        return super().forward(video, sampler=sampler, stage=stage)


def test_the_plain_call_is_the_full_stage():
    with pytest.raises(AssertionError, match="stages: what the stage 'full' gives, beside the call without one,"):
        check_encoder(Unstaged, **SMALL["encoder"]["particle-tracking"])


def test_upstreams_normalisation_mixes_clips():
    """Named, and off unless asked for: with it a clip's particles depend on the clips beside it."""
    with pytest.raises(AssertionError, match="batch independence"):
        check_encoder("particle-tracking", correlation_norm="batch")


class Reader(nn.Module):
    """A search that goes where the correlation map is highest, and nowhere without one."""

    def __init__(self, side, image):
        super().__init__()
        self.side, self.ratio = side, side / image

    def forward(self, glimpses):
        fit = glimpses[:, :, 3].flatten(2)
        index = fit.argmax(-1)
        shift = torch.stack([index // self.side, index % self.side], -1) - (self.side - 1) // 2
        offset = torch.where(fit.amax(-1, keepdim=True) > 0, shift * self.ratio * 2 / (self.side - 1), 0.0)
        raw = glimpses.new_zeros(*glimpses.shape[:2], 12)
        raw[..., :2] = torch.atanh(offset)
        raw[..., 4:6] = torch.logit(torch.tensor(self.ratio))
        return raw


def blobs(places, side=32):
    """Soft discs at ``[B, T, N, 2]`` on black: ``[B, T, 3, side, side]``."""
    axis = torch.linspace(-1, 1, side)
    away = (axis[:, None] - places[..., 0, None, None]) ** 2 + (axis[None] - places[..., 1, None, None]) ** 2
    colours = torch.eye(3)[: places.shape[2]]
    return torch.einsum("btnhw,nc->btchw", torch.exp(-away / 0.01), colours).clamp(0, 1)


@pytest.mark.parametrize("norm", ["particle", "batch"])
def test_particles_follow_moving_discs(norm):
    """With a network that does no more than read the map, positions stay on the discs, each on its own."""
    steps, pitch = 6, 8 / 32 * 2 / 7
    start = torch.tensor([[[-0.5, -0.4], [0.4, 0.5]], [[0.3, -0.6], [-0.5, 0.2]]])
    speed = pitch * torch.tensor([[[1.0, 2.0], [-1.0, 0.0]], [[-2.0, 1.0], [0.0, 2.0]]])
    places = start[:, None] + speed[:, None] * torch.arange(steps)[None, :, None, None]
    model = encoder(num_particles=2, correlation_norm=norm)
    model.attributes = Reader(model.glimpse_size, 32)
    model.start.start = lambda image, proposals: start
    with torch.no_grad():
        encoding = model(blobs(places), sampler=MEANS)
    assert (encoding.latent.position - places).abs().max() < pitch / 2
    torch.testing.assert_close(encoding.aux.base[:, 1:], encoding.latent.position[:, :-1])
    torch.testing.assert_close(encoding.aux.base[:, 0], start)


@torch.no_grad()
def test_the_future_changes_no_past_posterior():
    model, video = encoder(), example_video(OBS, 5)
    short, long = (model(v, sampler=MEANS) for v in (video[:, :3], video))
    for key, params in long.posterior.params.items():
        torch.testing.assert_close(params[:, :3], short.posterior.params[key])
    assert long.aux.proposals.shape[1] == 4 and short.aux.proposals.shape[1] == 3


@torch.no_grad()
def test_single_images_are_first_frames():
    """Without tracking every frame is what a clip's first frame is; with it, later frames start from where one was."""
    model, images = encoder(), encoder(tracking=False)
    images.load_state_dict(model.state_dict())
    video = example_video(OBS, 3)
    tracked, alone = model(video, sampler=MEANS), images(video, sampler=MEANS)
    for key, params in alone.posterior.params.items():
        torch.testing.assert_close(params[:, :1], tracked.posterior.params[key][:, :1])
        one = model(video[:, 2:], sampler=MEANS).posterior.params[key]
        torch.testing.assert_close(params[:, 2:], one)
    assert alone.aux.proposals.shape == (2, 3, 10, 2)
    assert not torch.allclose(tracked.latent.position[:, 1:], alone.latent.position[:, 1:])


@torch.no_grad()
def test_proposals():
    """Kept are the most certain, those farthest from the middle, or any; all in order."""
    video = example_video(OBS, 1)
    everything = encoder(num_proposals=16).start.keypoints(video[:, 0])
    kept = encoder()(video, sampler=MEANS).aux
    certain = everything[1].sum(-1).sort(1).values[:, :10]
    torch.testing.assert_close(kept.proposal_variance[:, 0].sum(-1), certain)
    far = encoder(select="distance")
    away = (far(video, sampler=MEANS).aux.proposals[:, 0, :, None] - far.start.middles).square().sum(-1).amin(-1)
    assert (away[:, :-1] >= away[:, 1:]).all()
    by_chance = encoder(select="random")
    one, same, other = (by_chance(video, sampler=seeded(s)).aux.proposals for s in (0, 0, 1))
    assert torch.equal(one, same) and not torch.equal(one, other)
    mixed = encoder(select="mixer", num_particles=12)
    aux = mixed(video, sampler=MEANS).aux
    anchors = mixed.start.start(video[:, 0], aux.proposals[:, 0])
    assert aux.proposals.shape[2] == 16 and anchors.shape == (2, 12, 2)
    low, high = aux.proposals[:, 0].amin(1, keepdim=True), aux.proposals[:, 0].amax(1, keepdim=True)
    assert ((anchors >= low) & (anchors <= high)).all()


def test_no_gradient_flows_from_frame_to_frame():
    model, video = encoder(), example_video(OBS, 3)
    encoding = model(video, sampler=seeded())
    late = sum(encoding.latent.values["particles", f][:, 1:].sum() for f in ("position", "scale", "features"))
    first = [p for name, p in model.named_parameters() if name.startswith("start.")]
    grads = torch.autograd.grad(late, first, allow_unused=True, retain_graph=True)
    assert all(g is None or not g.any() for g in grads)
    assert any(g.any() for g in torch.autograd.grad(encoding.latent.position[:, 0].sum(), first))


def test_stages():
    """Warm-up: nothing moves or scales particles. Both early stages: glimpse-sized, with priors that hold them so."""
    model, video = encoder(), example_video(OBS, 3)
    full, noisy, warm = (model(video, sampler=seeded(), stage=s) for s in ("full", "noisy", "warmup"))
    size = torch.sigmoid(noisy.latent.scale)
    assert not noisy.latent.scale.requires_grad and (size - 0.25).abs().max() < 0.1
    assert full.latent.scale.requires_grad and noisy.latent.position.requires_grad
    assert not warm.latent.position.requires_grad and not warm.aux.base.requires_grad
    assert warm.aux.anchors.requires_grad and warm.posterior.params["particles", "position"].requires_grad
    around = model(video, sampler=MEANS, stage="noisy").latent.scale
    torch.testing.assert_close(torch.sigmoid(around), torch.full_like(around, 0.25), atol=1e-4, rtol=0)
    for encoding, std, counts in ((full, 0.2, (0.1, 0.1)), (noisy, 0.1, (0.2, 0.1)), (warm, 0.1, (0.2, 0.1))):
        prior = model.static_prior(encoding)
        mean, logvar = Normal.split(prior.params["particles", "position"])
        torch.testing.assert_close(logvar, torch.full_like(logvar, std**2).log())
        torch.testing.assert_close(mean, encoding.aux.base)
        assert [round(x.mean().item(), 5) for x in Beta.split(prior.params["particles", "transparency"])] == [*counts]


def test_the_search_is_blind_before_the_full_stage():
    """Neither the size nor the look of the frame before: only where the particle was."""
    model, video = encoder(), example_video(OBS, 2)
    seen = []
    model.attributes.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    for stage in ("full", "noisy", "warmup"):
        model(video, sampler=MEANS, stage=stage)
    maps = [glimpses[:, :, 3].abs().max().item() > 0 for glimpses in seen]
    assert maps == [False, False, True] + 2 * [False, False, False]  # two looks at a first frame, one at a later one


@torch.no_grad()
def test_the_background_through_another_mask():
    model, video = encoder(), example_video(OBS, 3)
    encoding = model(video, sampler=MEANS)
    mask = encoding.aux.background_mask.view(2, 3, 1, 32, 32)
    assert 0 <= mask.min() < mask.max() <= 1
    same = model.encode_background(encoding, video, mask)
    torch.testing.assert_close(same.latent.pack(), encoding.latent.pack())
    other = model.encode_background(encoding, video, torch.ones_like(mask))
    assert torch.equal(other.latent.position, encoding.latent.position)
    assert not torch.equal(other.latent.background, encoding.latent.background)
    assert torch.equal(other.aux.background_mask, torch.ones(6, 1, 32, 32))


def test_regularizer_and_priors():
    model, video = encoder(proposal_frames=2), example_video(OBS, 4)
    encoding = model(video, sampler=seeded())
    chamfer = model.regularizers(encoding)["proposals"]
    anchors, proposals = encoding.aux.anchors[1, 3], encoding.aux.proposals[1, 1]
    cost = torch.cdist(anchors, proposals).square() / 2
    torch.testing.assert_close(chamfer[1, 3], (cost.amin(0).sum() + cost.amin(1).sum()) / 2)
    start = [p for name, p in model.named_parameters() if name.startswith("start.")]
    assert not any(g.any() for g in torch.autograd.grad(chamfer[:, 1:].sum(), start, retain_graph=True))
    assert any(g.any() for g in torch.autograd.grad(chamfer[:, :1].sum(), start))
    first = model.first_frame_prior(5)
    assert first.shape == (5, 1)
    away = first.mean("particles", "position")[:, 0, :, None] - model.start.middles
    assert away.square().sum(-1).amin(-1).max() < 1e-10


# -- decoder


def decoder(obs=OBS, **options):
    torch.manual_seed(0)
    spec = particle_spec(num_particles=4, feature_dim=3, background_dim=2)
    config = ParticleTrackingDecoderConfig(**SMALL["decoder"]["particle-tracking"] | options)
    return ParticleTrackingDecoder(config, spec=spec, obs=obs).eval(), spec


@torch.no_grad()
def test_alphas_are_disturbed_before_the_full_stage():
    model, spec = decoder()
    z = example_latent(spec, 2, 3)
    plain = model(z).video
    torch.testing.assert_close(model(z, stage="noisy", sampler=MEANS).video, plain)
    noisy = [model(z, stage="warmup", sampler=seeded(s)).video for s in (0, 0, 1)]
    assert torch.equal(noisy[0], noisy[1]) and not torch.equal(noisy[0], noisy[2])
    assert 1e-4 < (noisy[0] - plain).abs().mean() < 0.1


@torch.no_grad()
def test_a_particle_is_drawn_where_it_is():
    model, spec = decoder()
    z = example_latent(spec, 1, 1)
    values = {**z.values,
              ("particles", "position"): torch.tensor([[[[-0.5, 0.5], [0.5, 0.5], [0.0, 0.0], [0.0, 0.0]]]]),
              ("particles", "scale"): torch.full((1, 1, 4, 2), -1.1),
              ("particles", "transparency"): torch.tensor([[[[1.0], [1.0], [0.0], [0.0]]]])}
    drawn = model(type(z)(spec, values), masks=True)
    mask = drawn.masks[0, 0, :, 0]
    assert drawn.tokens is None and mask.shape == (4, 32, 32)
    axis = torch.linspace(-1, 1, 32)
    for k, place in enumerate(((-0.5, 0.5), (0.5, 0.5))):
        share = mask[k] / mask[k].sum()
        centre = ((share.sum(1) * axis).sum(), (share.sum(0) * axis).sum())
        assert abs(centre[0] - place[0]) < 0.05 and abs(centre[1] - place[1]) < 0.05
    assert mask[2:].max() == 0
    torch.testing.assert_close(1 - mask.sum(0), drawn.background_mask[0, 0, 0])


@pytest.mark.parametrize(("height", "width", "channels"), [
    (32, 32, (8, 8)), (32, 32, (8, 8, 8, 8)), (128, 128, (8, 8)), (24, 32, (8, 8)), (40, 56, (8, 8))])
def test_backgrounds_of_any_size_that_halves(height, width, channels):
    ratio = (8 if max(height, width) < 128 else 16) / (max(height, width) - 1)
    model, spec = decoder(ObsSpec(height=height, width=width), background_channels=channels, glimpse_ratio=ratio)
    assert model(example_latent(spec, 1, 1)).video.shape == (1, 1, 3, height, width)


# -- what cannot be


@pytest.mark.parametrize(("options", "message"), [
    ({"patch_size": 12}, "32 x 32 does not divide by encoder.patch_size 12; patch sizes that do: 4, 8, 16, 32"),
    ({"glimpse_channels": (8, 8, 8, 8)}, "halve a patch of 8 pixels 3 times to a single one.*larger patch_size"),
    ({"glimpse_ratio": 0.02}, "a glimpse of 1 x 1 pixels .*at least 2 pixels to be halved 1 times"),
    ({"background_channels": (8,) * 7}, "background_channels halve the sides 6 times, which 32 x 32 pixels do not"),
    ({"num_particles": 12}, "num_particles 12 start from as many proposals, but there are 10 .16 patches"),
    ({"num_particles": 20, "num_proposals": 40}, "there are 16 .*set num_particles to 16 or less"),
    ({"select": "best"}, "select"),
    ({"glimpse_channels": (6, 8)}, "glimpse_channels.*6 is no multiple of 4 or 5"),
    ({"transparency_prior": (0, 1)}, "transparency_prior.*greater than 0"),
])
def test_encoders_that_cannot_be(options, message):
    with pytest.raises(ConfigError, match=f"(?s){message}"):
        config = ParticleTrackingEncoderConfig.parse({"name": "particle-tracking", **SMALL["encoder"][
            "particle-tracking"], **options})
        ParticleTrackingEncoder(config, obs=OBS)


@pytest.mark.parametrize(("options", "message"), [
    ({"glimpse_ratio": 0.3}, r"of 9 pixels, which does not grow from 8 by doubling; ratios that do .*0.25 \(8\)"),
    ({"background_channels": (8,) * 7}, "double the sides 6 times, which does not lead to 32 x 32; .* divide by 64"),
    ({"background_channels": (8, 9)}, "background_channels.*9 is no multiple of 4 or 5"),
])
def test_decoders_that_cannot_be(options, message):
    with pytest.raises(ConfigError, match=f"(?s){message}"):
        config = ParticleTrackingDecoderConfig.parse({"name": "particle-tracking", **SMALL["decoder"][
            "particle-tracking"], **options})
        ParticleTrackingDecoder(config, spec=particle_spec(num_particles=4, feature_dim=3, background_dim=2), obs=OBS)


def test_tracking_of_single_images_is_refused():
    with pytest.raises(IncompatibleComponentsError, match="follows particles .*encoder.tracking=false for images, or"):
        build(small_config(**IMAGES | {"encoder": "particle-tracking"}))
    with pytest.raises(ShapeError, match="video must have 5 axes .b t c=3 h=32 w=32., got 4"):
        encoder()(torch.rand(2, 3, 32, 32), sampler=MEANS)
    assert encoder()(torch.rand(2, 1, 3, 32, 32), sampler=MEANS).latent.shape == (2, 1)  # a context of one frame


def test_names():
    assert "particle-tracking" in wk.list_encoders() and "particle-tracking" in wk.list_decoders()
    assert wk.registry.encoders.resolve("ddlp") == wk.registry.encoders.resolve("dlpv2") == "particle-tracking"
