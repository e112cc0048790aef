"""The recurrent cells of PlaNet and Dreamer v1 to v3 beside the official ones: states, and v3's gradients."""

import pytest
import torch
import torch.nn.functional as F

from worldkit import registry

from .dreamer_cells import load_cell
from .dreamer_weights import MISSING, ROOT, D, arrays, close, files, name_of

pytestmark = pytest.mark.skipif(not ROOT.exists(), reason=MISSING)


def make(name, w, *, dim, drawn, **options):
    cls = registry.cells.get(name)
    cell = cls(cls.Config(**options), dim=dim, drawn=drawn).double()
    load_cell(cell, w, drawn)
    return cell


def parts(stored, prefix):
    return {key.removeprefix(prefix): x for key, x in stored.items() if key.startswith(prefix)}


@pytest.mark.parametrize("path", files("*/*layers*.npz"), ids=name_of)
def test_block_gru(path):
    stored = arrays(path)
    cases = sorted({key.partition("/")[0] for key in stored if "/w/dyn/dyngru" in key})
    assert cases
    for case in cases:
        x, w = parts(stored, f"{case}/"), parts(stored, f"{case}/w/")
        blocks, hidden = len(w["dyn/dyngru/kernel"]), len(w["dyn/dynin0/bias"])
        leaf = {key: value.requires_grad_() for key, value in w.items() if "dynin2" in key}
        cell = make("block-gru", {k: v.detach() for k, v in w.items()}, dim=x["deter"].shape[-1],
                    drawn=x["stoch"][0].numel(), hidden=hidden, blocks=blocks)
        action = x["action"] / x["action"].abs().clamp(min=1)
        told = action @ leaf["dyn/dynin2/kernel"] + leaf["dyn/dynin2/bias"]
        told = F.silu(F.rms_norm(told, told.shape[-1:], leaf["dyn/dynin2norm/scale"], 1e-4))
        none = told.new_zeros(len(told), 0)
        hoist, step = cell.begin()
        out, _ = step(x["deter"], none, x["stoch"].flatten(1), hoist(told))
        close(out, x["out"], "state")
        out.square().sum().backward()
        for key, value in leaf.items():
            close(value.grad, x[f"grad/{key}"], key)
        close(cell.layers[0].weight.grad, x["grad/dyn/dynhid0/kernel"], "grad/dyn/dynhid0/kernel")
        close(cell.layers[0].bias.grad, x["grad/dyn/dynhid0/bias"], "grad/dyn/dynhid0/bias")
        close(cell.gates.weight.grad, x["grad/dyn/dyngru/kernel"], "grad/dyn/dyngru/kernel")
        close(cell.from_state.linear.weight.grad.T, x["grad/dyn/dynin0/kernel"], "grad/dyn/dynin0/kernel")
        close(cell.from_drawn.linear.weight.grad.T, x["grad/dyn/dynin1/kernel"], "grad/dyn/dynin1/kernel")


CELLS = {"transition/in/kernel": "planet-gru", "img1/kernel": "gru", "img_in/kernel": "layernorm-gru"}


def recurrent(path):
    return any(f"w/{key}" in arrays(path) for key in CELLS)


@pytest.mark.parametrize("path", [f for f in files("*/*.npz") if recurrent(f)], ids=name_of)
def test_states_follow_one_another(path):
    """From the official states of frame t - 1 to the deterministic state of frame t."""
    stored = arrays(path)
    w = parts(stored, "w/")
    key = next(key for key in CELLS if key in w)
    planet = CELLS[key] == "planet-gru"
    deter, drawn = stored["out/post_belief" if planet else "out/post_deter"], stored[
        "out/post_sample" if planet else "out/post_stoch"]
    if "out/post_logit" in stored and drawn.ndim == 3:
        drawn = F.one_hot(drawn.long(), stored["out/post_logit"].shape[-1]).to(D)
    drawn = drawn.flatten(2)
    cell = make(CELLS[key], w, dim=deter.shape[-1], drawn=drawn.shape[-1], hidden=w[key].shape[-1],
                **({"norm": "layer"} if "img_in_norm/gamma" in w else {}))
    (hoist, step), begins = cell.begin(), stored.get("in/is_first", torch.zeros(deter.shape[:2])).to(D)
    for t in range(1, deter.shape[1]):
        goes_on = 1 - begins[:, t, None]
        told = (stored["in/action"][:, t] * goes_on) @ w[key][drawn.shape[-1]:]
        out, _ = step(deter[:, t - 1] * goes_on, deter.new_zeros(len(deter), 0), drawn[:, t - 1] * goes_on,
                      hoist(told))
        close(out, deter[:, t], f"state {t}")
