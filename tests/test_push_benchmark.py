"""benchmarks/push.py: places are read off means, where there are means, unless a draw is asked for."""

import importlib.util
import sys
from argparse import Namespace
from pathlib import Path

import pytest
import torch

FILE = Path(__file__).parents[1] / "benchmarks/push.py"
spec = importlib.util.spec_from_file_location("push_benchmark", FILE)
push = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(push)


@pytest.mark.parametrize("explicit, drawn, means", [(True, False, True), (True, True, False), (False, False, False)])
def test_what_is_predicted(explicit, drawn, means):
    told = []

    def rollout(video, horizon, *, conditions, deterministic, generator):
        told.append((deterministic, generator.initial_seed()))
        assert conditions["action"].shape[1] == push.SEEN + push.AHEAD
        return Namespace(video=video[:, -1:].expand(-1, horizon, -1, -1, -1))

    model = Namespace(rollout=rollout, dynamics=Namespace(explicit_prior=explicit))
    ahead = push.predicted(model, torch.rand(3, 15, 3, 8, 8), torch.zeros(3, 15, 2), drawn=drawn)
    assert ahead.shape == (3, push.AHEAD, 3, 8, 8) and told == [(means, 0)]


def test_a_disc_is_where_its_colour_is():
    video, colors = torch.zeros(1, 1, 3, 32, 32), torch.eye(3)[None]
    video[0, 0, 0, 4:10, 20:26] = 1  # red, rows 4 to 9, columns 20 to 25
    centre, there = push.places(video, colors)
    assert there[0, 0].tolist() == [True, False, False]
    assert centre[0, 0, 0].tolist() == pytest.approx([7 / 16 - 1, 23 / 16 - 1])
