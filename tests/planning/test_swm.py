"""Both ways between worldkit and stable-worldmodel. What needs its package is left out where it is not installed.

Its package itself imports much more than its solvers, so they are imported as a bare folder. Its main branch is tested
by putting a checkout before it on PYTHONPATH.
"""

import importlib
import importlib.util
import sys
import types

import gymnasium
import pytest
import torch
from torch import nn

from worldkit import create_config
from worldkit.assembly import build
from worldkit.errors import ConfigError, ShapeError, WorldkitError
from worldkit.planning import (
    CEM,
    MPPI,
    CategoricalCEM,
    Continuous,
    FunctionObjective,
    GradientPlanner,
    LatentDistance,
    ObjectDistance,
    PixelDistance,
    Shooting,
    SwmCost,
    SwmObjective,
)

INF = float("inf")
FREE = Continuous((-INF, -INF), (INF, INF))
GOALS = torch.tensor([[0.5, -0.3], [0.2, 0.9], [3.0, 0.0]])


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def solvers():
    """Its solvers, of 0.1.1 or of the main branch."""
    spec = importlib.util.find_spec("stable_worldmodel")
    if spec is None:
        pytest.skip('stable-worldmodel is not installed: pip install --no-deps stable-worldmodel==0.1.1 loguru')
    package = types.ModuleType("stable_worldmodel")
    package.__path__ = list(spec.submodule_search_locations)
    sys.modules["stable_worldmodel"] = package
    try:
        return importlib.import_module("stable_worldmodel.planning.solver")
    except ModuleNotFoundError:
        return importlib.import_module("stable_worldmodel.solver")


def solver(kind, cost, action, *, count=3, horizon=5, space=None, **options):
    """One of its solvers, configured."""
    made = kind(cost, **options)
    space = space or gymnasium.spaces.Box(-1, 1, (count, action))
    config = types.SimpleNamespace(horizon=horizon, action_block=1, receding_horizon=horizon, history_len=1,
                                   history_max_len=None, warm_start=True)
    made.configure(action_space=space, n_envs=count, config=config)
    return made


class Toy(nn.Module):
    """The toy of the reference, as its solvers want it."""

    def get_cost(self, info, actions):
        return (actions - info["goal"][:, :, None]).square().sum((-1, -2))

    criterion = get_cost


def make(**options):
    torch.manual_seed(0)
    options = {"conditioners": {"action": {"name": "action", "dim": 2}}} | options
    model = build(create_config("lpwm-balls-mini", latent_action=None, encoder="patch", **options)).eval()
    for parameter in model.dynamics.parameters():
        if parameter.abs().max() == 0:
            nn.init.normal_(parameter, std=0.1)
    return model


def info(count=1, problems=3):
    video = torch.rand(problems, count + 1, 3, 32, 32, generator=seeded(1))
    return {"pixels": video[:, :count], "goal": video[:, count:]}


# -- its solvers


def test_equal_noise_equal_plans_on_the_toy(solvers):
    """Its default is one environment after the other: the same noise, in another order."""
    theirs = solver(solvers.CEMSolver, Toy(), 2, batch_size=3, seed=7).solve({"goal": GOALS})["actions"]
    toy = FunctionObjective(lambda a: (a - GOALS[:, None, None]).square().sum((-1, -2)), 3, FREE)
    ours = CEM().solve(toy, 5, generator=seeded(7)).actions
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    theirs = solver(solvers.MPPISolver, Toy(), 2, batch_size=3, seed=7, temperature=0.5).solve({"goal": GOALS})
    ours = MPPI(min_std=1.0, max_std=1.0).solve(toy, 5, generator=seeded(7)).actions
    torch.testing.assert_close(ours, theirs["actions"], atol=1e-4, rtol=1e-4)


def test_equal_noise_equal_plans_in_a_world_model(solvers):
    model, given = make(), info()
    theirs = solver(solvers.CEMSolver, SwmCost(model, LatentDistance()), 2, horizon=3, batch_size=3, seed=7,
                    num_samples=12, n_steps=3, topk=4).solve(given)["actions"]
    task = Shooting(model, given["pixels"], LatentDistance(), goal=given["goal"][:, 0], space=FREE)
    ours = CEM(candidates=12, iterations=3, elites=4).solve(task, 3, generator=seeded(7))
    torch.testing.assert_close(ours.actions, theirs, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind, options", [
    ("CEMSolver", {"num_samples": 6, "n_steps": 2, "topk": 3}),
    ("ICEMSolver", {"num_samples": 12, "n_steps": 2, "topk": 6}),
    ("MPPISolver", {"num_samples": 6, "n_steps": 2, "topk": 3, "batch_size": 3}),
    ("PredictiveSamplingSolver", {"num_samples": 6}),
    ("GradientSolver", {"n_steps": 2, "num_samples": 2}),
    ("LagrangianSolver", {"n_steps": 2, "num_samples": 2}),
])
def test_its_solvers_plan_in_our_models(solvers, kind, options):
    model = make()

    def small(imagined, goal):
        return imagined.actions.abs().amax((-1, -2)) - 0.5

    cost = SwmCost(model, PixelDistance(), constraints=[small] if kind == "LagrangianSolver" else [])
    found = solver(getattr(solvers, kind), cost, 2, horizon=3, **options).solve(info())
    assert found["actions"].shape == (3, 3, 2) and torch.isfinite(found["actions"]).all()
    assert all(p.grad is None and p.requires_grad for p in model.decoder.parameters())


def test_its_solvers_plan_choices_in_our_models(solvers):
    model = make(conditioners={"action": {"name": "action", "num_actions": 4}})
    space = gymnasium.spaces.Discrete(4)
    found = solver(solvers.CategoricalCEMSolver, SwmCost(model, PixelDistance()), 1, horizon=3, num_samples=6,
                   n_steps=2, topk=3, space=space).solve(info())
    assert found["actions"].shape[:2] == (3, 3)


def test_our_cost_is_what_its_protocols_ask_for(solvers):
    protocols = pytest.importorskip("stable_worldmodel.protocols")
    model = make()
    plain, bound = SwmCost(model, PixelDistance()), SwmCost(model, PixelDistance(), constraints=[lambda i, g: None])
    assert hasattr(plain, "criterion") and hasattr(bound, "get_constraints") and not hasattr(plain, "get_constraints")
    assert not isinstance(plain, protocols.Actionable), "it would ask for a first plan"
    if hasattr(protocols, "Dynamics"):  # the main branch, where these can be asked
        assert isinstance(plain, protocols.Costable)
        assert isinstance(bound, protocols.Constrainable) and not isinstance(plain, protocols.Constrainable)


def test_our_planners_plan_in_lewm(solvers):
    """Its own model: of 0.1.1 with get_cost, of the main branch with encode and rollout."""
    file = f"{sys.modules['stable_worldmodel'].__path__[0]}/wm/lewm/lewm.py"
    spec = importlib.util.spec_from_file_location("lewm", file)
    lewm = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(lewm)
    torch.manual_seed(0)

    class Encoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear, self.calls = nn.Linear(3 * 8 * 8, 5), 0

        def forward(self, pixels, **options):
            self.calls += 1
            return types.SimpleNamespace(last_hidden_state=self.linear(pixels.flatten(1))[:, None])

    class Predictor(nn.Module):
        num_frames = 3

        def forward(self, emb, act_emb):
            return emb + act_emb

    model = lewm.LeWM(Encoder(), Predictor(), nn.Linear(2, 5, bias=False)).requires_grad_(False)
    video = torch.rand(3, 1, 3, 8, 8, generator=seeded(3))
    wanted = torch.rand(3, 4, 2, generator=seeded(4)) - 0.5
    task = SwmObjective(model, {"pixels": video, "goal": video}, Continuous((-1, -1), (1, 1)))
    plan = CEM().solve(task, 4, generator=seeded())
    assert (plan.cost < 1e-3).all(), "the goal is where it starts: the actions cancel"
    assert model.encoder.calls in (2, 6), "start and goal, once (for every problem where the model scores itself)"
    moved = model.action_encoder(wanted).sum(1)
    reached = model.action_encoder(plan.actions).sum(1)
    assert reached.abs().max() < 0.1 < moved.abs().max()
    assert torch.isfinite(GradientPlanner(candidates=2).solve(task, 4, generator=seeded()).cost).all()


# -- by protocol, with nothing installed


def expanded(entries, count):
    return {name: x[:, None].expand(len(x), count, *x.shape[1:]) for name, x in entries.items()}


def test_our_model_as_their_cost():
    model, given = make(), info()
    cost = SwmCost(model, LatentDistance())
    candidates = torch.randn(3, 4, 2, 2, generator=seeded(2))
    task = Shooting(model, given["pixels"], LatentDistance(), goal=given["goal"][:, 0], space=FREE)
    with torch.no_grad():
        found = cost.get_cost(expanded(given, 4), candidates)
        torch.testing.assert_close(found, task.score(candidates).cost)
        torch.testing.assert_close(cost.criterion(expanded(given, 4), candidates), found)
        blocked = cost.get_cost(expanded(given, 4), candidates.flatten(2)[:, :, None])
        torch.testing.assert_close(blocked, found)
    assert next(cost.parameters()).dtype == torch.float32 and not hasattr(cost, "get_constraints")


def test_start_and_goal_are_encoded_once_and_again_when_they_change(monkeypatch):
    model, calls = make(), []
    encode = model.encode
    monkeypatch.setattr(model, "encode", lambda video, **options: calls.append(1) or encode(video, **options))
    cost, given = SwmCost(model, LatentDistance()), expanded(info(), 2)
    candidates = torch.zeros(3, 2, 2, 2)
    with torch.inference_mode():
        first = [cost.get_cost(dict(given), candidates) for _ in range(3)]
    assert len(calls) == 2 and torch.equal(first[0], first[2])
    other = given | {"goal": given["goal"].clone()}
    other["goal"].zero_()
    with torch.no_grad():
        assert not torch.equal(cost.get_cost(other, candidates), first[0])
        before = cost.get_cost(other, candidates)
        other["goal"].fill_(1)  # in place
        assert not torch.equal(cost.get_cost(other, candidates), before)
    assert len(calls) == 6


def test_several_frames_need_the_actions_between_them():
    model, given = make(), info(3)
    cost, candidates = SwmCost(model, LatentDistance()), torch.zeros(3, 2, 2, 2)
    with pytest.raises(WorldkitError, match="the context has 3 frames: give the 2 actions between them"):
        cost.get_cost(expanded(given, 2), candidates)
    history = torch.randn(3, 2, 2, generator=seeded(5))
    task = Shooting(model, given["pixels"], LatentDistance(), goal=given["goal"][:, 0], space=FREE, past=history)
    with torch.no_grad():
        torch.testing.assert_close(cost.get_cost(expanded(given | {"action_history": history}, 2), candidates),
                                   task.score(candidates).cost)


def test_a_single_action_space_is_told_from_that_of_all():
    """configure(action_space=Box(2)) silently makes actions of one number."""
    with pytest.raises(ShapeError, match="takes the space of all environments"):
        SwmCost(make(), LatentDistance()).get_cost(expanded(info(), 2), torch.zeros(3, 2, 2, 1))


def test_frames_that_were_normalised_are_refused():
    given = info()
    given["pixels"] = (given["pixels"] - 0.5) / 0.2
    with pytest.raises(ShapeError, match=r"must lie in \[0, 1\]"):
        SwmCost(make(), LatentDistance()).get_cost(expanded(given, 2), torch.zeros(3, 2, 2, 2))


class Lewm:
    """Its protocol: the embedding is the mean of the pixels, actions add to it."""

    encoded = 0

    def encode(self, x):
        self.encoded += 1
        x["emb"] = x["pixels"].mean((-1, -2))[..., :2]
        return x

    def rollout(self, info, actions):
        if "emb" not in info:
            info["emb"] = self.encode({"pixels": info["pixels"][:, 0]})["emb"][:, None].expand(-1, actions.shape[1],
                                                                                               -1, -1)
        info["predicted_emb"] = torch.cat([info["emb"], info["emb"][:, :, -1:] + actions.cumsum(2)], 2)
        return info


class Costly(Lewm):
    """The same as in 0.1.1, where the model scores, too; its goal encoder takes "action" away without asking."""

    def get_cost(self, info, actions):
        if "goal_emb" not in info:
            goal = {k: v[:, 0] for k, v in info.items()}
            goal["pixels"] = goal.pop("goal")
            goal.pop("action")
            info["goal_emb"] = self.encode(goal)["emb"]
        predicted = self.rollout(info, actions)["predicted_emb"]
        goal = info["goal_emb"][..., -1:, :].expand_as(predicted)  # as there: right for one problem at a time
        return (predicted - goal)[:, :, -1].square().sum(-1)


@pytest.mark.parametrize("kind", [Lewm, Costly])
@pytest.mark.parametrize("rows", [512, 50])
def test_their_model_as_our_objective(kind, rows):
    model, given = kind(), info(2)
    task = SwmObjective(model, given, Continuous((-1, -1), (1, 1)), rows=rows)
    plan = CEM(candidates=60, iterations=15, elites=10).solve(task, 3, generator=seeded())
    needed = given["goal"][:, 0].mean((-1, -2))[:, :2] - given["pixels"][:, -1].mean((-1, -2))[:, :2]
    torch.testing.assert_close(plan.actions.sum(1), needed, atol=0.02, rtol=0)
    assert model.encoded == (2 if kind is Lewm else 6), "start and goal, once"
    assert (plan.cost < 1e-3).all()


def test_their_constraints_hold():
    class Bound(Costly):
        def get_constraints(self, info, actions):
            return torch.stack([actions[..., 0].sum(-1) - 0.1, -actions[..., 1].sum(-1) - 5], -1)

    given = info()
    given["goal"] = torch.ones_like(given["goal"])
    task = SwmObjective(Bound(), given, Continuous((-1, -1), (1, 1)))
    plan = CEM(candidates=100, elites=10).solve(task, 2, generator=seeded())
    assert (plan.violation == 0).all() and (plan.actions[..., 0].sum(-1) <= 0.1).all()
    assert (plan.actions[..., 0].sum(-1) > 0.05).all()


def test_blocks_and_choices():
    class Counts:
        def get_cost(self, info, actions):
            return (actions.sum((2, 3)) - 4).abs() + actions.shape[-1]

    given = {"pixels": torch.rand(2, 1, 3, 8, 8)}
    task = SwmObjective(Counts(), given, Continuous((-1,), (1,)), block=2)
    assert task.score(torch.ones(2, 3, 4, 1)).cost.tolist() == [[2.0] * 3] * 2
    with pytest.raises(ShapeError, match="told 2 actions at once, so the horizon must be a multiple"):
        task.score(torch.ones(2, 3, 3, 1))
    choices = SwmObjective(Counts(), given, gymnasium.spaces.Discrete(5))
    assert CategoricalCEM(candidates=4, iterations=1, elites=2).solve(choices, 4).cost.tolist() == [5.0, 5.0]


@pytest.mark.parametrize("model, given, error, said", [
    (object(), info(), ConfigError, "object has neither get_cost, nor encode and rollout"),
    (Lewm(), {"goal": torch.zeros(1)}, WorldkitError, "the info has no 'pixels'; it has: goal"),
])
def test_what_is_no_such_model_is_refused(model, given, error, said):
    with pytest.raises(error, match=said):
        SwmObjective(model, given, FREE)


def test_things_are_paired_through_the_adapter():
    """Their GoalMSE compares token by token; a cost of ours pairs things first."""
    torch.manual_seed(0)
    config = create_config("lpwm-balls-mini", latent_action=None,
                           conditioners={"action": {"name": "action", "dim": 2}})
    model = build(config).eval()
    with pytest.raises(WorldkitError, match="ObjectDistance pairs them first"):
        SwmCost(model, LatentDistance()).get_cost(expanded(info(), 2), torch.zeros(3, 2, 2, 2))
    with torch.no_grad():
        assert torch.isfinite(SwmCost(model, ObjectDistance()).get_cost(expanded(info(), 2), torch.zeros(3, 2, 2, 2))
                              ).all()
