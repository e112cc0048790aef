"""The benchmark's own arithmetic, on made-up models."""

import importlib.util
from pathlib import Path

import pytest
import torch

import worldkit as wk
from worldkit.batch import Batch
from worldkit.data import collate
from worldkit.testing.report import shake

FILE = Path(__file__).parents[2] / "benchmarks" / "flam.py"


@pytest.fixture(scope="module")
def flam():
    spec = importlib.util.spec_from_file_location("flam_benchmark", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_cell_and_the_four_next_to_it(flam):
    inside = flam.around(torch.tensor([[0, 0], [3, 4]]), 32)
    assert inside.sum((1, 2)).tolist() == [3 * 16, 5 * 16]
    assert inside[1, 12:16, 16:20].all() and inside[1, 8:12, 16:20].all() and not inside[1, 8:12, 12:16].any()
    assert flam.cells(torch.tensor([[-0.875, 0.875]])).tolist() == [[0, 7]]


def test_one_action_for_all_is_cut_in_equal_parts(flam):
    one, own = torch.arange(16.0).view(1, 1, 1, 16), torch.randn(1, 2, 3, 5)
    assert flam.parts(one)[0, 0].tolist() == [[4.0 * k + n for n in range(4)] for k in range(4)]
    assert torch.equal(flam.whole(flam.parts(one), one), one) and torch.equal(flam.whole(flam.parts(own), own), own)
    codes = flam.parts(torch.tensor([2, 0, 1]).view(1, 3, 1, 1))
    assert codes.shape == (1, 3, 4, 3) and codes[0, 0, 1].tolist() == [0, 0, 1]


@pytest.mark.parametrize("preset", ["flam-grid-mini", "flam-grid-mini-single", "flam-grid-mini-actions"])
def test_every_kind_of_model_makes_a_row(flam, preset):
    torch.manual_seed(0)
    sizes = {"dim": 16, "num_layers": 1, "num_heads": 2}
    latent = {} if preset.endswith("actions") else {"latent_action": sizes}
    model = shake(wk.create_model(preset, obs={"height": 16, "width": 16}, encoder={"map_channels": 8, "patch_size": 2},
                                  decoder={"channels": 8, "map_channels": 8, "multipliers": [1, 1]}, dynamics=sizes,
                                  **latent)).eval()
    with torch.no_grad():
        for parameter in model.dynamics.head.parameters():  # else an action changes less than a level
            parameter.mul_(5)
    clips = wk.data.open_dataset("multigrid-16", split="test", num_frames=12, num_episodes=3)
    episodes = [clips[i] for i in range(3)]
    state = {key: torch.stack([e["state"][key] for e in episodes]) for key in ("position", "choice")}
    batch = collate(episodes)
    row = flam.scores(model, Batch(batch.video, batch.conditions), state, seed=0)
    assert row["psnr"] > 0 and 10 < row["copy"] < 40
    assert ("slots D" in row) == (preset == "flam-grid-mini") and ("actions D" in row) == (latent != {})
    if latent:
        assert row["edited"] > 0 and 0 <= row["edit"] <= 1
