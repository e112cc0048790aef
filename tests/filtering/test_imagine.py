"""A policy acts in a model: the rollout loop with somebody to ask at every step."""

import pytest
import torch
from torch import nn

from worldkit.distributions import MEANS, Sampler
from worldkit.errors import ConditionError, ShapeError, WorldkitError
from worldkit.testing.examples import example_batch
from worldkit.testing.report import shake, tensors

HEADS = {"reward": {"name": "gaussian"}, "terminated": {"name": "bernoulli"}}
DISCRETE = {"action": {"name": "action", "num_actions": 4}}
LANGUAGE = {"name": "language", "embed_dim": 5, "max_length": 2}


def seeded():
    return torch.Generator().manual_seed(3)


def same(a, b):
    for x, y in zip(tensors(a), tensors(b), strict=True):
        torch.testing.assert_close(x, y)


def scripted(actions):
    """Does what is written, and tells how often it was asked."""
    asked = []

    def policy(latent, sampler):
        asked.append(len(asked))
        count = torch.full((*latent.shape,), float(asked[-1]))
        return actions[:, asked[-1] : len(asked)], {"asked": count}

    return policy


@pytest.mark.parametrize("options", [
    {"heads": HEADS}, {"heads": HEADS, "conditioners": DISCRETE}, {"dynamics": "gru", "heads": HEADS},
    {"dynamics": "diffusion"}, {"encoder": "particle", "dynamics": "pint", "latent_action": "gaussian"},
    {"conditioners": {"action": {"name": "action", "dim": 3}, "language": LANGUAGE}},
])
def test_a_scripted_policy_gives_the_rollout(make, options):
    model = shake(make(**options))
    batch = example_batch(model.config, 6)
    action = batch.conditions["action"]
    others = {name: x for name, x in batch.conditions.items() if name != "action"}
    start = model.encode(batch.video[:, :1], conditions=others)
    rollout = model.rollout(start, 5, conditions=batch.conditions, generator=seeded())
    imagined = model.imagine(start, scripted(action), 5, conditions=others, sampler=Sampler(generator=seeded()),
                             decode=True)
    same(imagined.latents[:, 1:], rollout.latents)
    same(imagined.latents[:, :1], start)
    torch.testing.assert_close(imagined.video[:, 1:], rollout.video)
    assert torch.equal(imagined.actions, action[:, :5]) and imagined.logs["asked"][1].tolist() == [0, 1, 2, 3, 4]
    assert imagined.predictions.keys() == rollout.predictions.keys() == model.config.heads.keys()
    for name, value in rollout.predictions.items():
        torch.testing.assert_close(imagined.predictions[name], value)


def test_one_hot_floats_are_action_numbers(make):
    model = shake(make(conditioners=DISCRETE))
    batch = example_batch(model.config, 5)
    one_hot = nn.functional.one_hot(batch.conditions["action"], 4).float()
    start = model.encode(batch.video[:, :1])
    same(*[model.imagine(start, scripted(x), 4, sampler=MEANS).latents for x in (batch.conditions["action"], one_hot)])
    same(model.rollout(batch.video[:, :2], 3, conditions={"action": one_hot}, deterministic=True).latents,
         model.rollout(batch.video[:, :2], 3, conditions=batch.conditions, deterministic=True).latents)
    with pytest.raises(ShapeError, match=r"a=4"):
        model.imagine(start, scripted(one_hot[..., :3]), 4)


@pytest.mark.parametrize("conditioners", [DISCRETE, {"action": {"name": "action", "dim": 3}}])
def test_gradients_flow_through_the_dynamics_if_asked(make, conditioners):
    model = shake(make(conditioners=conditioners, heads=HEADS))
    start = model.perceive(example_batch(model.config, 4)).latent.detach().singles()
    assert tuple(start.shape) == (8, 1)
    actor = nn.Linear(10, 4 if conditioners is DISCRETE else 3)

    def policy(latent, sampler):
        out = actor(latent.flat("patches").mean(2))
        return (out.softmax(-1) if conditioners is DISCRETE else out.tanh()), {"entropy": out.square().mean(-1)}

    imagined = model.imagine(start, policy, 4, grad=True)
    imagined.predictions["reward"][:, 1:].sum().backward()
    assert actor.weight.grad.abs().sum() > 0
    assert imagined.logs["entropy"].shape == (8, 4) and imagined.logs["entropy"].requires_grad
    quiet = model.imagine(start, policy, 4)
    assert not any(x.requires_grad for x in (*tensors(quiet.latents), quiet.actions, *quiet.logs.values(),
                                             *quiet.predictions.values()))
    assert not model.training and model.train().imagine(start, policy, 1) and model.training


def test_what_is_no_policy_is_said(make):
    model = make()
    start = model.encode(torch.rand(2, 1, 3, 32, 32))
    still = torch.zeros(2, 1, 3)
    for policy, error, message in (
        (lambda z, s: still, WorldkitError, r"a policy gives \(action, log\)"),
        (lambda z, s: (still[:, 0], {}), ShapeError, r"the policy's action must be \[2, 1, ...\]"),
        (lambda z, s: (still, {"x": still[:1]}), ShapeError, "the policy's log 'x'"),
        (lambda z, s: (still[..., :2], {}), ShapeError, "a=3"),
        (lambda z, s: ([0.0], {}), ShapeError, "must be a tensor"),
    ):
        with pytest.raises(error, match=message):
            model.imagine(start, policy, 2)
    with pytest.raises(ShapeError, match=r"singles\(\)"):
        model.imagine(torch.zeros(2, 1, 3), lambda z, s: (still, {}), 2)
    with pytest.raises(ConditionError, match="what the policy gives"):
        model.imagine(start, lambda z, s: (still, {}), 2, conditions={"action": still})
    with pytest.raises(ConditionError, match="told no condition 'action' of actions.*nothing"):
        make(conditioners={}).imagine(start, lambda z, s: (still, {}), 2)


@pytest.mark.parametrize("conditioners", [{}, DISCRETE])
def test_videos_out_of_nothing_begin_where_episodes_do(make, conditioners):
    model = shake(make(conditioners=conditioners))
    told = {"conditions": example_batch(model.config, 4).conditions} if conditioners else {}
    drawn = model.sample(2, 3, generator=seeded(), **told)
    assert drawn.latents.spec == model.spec and drawn.video.shape == (2, 3, 3, 32, 32)
    again = model.sample(2, 3, generator=seeded(), **told)
    same(drawn.latents, again.latents)
    with pytest.raises(ShapeError, match="no states of this model"):
        model.rollout(model.encoder(torch.rand(2, 1, 3, 32, 32), sampler=MEANS).latent, 2, **told)
