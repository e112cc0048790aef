"""CPU seconds and memory of a plan, beside stable-worldmodel's CEM; one JSON line per measurement.

300 candidates x horizon 5 x 30 iterations for 8 problems at once, the same noise, the same model and the same cost (the
squared distance of the last latent to the goal's). Shapes: ``toy`` (a formula), ``gru`` and ``lpwm`` (`lpwm-push-mini`
with random weights, its dynamics a GRU or its own transformer; one frame given). Before any pair, plans of both sides
under equal noise are compared.

Tasks say how the other side runs:

* ``lewm``: as a model of its own, which predicts step by step from all frames so far (its LeWM), start and goal encoded
  once, one problem after the other (its default).
* ``lewm-batched``: the same, all problems at once.
* ``adapter``: its solver over `worldkit.planning.SwmCost`, whose rollouts keep what they have computed.

    pip install --no-deps stable-worldmodel==0.1.1 loguru
    python benchmarks/planning.py --repeat 3 --reference installed

``--reference`` takes ``installed`` or a checkout of github.com/galilai-group/stable-worldmodel. See README.md and
beside.py.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import sys
import types
from collections.abc import Callable
from importlib.machinery import PathFinder
from pathlib import Path

from beside import Benchmark, parse, run

SHAPES, TASKS = ("toy", "gru", "lpwm"), ("lewm", "lewm-batched", "adapter")
PROBLEMS, HORIZON = 8, 5
SIZES = {"candidates": 300, "iterations": 30, "elites": 30}
SMALL = {"candidates": 24, "iterations": 4, "elites": 6}
TOLERANCE = 1e-3
"""Largest difference of two plans under equal noise; actions are about 1."""
_INF = float("inf")


def make(shape: str, seed: int):
    """The model (None: a formula), frames and goals of all problems."""
    import torch

    import worldkit as wk

    torch.manual_seed(seed)
    if shape == "toy":
        return None, torch.rand(PROBLEMS, 2), None
    swap = {"dynamics": "gru"} if shape == "gru" else {}
    action = {"action": {"name": "action", "dim": 2}}
    model = wk.create_model("lpwm-push-mini", conditioners=action, **swap).eval().requires_grad_(False)
    for parameter in model.dynamics.parameters():  # as made, some layers are closed and nothing depends on the actions
        if parameter.abs().max() == 0:
            torch.nn.init.normal_(parameter, std=0.05)
    video = torch.rand(PROBLEMS, 2, 3, 32, 32)
    return model, video[:, :1], video[:, 1]


def last_latent(imagined, goal):
    """The cost: squared distance of the last latents, token by token (it says little of particles, and is cheap)."""
    found, wanted = imagined.latents[:, -1:].pack(), goal.latent.pack()
    return (imagined.split(found) - wanted[:, None]).square().sum((2, 3, 4))


def plan_ours(shape: str, seed: int, sizes: dict) -> Callable[[], object]:
    """Our CEM."""
    import torch

    from worldkit.planning import CEM, Continuous, FunctionObjective, Shooting

    model, start, goal = make(shape, seed)
    space = Continuous((-_INF, -_INF), (_INF, _INF))

    def solve():
        if model is None:
            task = FunctionObjective(lambda a: (a - start[:, None, None]).square().sum((-1, -2)), PROBLEMS, space)
        else:
            task = Shooting(model, start, last_latent, goal=goal, space=space)
        return CEM(**sizes).solve(task, HORIZON, generator=torch.Generator().manual_seed(seed)).actions

    return solve


class Toy:
    """The formula, as its solvers want it."""

    def parameters(self):
        return iter(())

    def get_cost(self, info, actions):
        return (actions - info["pixels"][:, :, None]).square().sum((-1, -2))

    criterion = get_cost


class Lewm:
    """Our model, run as stable-worldmodel runs its LeWM (wm/lewm/lewm.py of 0.1.1, from reading it).

    Embeddings of start and goal are kept in the info; every step runs the predictor over the frames so far, as many as
    it saw in training.
    """

    def __init__(self, model):
        self.model, self.window = model, model.dynamics.window

    def parameters(self):
        return self.model.parameters()

    def get_cost(self, info, actions):
        from einops import repeat

        from worldkit.distributions import MEANS
        from worldkit.latents import Latent

        model, count = self.model, actions.shape[1]
        if "emb" not in info:
            info["emb"] = model.encode(info["pixels"][:, 0])
            info["goal_emb"] = model.encode(info["goal"][:, 0][:, None]).pack()
        z = info["emb"].map(lambda x: repeat(x, "b ... -> (b s) ...", s=count))
        told = model._gather_conditions({"action": actions.flatten(0, 1)}, {}, actions.shape[2], MEANS)["dynamics"]
        for t in range(actions.shape[2]):
            seen = slice(max(0, t + 1 - self.window), t + 1)
            z = Latent.cat([z, model.dynamics.prior(z[:, seen], told.at(seen))[:, -1:].mode()])
        last = z[:, -1:].pack()
        return (last.reshape(*actions.shape[:2], *last.shape[1:]) - info["goal_emb"][:, None]).square().sum((2, 3, 4))

    criterion = get_cost


def solvers(reference: str):
    """stable-worldmodel's solvers, without what else its package imports."""
    if reference != "installed":
        folder = Path(reference) / "stable_worldmodel"
    else:
        found = PathFinder.find_spec("stable_worldmodel")
        if found is None:
            raise SystemExit("pip install --no-deps stable-worldmodel==0.1.1 loguru, or --reference CHECKOUT")
        folder = Path(next(iter(found.submodule_search_locations)))
    if "stable_worldmodel" not in sys.modules:
        package = types.ModuleType("stable_worldmodel")
        package.__path__ = [str(folder)]
        sys.modules["stable_worldmodel"] = package
    inside = "planning.solver" if (folder / "planning").is_dir() else "solver"
    return importlib.import_module(f"stable_worldmodel.{inside}")


def plan_theirs(shape: str, task: str, seed: int, sizes: dict, reference: str, *, together: bool) -> Callable:
    """Its CEM."""
    import gymnasium

    from worldkit.planning import SwmCost

    model, start, goal = make(shape, seed)
    cost = Toy() if model is None else SwmCost(model, last_latent) if task == "adapter" else Lewm(model)
    solver = solvers(reference).CEMSolver(
        cost, batch_size=PROBLEMS if together else 1, num_samples=sizes["candidates"], n_steps=sizes["iterations"],
        topk=sizes["elites"], seed=seed,
    )
    config = types.SimpleNamespace(horizon=HORIZON, action_block=1)
    solver.configure(action_space=gymnasium.spaces.Box(-1, 1, (PROBLEMS, 2)), n_envs=PROBLEMS, config=config)
    info = {"pixels": start}
    if model is not None:
        info["goal"] = goal[:, None] if task == "adapter" else goal

    def solve():
        with contextlib.redirect_stdout(io.StringIO()):
            return solver.solve(info)["actions"]

    return solve


def run_ours(shape: str, task: str, options: argparse.Namespace) -> Callable[[], object]:
    return plan_ours(shape, options.seed, SIZES | {"iterations": options.iterations})


def run_reference(shape: str, task: str, options: argparse.Namespace) -> Callable[[], object]:
    sizes = SIZES | {"iterations": options.iterations}
    return plan_theirs(shape, task, options.seed, sizes, options.reference, together=task == "lewm-batched")


def check(shape: str, options: argparse.Namespace) -> dict:
    """Plans of both sides under equal noise: all problems at once, so that it is drawn in one order."""
    ours, apart = plan_ours(shape, options.seed, SMALL)(), {}
    for task in ("lewm", "adapter"):
        theirs = plan_theirs(shape, task, options.seed, SMALL, options.reference, together=True)()
        apart[task] = float((ours - theirs).abs().max())
    if not max(apart.values()) <= TOLERANCE:
        raise SystemExit(f"{shape}: plans under equal noise differ by {apart}")
    return {"plans_differ_by": apart, "plans_are_about": float(ours.abs().mean())}


BENCHMARK = Benchmark(__file__, __doc__, SHAPES, TASKS, run_ours, run_reference, check)

if __name__ == "__main__":
    more = argparse.ArgumentParser(add_help=False)
    more.add_argument("--iterations", type=int, default=SIZES["iterations"], help="fewer take less long")
    run(BENCHMARK, parse(BENCHMARK, more))
