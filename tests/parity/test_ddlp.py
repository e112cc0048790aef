"""Whole DDLP and DLPv2 models against every golden output of the official code, met through the converter.

Skipped without the files. Encoder and decoder alone: test_ddlp_perception.py; dynamics alone: test_ddlp_units.py.
"""

import json
import math
import tempfile
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from worldkit import what_if
from worldkit.batch import Batch
from worldkit.convert.ddlp import canonical_key, from_ddlp, target_of
from worldkit.distributions import MEANS, Beta, Normal
from worldkit.latents import Latent

from .ddlp_files import FIELDS, MISSING, ROOT, D, Replay, arrays, close, state_of

pytestmark = pytest.mark.skipif(not ROOT.exists(), reason=MISSING)

FOLDERS = sorted(p.parent.name for p in ROOT.glob("*/config.json") if "enc_channels" in p.read_text()) if ROOT.exists(
    ) else []
VIDEO = [n for n in FOLDERS if n == "ddlp32_tiny" or (n.startswith("real_") and not n.endswith("_img"))]
EXACT, SINGLE = 1e-8, 1e-3  # of float64 files; of float32 ones, which are up to 5e-4 away from float64 themselves
WEIGHTS = {"beta_rec": 1.0, "beta_kl": 0.1, "beta_dyn": 0.1, "beta_dyn_rec": 1.0, "kl_balance": 1e-3,
           "num_static_frames": 4, "recon_loss_type": "mse"}
"""Of all losses in the files, whatever the configuration says; ddlp32_tiny has others."""
TINY = {"beta_dyn": 0.2, "beta_dyn_rec": 0.5}


def single(config):
    """Constants of the static prior as upstream keeps them, in float32, even where it computes in float64."""
    stds = {name: math.exp(np.float32(math.log(getattr(config, name) ** 2)).item() / 2)
            for name in ("offset_std", "scale_std")}
    prior = tuple(np.float32(x).item() for x in config.transparency_prior)
    return type(config).parse({**config.to_dict(), **stds, "transparency_prior": prior})


@cache
def case(name):
    folder, out = ROOT / name, arrays(name)
    config = json.loads((folder / "config.json").read_text())
    state = state_of(name)
    with tempfile.TemporaryDirectory() as place:
        torch.save(state, Path(place) / "model.pth")
        hparams = {**config, **WEIGHTS, **(TINY if name == "ddlp32_tiny" else {})}
        model = from_ddlp(Path(place) / "model.pth", hparams).to(D)
    model.encoder.config = single(model.encoder.config)
    exact = arrays(name, "tensors_f64.npz") if (folder / "tensors_f64.npz").exists() else {}
    scalars = json.loads((folder / "scalars.json").read_text())
    scalars = scalars if "loss_det" in scalars else {"loss_det": scalars}
    exact_scalars = folder / "scalars_f64.json"
    video = out["x"] if "x" in out else out["x_u8"].to(D) / 255
    return SimpleNamespace(
        name=name, config=config, model=model, out=out, exact=exact, keys=list(state), scalars=scalars,
        exact_scalars=json.loads(exact_scalars.read_text()) if exact_scalars.exists() else {},
        video=video if video.dim() == 5 else video[:, None],
    )


def meets(c, ours, name):
    """A golden output, in float64 where there is one."""
    close(ours, c.exact.get(name, c.out[name]), name, EXACT if name in c.exact else SINGLE)


def test_every_folder_is_met():
    """What is not here is in test_ddlp_perception.py or test_diffuse_ddlp.py."""
    assert len(FOLDERS) == 10 and len(VIDEO) == 5
    assert {p.name for p in ROOT.iterdir() if p.is_dir()} - set(FOLDERS) == {
        "balls_data", "diffusion_tiny", "pint_tiny", "units"}


def check_rollout(c, out, prefix):
    z = Latent.cat([out.context_latents, out.latents])
    for key, n in FIELDS.items():
        mine = z.values[key]
        mine = mine[..., 0] if key[1] == "transparency" else mine[:, :, 0] if key[0] == "background" else mine
        meets(c, mine, f"{prefix}z{n or '_pos'}")


@torch.no_grad()
@pytest.mark.parametrize("given", [4, 6])
def test_rollouts_leave_the_window(given):
    c = case("ddlp32_tiny")
    out = c.model.rollout(c.out["roll_x"][:, :given], 12 - given, deterministic=True)
    check_rollout(c, out, f"roll{given}_")
    video = torch.cat([out.context_video, out.video], 1)
    if given == 4:
        meets(c, video[:, c.out["roll4_rec_frames"]], "roll4_rec")
    else:
        meets(c, video[:, -1], "roll6_rec_last")


def side(name):
    return json.loads((ROOT / name / "config.json").read_text())["image_size"]


@torch.no_grad()
@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow if side(n) > 64 else ())  # seconds each
                                  for n in VIDEO if n.startswith("real_")])
def test_rollouts_of_real_configurations(name):
    c = case(name)
    out = c.model.rollout(c.video[:, :4], 4, deterministic=True)
    check_rollout(c, out, "roll_")
    meets(c, out.video[:, -1], "roll_rec_last")


@torch.no_grad()
def test_what_if():
    """The first particle moved by 0.2 to the right in all given frames, which are drawn again, too."""
    c = case("ddlp32_tiny")
    z = c.model.encode(c.out["roll_x"][:, :4])
    out = c.model.rollout(z.edit(0, delta_position=(0.0, 0.2)), 5, deterministic=True)
    check_rollout(c, out, "whatif_")
    video = torch.cat([out.context_video, out.video], 1)
    meets(c, video, "whatif_rec")
    answer = what_if(c.model, z, z.edit(0, delta_position=(0.0, 0.2)), 5)
    assert answer.via == "latents" and torch.equal(answer.edited, video.clamp(0, 1))


@torch.no_grad()
def test_every_frame_for_itself():
    c = case("ddlp32_tiny")
    frames = c.video.flatten(0, 1)[:, None]
    z = c.model.encode(frames)
    meets(c, z.position[:, 0], "static_z")
    meets(c, z.features[:, 0], "static_z_features")
    meets(c, c.model.decode(z).video[:, 0], "static_rec")


# -- losses and their gradients


def recorded_noise(c):
    """Draws by name: frame by frame position, an offset that nothing uses, scale, depth, features; then background."""
    images = c.name != "ddlp32_tiny" and not c.config.get("use_tracking", False)
    steps = 1 if images else c.video.shape[1]
    names = ("position", None, "scale", "depth", "features")
    streams = {n: [c.out[f"eps_{5 * t + i:03d}"] for t in range(steps)] for i, n in enumerate(names) if n}
    noise = {n: streams[n] for n in ("position", "scale")}
    noise |= {n: [torch.stack(streams[n], 1)] for n in ("depth", "features")}
    return noise | {"background": [c.out[f"eps_{5 * steps:03d}"]]}


DRAWN = {"warmup": [12, 3, 13, 14, 1, 11], "noisy": [5, 6, 11, 12, 7, 10]}
"""In these stages upstream's image model that tracks draws its proposals; found from its outputs: which, of 16. (The
last two only count for the Chamfer distance and hardly differ from others; of the noisy stage the order is unknown.)"""


RAMPED = {"ddlp32_tiny": ("det_discount", "warmup", "noisy")}


def loss_of(c, kind):
    """The loss of a scalar's name: stage, weight of the predicted frames, noise."""
    objective, options = c.model.objective, c.model.objective.config.to_dict()
    stage = {"warmup": "warmup", "noisy": "noisy"}.get(kind, "full")
    weights = torch.ones(99)
    if kind in RAMPED.get(c.name, ()):
        weights[: len(c.out["discount"])] = c.out["discount"]
    if kind == "det_balance08":
        options |= {"balance": 0.8, "leaky_balance": True}
    if kind == "static":  # where upstream sums the background's KL as it should
        options |= {"background_kl": "sum"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(objective, "stage", lambda step: stage)
        patch.setattr(objective, "ramp", lambda step, frames: weights[:frames])
        patch.setattr(objective, "config", type(objective.config).parse(options))
        if c.name == "dlp32_track_tiny" and kind in DRAWN:
            start = c.model.encoder.start
            kept = torch.tensor(DRAWN[kind])
            patch.setattr(start, "propose", lambda image, sampler: tuple(x[:, kept] for x in start.keypoints(image)))
        video = c.video.flatten(0, 1)[:, None] if kind == "static" else c.video
        sampler = Replay(recorded_noise(c)) if kind == "sampled" else MEANS
        return c.model.loss(Batch(video), sampler=sampler)


KINDS = [(n, k.removeprefix("loss_")) for n in FOLDERS for k in json.loads((ROOT / n / "scalars.json").read_text())
         if k.startswith("loss_") and isinstance(json.loads((ROOT / n / "scalars.json").read_text())[k], dict)]
KINDS += [(n, "det") for n in FOLDERS if n.startswith("real_")]


@cache
@torch.no_grad()
def known_loss(name, kind):
    """A loss and the predictions behind it."""
    c, seen = case(name), [None]

    def predict_next(*args, **options):
        seen.append(type(c.model).predict_next(c.model, *args, **options))
        return seen[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(c.model, "predict_next", predict_next)
        loss = loss_of(c, kind)
    return loss, seen[-1]


@torch.no_grad()
@pytest.mark.parametrize("name", VIDEO)
def test_teacher_forced_predictions(name):
    c = case(name)
    prefix = "" if name.startswith("real_") else "fwd_"
    prior = known_loss(name, "det")[1]
    names = {key: tuple(f"{prefix}{p}{n.replace('_bg_features', '_bg')}_dyn" for p in ("mu", "logvar"))
             for key, n in FIELDS.items()}
    names["particles", "transparency"] = (f"{prefix}obj_on_a_dyn", f"{prefix}obj_on_b_dyn")
    for key, pair in names.items():
        beta = key == ("particles", "transparency")
        for mine, wanted in zip((Beta if beta else Normal).split(prior.params[key]), pair, strict=True):
            meets(c, mine[..., 0] if beta else mine[:, :, 0] if key[0] == "background" else mine, wanted)


@pytest.mark.parametrize("name, kind", KINDS)
def test_losses(name, kind):
    c = case(name)
    loss, weak = known_loss(name, kind)[0], c.model.objective.config.weights.features
    frames = 1 if c.model.dynamics is not None else c.video.shape[1]  # upstream: the mean over images
    terms = {k: v if k in ("visible_particles", "psnr") else v / frames for k, v in loss.terms.items()}
    ours = {
        "loss": loss.total.detach(), "loss_rec": terms["reconstruction"], "kl": terms["kl"],
        "kl_dyn": terms.get("kl_dynamics", torch.tensor(0.0)), "obj_on_l1": terms["visible_particles"],
        "loss_kl_kp": terms["kl/position"] + weak * terms["kl/proposals"], "loss_kl_scale": terms["kl/scale"],
        "loss_kl_feat": terms["kl/features"] + terms["kl/background"], "loss_kl_obj_on": terms["kl/transparency"],
        "loss_kl_depth": terms["kl/depth"], "psnr": terms.get("psnr", torch.tensor(0.0)),
    }
    exact = c.exact_scalars.get(f"loss_{kind}")
    if kind in RAMPED.get(name, ()):  # ours are logged without the ramp, upstream's with it; the loss has it
        del ours["loss_rec"], ours["kl_dyn"]
    wrong = {k: (ours[k].item(), v) for k, v in (exact or c.scalars[f"loss_{kind}"]).items()
             if k in ours and abs(ours[k].item() - v) > (EXACT if exact else SINGLE) * max(1, abs(v))}
    assert not wrong, wrong


GRADIENTS = [(n, k.removeprefix("gradnorm_")) for n in FOLDERS
             for k in json.loads((ROOT / n / "scalars.json").read_text()) if k.startswith("gradnorm_")]


def norms(c, kind):
    """Norm of the loss's gradient per official key."""
    c.model.zero_grad()
    loss_of(c, kind).total.backward()
    parameters, found = dict(c.model.named_parameters()), {}
    for key in c.scalars[f"gradnorm_{kind}"]:
        target = target_of(canonical_key(key), c.model)
        grad = parameters[target.name].grad
        found[key] = 0.0 if grad is None else target.read(grad).norm().item()
    return found


@pytest.mark.parametrize("name, kind", GRADIENTS)
def test_gradients_of_every_parameter(name, kind):
    """They show what is detached. They jump where a ReLU or a pixel's border is crossed: a video that differs by 3e-7,
    less than float32 can tell, changes some norms by 5 %. What differs by more than 0.5 % may do so by no more than a
    few such changes do.
    """
    c = case(name)
    wanted, ours = c.scalars[f"gradnorm_{kind}"], norms(c, kind)
    off = {k: abs(ours[k] - v) / max(1, v) for k, v in wanted.items()}
    assert sorted(off.values())[len(off) // 2] < 2e-3
    for seed in range(4):
        if not (off := {k: x for k, x in off.items() if x > 5e-3}):
            return
        video, generator = c.video, torch.Generator().manual_seed(seed)
        c.video = video + 3e-7 * torch.randn(video.shape, generator=generator, dtype=D)
        other, c.video = norms(c, kind), video
        off = {k: x - 2 * abs(other[k] - ours[k]) / max(1, wanted[k]) for k, x in off.items()}
    assert not {k: (ours[k], wanted[k]) for k, x in off.items() if x > 5e-3}
