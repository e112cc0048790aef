"""Golden numbers of the official G-SWM code: where they lie, how their weights and noise get into our model.

Names are those of ``reference/gswm-keys.md``; sizes come from each folder's config.json.
"""

import functools
import importlib.util
import json
import os
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch

from worldkit.convert.gswm import config_of, model_of
from worldkit.distributions import Sampler
from worldkit.gswm.objects import take

SHARED = Path(os.environ.get("WORLDKIT_PARITY", Path(__file__).parents[2].parent / "shared" / "parity"))
ROOT = SHARED / "gswm"
D = torch.float64
MISSING = f"golden files not found at {ROOT}; set WORLDKIT_PARITY"
NAMES = {"ctx": "context", "dyna": "motion", "pres": "presence", "depth": "depth", "where": "box", "what": "features"}
PHASES = {"bg": "background", "disc": "disc", "prop": "prop", "gen": "gen"}


def folders():
    return sorted(path.parent for path in ROOT.glob("*/config.json"))


def read(folder, name):
    return json.loads((folder / name).read_text())


def arrays(folder, name):
    with np.load(folder / name) as stored:
        return {key: torch.from_numpy(stored[key]) for key in stored.files}


@functools.cache
def state_of(folder):
    """Official state dict, as float64."""
    spec = importlib.util.spec_from_file_location("fixture_weights", SHARED / "fixture_weights.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return {key: torch.from_numpy(x).to(D) for key, x in module.load(folder / "param_order.json").items()}


def model(folder):
    """The model of a folder with its weights (float32 numbers, so nothing is lost), and its official state dict."""
    state = state_of(folder)
    return model_of(state, config_of(read(folder, "config.json")["ARCH"])).double(), state


class Replay(Sampler):
    """Recorded noise of a run, in the order in which frames use it; those behind
    ``given`` frames are of a prediction."""

    def __init__(self, folder, run, draws=(), given=1000):
        super().__init__()
        self.slots = None  # where objects of a prediction are, [B, N]
        self.queues, self.draws = defaultdict(list), list(draws)
        stored = {key: x for key, x in arrays(folder, "inputs.npz").items() if key.startswith(f"{run}_t")}
        for key in sorted(stored, key=lambda key: int(key.split("_")[1][1:])):
            _, frame, phase, what = key.split("_")
            phase = "gen" if phase == "bg" and int(frame[1:]) >= given else phase
            self.queues[f"{PHASES[phase]}.{NAMES[what]}"].append(stored[key].to(D))

    def take(self, name, like):
        value = self.queues[name].pop(0)
        if name.startswith("gen.") and value.ndim == 3:
            value = take(value, self.slots)
        assert value.shape == like.shape, name
        return value

    def normal(self, name, mean, logvar):
        return mean + self.take(name, mean) * torch.exp(0.5 * logvar)

    def uniform(self, name, like):
        return self.take(name, like)

    def shared(self, name, like):
        return torch.full_like(like, torch.special.ndtri(torch.tensor(self.draws.pop(0), dtype=D)).item())

    def left(self):
        return {name: len(queue) for name, queue in self.queues.items() if queue} | {"draws": len(self.draws)}
