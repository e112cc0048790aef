"""Golden numbers of the official IRIS code: where they lie, and how their weights get into our modules.

Names are those of ``reference/iris-keys.md``; sizes come from each folder's config.json.
"""

import importlib.util
import json
import os
import re
from pathlib import Path

import numpy as np
import torch
from torch import nn

from worldkit.assembly import build
from worldkit.component import NamedModules
from worldkit.config import WorldModelConfig
from worldkit.convert.iris import target_of
from worldkit.convert.state import fill
from worldkit.distributions import Categorical
from worldkit.dynamics.token_transformer import TokenTransformer, TokenTransformerConfig
from worldkit.heads.categorical import CategoricalHead, CategoricalHeadConfig
from worldkit.latents import Field, Latent, LatentSpec, TokenGroup

SHARED = Path(os.environ.get("WORLDKIT_PARITY", Path(__file__).parents[2].parent / "shared" / "parity"))
ROOT = SHARED / "iris"
D = torch.float64
MISSING = f"golden files not found at {ROOT}; set WORLDKIT_PARITY"
HEADS = {"reward": (-1.0, 0.0, 1.0), "terminated": (0.0, 1.0)}


def folders(*sections):
    """Folders whose config has exactly these of the sections "tokenizer" and "world_model"."""
    found = []
    for path in sorted(ROOT.glob("*/config.json")) if ROOT.exists() else []:
        has = {"tokenizer", "world_model"} & set(json.loads(path.read_text()))
        found += [path.parent] if has == set(sections) else []
    return found


def config_of(folder):
    return json.loads((folder / "config.json").read_text())


def arrays(folder, name):
    with np.load(folder / f"{name}.npz") as stored:
        tensors = {key: torch.from_numpy(stored[key]) for key in stored.files}
    return {key: x.to(D) if x.is_floating_point() else x for key, x in tensors.items()}


def scalars(folder):
    return json.loads((folder / "scalars_f64.json").read_text())


def weights(folder, prefix=""):
    """Official name -> tensor; ``prefix`` is put in front where a file's names lack it."""
    spec = importlib.util.spec_from_file_location("fixture_weights", SHARED / "fixture_weights.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found = {}
    for path in sorted(folder.glob("param_order*.json")):
        part = re.fullmatch(r"param_order_?(\w*)\.json", path.name)[1]
        front = f"{part}." if part else prefix
        found |= {front + key: torch.from_numpy(x) for key, x in module.load(path).items()}
    return found


def close(ours, theirs, what, rtol=1e-9):
    """Relative to the largest number."""
    ours, theirs = (x.detach() if torch.is_tensor(x) else torch.tensor(x, dtype=D) for x in (ours, theirs))
    assert ours.shape == theirs.shape, f"{what}: {tuple(ours.shape)} != {tuple(theirs.shape)}"
    error = (ours.to(D) - theirs.to(D)).abs().max().item() if ours.numel() else 0.0
    assert error <= rtol * max(1e-3, theirs.to(D).abs().max().item()), f"{what}: off by {error:.3g}"


def stack_options(t):
    return {"name": "vq", "channels": t["ch"], "multipliers": t["ch_mult"], "num_blocks": t["num_res_blocks"],
            "attention": t["attn_resolutions"], "map_channels": t["z_channels"], "dropout": t["dropout"]}


def tokenizer_of(folder):
    """Encoder and decoder with the stored weights, as a model of float64."""
    t = config_of(folder)["tokenizer"]
    stack = stack_options(t)
    model = build(WorldModelConfig.parse({
        "obs": {"height": t["resolution"], "width": t["resolution"], "channels": t["in_channels"]},
        "timestep_horizon": 1, "decoder": stack, "objective": "vq",
        "encoder": {**stack, "quantizer": {"codes": t["vocab_size"], "dim": t["embed_dim"]}},
    }))
    stored = {key: x for key, x in weights(folder, "tokenizer.").items()
              if key.startswith("tokenizer.") and ".lpips." not in key}
    return filled(model, stored), stored


class World(nn.Module):
    """Transformer and heads by the names that they have in a model."""

    def __init__(self, config):
        super().__init__()
        w, dim = config["world_model"], config["world_model"]["embed_dim"]
        codes = config.get("obs_vocab") or config["tokenizer"]["vocab_size"]
        tokens = w["tokens_per_block"] - 1
        group = TokenGroup("patches", tokens, (Field("code", 1, Categorical(codes, index=True)),))
        self.spec = LatentSpec((group,), kind="patches")
        options = TokenTransformerConfig(
            dim=dim, num_layers=w["num_layers"], num_heads=w["num_heads"], dropout=w["attn_pdrop"],
            attention=w["attention"].replace("_", "-"), cond_dim=config["act_vocab"], refresh="frame")
        self.dynamics = TokenTransformer(options, spec=self.spec, anchors={}, window=w["max_blocks"] - 1)
        readout = {"layers": 1, "units": dim, "norm": "none", "activation": "relu", "init": "normal"}
        self.heads = NamedModules({
            name: CategoricalHead(CategoricalHeadConfig(values=values, readout=readout), feature_dim=dim)
            for name, values in HEADS.items()})

    def latent(self, codes):
        return Latent.build(self.spec, {("patches", "code"): codes.long()[..., None]})


def world_of(folder):
    model = World(config_of(folder))
    stored = {key: x for key, x in weights(folder, "world_model.").items() if key.startswith("world_model.")}
    return filled(model, stored), stored


def filled(model, stored):
    model = model.to(D).eval()
    names = {name for name, _ in model.named_parameters()}
    fill(model, {key: x.to(D) for key, x in stored.items()}, canonical=lambda key: key,
         target_of=lambda key: target_of(key, model, names))
    return model


def of_official(model, key, read):
    """Part of what ``read`` gives for a parameter (its value, its gradient) that an official name stands for."""
    target = target_of(key, model, {name for name, _ in model.named_parameters()})
    return target.read(read(model.get_parameter(target.name)))
