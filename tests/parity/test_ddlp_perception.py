"""Encoder and decoder against every golden output of the official DLPv2 / DDLP code. Skipped without the files."""

import json
import os
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from einops import rearrange

from worldkit.assembly import build
from worldkit.config import WorldModelConfig
from worldkit.convert.ddlp_perception import ALIASES, BUFFERS, perception_config, perception_target
from worldkit.convert.state import fill
from worldkit.distributions import Beta, Normal

ROOT = Path(os.environ.get("WORLDKIT_PARITY", Path(__file__).parents[2].parent / "shared" / "parity")) / "ddlp"
FOLDERS = sorted(p.parent.name for p in ROOT.glob("*/config.json") if "enc_channels" in p.read_text()) if ROOT.exists(
    ) else []
EXACT, SINGLE = 1e-8, 1e-3  # float64; float32, in which upstream itself is 5e-4 away from its float64,
REAL = 2e-3  # and in the real sizes, in the last of many tracked frames, 3e-3 away from ours

pytestmark = pytest.mark.skipif(not ROOT.exists(), reason=f"golden files not found at {ROOT}; set WORLDKIT_PARITY")


def canonical(key):
    for alias, prefix in ALIASES:
        if key.startswith(alias):
            return prefix + key.removeprefix(alias)
    return key


def weights(folder):
    """The state dict: stored as whole numbers and powers of two, or drawn from numbered random streams."""
    if not (folder / "weights.npz").exists():
        return drawn_weights(json.loads((folder / "param_order.json").read_text()))
    stored = np.load(folder / "weights.npz")
    state = {k[2:]: np.float32(stored[k]) * stored["s|" + k[2:]] for k in stored.files if k.startswith("q|")}
    state |= {k[2:]: stored[k] for k in stored.files if k.startswith("f|")}
    return {k: torch.as_tensor(v, dtype=torch.float32) for k, v in state.items()}


def drawn_weights(order):
    state = {}
    for j, (key, shape) in enumerate(order):
        u = np.random.RandomState(1000 + j).uniform(-1, 1, size=shape).astype(np.float32)
        if len(shape) == 1:
            value = 1 + np.float32(0.1) * u if key.endswith(".weight") else np.float32(0.05) * u
        elif "rel_pos_bias" in key:
            value = np.float32(0.5) * u
        else:
            s = 1.5 / np.sqrt(np.prod(shape[1:]))
            if any(head in key for head in ("x_head", "y_head", "scale_xy_head")):
                s *= 0.1 if key.startswith("dyn_module") else 0.5
            value = np.float32(s) * u
        state[key] = torch.as_tensor(value)
    return state


@cache
def case(name, dtype=torch.float32):
    folder = ROOT / name
    config = json.loads((folder / "config.json").read_text())
    out = dict(np.load(folder / "tensors.npz"))
    exact = folder / "tensors_f64.npz"
    stored = dict(np.load(exact)) if dtype == torch.float64 and exact.exists() else out
    want = {name: torch.as_tensor(value) for name, value in stored.items()}
    side = config["image_size"]
    model = build(WorldModelConfig.parse({
        "obs": {"height": side, "width": side, "channels": config["ch"]}, "timestep_horizon": 2,
        "objective": "reconstruction", **perception_config(config),
    }))
    state = {k: v for k, v in weights(folder).items() if not (BUFFERS.search(k) or k.startswith("dyn_module."))}
    fill(model, state, canonical=canonical, target_of=lambda key: perception_target(key, model))
    video = torch.as_tensor(out["x"]) if "x" in out else torch.as_tensor(out["x_u8"]).float() / 255
    video = video if video.dim() == 5 else video[:, None]
    return SimpleNamespace(name=name, config=config, model=model.to(dtype).eval(), video=video.to(dtype), want=want,
                           prefix="" if name.startswith("real_") else "fwd_", out=out)


def off(ours, theirs):
    """Largest difference, relative where numbers are above 1."""
    assert ours.shape == theirs.shape, (tuple(ours.shape), tuple(theirs.shape))
    return ((ours - theirs).abs() / theirs.abs().clamp(min=1)).max().item()


def found(c, encoding, decoded):
    """Everything that encoder and decoder give, by upstream's names and in upstream's shapes."""
    params, z, aux = encoding.posterior.params, encoding.latent, encoding.aux

    def frames(x):
        return rearrange(x, "b t ... -> (b t) ...")

    got = {"mu": aux.anchors, "z_base": aux.base, "z": z.position, "kp_p": aux.proposals,
           "logvar": torch.zeros_like(aux.base), "cropped_objects_original": aux.glimpses,
           "cropped_objects": aux.glimpses, "obj_on": z.transparency[..., 0]}
    missing = z.shape[1] - aux.proposals.shape[1]
    got["kp_p"] = torch.cat([aux.proposals, aux.proposals[:, -1:].expand(-1, missing, -1, -1)], 1)
    got["mu_offset"], got["logvar_offset"] = Normal.split(aux.offset)
    for ours in ("scale", "depth", "features"):
        got[f"mu_{ours}"], got[f"logvar_{ours}"] = Normal.split(params["particles", ours])
        got[f"z_{ours}"] = getattr(z, ours)
    got["obj_on_a"], got["obj_on_b"] = (x[..., 0] for x in Beta.split(params["particles", "transparency"]))
    got["mu_bg"], got["logvar_bg"] = (x[:, :, 0] for x in Normal.split(params["background", "features"]))
    got["z_bg"] = z.background[:, :, 0]
    got = {name: frames(x) for name, x in got.items()} | {"bg_mask": aux.background_mask}
    got["z_kp_bg"] = torch.zeros(len(got["z"]), 1, 2)
    got["z_offset"] = got["mu_offset"]
    for name, x in (("rec", decoded.video), ("dec_objects_original", decoded.glimpses), ("bg", decoded.background),
                    ("alpha_masks", decoded.masks), ("dec_objects", decoded.foreground)):
        got[name] = frames(x)
    got["rec_first"], got["rec_last"], got["bg_first"] = got["rec"][:1], got["rec"][-1:], got["bg"][:1]
    position = Normal.split(params["particles", "position"])[0]
    torch.testing.assert_close(frames(position), got["z_base"] + got["mu_offset"], rtol=0, atol=1e-6)
    return got


def compare(c, got, prefix, tolerance, but=()):
    names = [k.removeprefix(prefix) for k in c.want if k.startswith(prefix)]
    names = [n for n in names if n not in but and not n.endswith("_dyn") and not n.startswith("roll")]
    unknown = [n for n in names if n not in got]
    assert not unknown, unknown
    wrong = {n: d for n in names if not (d := off(got[n], c.want[prefix + n])) <= tolerance}
    assert not wrong, wrong
    return len(names)


def exact(name):
    return (ROOT / name / "tensors_f64.npz").exists()


@torch.no_grad()
@pytest.mark.parametrize("name", FOLDERS)
def test_forward(name):
    c = case(name)
    encoding = c.model.perceive(c.video)
    got = found(c, encoding, c.model.decode(encoding.latent, masks=True))
    assert compare(c, got, c.prefix, SINGLE if c.prefix else REAL, but=("x", "x_u8")) >= 25


@torch.no_grad()
@pytest.mark.parametrize("name", [n for n in FOLDERS if exact(n)])
def test_forward_in_double_precision(name):
    c = case(name, torch.float64)
    encoding = c.model.perceive(c.video)
    got = found(c, encoding, c.model.decode(encoding.latent, masks=True))
    assert compare(c, got, "fwd_", EXACT) >= 20
