"""semantic-wm's parts beyond the recorded numbers: information flow, several views, what is refused."""

import json

import pytest
import torch

import worldkit as wk
from worldkit.assembly import build
from worldkit.batch import Batch
from worldkit.conditions import EMPTY, Condition
from worldkit.config import WorldModelConfig
from worldkit.distributions import MEANS, Sampler
from worldkit.dynamics.causal_dit import CausalDiffusion, CausalDiTConfig
from worldkit.errors import CheckpointError, ConfigError, IncompatibleComponentsError, ShapeError
from worldkit.latents import Field, Latent, LatentSpec, TokenGroup
from worldkit.nn.frame_noise import FlowNoise, StepNoise, shifted
from worldkit.objectives.adapter import AdapterObjectiveConfig
from worldkit.storage.hub import load_parts
from worldkit.testing import check_dynamics, check_model, example_latent, example_spec
from worldkit.testing.components import shake
from worldkit.testing.examples import example_batch, small_config

from .parity.semantic_files import ROOT

SMALL = {"dim": 16, "num_heads": 2, "num_layers": 1, "head_dim": 8, "steps": 2}
PICTURE = {"name": "jepa-vit", "patch_size": 8, "dim": 16, "num_layers": 1, "num_heads": 2}


def dit(views=1, window=4, **options):
    spec = example_spec(views, "patches")
    config = CausalDiTConfig(**{**SMALL, "cond_dim": 3, **options})
    return shake(CausalDiffusion(config, spec=spec, anchors={}, window=window)).eval(), spec


def semantic(**overrides):
    """A small model of adapted features and a causal DiT."""
    return small_config(**{
        "encoder": {"name": "adapted", "picture": PICTURE}, "decoder": "semantic", "dynamics": "causal-dit",
        "latent_action": None, "conditioners": {"action": {"name": "raw-action", "dim": 3}},
        "objective": "denoising", **overrides})


@pytest.mark.parametrize("options", [{"temporal": "joint", "dim": 32}, {"head": "narrow", "patch_size": 1},
                                     {"noise": "ddpm", "null_action": "last-entry"}, {"guidance": 2.0, "history": 0}])
def test_variants(options):
    check_dynamics("causal-dit", **options)


def test_several_views():
    check_dynamics("causal-dit", spec=example_spec(2, "pixels"), head="narrow")
    check_model(semantic(**{"obs.views": 2}))


@pytest.mark.parametrize("options", [{}, {"noise": "ddpm", "guidance": 0.5}, {"actions": "left"},
                                     {"temporal": "joint", "dim": 32}])
def test_kept_frames_are_those_read_anew(options):
    """Keys and values that a rollout keeps give what reading the whole window gives, and a full window slides."""
    model, spec = dit(window=3, **options)
    z, told = example_latent(spec, time=2), torch.randn(2, 6, 3)
    carry = model.start(z, Condition(frame=told[:, :1]))
    for t in range(1, 5):
        now = Condition(frame=told[:, t : t + 1])
        anew = model.start(z[:, -3:], Condition(frame=told[:, max(0, t - 2) : t]))
        seeded = [Sampler(generator=torch.Generator().manual_seed(t)) for _ in range(2)]
        new, again = (model.predict(c, now, s, mean=False) for c, s in zip((carry, anew), seeded, strict=True))
        torch.testing.assert_close(new.features, again.features, atol=1e-5, rtol=1e-5)
        model.observe(carry, new)
        z = type(z).cat([z, new])


def test_an_action_moves_the_frame_it_leads_to_and_none_before():
    model, spec = dit()
    z, told = example_latent(spec, time=5), torch.randn(2, 4, 3, requires_grad=True)
    errors = model.loss(z, Condition(frame=told), Sampler(generator=torch.Generator().manual_seed(0)))["denoising"]
    for t in range(4):
        (grad,) = torch.autograd.grad(errors[:, t].sum(), told, retain_graph=True)
        assert grad[:, t].abs().max() > 0 and not grad[:, t + 1 :].any()


def test_views_are_told_apart_in_the_order_they_lie():
    """Views that change places with their numbers change places in the answer."""
    model, spec = dit(views=2)
    net, count = model.network, spec.num_tokens // 2
    x, level = torch.randn(1, 2, 2 * count, 3), torch.full((1, 2), 300.0)
    swapped = torch.cat([x[:, :, count:], x[:, :, :count]], 2)
    with torch.no_grad():
        one, two = net(x, level), net(swapped, level)
        assert not torch.allclose(one, torch.cat([two[:, :, count:], two[:, :, :count]], 2), atol=1e-4)
        places = net._places
        net._places = lambda like: (*places(like)[:2], 1 - places(like)[2])
        two = net(swapped, level)
    assert torch.allclose(one, torch.cat([two[:, :, count:], two[:, :, :count]], 2), atol=1e-5)


def test_a_model_of_two_views_begins_with_the_weights_of_one():
    one, two = build(semantic()), build(semantic(**{"obs.views": 2}))
    assert set(load_parts(two, one)) >= {"encoder", "dynamics"}
    for name, value in one.dynamics.state_dict().items():
        assert torch.equal(two.dynamics.state_dict()[name], value)


def test_perfect_velocities_lead_to_the_data():
    data, noise = torch.randn(2, 3, 4, 5, dtype=torch.float64), torch.randn(2, 3, 4, 5, dtype=torch.float64)
    for steps in (1, 4):
        drawn = FlowNoise(shift=2.0).drawn(lambda x, level: noise - data, noise, steps)
        torch.testing.assert_close(drawn, data)
    ddpm = StepNoise()

    def perfect(x, level):
        """The velocity of the one path that leads from x to the data."""
        alpha, sigma = ddpm._factors(level.long().clamp(min=0), x)
        shown = level == 14  # frames that are done
        found = (x - alpha * data) / sigma
        return torch.where(shown[..., None, None], 0.0, alpha * found - sigma * data)

    torch.testing.assert_close(ddpm.drawn(perfect, noise, 10), data)


def test_shifts_go_from_0_to_1_and_up():
    time = torch.linspace(0, 1, 50)
    for shift in (1.0, 2.449, 8.0):
        moved = shifted(time, shift)
        assert moved[0] == 0 and moved[-1] == 1 and (moved.diff() > 0).all() and (moved >= time - 1e-6).all()


def test_a_new_network_answers_nothing():
    spec = example_spec(kind="patches")
    model = CausalDiffusion(CausalDiTConfig(**SMALL), spec=spec, anchors={}, window=4)
    z = example_latent(spec, time=5)
    assert not model.network(model._tokens(z), torch.rand(2, 5), torch.zeros(2, 5, 10)).any()


def test_pictures_do_not_shape_the_adapter_unless_asked():
    config = small_config(encoder={"name": "adapted", "picture": PICTURE}, decoder="semantic", dynamics=None,
                          latent_action=None, objective="adapter")
    model = shake(build(config))
    for detach in (True, False):
        found = []
        for pixel in (0.0, 1.0):
            model.objective.config = AdapterObjectiveConfig(detach=detach, pixel=pixel)
            model.zero_grad()
            model.loss(example_batch(config), generator=torch.Generator().manual_seed(0)).total.backward()
            found.append(model.encoder.adapter.to_latent[1].weight.grad.clone())
        assert torch.equal(*found) == detach
        assert all(p.grad is None for p in model.encoder.picture.parameters())


def test_an_adapter_gives_its_mean_unless_something_is_drawn():
    encoder = build(semantic()).encoder
    video = torch.rand(1, 2, 3, 32, 32)
    mean = encoder(video, sampler=MEANS)
    drawn = encoder(video, sampler=Sampler(generator=torch.Generator().manual_seed(0)))
    assert torch.equal(mean.aux.narrowed.tokens, mean.aux.narrowed.mean)
    assert not torch.equal(drawn.aux.narrowed.tokens, drawn.aux.narrowed.mean)


def test_the_plain_diffusion_learns_by_the_same_objective():
    check_model(small_config(encoder="patch", dynamics="diffusion", latent_action=None, objective="denoising"))


DIT = {"name": "causal-dit"}


@pytest.mark.parametrize("overrides, said", [
    ({"encoder": {"name": "adapted", "picture": PICTURE, "adapter": {"num_heads": 3}}},
     "adapter 'svae' does not fit its encoder: features of 16 numbers cannot be shared among 3 heads; set adapter."
     "num_heads to one of 1, 2, 4, 8, 16"),
    ({"encoder": {"name": "adapted", "picture": PICTURE, "adapter": {"dim": 17}}},
     "adapter.dim 17 is more than their 16 numbers: lower it, or take adapter.name=identity"),
    ({"encoder": {"name": "adapted", "picture": "vq"}}, "encoder.picture 'vq' gives patches of another kind: take"),
    ({"encoder": {"name": "adapted", "picture": "conv"}}, "encoder.picture 'conv' gives .* of another kind: take"),
    ({"dynamics": DIT | {"patch_size": 3}}, "patches of dynamics.patch_size 3 do not divide a grid of 4 x 4 tokens; "
                                            "patch sizes that do: 1, 2, 4"),
    ({"dynamics": DIT | {"dim": 12}}, "dynamics.dim 12 must divide into dynamics.num_heads 2 heads of a multiple of 4"),
    ({"dynamics": DIT | {"history": 9}}, "dynamics.history 9 leaves no frame to learn in clips of 5 frames"),
    ({"dynamics": DIT | {"mixed_views": True}}, "mixed_views numbers the columns of several views, and there is one"),
    ({"dynamics": DIT | {"positions": "pixel"}, "obs.views": 2}, "dynamics.positions 'pixel' knows one view, and there "
                                                                 "are 2 .obs.views.: take 'index'"),
    ({"decoder": {"name": "semantic", "num_heads": 3}}, "cannot be shared among decoder.num_heads 3"),
    ({"dynamics": "gru"}, "objective 'denoising' trains a dynamics that denoises, and 'gru' does not: take"),
    ({"objective": "adapter", "dynamics": None, "conditioners": {}, "encoder": "patch"},
     "objective 'adapter' trains the adapter of encoder 'adapted', and 'patch' has none: put it inside"),
])
def test_what_does_not_fit_is_refused(overrides, said):
    with pytest.raises((ConfigError, IncompatibleComponentsError), match=said):
        build(semantic(**overrides))


def test_two_views_where_one_is_expected():
    model = build(semantic())
    with pytest.raises(ShapeError, match="video"):
        model.encode(torch.rand(1, 2, 3, 3, 32, 32))
    with pytest.raises(ShapeError, match="video"):
        model.loss(Batch(torch.rand(1, 2, 5, 3, 32, 32), {"action": torch.zeros(1, 5, 3)}))


def test_weights_of_another_encoder_are_refused():
    """A dynamics learns on the latents of one encoder; those of another are refused by what differs."""
    one = build(semantic())
    other = build(semantic(encoder={"name": "adapted", "picture": {**PICTURE, "num_layers": 2}}))
    with pytest.raises(CheckpointError, match="cannot give this model its encoder.*\n.*num_layers"):
        load_parts(other, one)


def test_a_plan_has_gradients_through_the_sampler():
    model, action = shake(build(semantic())), torch.zeros(1, 4, 3, requires_grad=True)
    made = model.rollout(torch.rand(1, 2, 3, 32, 32), 2, conditions={"action": action}, decode=False,
                         generator=torch.Generator().manual_seed(0)).latents
    (grad,) = torch.autograd.grad(made.features.square().sum(), action)
    assert grad[0, 1].abs().max() > 0 and grad[0, 2].abs().max() > 0 and not grad[0, 3].any()


def test_without_actions_a_model_is_told_none():
    model, spec = dit(cond_dim=0)
    z = example_latent(spec, time=3)
    assert model.network.actions is None
    assert model.predict(model.start(z, EMPTY), EMPTY, MEANS, mean=False).shape == (2, 1)
    assert WorldModelConfig.parse(semantic(conditioners={}).to_dict()).dynamics.cond_dim is None
    assert build(semantic(conditioners={})).dynamics.cond_dim == 0


def test_an_encoder_inside_takes_the_weights_of_a_run_of_its_own():
    picture = build(small_config(encoder=PICTURE, decoder=None, dynamics=None, latent_action=None,
                                 objective="masked-jepa"))
    first = build(small_config(encoder={"name": "adapted", "picture": PICTURE}, decoder="semantic", dynamics=None,
                               latent_action=None, objective="adapter"))
    assert load_parts(first, picture) == ["encoder.picture"]
    for name, value in picture.encoder.net.state_dict().items():
        assert torch.equal(first.encoder.picture.net.state_dict()[name], value)
    assert "stays as it is: it must come trained" in first.objective.notes(first)[0]
    with pytest.raises(CheckpointError, match="cannot give this model its encoder"):
        load_parts(build(semantic()), picture)  # the adapter must come trained, too
    whole = build(semantic(encoder={"name": "adapted", "picture": PICTURE, "adapter": {"name": "identity"}}))
    assert load_parts(whole, picture) == ["encoder.picture", "encoder"]
    assert set(load_parts(build(semantic()), first)) == {"encoder", "decoder"}


def test_presets_have_the_recorded_sizes():
    file = ROOT / "parameter_counts.json"
    if not file.exists():
        pytest.skip("golden files not found")
    said = json.loads(file.read_text())
    for size in ("S", "B", "L", "XL"):
        with torch.device("meta"):
            report = build(wk.create_config(f"semantic-wm-{size.lower()}")).parameter_report()
        assert report["dynamics"] == said[f"DiT-{size}/d96_p1_wide"]
    assert report["decoder"] == said["pixel_decoder/96"]
    with torch.device("meta"):
        vae = build(wk.create_config("semantic-wm-s", encoder={"name": "identity"}, decoder="identity", obs={
            "height": 32, "width": 32, "channels": 16}, dynamics={"patch_size": 2, "head": "narrow"}))
        assert vae.parameter_report()["dynamics"] == said["DiT-S/vae_c16_p2_narrow"]


def test_channels_may_be_brought_to_one_scale():
    model, spec = dit(standardize=True, history=1)
    z = example_latent(spec, time=5)
    values = {key: 100 * value + 7 for key, value in z.values.items()}
    far = type(z).build(spec, values)
    model.train()
    for _ in range(3):
        errors = model.loss(far, EMPTY, Sampler(generator=torch.Generator().manual_seed(0)))["denoising"]
    assert abs(model._tokens(far).std() - 1) < 0.1 and errors.mean() < 10
    torch.testing.assert_close(model._latent(model._tokens(far)).features, far.features)


@pytest.mark.slow
@pytest.mark.parametrize("noise", ["flow", "ddpm"])
def test_it_learns_that_actions_move_things(noise):
    """Measured: 10 CPU seconds; squared errors 0.11 (flow) and 0.21 (ddpm) where standing still has 1.1."""
    torch.manual_seed(0)
    group = TokenGroup("patches", 4, (Field("features", 2),))
    spec = LatentSpec((group,), grid=(2, 2), kind="patches")

    def world(clips):
        action = torch.randn(clips, 3, 2)
        place = torch.cat([torch.zeros(clips, 1, 2), action.cumsum(1)], 1) + torch.randn(clips, 1, 2)
        values = {("patches", "features"): place[:, :, None].expand(-1, -1, 4, -1).contiguous()}
        return Latent.build(spec, values), action

    config = CausalDiTConfig(dim=32, num_layers=2, num_heads=2, head_dim=32, cond_dim=2, noise=noise, steps=8,
                             standardize=True, action_dropout=0.0)
    model = CausalDiffusion(config, spec=spec, anchors={}, window=3)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(400):
        z, action = world(64)
        loss = model.train().loss(z, Condition(frame=action), Sampler())["denoising"].mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    (z, action), errors = world(64), []
    for last in (action[:, 2:], action[:, 2:].roll(1, 0)):
        carry = model.start(z[:, :3], Condition(frame=action[:, :2]))
        sampler = Sampler(generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            made = model.predict(carry, Condition(frame=last), sampler, mean=False)
        errors.append((made.features - z.features[:, 3:]).square().mean().item())
    still = (z.features[:, 2:3] - z.features[:, 3:]).square().mean().item()
    assert errors[0] < 0.4 * still < still < errors[1]


@pytest.mark.parametrize("noise", ["flow", "ddpm"])
def test_a_deterministic_path_begins_where_others_do_and_the_same_for_all(noise, monkeypatch):
    """At zero, which no trained network has seen, the shipped model was 5 dB worse."""
    (dynamics, spec), begun = dit(noise=noise), []
    monkeypatch.setattr(type(dynamics.noise), "drawn", lambda self, answer, noise, steps: begun.append(noise) or noise)
    z = example_latent(spec, batch=3, time=3)
    for sampler in (MEANS, MEANS, Sampler()):
        dynamics.predict(dynamics.start(z, EMPTY), EMPTY, sampler, mean=True)
    fixed, again, drawn = begun
    assert torch.equal(fixed, again) and torch.equal(fixed[:1].expand_as(fixed), fixed)
    assert 0.7 < fixed.std() < 1.3 and not torch.equal(drawn[:1].expand_as(drawn), drawn)


def test_registered():
    assert {"adapted"} <= set(wk.list_encoders()) and "causal-dit" in wk.list_dynamics()
    assert "semantic" in wk.list_decoders() and "adapter" in wk.list_objectives()
