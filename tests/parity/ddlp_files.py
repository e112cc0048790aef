"""Golden outputs of the official DDLP / DLPv2 code: where they lie, how they are read and compared."""

import json
import os
from pathlib import Path

import numpy as np
import torch

from worldkit.distributions import Beta, Sampler
from worldkit.latents import Latent

ROOT = Path(os.environ.get("WORLDKIT_PARITY", Path(__file__).parents[2].parent / "shared" / "parity")) / "ddlp"
D = torch.float64
BETA = Beta(tied=False, link="exp", floor=1e-5)
MISSING = f"golden files not found at {ROOT}; set WORLDKIT_PARITY"


def close(ours, theirs, what, atol):
    ours, theirs = torch.as_tensor(ours), torch.as_tensor(theirs)
    assert ours.shape == theirs.shape, f"{what}: {tuple(ours.shape)} != {tuple(theirs.shape)}"
    error = (ours.to(D) - theirs.to(D)).abs().max().item()
    assert error <= atol * max(1, theirs.abs().max().item()), f"{what}: off by {error:.3g}"


def arrays(name, file="tensors.npz"):
    """Tensors of a folder, floats in float64 (which holds float32 exactly)."""
    with np.load(ROOT / name / file) as stored:
        tensors = {key: torch.from_numpy(stored[key]) for key in stored.files}
    return {key: x.to(D) if x.is_floating_point() else x for key, x in tensors.items()}


def state_of(name):
    """A state dict: of a tiny model whole numbers times a power of two, of a real one numbered random streams."""
    order = ROOT / name / "param_order.json"
    if order.exists():
        return drawn_state(json.loads(order.read_text()))
    stored = arrays(name, "weights.npz")
    state = {key[2:]: x for key, x in stored.items() if key.startswith("f|")}
    return state | {key[2:]: x.to(D) * stored["s|" + key[2:]] for key, x in stored.items() if key.startswith("q|")}


def drawn_state(order):
    """Weights of a real configuration, by key and shape."""
    state = {}
    for j, (key, shape) in enumerate(order):
        u = np.random.RandomState(1000 + j).uniform(-1, 1, size=shape).astype(np.float32)
        scale = np.float32(0.5)
        if len(shape) > 1 and "rel_pos_bias" not in key:
            scale = 1.5 / np.sqrt(np.prod(shape[1:]))
            if any(head in key for head in ("x_head", "y_head", "scale_xy_head")):
                scale *= 0.1 if key.startswith("dyn_module") else 0.5
        elif len(shape) == 1:
            scale = 0.1 if key.endswith(".weight") else 0.05
        value = np.float32(scale) * u
        state[key] = torch.as_tensor(1 + value if len(shape) == 1 and key.endswith(".weight") else value)
    return state


FIELDS = {("particles", "position"): "", ("particles", "scale"): "_scale", ("particles", "transparency"): "_obj_on",
          ("particles", "depth"): "_depth", ("particles", "features"): "_features",
          ("background", "features"): "_bg_features"}


def latent_of(spec, out, prefix):
    shaped = {("particles", "transparency"): lambda x: x[..., None],
              ("background", "features"): lambda x: x[:, :, None]}
    return Latent.build(spec, {key: shaped.get(key, lambda x: x)(out[prefix + name]) for key, name in FIELDS.items()})


class Replay(Sampler):
    """Recorded noise by the name of a draw; Beta draws are means."""

    def __init__(self, noise):
        super().__init__()
        self.noise = noise

    def normal(self, name, mean, logvar):
        return mean + self.noise[name].pop(0).reshape(mean.shape) * torch.exp(0.5 * logvar)

    def beta(self, name, a, b):
        return a / (a + b)
