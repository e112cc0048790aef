"""Models as objectives: what is imagined, how often what is encoded, and what is refused."""

import gymnasium
import numpy as np
import pytest
import torch

from worldkit import create_config
from worldkit.assembly import build
from worldkit.errors import ConditionError, ConfigError, ShapeError
from worldkit.planning import (
    CEM,
    CategoricalCEM,
    Continuous,
    Discrete,
    GradientPlanner,
    ObjectDistance,
    PredictedReward,
    Shooting,
    as_space,
)

BOX = Continuous((-1.0, -1.0), (1.0, 1.0))
FEW = CEM(candidates=6, iterations=2, elites=3)
PARTS = {"pint": {}, "gru": {"dynamics": {"name": "gru", "dim": 32, "num_heads": 2}}, "pint-joint": {
    "dynamics": {"name": "pint-joint", "dim": 32, "num_heads": 2, "num_layers": 1}}}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def make(conditioners=None, **options):
    """A small model that is told two numbers, whose predictions depend on them."""
    torch.manual_seed(0)
    action = {"action": {"name": "action", "dim": 2}}
    model = build(create_config("lpwm-balls-mini", latent_action=None, conditioners=conditioners or action, **options))
    model.eval()
    for parameter in model.dynamics.parameters():
        if parameter.abs().max() == 0:
            torch.nn.init.normal_(parameter, std=0.1)
    return model


@pytest.fixture(scope="module", params=PARTS)
def model(request):
    return make(**PARTS[request.param])


def frames(count=1, problems=3):
    return torch.rand(problems, count, 3, 32, 32, generator=seeded(1))


@pytest.mark.parametrize("count, rows", [(1, 512), (3, 6), (3, 1)])
def test_candidates_are_imagined_as_each_alone_would_be(model, count, rows):
    """Whatever the rows: problem p, candidate s is rollout(context[p], told past[p] and actions[p, s])."""
    past = None if count == 1 else torch.rand(2, count - 1, 2, generator=seeded(3)) - 0.5
    actions = torch.rand(2, 3, 3, 2, generator=seeded(2)) - 0.5
    video, goal = frames(count, 2), torch.rand(2, 3, 32, 32, generator=seeded(4))
    task = Shooting(model, video, ObjectDistance(), goal=goal, space=BOX, past=past, rows=rows)
    with torch.no_grad():
        cost = task.score(actions).cost
        for p in range(2):
            wanted = model.encode(goal[p : p + 1, None])
            for s in range(3):
                told = torch.cat([*(() if past is None else (past[p],)), actions[p, s], torch.zeros(1, 2)])[None]
                alone = model.rollout(video[p : p + 1], 3, conditions={"action": told}, deterministic=True)
                expected = ObjectDistance().between(alone.latents[:, -1:], wanted)[0, 0]
                torch.testing.assert_close(cost[p, s], expected, atol=1e-4, rtol=1e-4)
        assert cost.std(1).min() > 0, "the actions matter"


def test_frames_and_goal_are_encoded_once(model, monkeypatch):
    calls, encode = [], model.encode
    monkeypatch.setattr(model, "encode", lambda video, **options: calls.append(len(video)) or encode(video, **options))
    task = Shooting(model, frames(), ObjectDistance(), goal=frames()[:, 0], space=BOX)
    FEW.solve(task, 2, generator=seeded())
    FEW.solve(task, 2, generator=seeded())
    assert calls == [3, 3]


def test_problems_and_candidates_share_a_rollout(model, monkeypatch):
    calls, rollout = [], model.rollout
    monkeypatch.setattr(model, "rollout", lambda z, *rest, **options: calls.append(
        (z.shape[0], options["decode"])) or rollout(z, *rest, **options))
    task = Shooting(model, frames(), ObjectDistance(), goal=frames()[:, 0], space=BOX)
    FEW.solve(task, 2, generator=seeded())
    assert calls == [(18, False), (18, False), (3, False)]  # two rounds, and the plan itself


def test_one_goal_for_all(model):
    goal = torch.rand(1, 3, 32, 32, generator=seeded(5))
    actions = torch.rand(3, 2, 2, 2, generator=seeded(2)) - 0.5
    one, each = (Shooting(model, frames(), ObjectDistance(), goal=g, space=BOX).score(actions).cost
                 for g in (goal, goal.repeat(3, 1, 1, 1)))
    torch.testing.assert_close(one, each)


def test_constraints_see_what_is_imagined(model):
    def small(imagined, goal):
        return imagined.actions[..., 0].abs().amax(-1) - 0.2

    task = Shooting(model, frames(), ObjectDistance(), goal=frames()[:, 0], space=BOX, constraints=[small])
    plan = CEM(candidates=40, iterations=4, elites=8).solve(task, 2, generator=seeded())
    assert (plan.violation == 0).all() and plan.actions[..., 0].abs().max() <= 0.2


def test_gradients_reach_the_actions_and_leave_the_model_alone(model):
    task = Shooting(model, frames(), ObjectDistance(), goal=torch.rand(3, 3, 32, 32), space=BOX)
    plan = GradientPlanner(candidates=2, iterations=4).solve(task, 2, generator=seeded())
    assert (plan.history[:, 1:].min(1).values < plan.history[:, 0]).all()
    assert all(p.grad is None for p in model.parameters())


def test_pictures_as_bytes_and_latents_as_context(model):
    video = (frames() * 255).to(torch.uint8)
    goal = video[:, 0]
    actions = torch.zeros(3, 1, 2, 2)
    plain = Shooting(model, video, ObjectDistance(), goal=goal, space=BOX).score(actions).cost
    with torch.no_grad():
        latent = Shooting(model, model.encode(video), ObjectDistance(), goal=goal, space=BOX).score(actions).cost
    torch.testing.assert_close(plain, latent)


def test_choices_are_planned():
    model = make(conditioners={"action": {"name": "action", "num_actions": 3}})
    task = Shooting(model, frames(), ObjectDistance(), goal=frames()[:, 0])
    assert task.space == Discrete(3)
    plan = CategoricalCEM(candidates=6, iterations=2, elites=3).solve(task, 2, generator=seeded())
    assert plan.actions.dtype == torch.int64 and plan.actions.shape == (3, 2)
    with pytest.raises(ConfigError, match="take CategoricalCEM"):
        CEM().solve(task, 2)


def test_other_conditions_go_along():
    model = make(conditioners={"action": {"name": "action", "dim": 2}, "goal_image": {"name": "goal-image"}})
    goal = frames()[:, 0]
    task = Shooting(model, frames(), ObjectDistance(), goal=goal, space=BOX, conditions={"goal_image": goal})
    assert FEW.solve(task, 2, generator=seeded()).actions.shape == (3, 2, 2)
    with pytest.raises(ConditionError, match="goal_image"):
        FEW.solve(Shooting(model, frames(), ObjectDistance(), goal=goal, space=BOX), 2, generator=seeded())
    with pytest.raises(ConditionError, match="'action' is what is planned"):
        Shooting(model, frames(), ObjectDistance(), goal=goal, space=BOX, conditions={"action": goal})


class Heads:
    """A model with heads, by protocol: rewards are the first numbers of the actions, it ends after the second step."""

    class config:
        conditioners = {"action": type("Action", (), {"dim": 2})()}
        heads = {"reward": {}, "terminated": {}}

    def __init__(self, inner):
        self.encode, self.inner = inner.encode, inner

    def rollout(self, z, horizon, *, conditions, **options):
        reward = conditions["action"][:, :horizon, 0]
        ended = torch.zeros_like(reward)
        ended[:, 1] = 0.9
        return type("Rolled", (), {"predictions": {"reward": reward, "terminated": ended}})()


def test_rewards_end_with_the_episode():
    task = Shooting(Heads(make()), frames(), PredictedReward(discount=0.5), space=BOX)
    actions = torch.rand(3, 4, 3, 2, generator=seeded(2))
    r = actions[..., 0]
    torch.testing.assert_close(task.score(actions).cost, -(r[..., 0] + 0.5 * r[..., 1] + 0.25 * 0.1 * r[..., 2]))
    assert (CEM().solve(task, 3, generator=seeded()).actions[:, :2, 0] > 0.98).all()


def test_the_heads_of_a_model_are_asked():
    model = make(heads={"reward": {"name": "two-hot"}, "terminated": {"name": "bernoulli"}})
    actions = torch.rand(3, 4, 3, 2, generator=seeded(2)) - 0.5
    task = Shooting(model, frames(), PredictedReward(), space=BOX)
    with torch.no_grad():
        cost, said = task.score(actions).cost, task.imagine(actions).rollout.predictions
        alive = torch.cat([torch.ones(12, 1), (1 - said["terminated"]).cumprod(1)[:, :-1]], 1)
        torch.testing.assert_close(cost, -(alive * said["reward"]).sum(1).reshape(3, 4))
        plain = make(heads={"reward": {"name": "gaussian", "mean": (0.0,), "std": (1.0,)}})
        said = (task := Shooting(plain, frames(), PredictedReward(), space=BOX)).imagine(actions).rollout.predictions
        torch.testing.assert_close(task.score(actions).cost, -said["reward"].sum(1).reshape(3, 4))


@pytest.mark.parametrize("space, said", [
    (Continuous((-1,), (1,)), "told actions of 2 numbers, and the space has actions of 1 numbers"),
    (gymnasium.spaces.Box(-1, 1, (3,)), "of 3 numbers"),
    (gymnasium.spaces.Discrete(4), "told actions of 2 numbers, and the space has actions of 4 choices"),
    (None, "say what actions there are, 2 numbers: space=env.action_space"),
])
def test_a_space_that_is_not_the_models(space, said):
    with pytest.raises(ConfigError, match=said):
        Shooting(make(), frames(), ObjectDistance(), goal=frames()[:, 0], space=space)


def test_a_model_that_is_told_nothing():
    with pytest.raises(ConfigError, match="told no condition 'action' of actions, so there is nothing to plan; it is "
                                          "told: nothing"):
        Shooting(build(create_config("lpwm-balls-mini")), frames(), ObjectDistance(), goal=frames()[:, 0], space=BOX)


@pytest.mark.parametrize("options, error, said", [
    ({"context": frames(3)}, ConditionError, "the context has 3 frames: give the 2 actions between them"),
    ({"context": frames(3), "past": torch.zeros(3, 1, 2)}, ShapeError, r"past must be floats \[3, 2, 2\]"),
    ({"past": torch.zeros(3, 1, 2)}, ShapeError, r"past must be floats \[3, 0, 2\]"),
    ({"goal": frames(problems=2)[:, 0]}, ShapeError, "one for each of the 3 problems, or one for all, got 2"),
    ({"goal": torch.rand(32, 32)}, ShapeError, r"goal must be pictures \[problems, C, H, W\], got \[32, 32\]"),
    ({"goal": "goal.png"}, ShapeError, "goal must be pictures"),
    ({"rows": 0}, ConfigError, "rows must be at least 1"),
])
def test_what_does_not_fit_is_refused(options, error, said):
    given = {"context": frames(), "goal": frames()[:, 0], "space": BOX} | options
    with pytest.raises(error, match=said):
        Shooting(make(), given.pop("context"), ObjectDistance(), **given)


@pytest.mark.parametrize("shape", [(3, 4, 2, 1), (2, 4, 2, 2), (3, 4, 2)])
def test_candidates_that_do_not_fit_are_refused(shape):
    task = Shooting(make(), frames(), ObjectDistance(), goal=frames()[:, 0], space=BOX)
    with pytest.raises(ShapeError, match=r"actions must be floats \[3, any, any, 2\]"):
        task.score(torch.zeros(shape))


def test_spaces_of_gymnasium():
    box = gymnasium.spaces.Box(np.array([-1, 0], np.float32), np.array([1, np.inf], np.float32))
    assert as_space(box) == Continuous((-1, 0), (1, float("inf")))
    assert as_space(gymnasium.spaces.Discrete(4)) == Discrete(4)
    assert as_space(box).middle().tolist() == [0, 0] and as_space(box).reach().tolist() == [1, 1]


@pytest.mark.parametrize("space, said", [
    (gymnasium.spaces.Box(-1, 1, (4, 2)), r"actions of one axis, and this space has the shape \(4, 2\)"),
    (gymnasium.spaces.Box(-1, 1, ()), "actions of one axis"),
    (gymnasium.spaces.Discrete(3, start=1), "models number actions from 0, this space begins at 1"),
    (gymnasium.spaces.MultiDiscrete([3, 2]), "takes a Box of one axis, a Discrete"),
    (gymnasium.spaces.Dict({}), "takes a Box of one axis, a Discrete"),
    ("Box(2,)", "got 'Box"),
])
def test_other_spaces_are_refused(space, said):
    with pytest.raises(ConfigError, match=said):
        as_space(space)


@pytest.mark.parametrize("low, high", [((), ()), ((1,), (-1,)), ((0,), (0,)), ((0, 0), (1,)), ((float("nan"),), (1,))])
def test_bounds_are_checked(low, high):
    with pytest.raises(ConfigError):
        Continuous(low, high)
