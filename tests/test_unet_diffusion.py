"""Dynamics `unet-diffusion` and objective `denoising`: learning, rollouts, options, and what they refuse."""

import pytest
import torch

import worldkit as wk
from worldkit.assembly import build
from worldkit.batch import Batch
from worldkit.conditions import EMPTY, Condition
from worldkit.distributions import MEANS, Sampler
from worldkit.dynamics.unet_diffusion import UNetDiffusion, UNetDiffusionConfig
from worldkit.errors import ConfigError, IncompatibleComponentsError
from worldkit.nn.edm import NoiseConfig, Preconditioning, SamplingConfig, sample
from worldkit.nn.unet import BlocksConfig, UNet
from worldkit.objectives.denoising import cut
from worldkit.testing import check_model, example_latent, example_spec
from worldkit.testing.examples import example_batch, small_config

OUTCOMES = {"channels": (8, 16), "depths": (1, 1), "attention": (False, True), "dim": 6, "width": 12}
HEAD = {"name": "categorical", "readout": {"layers": 0, "bias": False}}


def config(**overrides):
    base = {"encoder": "identity", "dynamics": {"name": "unet-diffusion", "outcomes": OUTCOMES}, "latent_action": None,
            "objective": "denoising", "heads": {"reward": HEAD, "terminated": {**HEAD, "values": (0, 1)}},
            "conditioners": {"action": {"name": "raw-action", "num_actions": 3}}}
    return small_config(**{**base, **overrides})


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("overrides", [
    {}, {"obs.views": 2, "obs.channels": 1, "obs.height": 6}, {"objective": {"name": "denoising", "num_frames": 9}},
    {"conditioners": {"action": {"name": "raw-action", "dim": 2}}, "heads": {}, "dynamics": {
        "name": "unet-diffusion", "noisy_past": True, "residual": "input", "sampling": {
            "steps": 2, "order": 2, "churn": 1.0, "churn_told": "after", "start": "level", "past_noise": 0.1}}},
])
def test_model(overrides):
    check_model(config(**overrides))


def test_rewards_follow_what_happened_before():
    """The state of the LSTM travels with a rollout: two contexts that end alike give different rewards."""
    torch.manual_seed(0)
    model = build(config()).eval()
    for head in model.heads.values():
        torch.nn.init.normal_(head.readout.out.weight)
    batch = example_batch(model.config, 8)
    other = batch.video.clone()
    other[:, :2] = 1 - other[:, :2]
    first, second = (model.rollout(video[:, :6], 2, conditions=batch.conditions, deterministic=True)
                     for video in (batch.video, other))
    assert torch.equal(first.video, second.video)  # the denoiser sees four frames
    assert (first.predictions["reward"] - second.predictions["reward"]).abs().max() > 1e-4


def test_one_frame_is_context_enough():
    """What is not there is grey, and the first action, as in training."""
    model = build(config(**{"dynamics.before": "action-0"})).eval()
    dynamics, video = model.dynamics, torch.rand(2, 1, 3, 8, 8)
    carry = dynamics.start(model.encode(video), EMPTY)
    assert carry.frames.shape == (2, 4, 3, 8, 8) and not carry.frames[:, :3].any()
    assert carry.actions[..., 0].eq(1).all() and not carry.actions[..., 1:].any() and carry.actions.shape == (2, 3, 3)
    told = {"action": torch.zeros(2, 3, dtype=torch.long)}
    assert model.rollout(video, 2, conditions=told).video.shape == (2, 2, 3, 8, 8)


def test_cuts_are_padded_where_they_begin_before_the_clip():
    model = build(config(objective={"name": "denoising", "num_frames": 9}))
    batch = example_batch(model.config)
    part = cut(model, batch, torch.tensor([9, 3]), 6)
    assert torch.equal(part.video[0], batch.video[0, 3:]) and torch.equal(part.video[1, 3:], batch.video[1, :3])
    assert part.video[1, :3].eq(0.5).all() and part.done_mask.tolist()[1] == [False] * 3 + [True] * 3
    assert torch.equal(part.conditions["action"][1, 3:], batch.conditions["action"][1, :3])
    assert part.conditions["action"][1, :3].eq(0).all()


def test_padding_counts_nowhere():
    model = build(config())
    batch = example_batch(model.config)
    mask = torch.tensor([[True] * 5, [True] * 3 + [False] * 2])
    padded = Batch(batch.video, batch.conditions, done_mask=mask, targets=batch.targets)
    other = torch.where(mask[..., None, None, None], batch.video, 1 - batch.video)
    targets = {name: torch.where(mask[:, 1:].logical_and(mask[:, :-1]).float().ne(0), x[:, :-1], x[:, :-1].flip(1))
               for name, x in batch.targets.items()}
    targets = {name: torch.cat([x, batch.targets[name][:, -1:]], 1) for name, x in targets.items()}
    changed = Batch(other, batch.conditions, done_mask=mask, targets=targets)
    losses = [model.loss(b, generator=seeded()).total.item() for b in (padded, changed)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_turns_share_no_weights_and_add_up():
    model = build(config(**{"objective.cut": "end"}))
    batch, objective = example_batch(model.config), model.objective
    parts = [objective.turn_parameters(model, part) for part in objective.turns]
    known = [id(p) for part in parts for p in part]
    assert len(known) == len(set(known)) and set(known) == {id(p) for p in model.parameters()}
    both = [objective.turn_loss(model, batch, part, sampler=Sampler(generator=seeded())) for part in objective.turns]
    whole = model.loss(batch, generator=seeded())
    torch.testing.assert_close(both[0].total + both[1].total, whole.total)
    for loss, own, other in zip(both, parts, reversed(parts), strict=True):
        grads = torch.autograd.grad(loss.total, [*own, *other], allow_unused=True)
        assert all(g is not None for g in grads[: len(own)]) and all(g is None for g in grads[len(own) :])


def test_levels_descend_and_the_network_is_told_them():
    for options in ({}, {"order": 2, "steps": 5}, {"churn": 5.0, "churn_told": "after"}):
        choice = SamplingConfig(**options)
        levels, calls = choice.levels(), []
        assert levels == sorted(levels, reverse=True) and levels[0] == pytest.approx(5) and levels[-1] == 0
        given = torch.zeros(1, 3, 4, 4)
        *_, x = sample(lambda x, call, given, calls=calls: calls.append(call) or torch.full_like(x, 0.25),
                       torch.zeros(1, 3, 4, 4), given, choice, Sampler(generator=seeded()), "x")
        assert calls == list(range(len(choice.told())))
        assert len(calls) == choice.steps * choice.order - (choice.order - 1)
        torch.testing.assert_close(x, torch.full_like(x, 0.25))  # the last step goes to 0, so it is what was denoised


def test_without_offset_a_level_is_itself():
    at = Preconditioning.at(torch.tensor([2e-3]), NoiseConfig(offset=0))
    assert at.skip.item() == pytest.approx(1, abs=1e-4) and at.noise.item() == pytest.approx(-1.5537, abs=1e-3)


def test_attention_adds_to_its_input_if_asked_to():
    """At initialisation upstream's is a norm, the other one the identity."""
    x = torch.randn(2, 16, 4, 4)
    for residual in ("normed", "input"):
        net = UNet(BlocksConfig(channels=(16,), depths=(1,), attention=(True,), residual=residual), inputs=3, outputs=3,
                   dim=4)
        out = net.middle[0].attention(x)
        assert torch.allclose(out, x) == (residual == "input")


def test_fast_paths_are_exact():
    """The same in any layout, with and without a graph, in any dtype: gradients too."""
    torch.manual_seed(0)
    levels = BlocksConfig(channels=(16, 32), depths=(1, 1), attention=(False, True))
    net = UNet(levels, inputs=6, outputs=3, dim=8).double()
    for p in net.parameters():
        torch.nn.init.normal_(p, std=0.2)
    x, told = torch.randn(2, 6, 7, 9, dtype=torch.float64), torch.randn(2, 8, dtype=torch.float64)
    ours = net(x, net.modulate(told))
    with torch.no_grad():
        torch.testing.assert_close(net(x, net.modulate(told)), ours)
    assert torch.autograd.gradcheck(lambda t: net(x, net.modulate(t)).sum(), told.requires_grad_(), atol=1e-6)


def test_a_deterministic_path_is_the_same_twice_and_a_random_one_is_not():
    model = build(config()).eval()
    torch.nn.init.normal_(model.dynamics.denoiser.net.conv_out.weight, std=0.1)
    batch = example_batch(model.config, 6)
    z = model.encode(batch.context(4))
    means = [model.rollout(z, 2, conditions=batch.conditions, deterministic=True).video for _ in range(2)]
    drawn = [model.rollout(z, 2, conditions=batch.conditions, generator=seeded(i)).video for i in range(2)]
    assert torch.equal(*means) and not torch.equal(*drawn)
    levels = means[0] * 255
    torch.testing.assert_close(levels, levels.round(), atol=1e-3, rtol=0)  # the last of a sampler's calls is in levels


def test_losses_can_be_compared():
    model = build(config()).eval()
    batch = example_batch(model.config)
    losses = [model.loss(batch, sampler=MEANS).total for _ in range(2)]
    assert torch.equal(*losses)


@pytest.mark.parametrize("overrides, said", [
    ({"dynamics.sampling.steps": 0}, "dynamics.sampling.steps"),
    ({"dynamics.sampling.low": 6.0}, "noise levels descend from high to low"),
    ({"dynamics.channels": (8, 16, 32)}, "one entry per level"),
    ({"dynamics.channels": (8, 20)}, "multiples of 32"),
    ({"dynamics.dim": 14}, "take a multiple of 4"),
])
def test_options_that_cannot_be(overrides, said):
    with pytest.raises(ConfigError, match=said):
        build(config(**overrides))


def test_refusals():
    with pytest.raises(IncompatibleComponentsError, match=r"dynamics.outcomes=\{\}"):
        build(config(dynamics="unet-diffusion"))
    with pytest.raises(IncompatibleComponentsError, match="objective 'denoising' trains .* that denoises.*'gru'"):
        build(config(dynamics="gru", conditioners={}, heads={}))
    model = build(config()).eval()
    video = torch.rand(1, 4, 3, 8, 8)
    with pytest.raises(wk.ShapeError, match="action numbers from 0 to 2"):  # of another game
        model.rollout(video, 1, conditions={"action": torch.full((1, 5), 7)})
    with pytest.raises(wk.ConfigError, match="steps"):
        model.dynamics.sampling = SamplingConfig.parse({"steps": 0})


def test_one_frame_is_window_enough():
    dynamics = UNetDiffusion(UNetDiffusionConfig(channels=(8,), depths=(1,), attention=(False,), dim=16, cond_dim=3),
                             spec=example_spec(kind="pixels"), anchors={}, window=1)
    z = example_latent(dynamics.spec, batch=2, time=1)
    for weight in dynamics.denoiser.parameters():
        torch.nn.init.normal_(weight, std=0.2)
    told = [Condition(frame=torch.eye(3)[[k, k]][:, None]) for k in (0, 1)]
    drawn = [dynamics.predict(dynamics.start(z, EMPTY), each, Sampler(deterministic=True), mean=True) for each in told]
    assert drawn[0].pixels.shape == z.pixels.shape and not torch.equal(drawn[0].pixels, drawn[1].pixels)
