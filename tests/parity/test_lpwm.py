"""Every golden output of the official LPWM / DLPv3 code, met through the converter. Skipped without the files."""

import json
import os
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from einops import rearrange

from worldkit.batch import Batch
from worldkit.convert.lpwm import canonical_key, from_lpwm, target_of
from worldkit.distributions import MEANS, Beta, Normal, Sampler

ROOT = Path(os.environ.get("WORLDKIT_PARITY", Path(__file__).parents[2].parent / "shared" / "parity")) / "lpwm"
VIDEO = ["plain", "action", "language", "goal", "views2", "pool_token"]
IMAGE = ["static", "static_all"]
ATOL, LOSS_RTOL, GRAD_RTOL, GRAD_FLOOR = 1e-4, 1e-4, 2e-3, 1e-6

pytestmark = pytest.mark.skipif(not ROOT.exists(), reason=f"golden files not found at {ROOT}; set WORLDKIT_PARITY")


@cache
def case(name):
    folder = ROOT / name
    config = json.loads((folder / "config.json").read_text())
    inputs, noise, outputs = (
        torch.load(folder / f"{f}.pt", weights_only=True) for f in ("inputs", "noise", "outputs")
    )
    model = from_lpwm(folder / "state_dict.pt", folder / "config.json")
    views, frames = config.get("n_views", 1), config["timestep_horizon"] + 1

    def unfold(x):
        return x if views == 1 else rearrange(x, "(b v) ... -> b v ...", v=views)

    video = unfold(inputs["x_uint8"])
    conditions, masks = {}, {}
    if config["action_condition"]:
        conditions["action"] = unfold(inputs["actions"])
    if "actions_mask" in inputs and config["null_action_embed"]:
        masks["action"] = unfold(inputs["actions_mask"])
    if config["language_condition"]:
        conditions["language"] = inputs["lang_embed"]
    if config["image_goal_condition"]:
        conditions["goal_image"] = unfold(inputs["x_goal_uint8"])
    clip = slice(0, frames if model.dynamics is not None else 1)

    def batch(done=False):
        return Batch(
            video[..., clip, :, :, :],
            {k: v[..., clip, :] if k == "action" else v for k, v in conditions.items()},
            {k: v[..., clip] for k, v in masks.items()},
            unfold(inputs["done_mask"]) if done else None,
        )

    return SimpleNamespace(name=name, config=config, inputs=inputs, noise=noise, out=outputs, model=model, views=views,
                           video=video, conditions=conditions, masks=masks, batch=batch, folder=folder)


def close(ours, theirs, what, atol=ATOL):
    assert ours.shape == theirs.shape, f"{what}: {tuple(ours.shape)} != {tuple(theirs.shape)}"
    error = (ours - theirs).abs().max().item()
    assert error <= atol, f"{what}: off by {error:.3g}"


def per_view(x, views):
    """[B, T, (V N), d] -> [(B V), T, N, d], upstream's layout."""
    return rearrange(x, "b t (v n) d -> (b v) t n d", v=views)


def tokens(x, views):
    """[B, T, N, d] with all views' particles before all backgrounds -> [(B V), T, N + 1, d]."""
    count = x.shape[2] // views - 1
    parts = [per_view(p, views) for p in x.split([views * count, views], 2)]
    return torch.cat(parts, 2)


def check_encoding(c, encoding, want):
    params, latent, aux = encoding.posterior.params, encoding.latent, encoding.aux
    time = latent.shape[1]

    def frames(x):
        return rearrange(x, "(m t) ... -> m t ...", t=time)

    mean, logvar = {}, {}
    for key in (("particles", "scale"), ("particles", "depth"), ("particles", "features"), ("background", "features")):
        mean[key], logvar[key] = (per_view(p, c.views) for p in Normal.split(params[key]))
    close(frames(aux.base), want["z_base"], "z_base")
    close(frames(aux.base), want["mu_anchor"], "mu_anchor")
    close(frames(Normal.split(aux.offset)[0]), want["mu_offset"], "mu_offset")
    close(frames(Normal.split(aux.offset)[1]), want["logvar_offset"], "logvar_offset")
    close(frames(Normal.split(aux.offset)[0]), want["z_offset"], "z_offset")
    close(per_view(Normal.split(params["particles", "position"])[0], c.views), want["mu_tot"], "mu_tot")
    close(per_view(latent.position, c.views), want["z"], "z")
    for ours, theirs in (("scale", "scale"), ("depth", "depth"), ("features", "features")):
        close(mean["particles", ours], want[f"mu_{theirs}"], f"mu_{theirs}")
        close(logvar["particles", ours], want[f"logvar_{theirs}"], f"logvar_{theirs}")
        close(per_view(getattr(latent, ours), c.views), want[f"z_{theirs}"], f"z_{theirs}")
    close(mean["background", "features"][:, :, 0], want["mu_bg_features"], "mu_bg")
    close(logvar["background", "features"][:, :, 0], want["logvar_bg_features"], "logvar_bg")
    close(per_view(latent.background, c.views)[:, :, 0], want["z_bg_features"], "z_bg")
    a, b = (per_view(p, c.views) for p in Beta.split(params["particles", "transparency"]))
    close(a, want["obj_on_a"], "a")
    close(b, want["obj_on_b"], "b")
    close(per_view(latent.transparency, c.views), want["obj_on"], "obj_on")
    close(frames(aux.uncertainty), want["z_base_var"], "z_base_var")
    score = frames(aux.uncertainty.sum(-1, keepdim=True)) / 30 * 2 - 1
    close(score, want["z_score"], "z_score")
    close(score, want["mu_score"], "mu_score")
    close(aux.proposals, want["kp_p"], "kp_p")
    close(aux.proposal_variance, want["var_kp"], "var_kp")
    close(aux.background_mask[: want["bg_enc_mask"].shape[0]], want["bg_enc_mask"], "bg_enc_mask")
    glimpses = rearrange(aux.glimpses, "m k c h w -> (m k) c h w")
    close(glimpses[: want["cropped_objects"].shape[0]], want["cropped_objects"], "cropped_objects")


@torch.no_grad()
@pytest.mark.parametrize("name", VIDEO + IMAGE)
def test_encode(name):
    c = case(name)
    check_encoding(c, c.model.perceive(c.batch().video), c.out["encode"])


@torch.no_grad()
@pytest.mark.parametrize("name", VIDEO)
def test_latent_actions(name):
    """Both heads at every index, the unused first one included."""
    c, want = case(name), case(name).out["encode"]
    z = c.model.perceive(c.batch().video).latent
    given = c.model._gather_conditions(c.batch().conditions, c.batch().masks, z.shape[1], MEANS)["latent_action"]
    module = c.model.latent_action
    trunk = module.transformer(*module._inputs(z, given))
    for dist, suffix in ((module.posterior(trunk), ""), (module.prior(trunk), "_dyn")):
        mean, logvar = (tokens(p, c.views) for p in Normal.split(dist.params))
        close(mean, want[f"mu_context{suffix}"], f"mu_context{suffix}")
        close(logvar, want[f"logvar_context{suffix}"], f"logvar_context{suffix}")
        close(mean, want[f"z_context{suffix}"], f"z_context{suffix}")
    posterior, prior = module(z, given)
    close(tokens(posterior.sample(MEANS, ""), c.views), want["mu_context"][:, 1:], "posterior")
    close(tokens(prior.sample(MEANS, ""), c.views), want["mu_context_dyn"], "prior")
    if "z_goal_proj" in want:
        close(tokens(goal_tokens(c), c.views), want["z_goal_proj"], "z_goal_proj")


def goal_tokens(c):
    only_goal = {"goal_image": c.conditions["goal_image"]} | {
        k: torch.zeros_like(v) for k, v in c.conditions.items() if k != "goal_image"
    }
    with_goal = c.model._gather_conditions(only_goal, {}, 1, MEANS)["latent_action"].token
    if "action" not in c.conditions:
        return with_goal
    action = c.model.conditioners["action"]
    zeros = torch.zeros_like(c.conditions["action"][..., :1, :])
    return with_goal - c.model.encoder.spec.spread_views(action.project(zeros))


@torch.no_grad()
@pytest.mark.parametrize("name", VIDEO + IMAGE)
def test_decode(name):
    c, want = case(name), case(name).out["decode"]
    latent = c.model.encode(c.batch().video)
    if "decode_filter_key" in c.out:
        close(per_view(latent.score[..., None], c.views)[..., 0], c.out["decode_filter_key"], "decode_filter_key")
    decoded = c.model.decode(latent, masks=True)

    def frames(x):
        return rearrange(x, "b v t ... -> (b v t) ..." if c.views > 1 else "b t ... -> (b t) ...")

    for ours, theirs in ((decoded.video, "rec"), (decoded.glimpses, "dec_objects"), (decoded.masks, "alpha_masks"),
                         (decoded.foreground, "dec_objects_trans"), (decoded.background_mask, "bg_mask"),
                         (decoded.background, "bg_rec")):
        close(frames(ours)[: want[theirs].shape[0]], want[theirs], theirs)


@torch.no_grad()
@pytest.mark.parametrize("name", VIDEO)
def test_dynamics_teacher_forced(name):
    c, want = case(name), case(name).out["dynamics_teacher_forced"]
    z = c.model.encode(c.batch().video)
    steering = c.model.condition(z, c.batch(), sampler=MEANS)
    prior = c.model.predict_next(z, steering.cond)
    names = {"position": "", "scale": "_scale", "depth": "_depth", "features": "_features"}
    for ours, theirs in names.items():
        mean, logvar = (per_view(p, c.views) for p in Normal.split(prior.params["particles", ours]))
        close(mean, want[f"mu{theirs}_dyn"], f"mu{theirs}_dyn")
        close(logvar, want[f"logvar{theirs}_dyn"], f"logvar{theirs}_dyn")
    mean, logvar = (per_view(p, c.views)[:, :, 0] for p in Normal.split(prior.params["background", "features"]))
    close(mean, want["mu_bg_dyn"], "mu_bg_dyn")
    close(logvar, want["logvar_bg_dyn"], "logvar_bg_dyn")
    a, b = (per_view(p, c.views)[..., 0] for p in Beta.split(prior.params["particles", "transparency"]))
    close(a, want["obj_on_a_dyn"].view_as(a), "a_dyn")
    close(b, want["obj_on_b_dyn"].view_as(b), "b_dyn")
    mean, logvar = (tokens(p, c.views) for p in Normal.split(steering.prior.params))
    close(mean, want["mu_context_dyn"], "mu_context_dyn")
    close(logvar, want["logvar_context_dyn"], "logvar_context_dyn")


TERMS = {
    "psnr": "psnr", "kl": "kl", "kl_dynamics": "kl_dyn", "reconstruction": "loss_rec",
    "visible_particles": "obj_on_l1", "kl/position": "loss_kl_kp",
    "kl/transparency": "loss_kl_obj_on", "kl/scale": "loss_kl_scale", "kl/depth": "loss_kl_depth",
    "kl_latent_action": "loss_kl_context", "kl_dynamics/position": "loss_kl_kp_dyn",
    "kl_dynamics/features": "loss_kl_feat_dyn", "kl_dynamics/transparency": "loss_kl_obj_on_dyn",
    "kl_dynamics/scale": "loss_kl_scale_dyn", "kl_dynamics/depth": "loss_kl_depth_dyn",
    "transparency": "loss_obj_reg",
}


def check_loss(loss, want):
    got = {"loss": loss.total.detach()} | {theirs: loss.terms[ours] for ours, theirs in TERMS.items()
                                           if ours in loss.terms}
    got["loss_kl_feat"] = loss.terms["kl/features"] + loss.terms["kl/background"]
    always_zero = {"loss_kl_score_dyn"} | {k for k in want if k not in got and want[k] == 0}
    assert set(want) - always_zero == set(got) & set(want)
    for key in set(want) - always_zero:
        assert got[key].item() == pytest.approx(want[key].item(), rel=LOSS_RTOL), key


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "mode"),
    [(n, "") for n in VIDEO + IMAGE] + [(n, m) for n in VIDEO for m in ("_warmup", "_done_mask")],
)
def test_loss(name, mode):
    c = case(name)
    c.model.objective.steps_per_epoch = 10 if mode == "_warmup" else 0
    loss = c.model.loss(c.batch(done=mode == "_done_mask"), 0, sampler=MEANS)
    c.model.objective.steps_per_epoch = 0
    check_loss(loss, c.out[f"loss_deterministic{mode}"])


class Replay(Sampler):
    """Recorded noise. A goal frame, encoded after the clip, takes the last time index of the recording."""

    NORMAL = {"offset": "eps_offset", "scale": "eps_scale", "depth": "eps_depth", "features": "eps_features",
              "background": "eps_bg_features", "latent_action.posterior": "eps_context_posterior"}

    def __init__(self, c, time):
        super().__init__()
        self.c, self.time, self.calls = c, time, {}

    def _recorded(self, name, key, like):
        noise = self.c.noise[key]
        if name in ("offset", "scale", "transparency"):
            noise = rearrange(noise, "(m t) n d -> m t n d", m=self.c.views * self.c.video.shape[0])
        call = self.calls[name] = self.calls.get(name, 0) + 1
        noise = noise[:, : self.time] if call == 1 else noise[:, self.time :]
        if name in ("offset", "scale", "transparency"):
            return noise.reshape(like.shape)
        if name == "background":
            noise = noise[:, :, None]
        if name.startswith("latent_action"):
            noise = noise[:, 1:]  # entry 0 of the posterior is never used
            parts = noise.split([noise.shape[2] - 1, 1], 2)
        else:
            parts = [noise]
        parts = [rearrange(p, "(b v) t n d -> b t (v n) d", v=self.c.views) for p in parts]
        return torch.cat(parts, 2).reshape(like.shape)

    def normal(self, name, mean, logvar):
        return mean + self._recorded(name, self.NORMAL[name], mean) * torch.exp(0.5 * logvar)

    def beta(self, name, a, b):
        return self._recorded(name, "obj_on_sample", a)


@torch.no_grad()
@pytest.mark.parametrize("name", VIDEO + IMAGE)
def test_stochastic_pass(name):
    c, want = case(name), case(name).out["stochastic"]
    time = c.batch().video.shape[-4]
    check_loss(c.model.loss(c.batch(), 0, sampler=Replay(c, time)), want["loss"])
    sampler = Replay(c, time)
    z = c.model.perceive(c.batch().video, sampler).latent
    for ours, theirs in (("position", "z"), ("scale", "z_scale"), ("depth", "z_depth"), ("features", "z_features"),
                         ("transparency", "obj_on")):
        close(per_view(getattr(z, ours), c.views), want[theirs], theirs)
    close(per_view(z.background, c.views)[:, :, 0], want["z_bg_features"], "z_bg_features")
    video = c.model.decode(z).video
    video = rearrange(video, "b v t ... -> (b v t) ..." if c.views > 1 else "b t ... -> (b t) ...")
    close(video[: want["rec"].shape[0]], want["rec"], "rec")
    if "z_context" in want:
        given = c.model._gather_conditions(c.batch().conditions, c.batch().masks, time, sampler)["latent_action"]
        action = c.model.latent_action(z, given)[0].sample(sampler, "latent_action.posterior")
        close(tokens(action, c.views), want["z_context"][:, 1:], "z_context")


@pytest.mark.parametrize("name", VIDEO + IMAGE)
def test_gradient_norms(name):
    c = case(name)
    want = json.loads((c.folder / "grad_norms.json").read_text())
    c.model.zero_grad()
    c.model.loss(c.batch(), 0, sampler=MEANS).total.backward()
    floor = GRAD_FLOOR * max(want.values())
    parameters = dict(c.model.named_parameters())
    for key, norm in want.items():
        target = target_of(canonical_key(key), c.model)
        grad = parameters[target.name].grad
        got = 0.0 if grad is None else target.read(grad).norm().item()
        assert abs(got - norm) <= GRAD_RTOL * norm + floor, f"{key}: {got} != {norm}"


def roll(c, cond, horizon, **options):
    frames = cond + horizon
    return c.model.rollout(
        c.video[..., :cond, :, :, :], horizon, deterministic=True,
        conditions={k: v[..., :frames, :] if k == "action" else v for k, v in c.conditions.items()}, masks=c.masks,
        **options,
    )


def all_latents(c, rollout):
    return type(rollout.latents).cat([rollout.context_latents, rollout.latents])


def all_video(c, rollout):
    video = torch.cat([rollout.context_video, rollout.video], -4)
    return video[0] if c.views > 1 else video[:1]  # upstream keeps sample 0 only


@torch.no_grad()
@pytest.mark.parametrize("name", VIDEO)
def test_rollout(name):
    c, want = case(name), case(name).out["rollout"]
    rollout = roll(c, 2, 6)
    z = all_latents(c, rollout)
    for ours, theirs in (("position", "z_pos"), ("scale", "z_scale"), ("depth", "z_depth"), ("features", "z_features"),
                         ("transparency", "z_obj_on")):
        close(per_view(getattr(z, ours), c.views), want[theirs], theirs)
    close(per_view(z.background, c.views)[:, :, 0], want["z_bg_features"], "z_bg_features")
    close(tokens(rollout.latent_actions, c.views), want["z_context"], "z_context")
    close(all_video(c, rollout), want["rec"], "rec")


@torch.no_grad()
@pytest.mark.parametrize("name", [n for n in VIDEO if n != "pool_token"])
def test_rollout_by_inferred_latent_actions(name):
    c, want = case(name), case(name).out["rollout_latent_actions"]
    actions = c.model.infer_latent_actions(c.video, conditions=c.conditions, masks=c.masks)
    close(tokens(actions, c.views), want["z_context"], "z_context")
    rollout = roll(c, 2, 6, latent_actions=actions)
    z = all_latents(c, rollout)
    close(per_view(z.position, c.views), want["z_pos"], "z_pos")
    close(per_view(z.features, c.views), want["z_features"], "z_features")
    close(all_video(c, rollout)[:, -2:], want["rec_last2"], "rec_last2")


@torch.no_grad()
@pytest.mark.parametrize("name", VIDEO)
def test_rollout_from_one_frame(name):
    c, want = case(name), case(name).out["rollout_cond1"]
    rollout = roll(c, 1, 6)
    close(per_view(all_latents(c, rollout).position, c.views), want["z_pos"], "z_pos")
    close(tokens(rollout.latent_actions, c.views), want["z_context"], "z_context")
    close(all_video(c, rollout)[:, -2:], want["rec_last2"], "rec_last2")
