"""SlotFormer: windows, ages, permuted tokens and conditions, held against a second, plain computation."""

import math

import pytest
import torch
import torch.nn.functional as F

import worldkit as wk
from worldkit.conditions import EMPTY, Condition
from worldkit.distributions import Delta, Sampler
from worldkit.dynamics.slotformer import SlotFormer, SlotFormerConfig, age_encoding
from worldkit.latents import Field, Latent, LatentSpec, TokenGroup
from worldkit.testing import check_dynamics, check_model, example_spec
from worldkit.testing.examples import example_conditioning, example_latent, small_config
from worldkit.testing.report import shake

SLOTS = LatentSpec((TokenGroup("slots", 4, (Field("features", 6, Delta()),)),), kind="slots")
WINDOW, DIM = 3, 8


def dynamics(spec=SLOTS, memory_length=0, **options):
    config = SlotFormerConfig(**({"dim": DIM, "num_layers": 2, "num_heads": 2, "dropout": 0.0} | options))
    torch.manual_seed(0)
    return shake(SlotFormer(config, spec=spec, anchors={}, window=WINDOW, memory_length=memory_length))


def slots(time, batch=2, seed=0):
    return example_latent(SLOTS, batch, time, seed=seed)


def encoding_by_hand(age):
    angles = [age / 10000 ** (2 * i / DIM) for i in range(DIM // 2)]
    return torch.tensor([math.sin(a) for a in angles] + [math.cos(a) for a in angles])


def naive(model, features, steer=None, memory=None):
    """Next slots of ONE window ``[W, N, D]`` of one sample, from the weights, one query at a time."""
    rows = []
    for age, frame in zip(range(len(features) - 1, -1, -1), range(len(features)), strict=True):
        for n in range(features.shape[1]):
            token = model.inputs["slots"](features[frame, n]) + encoding_by_hand(age)
            rows.append(token if steer is None else token + steer[frame, n])
    x = torch.stack(rows + ([] if memory is None else list(memory)))
    for layer in model.layers:
        h, attention = layer.norm1(x), layer.self_attn
        q, k, v = F.linear(h, attention.in_proj_weight, attention.in_proj_bias).chunk(3, -1)
        size = DIM // attention.num_heads
        mixed = torch.zeros_like(x)
        for head in range(attention.num_heads):
            part = slice(head * size, (head + 1) * size)
            for i in range(len(x)):
                weights = (k[:, part] @ q[i, part] / math.sqrt(size)).softmax(0)
                mixed[i, part] = weights @ v[:, part]
        x = x + F.linear(mixed, attention.out_proj.weight, attention.out_proj.bias)
        x = x + layer.linear2(F.relu(layer.linear1(layer.norm2(x))))
    last = slice(len(rows) - features.shape[1], len(rows))
    return model.outputs["slots"](x[last])


@pytest.mark.parametrize("conditioned", [False, True])
@torch.no_grad()
def test_every_prediction_is_that_of_its_own_window(conditioned):
    """Shorter histories at the start, then windows of the last three frames; index t sees frames up to t."""
    model, z = dynamics(memory_length=2 if conditioned else 0), slots(6)
    cond = example_conditioning(DIM, SLOTS, 6, 2) if conditioned else EMPTY
    predicted = model.prior(z, cond).params["slots", "features"]
    for sample in range(2):
        steer = cond.adaln()[sample] if conditioned else None
        memory = cond.memory[sample] if conditioned else None
        for t in range(6):
            seen = slice(max(0, t + 1 - WINDOW), t + 1)
            expected = naive(model, z.features[sample, seen], None if steer is None else steer[seen], memory)
            torch.testing.assert_close(predicted[sample, t], expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_rollout_steps_equal_prior_beyond_the_window():
    model, z, cond = dynamics(memory_length=2), slots(6), example_conditioning(DIM, SLOTS, 6, 2)
    predicted = model.prior(z, cond).params["slots", "features"]
    state = model.start(z[:, :2], cond.at(slice(0, 1)))
    for t in range(1, 6):
        step = model.step(state, cond.at(slice(t, t + 1)))
        torch.testing.assert_close(step.params["slots", "features"], predicted[:, t : t + 1])
        if t < 5:
            model.observe(state, z[:, t + 1 : t + 2])


def test_ages_count_backwards():
    ages = age_encoding(WINDOW, DIM)
    assert torch.equal(ages[0], torch.tensor([0.0] * 4 + [1.0] * 4))  # the newest frame
    for age in range(WINDOW):
        torch.testing.assert_close(ages[age], encoding_by_hand(age))


@torch.no_grad()
def test_one_frame_has_the_age_of_the_newest_whatever_came_before():
    """A frame that opens a clip is read like the newest of a full window: its encoding counts from the end."""
    model, z = dynamics(), slots(1)
    torch.testing.assert_close(model.prior(z, EMPTY).params["slots", "features"][0, 0], naive(model, z.features[0]))


@torch.no_grad()
def test_permuted_tokens_give_permuted_predictions():
    model, z = dynamics(), slots(5)
    order = torch.tensor([2, 0, 3, 1])
    cond = Condition(token=example_conditioning(DIM, SLOTS, 5, 0).token)
    permuted = model.prior(z.map(lambda x: x[:, :, order]), Condition(token=cond.token[:, :, order]))
    torch.testing.assert_close(permuted.params["slots", "features"],
                               model.prior(z, cond).params["slots", "features"][:, :, order])


@torch.no_grad()
def test_permutation_holds_inside_a_group_of_particles():
    """No anchor and no learned embedding tells particles apart, so the dynamics needs no tracked tokens."""
    spec = example_spec()
    model, z, order = dynamics(spec), example_latent(spec), torch.tensor([4, 1, 0, 3, 2])

    def permute(group, x):
        return x[:, :, order] if group == "particles" else x

    other = Latent.build(spec, {key: permute(key[0], x) for key, x in z.values.items()})
    base, moved = model.prior(z, EMPTY), model.prior(other, EMPTY)
    assert model.requires == {"continuous"}
    for (group, field), value in base.params.items():
        torch.testing.assert_close(moved.params[group, field], permute(group, value))


@torch.no_grad()
def test_tokens_of_a_frame_are_told_apart_only_by_their_values():
    model, z = dynamics(), slots(4).map(lambda x: x[:, :, :1].expand_as(x))
    predicted = model.prior(z, EMPTY).params["slots", "features"]
    torch.testing.assert_close(predicted, predicted[:, :, :1].expand_as(predicted))


@torch.no_grad()
def test_sampled_rollouts_of_untrained_weights_stay_finite():
    """Variances do not grow with the sampled values that a rollout feeds back."""
    spec, sampler = example_spec(), Sampler(generator=torch.Generator().manual_seed(0))
    model = dynamics(spec)
    state = model.start(example_latent(spec, time=1), EMPTY)
    for _ in range(30):
        z = model.predict(state, EMPTY, sampler, mean=False)
        model.observe(state, z)
    assert all(torch.isfinite(x).all() and x.abs().max() < 100 for x in z.values.values())
    assert isinstance(dynamics(SLOTS).norm, torch.nn.Identity)  # points have no variance: as upstream


@torch.no_grad()
def test_changes_are_added_to_the_newest_frame_and_begin_at_rest():
    values, changes, z = dynamics(), dynamics(predict_delta=True), slots(5)
    key = ("slots", "features")
    changes.load_state_dict(values.state_dict())
    torch.testing.assert_close(changes.prior(z, EMPTY).params[key], values.prior(z, EMPTY).params[key] + z.features)
    state = changes.start(z[:, :4], EMPTY)
    expected = changes.prior(z[:, :4], EMPTY).params[key][:, 3:]
    torch.testing.assert_close(changes.step(state, EMPTY).params[key], expected)
    torch.manual_seed(0)
    for spec in (SLOTS, example_spec()):
        new, z = SlotFormer(changes.config, spec=spec, anchors={}, window=WINDOW), example_latent(spec, 2, 4)
        predicted = new.prior(z, EMPTY).mode()
        for place, value in predicted.values.items():
            assert torch.equal(value, z.values[place]) or not spec.field(place).dist.movable


def test_conformance():
    check_dynamics("slotformer", spec=SLOTS)
    check_dynamics("slotformer", spec=SLOTS, predict_delta=True)
    check_dynamics("slotformer", memory_length=2)
    check_dynamics("slotformer", spec=example_spec(views=2))


def test_goals_reach_it_without_a_latent_action():
    check_model(small_config(dynamics="joint-transformer", latent_action=None,
                             conditioners={"goal_image": {"name": "goal-image"}}))


@pytest.mark.parametrize("options", [{"dim": 9, "num_heads": 3}, {"dim": 10, "num_heads": 4}])
def test_a_width_that_cannot_be_split_is_refused(options):
    with pytest.raises(wk.ConfigError, match=r"dim \d+ must be even and divisible by num_heads \d"):
        SlotFormerConfig.parse(options)
