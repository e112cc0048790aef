"""Golden numbers of the official PlaNet, Dreamer and TD-MPC2 codes: where they lie, how they are read and compared."""

import os
from pathlib import Path

import numpy as np
import torch

ROOT = Path(os.environ.get("WORLDKIT_PARITY", Path(__file__).parents[2].parent / "shared" / "parity")) / "dreamer"
D = torch.float64
MISSING = f"golden files not found at {ROOT}; set WORLDKIT_PARITY"


def arrays(path):
    """Tensors of a file, floats in float64 (which holds float32 exactly)."""
    with np.load(ROOT / path) as stored:
        tensors = {key: torch.from_numpy(np.asarray(stored[key])) for key in stored.files}
    return {key: x.to(D) if x.is_floating_point() else x for key, x in tensors.items()}


def close(ours, theirs, what, tolerance=1e-9):
    """Equal up to a share of the largest number."""
    ours, theirs = torch.as_tensor(ours), torch.as_tensor(theirs)
    assert ours.shape == theirs.shape, f"{what}: {tuple(ours.shape)} != {tuple(theirs.shape)}"
    error = (ours.detach().to(D) - theirs.to(D)).abs().max().item() if ours.numel() else 0.0
    assert error <= tolerance * max(1e-3, theirs.abs().max().item()), f"{what}: off by {error:.3g}"
