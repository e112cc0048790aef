"""What a model with a dynamics that filters sees: states, by their past; and what cannot go with it."""

import pytest
import torch

import worldkit as wk
from worldkit.batch import Batch
from worldkit.distributions import MEANS, Sampler
from worldkit.errors import ConditionError, IncompatibleComponentsError, ShapeError
from worldkit.testing.examples import changed, example_batch
from worldkit.testing.report import shake, tensors

ENCODERS = ["patch", "slot", "particle", "particle-tracking"]
DISCRETE = {"action": {"name": "action", "num_actions": 4}}


def same(a, b, tolerance=1e-5):
    for x, y in zip(tensors(a), tensors(b), strict=True):
        torch.testing.assert_close(x, y, rtol=tolerance, atol=tolerance)


def differs(a, b):
    return max(float((x - y).abs().max()) for x, y in zip(tensors(a), tensors(b), strict=True)) > 1e-6


@pytest.fixture(autouse=True)
def _no_graph():
    with torch.no_grad():
        yield


def seeded():
    return Sampler(generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("encoder", ENCODERS)
def test_the_prior_is_the_prediction_from_the_state_before(make, encoder):
    model = shake(make(encoder=encoder))
    batch = example_batch(model.config, 4)
    seen = model.perceive(batch, seeded())
    assert seen.latent.spec == model.spec != model.encoder.spec and tuple(seen.latent.shape) == (2, 4)
    predicted = model.dynamics.prior(seen.latent[:, :-1], seen.cond.at(slice(1, None)))
    same(predicted, seen.prior[:, 1:])
    same(model.predict_next(seen.latent, model.condition(seen.latent, batch, sampler=MEANS).cond), predicted)
    assert model.decode(seen.latent).video.shape == batch.video.shape


@pytest.mark.parametrize("encoder, conditioners", [
    ("patch", DISCRETE), ("patch", {"action": {"name": "action", "dim": 3, "null_embedding": True}}),
    ("patch", {"action": {"name": "action", "dim": 3}}), ("patch", {}), ("slot", {}),
])
def test_frame_by_frame_equals_the_whole_clip(make, encoder, conditioners):
    model = shake(make(encoder=encoder, conditioners=conditioners))
    batch = example_batch(model.config, 4)
    whole, state = model.perceive(batch), None
    for t in range(4):
        led = None if state is None else {name: x[:, t - 1 : t] for name, x in batch.conditions.items()}
        masks = {name: x[:, t - 1 : t] for name, x in batch.masks.items()}
        if masks and led:  # hidden in the batch, given here: compare what was given alone
            continue
        state = model.perceive(batch.video[:, t : t + 1], last=state, last_action=led).latent
        same(state, whole.latent[:, t : t + 1])


def test_the_past_and_the_actions_reach_a_state_and_the_future_does_not(make):
    model = shake(make())
    batch = example_batch(model.config, 4)
    base = model.perceive(batch)
    for t in range(4):
        frame = (slice(None), slice(t, t + 1))
        other = model.perceive(Batch(changed(batch.video, frame), batch.conditions))
        same(other.latent[:, :t], base.latent[:, :t], 0)
        assert all(differs(other.posterior[:, k : k + 1], base.posterior[:, k : k + 1]) for k in range(t, 4))
        same(other.prior[:, : t + 1], base.prior[:, : t + 1], 0)
        action = changed(batch.conditions["action"], frame)
        other = model.perceive(Batch(batch.video, {"action": action}))
        same(other.latent[:, : t + 1], base.latent[:, : t + 1], 0)
        assert t == 3 or differs(other.prior[:, t + 1 :], base.prior[:, t + 1 :])


def test_nothing_is_carried_over_a_border(make):
    model = shake(make())
    batch = example_batch(model.config, 4)
    first = torch.tensor([[False, False, True, False], [True, False, False, False]])
    seen = model.perceive(batch, first=first)
    alone = model.perceive(batch.video[:1, 2:], conditions={"action": batch.conditions["action"][:1, 2:]})
    same(seen.latent[:1, 2:], alone.latent)
    same(seen.latent[1:], model.perceive(batch).latent[1:], 0)
    past = (slice(0, 1), slice(0, 2))
    other = Batch(changed(batch.video, past), {"action": changed(batch.conditions["action"], past)}, first=first)
    same(model.perceive(other).latent[:1, 2:], seen.latent[:1, 2:], 0)


@pytest.mark.parametrize("conditioners", [DISCRETE, {"action": {"name": "action", "dim": 3}}])
def test_a_rollout_asks_for_the_actions_of_its_context(make, conditioners):
    model = shake(make(conditioners=conditioners))
    batch = example_batch(model.config, 6)
    action = batch.conditions["action"]
    rollout = model.rollout(batch.video[:, :3], 3, conditions={"action": action}, deterministic=True)
    z = model.encode(batch.video[:, :3], conditions={"action": action[:, :2]})
    same(rollout.context_latents, z, 0)
    same(model.rollout(z, 3, conditions={"action": action}, deterministic=True).latents, rollout.latents, 0)
    dream = wk.dreaming.Dream(model, batch.video[:, :3], conditions={"action": action[:, :2]}, sampler=MEANS)
    for t in range(3):
        same(dream.step({"action": action[:, 2 + t : 3 + t]}), rollout.latents[:, t : t + 1])
    model.encode(batch.video[:, :1])  # one frame: nothing led to it
    with pytest.raises(ConditionError, match=r"filters.*2 value\(s\) between.*encode\(video, conditions"):
        model.encode(batch.video[:, :3])
    with pytest.raises(ConditionError, match=r"covers 1 frames, but 2 are needed between"):
        model.encode(batch.video[:, :3], conditions={"action": action[:, :1]})
    with pytest.raises(ConditionError, match=r"last_action="):
        model.perceive(batch.video[:, :1], last=z[:, -1:])
    with pytest.raises(ShapeError, match=r"last must be the model's state"):
        model.perceive(batch.video[:, :1], last=z, last_action={"action": action[:, :1]})


def test_what_cannot_go_with_it_is_refused_when_the_model_is_built(make):
    with pytest.raises(IncompatibleComponentsError, match="filters.*latent_action=none"):
        make(latent_action="gaussian")
    with pytest.raises(IncompatibleComponentsError, match="filters.*conditioners.goal_image=none"):
        make(conditioners={"goal_image": {"name": "goal-image"}})
    with pytest.raises(IncompatibleComponentsError, match="starts from states; set prior=None"):
        make(prior="diffusion", objective="first-frames")


def test_clips_with_borders_are_refused_where_a_part_carries_something_over(make):
    border = torch.tensor([[False, False, True, False]] * 2)
    for options, kind in (({"dynamics": "gru"}, "dynamics 'gru'"),
                          ({"encoder": "particle-tracking"}, "encoder 'particle-tracking'")):
        model = make(**options)
        batch = example_batch(model.config, 4)
        with pytest.raises(ShapeError, match=rf"episodes begin inside.*{kind} carries over"):
            model.loss(Batch(batch.video, batch.conditions, first=border))
        model.perceive(Batch(batch.video, batch.conditions, first=torch.zeros_like(border)))
    with pytest.raises(ShapeError, match="does not filter"):
        gru = make(dynamics="gru")
        gru.perceive(batch.video[:, :1], last=gru.encode(batch.video[:, :1]))
    slots = make(encoder="slot")
    z = slots.encode(batch.video[:, :1])
    assert slots.perceive(batch.video[:, :1], last=z, last_action=batch.conditions).latent.carry is not None
    with pytest.raises(ShapeError, match="'slot' carries what it saw.*not from a predicted"):
        slots.perceive(batch.video[:, :1], last=z.carrying(None), last_action=batch.conditions)
