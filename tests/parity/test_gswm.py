"""G-SWM against numbers of the official code: latents, KL terms, losses, gradients, pictures, in float64."""

from itertools import count

import pytest
import torch

from worldkit.convert.gswm import place_of, unused
from worldkit.gswm.latent import attributes_of
from worldkit.gswm.perception import slots_of
from worldkit.latents import Latent

from .gswm_files import MISSING, D, Replay, arrays, folders, model, read

FOLDERS = folders()
pytestmark = pytest.mark.skipif(not FOLDERS, reason=MISSING)
every = pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
SLOW = [pytest.param(x, marks=[pytest.mark.slow] * (n > 0)) for n, x in enumerate(FOLDERS)]
with_gradients = pytest.mark.parametrize("folder", SLOW, ids=lambda folder: folder.name)
KL = {"pres": "presence", "depth": "depth", "where": "box", "what": "features", "dyna": "motion"}
TOL = 1e-9


def close(a, b, what, tol=TOL):
    a, b = torch.as_tensor(a, dtype=D).detach(), torch.as_tensor(b, dtype=D)
    assert a.shape == b.shape, (what, a.shape, b.shape)
    gap, scale = (a - b).abs().max().item(), b.abs().max().item()
    assert gap <= tol * scale + 1e-14, f"{what}: {gap:.3g} of {scale:.3g}"


def golden(folder):
    """Its configuration, numbers and tensors."""
    return read(folder, "config.json"), read(folder, "scalars_f64.json"), arrays(folder, "tensors_f64.npz")


@with_gradients
def test_training(folder):
    about, told, stored = golden(folder)
    made, state = model(folder)
    video = clip(folder)[:, : about["ARCH"]["T"][0]]
    sampler = Replay(folder, "train", about["dropout_draws"])
    taps = tapped(made, stored)
    made.train()
    bound = made.objective.bound(made, video, about["global_step"], sampler=sampler)
    loss = -(bound.likelihood - bound.total_kl).mean()
    loss.backward()
    assert sampler.left() == {"draws": 0}
    tracked(bound.tracks, stored, "train", made)
    costs(bound, stored)
    close(bound.likelihood, stored["train_loglikelihood"], "likelihood")
    close(bound.total_kl, stored["train_kl"], "kl")
    close(loss, told["train_loss"], "loss")
    pictures(bound.video, bound.drawing.cover, stored, told, "train", about)
    gradients(made, state, told)
    expected = {name for name in stored if name.startswith("train_tap_") and "rejection" not in name}
    assert taps.keys() == expected
    for name, found in taps.items():
        close(found[:1].reshape(stored[name].shape), stored[name], name)
    norm = made.encoder.cells.image.norm
    for what in ("running_mean", "running_var"):
        close(getattr(norm, what), stored[f"train_bn1_{what}_after"], what)
    assert norm.num_batches_tracked == told["train_bn_num_batches_tracked"]


@every
def test_tracking(folder):
    about, told, stored = golden(folder)
    made, _ = model(folder)
    sampler = Replay(folder, "track")
    with torch.no_grad():
        bound = made.objective.bound(made, clip(folder)[:, :3], about["global_step"], sampler=sampler)
    assert sampler.left() == {"draws": 0}
    tracked(bound.tracks, stored, "track", made)
    close(sum(bound.kl[name] for name in KL.values()), stored["track_kl_fg"], "kl of objects")
    pictures(bound.video, bound.drawing.cover, stored, told, "track", about)


@every
@pytest.mark.parametrize("run", ["genmean", "gensample"])
def test_prediction(folder, run):
    about, told, stored = golden(folder)
    if f"{run}_z_pres" not in stored:
        pytest.skip("this folder has no such run")
    (made, _), given = model(folder), about["cond_steps"]
    sampler = Replay(folder, run, given=given)
    temperature = made.objective.priors(about["global_step"]).temperature
    with torch.no_grad():
        tracks = made.encoder.track(clip(folder)[:, :given], sampler=sampler, discover=lambda t: False,
                                    temperature=temperature)
        z, slots = [made.encoder.latent(tracks)], slots_of(tracks.objects.ids)
        sampler.slots = slots[:, -1]
        carry = made.dynamics.start(z[0], None)
        for _ in range(about["frames"] - given):
            z.append(made.dynamics.predict(carry, None, sampler, mean=run == "genmean"))
            made.dynamics.observe(carry, z[-1])
        drawn = made.decode(latent := Latent.cat(z))
    assert sampler.left() == {"draws": 0}
    for name, x in vars(attributes_of(latent)).items():
        key = f"{run}_z_{next(k for k, v in KL.items() if v == name)}"
        if key in stored:
            ids = tracks.objects.ids[:, -1].gather(1, slots[:, -1])
            found = by_id(x.unflatten(0, tuple(latent.shape)), ids.argsort(-1)[:, None].expand(-1, latent.shape[1], -1))
            close(found, by_id(stored[key], stored[f"{run}_ids"].argsort(-1)), name)
    if f"{run}_z_ctx" in stored:
        close(latent.background[:, :, 0], stored[f"{run}_z_ctx"], "context")
    pictures(drawn.video, 1 - drawn.background_mask.flatten(0, 1), stored, told, run, about)


def by_id(x, order):
    return x.gather(2, order[..., None].expand_as(x))


@pytest.mark.parametrize("folder", [f for f in FOLDERS if "bgonly_loss" in read(f, "scalars_f64.json")],
                         ids=lambda folder: folder.name)
def test_background_alone(folder):
    about, told = read(folder, "config.json"), read(folder, "scalars_f64.json")
    made, _ = model(folder)
    video = clip(folder)[:, : about["ARCH"]["T"][0]]
    made.train()
    bound = made.objective.bound(made, video, about["bg_only_step"], sampler=Replay(folder, "train"))
    loss = -(bound.likelihood - bound.total_kl).mean()
    loss.backward()
    close(loss, told["bgonly_loss"], "loss")
    close(bound.likelihood, told["bgonly_loglikelihood"], "likelihood")
    grads = [p.grad.norm().item() for p in made.parameters() if p.grad is not None]
    close(sum(g * g for g in grads) ** 0.5 / told["bgonly_grad_bg_total"], 1.0, "norm of gradients", 1e-6)
    assert all(p.grad is None for p in made.encoder.cells.parameters())


def tapped(made, stored):
    """Name of a stored intermediate -> what our modules give there, filled while the model runs."""
    parts = {
        "img_enc": made.encoder.cells.image, "prop_map": made.encoder.cells.found_map,
        "env": made.dynamics.environment, "interaction_post": made.encoder.memory.interaction,
        "interaction_prior": made.dynamics.memory.interaction, "h_post": made.encoder.memory.cell,
        "h_prior": made.dynamics.memory.cell,
    }
    found = {}
    for what, part in parts.items():
        names = [name for name in stored if name.startswith("train_tap_") and name.endswith(f"_{what}")]
        names.sort(key=lambda name: (int(name.split("_")[2][1:]), name.split("_")[3] == "disc"))
        calls = iter(count())

        def note(module, inputs, output, names=names, calls=calls):
            call = next(calls)
            if call < len(names):
                output = output[0] if isinstance(output, tuple) else output
                found[names[call]] = output if len(output) == 2 else output.unflatten(0, (2, -1))

        part.register_forward_hook(note)
    return found


def clip(folder):
    return arrays(folder, "inputs.npz")["clip_u8"].to(D) / 255


def tracked(tracks, stored, run, made):
    objects, sizes = tracks.objects, [1, 1, 4, made.encoder.config.feature_dim]
    parts = objects.z.split([*sizes, objects.z.shape[-1] - sum(sizes)], -1)
    assert torch.equal(objects.ids, stored[f"{run}_ids"])
    for name, part in zip(KL, parts, strict=True):
        if f"{run}_z_{name}" in stored:
            close(part, stored[f"{run}_z_{name}"], name)
    if f"{run}_proposal" in stored:
        close(objects.proposal, stored[f"{run}_proposal"], "proposal")
    if f"{run}_z_ctx" in stored:
        close(tracks.scenery.context, stored[f"{run}_z_ctx"], "context")


def costs(bound, stored):
    for name, ours in KL.items():
        if f"train_kl_{name}" in stored:
            close(bound.kl[ours], stored[f"train_kl_{name}"], f"kl {name}")
    close(sum(bound.kl[name] for name in KL.values()), stored["train_kl_fg"], "kl of objects")
    close(bound.kl.get("context", torch.zeros_like(stored["train_kl_bg"])), stored["train_kl_bg"], "kl of background")


def pictures(video, cover, stored, told, run, about):
    step = about.get("stride", 4)
    cover = cover.unflatten(0, video.shape[:2])
    close(video[:1, ..., ::step, ::step], stored[f"{run}_recon_sub"], "picture")
    close(cover[:1, ..., ::step, ::step], stored[f"{run}_alpha_map_sub"], "cover")
    close(video.mean((-1, -2)), told[f"{run}_recon_mean"], "mean of pictures")
    close(video.square().sum() / told[f"{run}_recon_sq"], 1.0, "squares of pictures")
    close(cover.square().sum() / told[f"{run}_alpha_map_sq"], 1.0, "squares of covers")


def gradients(made, state, told):
    norms, none = told["train_grad_norms"], set(told["train_grad_none"])
    parameters = dict(made.named_parameters())
    total, seen = 0.0, set()
    for key in state:
        if key.endswith(("running_mean", "running_var")):
            continue
        if unused(key, made):
            assert key in none, key
            continue
        grad = parameters[place_of(key)].grad
        seen.add(place_of(key))
        if key in none:
            assert grad is None, key
            continue
        norm = grad.norm().item()
        total += norm**2
        if norms[key] > 1e-9:
            close(norm / norms[key], 1.0, key, 1e-6)
        else:
            assert norm < 1e-6, key
    assert seen == parameters.keys()
    close(total**0.5 / told["train_grad_total_norm"], 1.0, "norm of all gradients", 1e-6)
