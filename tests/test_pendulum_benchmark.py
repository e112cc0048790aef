"""benchmarks/pendulum.py: its own equations are those of the environment, and it plays."""

import importlib.util
from pathlib import Path

import pytest
import torch

import worldkit as wk

pytest.importorskip("pygame")
gymnasium = pytest.importorskip("gymnasium")


@pytest.fixture(scope="module")
def pendulum():
    spec = importlib.util.spec_from_file_location("pendulum", Path(__file__).parents[1] / "benchmarks/pendulum.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_true_dynamics_earn_what_the_environment_pays(pendulum):
    world = pendulum.Episodes(3, seed=5)
    actions = 4 * torch.rand(3, 12, 1, generator=torch.Generator().manual_seed(0)) - 2
    wanted = pendulum.true_cost(world.states, actions[:, None])
    for action in actions.unbind(1):
        world.step(action)
    torch.testing.assert_close(-world.returns, wanted[:, 0], rtol=1e-4, atol=1e-3)


def test_a_model_plays(pendulum, monkeypatch):
    monkeypatch.setattr(pendulum, "STEPS", 6)
    model = wk.create_model("dvae-pendulum-mini").eval()
    planner = pendulum.ICEM(candidates=4, iterations=1, elites=2)
    returns, film = pendulum.play(model, 2, 0, planner, 3)
    assert returns.shape == (2,) and film.shape == (7, 3, 32, 32) and film.float().std() > 0
