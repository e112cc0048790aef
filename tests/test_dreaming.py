"""A dream: the prediction loop, step by step. That steps equal rollouts, `worldkit.testing.check_model` asks of all."""

import pytest
import torch

from worldkit.assembly import build
from worldkit.conditions import EMPTY
from worldkit.distributions import MEANS, Sampler
from worldkit.dreaming import Dream
from worldkit.errors import ConditionError, ShapeError, WorldkitError
from worldkit.testing.examples import SMALL, example_latent, example_spec, small_config
from worldkit.testing.report import shake, tensors

VIDEO = torch.rand(2, 3, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return shake(build(small_config()))


@pytest.fixture(scope="module")
def steered():
    torch.manual_seed(0)
    return shake(build(small_config(conditioners={"action": {"name": "action", **SMALL["conditioner"]["action"]}})))


def seeded(seed=0):
    return Sampler(generator=torch.Generator().manual_seed(seed))


def alike(a, b):
    return all(torch.equal(x, y) for x, y in zip(tensors(a), tensors(b), strict=True))


def test_drawn_latent_actions_are_those_of_the_rollout(model):
    out = model.rollout(VIDEO, 4, generator=torch.Generator().manual_seed(3), decode=False)
    dream = Dream(model, VIDEO, sampler=seeded(3))
    for k in range(4):
        torch.testing.assert_close(dream.step().position, out.latents.position[:, k : k + 1])
        torch.testing.assert_close(dream.latent_action, out.latent_actions[:, 2 + k : 3 + k])
    assert dream.steps == 4 and dream.latent.shape == (2, 1)


def test_a_copy_has_the_same_randomness_and_leaves_the_dream_alone(model):
    dream, lone = (Dream(model, VIDEO, sampler=seeded()) for _ in range(2))
    dream.step(), lone.step()
    branch = dream.copy()
    ahead = [branch.step() for _ in range(5)]
    for z in ahead:
        assert alike(z, dream.step()) and alike(z, lone.step())
    assert branch.steps == dream.steps == 6


def test_a_given_latent_action_steers_one_step(model):
    dream = Dream(model, VIDEO, sampler=MEANS)
    dream.step()
    branch, guessed = dream.copy(), dream.copy()
    guessed.step()
    changed = branch.step(latent_action=guessed.latent_action + 1.0)
    assert not alike(changed, guessed.latent) and not alike(branch.step(), guessed.step())


@pytest.mark.parametrize("steps", [0, 2])
def test_an_edited_frame_is_gone_on_from(model, steps):
    """Also the last frame of the context, before the first step."""
    dream = Dream(model, VIDEO, sampler=MEANS)
    for _ in range(steps):
        dream.step()
    other = dream.copy()
    other.latent = dream.latent.edit(3, transparency=0.0)
    assert alike(other.latent, dream.latent.edit(3, transparency=0.0))
    assert not alike(other.step(), dream.step())
    if steps == 0:
        z = model.encode(VIDEO)
        edited = Dream(model, z.edit(3, frames=-1, transparency=0.0), sampler=MEANS)
        assert alike(edited.step(), other.latent)
    with pytest.raises(ShapeError, match="must be alike"):
        dream.latent = dream.latent[:1]


def test_a_dream_told_everything_equals_the_rollout_told_everything(model):
    actions = model.rollout(VIDEO, 3, deterministic=True).latent_actions
    out = model.rollout(VIDEO, 3, latent_actions=actions, decode=False)
    dream = Dream(model, VIDEO, latent_actions=actions[:, :2])
    for k in range(3):
        z = dream.step(latent_action=actions[:, 2 + k : 3 + k])
        torch.testing.assert_close(z.position, out.latents.position[:, k : k + 1])
    with pytest.raises(ConditionError, match="give every step its latent_action="):
        dream.step()


def test_one_frame_needs_no_condition_before_it(steered):
    actions = torch.rand(2, 4, SMALL["conditioner"]["action"]["dim"])
    out = steered.rollout(VIDEO[:, :1], 3, conditions={"action": actions}, deterministic=True)
    dream = Dream(steered, VIDEO[:, :1], sampler=MEANS)
    for k in range(3):
        z = dream.step({"action": actions[:, k : k + 1]})
        torch.testing.assert_close(z.position, out.latents.position[:, k : k + 1])


def test_what_is_missing_or_unknown_is_said(model, steered):
    with pytest.raises(ConditionError, match="needs the condition 'action'"):
        Dream(steered, VIDEO)
    dream = Dream(steered, VIDEO[:, :1])
    with pytest.raises(ConditionError, match="needs the condition 'action'"):
        dream.step()
    with pytest.raises(ConditionError, match="takes no condition 'speed'"):
        dream.step({"speed": torch.zeros(2, 1, 3)})
    with pytest.raises(ShapeError, match="latent_action must be"):
        Dream(model, VIDEO).step(latent_action=torch.zeros(3, 1, 1, 4))
    with pytest.raises(WorldkitError, match="needs latent actions"):
        Dream(build(small_config(latent_action=None)), VIDEO).step(latent_action=torch.zeros(2, 1, 1, 4))
    with pytest.raises(WorldkitError, match="has no dynamics"):
        Dream(build(small_config(dynamics=None, latent_action=None, objective="reconstruction")), VIDEO)


def test_a_copy_carries_gradients(model):
    video = VIDEO.clone().requires_grad_()
    dream = Dream(model, video, sampler=MEANS)
    dream.step()
    dream.copy().step().position.sum().backward()
    assert video.grad.abs().sum() > 0


def test_standing_conditions_hold_and_can_be_replaced_for_a_step():
    torch.manual_seed(0)
    model = shake(build(small_config(conditioners={"goal": {"name": "goal-image"}}, latent_action=None)))
    goal, other = torch.rand(2, 2, 3, 32, 32).split(1, 1)
    out = model.rollout(VIDEO, 3, conditions={"goal": goal[:, 0]}, deterministic=True)
    dream = Dream(model, VIDEO, conditions={"goal": goal[:, 0]}, sampler=MEANS)
    dream.step()
    branch = dream.copy()
    torch.testing.assert_close(dream.step().position, out.latents.position[:, 1:2])
    assert not alike(branch.step({"goal": other[:, 0]}), dream.latent)


@pytest.mark.parametrize("dynamics", ["slotformer", "pint", "pint-joint", "gru", "diffusion"])
def test_a_dream_holds_no_more_than_the_window(dynamics):
    """Also with the base class's `step`, which SlotFormer shares: what it held grew with every step."""
    import worldkit as wk

    cls = wk.registry.dynamics.get(dynamics)
    options = {"dim": 16, "num_heads": 2} | ({} if dynamics == "gru" else {"num_layers": 1})
    part = cls(cls.Config(**options), spec=example_spec(), anchors={}, window=4).eval()
    held = []
    with torch.no_grad():
        state = part.start(example_latent(example_spec(), time=4), EMPTY)
        for _ in range(8):
            z = part.predict(state, EMPTY, MEANS, mean=True)
            part.observe(state, z)
            held.append(sum(x.numel() for x in _tensors_in(state)))
    assert len(set(held[2:])) == 1


def _tensors_in(x, seen=None):
    seen = set() if seen is None else seen
    if id(x) in seen or isinstance(x, torch.nn.Module):
        return
    seen.add(id(x))
    if torch.is_tensor(x):
        yield x
    parts = x.values() if isinstance(x, dict) else x if isinstance(x, (list, tuple)) else vars(x).values() if hasattr(
        x, "__dict__") else ()
    for part in parts:
        yield from _tensors_in(part, seen)
