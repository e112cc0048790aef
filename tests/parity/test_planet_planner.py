"""PlaNet's planner beside the official one, candidate noise given. Skipped without the files."""

from dataclasses import dataclass

import pytest
import torch

from worldkit.planning import Continuous, FunctionObjective
from worldkit.planning.cem import PlaNetCEM

from .dreamer_weights import MISSING, ROOT, D, arrays, close, files, name_of

pytestmark = pytest.mark.skipif(not ROOT.exists(), reason=MISSING)


@dataclass(frozen=True)
class Replayed(PlaNetCEM):
    """Takes its noise ``[rounds, problems, candidates, horizon, dim]`` from a list, and keeps what it learns."""

    noises: tuple = ()
    learned: tuple = ()

    def noise(self, shape, generator, device):
        noise = self.noises[len(self.learned[0])]
        assert noise.shape == shape
        return noise.clone()

    def begin(self, objective, horizon, initial):
        state = super().begin(objective, horizon, initial)
        return type(state)(state.mean.to(D), state.std.to(D))

    def learn(self, state, elites):
        found = super().learn(state, elites)
        self.learned[0].append(found)
        return found


@pytest.mark.parametrize("file", files("*/planet_cem*.npz"), ids=name_of)
def test_planet_cem(file):
    out = arrays(file)
    horizon, candidates, elites, iterations = out["horizon_amount_topk_iters"].tolist()

    def plan(rows):
        goal, start = out["goal"], out["state"][rows]

        def cost(actions):
            state, total = start[:, None].expand(-1, actions.shape[1], -1), 0
            for t in range(actions.shape[2]):
                state = torch.tanh(state @ out["A"] + actions[:, :, t] @ out["B"])
                total = total + (state - goal).square().sum(-1)
            return total

        noises = out["noise"][:, rows]
        planner = Replayed(candidates=candidates, elites=elites, iterations=iterations, noises=tuple(noises),
                           learned=([],))
        dim = out["B"].shape[0]
        space = Continuous((-1,) * dim, (1,) * dim)
        planner.solve(FunctionObjective(cost, len(start), space), horizon)
        return planner.learned[0]

    for number, found in enumerate(plan(slice(None)), 1):
        close(found.mean, out[f"f64_mean_after_{number}"], f"mean after {number}")
        close(found.std, out[f"f64_std_after_{number}"], f"deviation after {number}")
    close(plan(slice(0, 1))[-1].mean, out["b1_mean"], "the official run of one problem", 1e-6)  # it is in float32


def test_planets_options():
    planner = PlaNetCEM()
    assert (planner.candidates, planner.elites, planner.iterations, planner.returns) == (1000, 100, 10, "mean")
