"""The benchmark of cloning from few labels: its data, and that right latent actions help while useless ones do not."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch

FILE = Path(__file__).parents[2] / "benchmarks" / "flam_cloning.py"


@pytest.fixture(scope="module")
def cloning():
    spec = importlib.util.spec_from_file_location("flam_cloning", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_agent_0_goes_after_agent_1(cloning):
    cell = np.array([[[4, 0], [0, 1]], [[1, 1], [3, 3]], [[2, 0], [2, 3]], [[2, 3], [3, 0]]])
    assert cloning.chase(cell).tolist() == [1, 2, 4, 3]
    video, moves = cloning.episodes(3, 6, agents=3, cells=5, size=10, seed=0)
    assert video.shape == (3, 6, 3, 10, 10) and moves.shape == (3, 6) and (moves > 0).all()
    assert torch.equal(video, cloning.episodes(3, 6, agents=3, cells=5, size=10, seed=0)[0])
    assert cloning.seen(video, 5).shape == (18, 75)


class Told:
    """Latent actions that say the move of agent 0, or nothing."""

    def __init__(self, videos, useful):
        self.known, self.useful = dict(videos), useful

    def infer_latent_actions(self, video):
        moves = self.known[len(video)][: len(video), :-1]
        right = torch.nn.functional.one_hot(moves, 5).float()[:, :, None]
        return right if self.useful else torch.zeros_like(right)


def test_right_latent_actions_help_and_useless_ones_do_not(cloning):
    size = {"agents": 2, "cells": 4, "size": 8}
    train, test = cloning.episodes(50, 12, seed=0, **size), cloning.episodes(10, 12, seed=1, **size)
    found = [cloning.clone(Told([(50, train[1])], useful), train, test, 30, cells=4) for useful in (True, False)]
    assert found[0]["pseudo"] > 0.95 and found[0]["latent"] > found[0]["labels"] + 0.1
    assert found[1]["pseudo"] < 0.6 and found[1]["latent"] < found[0]["latent"] - 0.1
    assert found[0]["labels"] == found[1]["labels"] and found[0]["all"] == found[1]["all"]
