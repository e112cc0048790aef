"""A Genie of a few thousand parameters."""

import pytest
import torch

from worldkit import create_model
from worldkit.testing.report import shake

SIZES = {"dim": 16, "num_layers": 2, "num_heads": 2}


@pytest.fixture
def genie():
    def make(*, shaken=True, **overrides):
        small = {
            "obs": {"height": 24, "width": 16}, "timestep_horizon": 4,
            "encoder": {**SIZES, "patch_size": 8, "window": 4, "quantizer": {"codes": 7, "dim": 4}},
            "decoder": {**SIZES, "window": 4},
            "latent_action": {**SIZES, "patch_size": 8, "quantizer": {"codes": 3, "dim": 4}},
            "dynamics": {**SIZES, "steps": 3}, "objective": {"num_frames": 5},
        }
        torch.manual_seed(0)
        model = create_model("genie-mini", **{**small, **overrides})
        return shake(model) if shaken else model

    return make


@pytest.fixture
def video():
    """``[2, 5, 3, 24, 16]``."""
    return torch.rand(2, 5, 3, 24, 16, generator=torch.Generator().manual_seed(0))
