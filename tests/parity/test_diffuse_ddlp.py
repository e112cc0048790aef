"""Every golden output of the official DiffuseDDLP code, met through the converter. Skipped without the files."""

import json
import os
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from worldkit.convert.diffuse_ddlp import load_prior, prior_config, schedule_buffers
from worldkit.distributions import Sampler
from worldkit.latents import particle_spec
from worldkit.nn.diffusion import CosineSteps, denoise
from worldkit.nn.standardize import SetScaler
from worldkit.priors.diffusion import DiffusionPrior, Sampling
from worldkit.training.ema import EMA

ROOT = Path(os.environ.get("WORLDKIT_PARITY", Path(__file__).parents[2].parent / "shared" / "parity"))
FOLDER = ROOT / "ddlp" / "diffusion_tiny"
TARGETS = {"pred_x0": "x0", "pred_noise": "epsilon", "pred_v": "v"}
SPEC = particle_spec(num_particles=4, feature_dim=3, background_dim=3)
ATOL = 2e-5

pytestmark = pytest.mark.skipif(not FOLDER.exists(), reason=f"golden files not found at {FOLDER}; set WORLDKIT_PARITY")


@cache
def golden():
    stored = np.load(FOLDER / "weights.npz")
    state = {}
    for key in stored.files:
        kind, _, name = key.partition("|")
        if kind == "q":
            state[name] = torch.from_numpy(stored[key].astype(np.float32)) * float(stored[f"s|{name}"])
        elif kind == "f":
            state[name] = torch.from_numpy(stored[key])
    tensors = np.load(FOLDER / "tensors.npz")
    return SimpleNamespace(
        state=state, t={key: torch.from_numpy(tensors[key]) for key in tensors.files},
        scalars=json.loads((FOLDER / "scalars.json").read_text()),
        config=json.loads((FOLDER / "config.json").read_text()),
    )


def statistics():
    """Those of nothing in particular; the denoiser works on normalised tokens."""
    return {f"{name}{suffix}": torch.full((9 - 6 * bool(suffix),), value) for suffix in ("", "_bg")
            for name, value in (("mu", 0.0), ("std", 1.0), ("min_val", -1.0), ("max_val", 1.0))}


def prior(**options):
    g = golden()
    made = DiffusionPrior(prior_config(g.state, **options), spec=SPEC)
    load_prior(made, g.state, statistics())
    return made.eval()


def close(ours, theirs, what, atol=ATOL, rtol=0.0):
    assert ours.shape == theirs.shape, f"{what}: {tuple(ours.shape)} != {tuple(theirs.shape)}"
    off = (ours.double() - theirs.double()).abs()
    assert (off <= atol + rtol * theirs.double().abs()).all(), f"{what}: off by {off.max():.3g}"


class Replay(Sampler):
    """The recorded stream: the start, then one draw per step."""

    def __init__(self):
        super().__init__()
        self.draws = 0

    def normal(self, name, mean, logvar):
        noise = golden().t[f"noise_{self.draws:02d}"]
        self.draws += 1
        return mean + noise * torch.exp(0.5 * logvar)


def test_sizes():
    config, g = prior().config, golden().config
    assert (config.dim, config.num_layers, config.num_heads, config.frames, config.steps) == (
        g["projection_dim"], g["n_layer"], g["n_head"], g["seq_length"], g["timesteps"])
    assert prior().layout.width == g["features_dim"] and SPEC.num_tokens == g["max_particles"]


@pytest.mark.parametrize("steps", [20, 1000])
def test_schedule(steps):
    ours = schedule_buffers(CosineSteps(steps))
    for name, value in ours.items():
        theirs = golden().t[f"sched{steps}_{name}"]
        close(value, theirs, name, atol=1e-7, rtol=2e-6)


def test_denoiser():
    g, p = golden().t, prior()
    close(p.network.step.waves(g["t"].float()), g["time_embed_sin"], "sines")
    close(p.network.step(g["t"].float()), g["time_embed"], "time embedding")
    close(p.network(g["eps"], g["t"]), g["denoiser_out"], "denoiser")


def test_mask_and_mixing():
    g, p = golden().t, prior()
    close(p.used.expand_as(g["mask"]), g["mask"], "mask", 0)
    time = ((g["t"] + 1) / p.schedule.steps)[:, None, None, None]
    close(p.schedule.mix(g["x0"], g["eps"], time), g["x_t"], "q_sample", 1e-6)


@pytest.mark.parametrize("theirs", TARGETS)
def test_targets(theirs):
    g, p = golden().t, prior(target=TARGETS[theirs])
    time = ((g["t"] + 1) / p.schedule.steps)[:, None, None, None]
    data, noise = denoise(TARGETS[theirs], p.schedule, g["x_t"], p.answer(g["x_t"], g["t"] + 1), time)
    close(noise, g[f"{theirs}_pred_noise"], "noise", rtol=1e-5)
    want = g[f"{theirs}_pred_x_start"]  # of noise at the last step: the difference of numbers about 1000 times as large
    close(data, want, "data", atol=1e-6 * want.abs().max().clamp(min=20))


@pytest.mark.parametrize("theirs", TARGETS)
@pytest.mark.parametrize("loss", ["l1", "l2"])
def test_loss(theirs, loss):
    g, p = golden(), prior(target=TARGETS[theirs], loss=loss)
    ours = p.error(g.t["x0"], g.t["t"] + 1, g.t["eps"]).mean()
    assert ours.item() == pytest.approx(g.scalars[f"p_loss_{theirs}_{loss}"], rel=1e-6)


def test_posterior():
    g, p = golden().t, prior()
    for row, t in enumerate(g["t"].tolist()):
        now, then = (torch.tensor(k / p.schedule.steps, dtype=torch.float64) for k in (t + 1, t))
        noisy = g["x_t"][row:row + 1]
        data, _ = p.denoised(noisy, now)
        of_noisy, of_data, variance = p.schedule.posterior(now, then)
        close(data, g["p_x_start_clipped"][row:row + 1], "data")
        close(of_noisy * noisy + of_data * data, g["p_mean"][row:row + 1], "mean")
        logvar = variance.clamp(min=1e-20).log()
        close(logvar.reshape(1, 1, 1, 1), g["p_logvar"][row:row + 1], "log-variance", rtol=1e-6)


@pytest.mark.parametrize(("name", "sampling"), [
    ("ddpm_sample", Sampling("ddpm", 20)), ("ddim5_sample", Sampling("ddim", 5))])
def test_sampling(name, sampling):
    p, stream = prior(), Replay()
    p.config = p.config.replace("sampling_dropout", False)  # the reference ran in evaluation mode
    p.sampling = sampling
    z = p.sample(2, stream)
    tokens = p.scale(p.layout.pack(z))
    want = golden().t[name] * p.used
    want[..., -1, :2] = 0  # the two columns before the background's features are no part of a latent
    want[..., :-1, 5] = want[..., :-1, 5].clamp(0, 1)  # `sample` keeps a transparency in its bounds
    close(tokens, want, name, 5e-5)


@pytest.mark.parametrize(("kind", "name"), [("minmax", "minmax"), ("standard", "std")])
def test_normalisation(kind, name):
    g = golden().t
    fg, bg = g["norm_in_fg"], g["norm_in_bg"].reshape(3, 4, 1, 3)
    layout = DiffusionPrior(prior().config, spec=SPEC).layout
    rows = torch.cat([fg, torch.nn.functional.pad(bg, (2, 4))], 2)
    scaler = SetScaler(layout.sizes, layout.fields, kind=kind)
    scaler.update(rows)
    scaled = scaler(rows)
    close(scaled[:, :, :4], g[f"norm_{name}_fg"], "particles", 1e-5)
    close(scaled[:, :, 4, 2:5].reshape(12, 3), g[f"norm_{name}_bg"], "background", 1e-5)
    close(scaler.inverse(scaled)[:, :, :4], g[f"unnorm_{name}_fg"], "back", 1e-5)
    parts = SetScaler(layout.sizes, layout.fields, kind=kind)
    for clip in rows.flip(0).split(1):
        parts.update(clip)
    close(parts(rows), scaled, "clip by clip", 1e-5)


def test_moving_average():
    module = torch.nn.Linear(1, 1, bias=False)
    ema = EMA(module, 0.995, every=10, after=101, warmup="power")
    found = []
    for value in golden().t["ema_online"]:
        module.weight.data.fill_(value)
        ema.update(module)
        found.append(ema.average["weight"].item())
    close(torch.tensor(found), golden().t["ema_value_after_update"], "average", rtol=1e-6)
