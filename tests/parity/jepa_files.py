"""Recorded outputs of the official JEPA code, and how they are compared."""

import json
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pytest
import torch

from worldkit.distributions import Sampler

ROOT = Path(os.environ.get("WORLDKIT_PARITY", Path(__file__).parents[2].parent / "shared" / "parity")) / "jepa"
D = torch.float64


def folders(pattern):
    """Fixture folders, and the mark of tests that need one."""
    found = sorted(path.parent for path in ROOT.glob(f"{pattern}/*") if path.name in ("config.json", "scalars.json"))
    found = sorted(set(found))
    return found, pytest.mark.skipif(not found, reason=f"golden files not found at {ROOT}; set WORLDKIT_PARITY")


def read(path):
    """Tensors of a file; floats in float64."""
    with np.load(path) as stored:
        tensors = {key: torch.from_numpy(stored[key]) for key in stored.files}
    return {key: x.to(D) if x.is_floating_point() else x for key, x in tensors.items()}


@dataclass(frozen=True)
class Fixture:
    folder: Path

    @cached_property
    def config(self):
        return json.loads((self.folder / "config.json").read_text())

    @cached_property
    def scalars(self):
        found = json.loads((self.folder / "scalars.json").read_text())
        return found.get("f64", found)

    @cached_property
    def inputs(self):
        return read(self.folder / "inputs.npz")

    @cached_property
    def tensors(self):
        file = self.folder / "tensors_f64.npz"
        return read(file if file.exists() else self.folder / "tensors.npz")

    def weights(self, model):
        """State dict of one of the models, in float64."""
        found = read(self.folder / "weights.npz")
        return {key.partition("|")[2]: x for key, x in found.items() if key.startswith(f"{model}|")}


def close(ours, theirs, what, rtol=1e-9):
    theirs = torch.as_tensor(theirs, dtype=D)
    ours = torch.as_tensor(ours, dtype=D).detach().reshape(theirs.shape)
    error = (ours - theirs).abs().max().item()
    assert error <= rtol * max(1e-3, theirs.abs().max().item()), f"{what}: off by {error:.3g}"


def close_norms(model, theirs, name_of, rtol=1e-9):
    """Gradient norms: their key -> (our parameter, rows of it)."""
    ours = dict(model.named_parameters())
    for key, norm in theirs.items():
        target = name_of(key)
        if target is None:
            assert not norm, f"{key} has a gradient and no place"
            continue
        grad = ours[target.name].grad
        if norm is None:
            assert grad is None or not grad.any(), f"{key} should have no gradient"
            continue
        close(target.read(grad).norm(), norm, f"gradient of {key}", rtol)


class Recorded(Sampler):
    """Shared draws that were recorded, by name."""

    def __init__(self, **draws):
        super().__init__(deterministic=True)
        self.draws = draws

    def shared(self, name, like):
        return self.draws[name]
