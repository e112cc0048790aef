"""benchmarks/learning.py: what it makes of two curves; both sides at work (slow)."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

SCRIPT = Path(__file__).parents[1] / "benchmarks/learning.py"


@pytest.fixture(scope="module")
def learning():
    spec = importlib.util.spec_from_file_location("learning", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def side(learning, *points):
    made = SimpleNamespace(curve=[dict(cpu=cpu, step=int(cpu), psnr=psnr) for cpu, psnr in points])
    made.reached = lambda threshold: learning.Side.reached(made, threshold)
    return made


def test_ratios_are_of_first_times_and_a_side_that_never_got_there_gives_a_bound(learning):
    ours = side(learning, (20, 12.9), (40, 13.4), (60, 13.6), (80, 13.2))
    slow = side(learning, (100, 12.0), (200, 12.8), (600, 13.0))
    lines = learning.summary({0: {"ours": ours, "old": slow}, 1: {"ours": ours, "old": slow}}, "old")
    assert lines[0] == ("12.8 dB: ours 20 s (20 steps), 20 s (20 steps); old 200 s (200 steps), 200 s (200 steps); "
                        "times faster: 10.0, 10.0 (median 10.0)")
    assert lines[1].endswith("old not reached, not reached; times faster: > 10.0, > 10.0 (median 10.0)")
    assert lines[2].endswith("ours not reached, not reached; old not reached, not reached; times faster: -")
    assert lines[3:] == ["best of ours: 13.60 dB, 13.60 dB", "best of old: 13.00 dB, 13.00 dB"]


def test_options_are_those_of_the_command_line(learning):
    model, train = learning.nested(["train.lr=1e-3", "dynamics.dim=96", "latent_action=null", "encoder=slot"])
    assert model == {"dynamics": {"dim": 96}, "latent_action": None, "encoder": "slot"} and train == {"lr": 1e-3}


@pytest.mark.slow
def test_two_sides_take_turns(tmp_path):
    command = [sys.executable, SCRIPT, "--against", "HEAD", "--seeds", "3", "--cpu-seconds", "3", "--slice", "1.5",
               "--clips", "2", "-o", "train.batch_size=2", "--out", tmp_path / "learning.json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    curves = json.loads((tmp_path / "learning.json").read_text())["curves"]["3"]
    assert curves.keys() == {"ours", "HEAD"} and all(len(curve) >= 2 for curve in curves.values())
    assert all(5 < point["psnr"] < 20 and len(point["frames"]) == 5 for curve in curves.values() for point in curve)
    turns = [line.split()[2] for line in done.stdout.splitlines() if line.startswith("seed 3")]
    assert turns[:4] == ["ours", "HEAD", "ours", "HEAD"]
