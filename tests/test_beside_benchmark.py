"""benchmarks/beside.py and the scripts that use it: what they make of pairs; our side at work (slow)."""

import importlib.util
import inspect
import json
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def load(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)

    def script(name):
        spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, name, module)
        spec.loader.exec_module(module)
        return module

    return script


def one(seconds, memory=100):
    return {"cpu_s": seconds, "wall_s": seconds, "peak_mb": memory}


def test_ratios_are_of_pairs(load):
    found = load("beside").ratios([(one(1.0), one(2.0, 300)), (one(2.0), one(2.0, 300)), (one(2.0), one(6.0, 300))])
    assert found["cpu_s_ratio"] == 2.0 and found["cpu_s_range"] == [1.0, 3.0] and found["peak_mb_ratio"] == 3.0


def test_pairs_take_turns_and_see_the_same_options(load, monkeypatch, capsys):
    beside, calls = load("beside"), []

    def started(command, **_):
        calls.append(command[2:])
        return Namespace(returncode=0, stdout=json.dumps(one(1.0)), stderr="")

    monkeypatch.setattr(beside.subprocess, "run", started)
    benchmark = beside.Benchmark("script.py", "", ["small"], ["train"], None, None, lambda shape, options: {})
    monkeypatch.setattr(sys, "argv", ["script.py", "--repeat", "2", "--reference", "official", "--fused"])
    beside.run(benchmark, beside.parse(benchmark))
    assert [call[1] for call in calls] == ["check", "ours", "reference", "reference", "ours"]
    assert all(call[2:] == calls[0][2:] for call in calls) and "--fused" in calls[0] and "official" in calls[0]
    assert [json.loads(line)["task"] for line in capsys.readouterr().out.splitlines()[1:]] == ["train[cnn, fused]"] * 3


@pytest.mark.parametrize("shape", ["obj3d", "balls"])
def test_both_sides_get_inputs_of_the_presets_shapes(load, shape):
    ddlp = load("ddlp")
    assert list(ddlp.make_video(shape, 2, Namespace(batch=1)).shape) == [1, 2, 3, 64, 64]
    assert len(ddlp.make_video(shape, 1, Namespace(batch=None))) == {"obj3d": 10, "balls": 32}[shape]


@pytest.mark.slow
@pytest.mark.parametrize("task", ["forward", "train", "rollout-4-7", "predict-4-7"])
def test_our_side_of_ddlp(task):
    command = [sys.executable, FOLDER / "ddlp.py", "--shapes", "balls", "--tasks", task, "--batch", "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    line = json.loads(done.stdout)
    assert line["who"] == "ours" and line["n"] == 1 and line["cpu_s"] > 0 and line["peak_mb"] >= line["before_mb"]


@pytest.mark.slow
@pytest.mark.parametrize("shape, task", [("balls", "first"), ("maze", "every")])
def test_our_side_of_gswm(load, shape, task):
    options = Namespace(seed=0, weights=None, checkpointing="off", fused=True, batch=1, frames=2)
    assert load("gswm").run_ours(shape, task, options)() != 0


def test_the_dreamer_that_is_measured_is_as_large_as_the_one_beside_it(load):
    """r2dreamer @ 546e4fa has 205,208 trained parameters at these sizes, 68,288 of them in its RSSM."""
    dreamer, options = load("dreamer"), Namespace(seed=0, weights=None, reference=None, cell=None)
    model = dreamer.build_ours("tiny", options)
    assert sum(p.numel() for part in (model.dynamics, model.conditioners) for p in part.parameters()) == 68288
    learn = dreamer.train_ours("tiny", options)
    learner = inspect.getclosurevars(learn).nonlocals["learner"]
    assert sum(p.numel() for part in learner.parameters.values() for p in part) == 205208


def test_the_plain_dit_draws_what_ours_draws(load):
    """With weights of the same network; only frames that are shown again and again are kept in ours."""
    jepa = load("jepa")
    sizes = jepa.TINY["dit-sample"]
    made = jepa.dit(sizes, seed=0)
    ours, plain = jepa.our_sample(*made)(), jepa.plain_sample(*jepa.reordered(made, sizes))()
    assert ours.shape == (1, 3, 16, 96) and ours.std() > 0.5
    assert (ours - plain).abs().max() < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("task", ["lewm-train", "lewm-plan", "ac-rollout"])
def test_our_side_of_the_jepa_benchmark_runs(load, task):
    load("jepa").run_ours("full", task, Namespace(seed=0, tiny=True, iterations=2))()


@pytest.mark.slow
@pytest.mark.parametrize("task", ["observe", "observe-grad", "imagine", "imagine-grad", "learn"])
def test_our_side_of_the_dreamer_benchmark_runs(load, task):
    dreamer = load("dreamer")
    dreamer.run_ours("tiny", task, Namespace(seed=0, weights=None, reference=None, cell=None))()
