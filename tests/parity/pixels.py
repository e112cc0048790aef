"""Golden numbers of the official IRIS and DIAMOND code: where they lie, weights, recorded noise."""

import importlib.util
import json
import os
from pathlib import Path

import numpy as np
import torch

from worldkit.distributions import Sampler

ROOT = Path(os.environ.get("WORLDKIT_PARITY", Path(__file__).parents[2].parent / "shared" / "parity"))
D = torch.float64
MISSING = f"golden files not found at {ROOT}; set WORLDKIT_PARITY"


def folders(family, *needs):
    """Folders of a family (``"iris"``, ``"diamond"``) whose input arrays, or whose config, have these names."""
    found = sorted(f.parent for f in (ROOT / family).glob("*/inputs.npz"))
    return [f for f in found if all(need in np.load(f / "inputs.npz").files or need in config_of(f) for need in needs)]


def name_of(path):
    return f"{path.parent.name}/{path.name}"


def config_of(folder):
    return json.loads((folder / "config.json").read_text())


def scalars_of(folder):
    return json.loads((folder / "scalars_f64.json").read_text())


def arrays(path):
    """Tensors of a file, floats in float64."""
    with np.load(path) as stored:
        tensors = {key: torch.from_numpy(stored[key]) for key in stored.files}
    return {key: x.to(D) if x.is_floating_point() else x for key, x in tensors.items()}


def weights_of(path):
    """Official weights by their official names, float64."""
    spec = importlib.util.spec_from_file_location("fixture_weights", ROOT / "fixture_weights.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return {key: torch.from_numpy(x).to(D) for key, x in module.load(path).items()}


def close(ours, theirs, what, rtol=1e-9):
    """Relative to the largest number."""
    ours, theirs = torch.as_tensor(ours).detach(), torch.as_tensor(theirs, dtype=D)
    assert ours.shape == theirs.shape, f"{what}: {tuple(ours.shape)} != {tuple(theirs.shape)}"
    error = (ours.to(D) - theirs).abs().max().item()
    assert error <= rtol * max(1e-3, theirs.abs().max().item()), f"{what}: off by {error:.3g}"


class Recorded(Sampler):
    """Draws by recorded numbers; a class is how many entries of the distribution function are not above its number."""

    def __init__(self, uniform, noise=()):
        super().__init__()
        self.uniforms, self.noise = list(uniform), list(noise)

    def categorical(self, name, logits):
        shares = logits.detach().softmax(-1).cumsum(-1)
        drawn = self.uniforms.pop(0).reshape(*logits.shape[:-1], 1)
        return (shares <= drawn).sum(-1).clamp(max=logits.shape[-1] - 1)

    def normal(self, name, mean, logvar):
        return mean + self.noise.pop(0).reshape(mean.shape) * torch.exp(0.5 * logvar)


def numbered(stored, prefix):
    """Arrays ``prefix_000``, ``prefix_001``, ..."""
    return [stored[key] for key in sorted(stored) if key.startswith(prefix)]
