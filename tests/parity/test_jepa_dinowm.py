"""DINO-WM against recorded outputs of the official code: latents, losses, gradients, roll-out, pictures."""

import re
from dataclasses import replace

import pytest
import torch
from torch import nn

from worldkit.assembly import build
from worldkit.batch import Batch
from worldkit.config import WorldModelConfig
from worldkit.convert.state import Target, fill
from worldkit.distributions import MEANS
from worldkit.encoders.base import Encoding
from worldkit.latents import Latent, LatentDist
from worldkit.nn.vit import frames_mask
from worldkit.planning import Continuous, LatentDistance, Shooting
from worldkit.rolling import Rollout

from .jepa_files import D, Fixture, close, folders

CASES, needs = folders("dinowm*")
pytestmark = needs
NAMES = (
    (r"^encoder\.proj\.", "encoder.picture.patches."),
    (r"^proprio_encoder\.patch_embed\.", "encoder.channels."),
    (r"^action_encoder\.patch_embed\.", "conditioners.action.linear."),
    (r"^predictor\.pos_embedding$", "dynamics.places"),
    (r"^predictor\.transformer\.norm\.", "dynamics.norm."),
    (r"^predictor\.transformer\.layers\.(\d+)\.0\.to_out\.0\.", r"dynamics.blocks.\1.0.proj."),
    (r"^predictor\.transformer\.layers\.(\d+)\.0\.to_qkv\.", r"dynamics.blocks.\1.0.qkv."),
    (r"^predictor\.transformer\.layers\.(\d+)\.0\.", r"dynamics.blocks.\1.0."),
    (r"^predictor\.transformer\.layers\.(\d+)\.1\.net\.", r"dynamics.blocks.\1.1."),
    (r"^decoder\.(?:upsample_b)\.blocks\.", "decoder.first."),
    (r"^decoder\.dec\.blocks\.", "decoder.last."),
    (r"\.conv\.1\.", ".first."), (r"\.conv\.3\.", ".last."),
)


def name_of(key):
    for pattern, into in NAMES:
        key = re.sub(pattern, into, key)
    return key


class Patches(nn.Module):
    """The recorded models' stand-in for DINOv2: one convolution."""

    def __init__(self, spec, dim, channels, side):
        super().__init__()
        self.patches = nn.Conv2d(channels, dim, side, stride=side).requires_grad_(False)
        self.spec = spec

    def forward(self, video, *, sampler):
        maps = self.patches((video - 0.5).flatten(0, 1) * 2 * self.stretch + self.offset)
        tokens = maps.flatten(2).transpose(1, 2).unflatten(0, video.shape[:2])
        posterior = LatentDist(self.spec, {("patches", "features"): tokens})
        return Encoding(posterior, posterior.mode())


@pytest.fixture(params=CASES, ids=lambda path: path.name)
def case(request):
    fixture = Fixture(request.param)
    c, weights, x = fixture.config, fixture.weights("model"), fixture.inputs["visual"]
    dim, channels, side = weights["encoder.proj.weight"].shape[:3]
    model = build(WorldModelConfig.parse({
        "obs": {"height": c["img"], "width": c["img"], "vectors": {"proprio": c["pdim_in"]}},
        "timestep_horizon": c["num_hist"],
        "encoder": {"name": "with-vectors", "channels": c["pemb"], "picture": {
            "name": "jepa-vit", "patch_size": side, "dim": dim, "num_layers": 1, "num_heads": 2, "frozen": True}},
        "decoder": {"name": "upsampling", "channels": c["ch"], "num_blocks": c["nres"], "hidden": c["rch"]},
        "dynamics": {"name": "causal-patches", "num_layers": c["depth"], "num_heads": c["heads"],
                     "head_dim": c["dim_head"], "hidden": c["mlp"], "dropout": 0.0, "action_dim": c["aemb"]},
        "conditioners": {"action": {"name": "transition-action", "dim": c["adim_in"], "bound": False, "norm": "none",
                                    "activation": "none"}},
        "objective": {"name": "jepa", "target": "detached"},
    }))
    low, high = x.min().item(), x.max().item()
    picture = Patches(model.encoder.picture.spec, dim, channels, side)
    picture.stretch, picture.offset = (high - low) / 2, (high + low) / 2  # pictures are not in [-1, 1] there
    model.encoder.picture = picture
    model.to(D)
    names = {name for name, _ in model.named_parameters()}
    fill(model, {key: value for key, value in weights.items() if "quantize" not in key}, canonical=lambda key: key,
         target_of=lambda key: Target(name_of(key)) if name_of(key) in names else None)
    video = ((x - low) / (high - low)).clamp(0, 1)
    return fixture, model, Batch(video, {"action": fixture.inputs["action"]},
                                 vectors={"proprio": fixture.inputs["proprio"]})


def carried(model, z, actions):
    """What patches carry for actions, in every one of them."""
    told = model.conditioners["action"](actions, None, view=None).frame
    return told[:, :, None].expand(-1, -1, z.spec.num_tokens, -1)


def whole_outputs(model):
    """What the predictor gives, step by step, with the actions' channels, which ours drops."""
    seen = []
    model.dynamics.norm.register_forward_hook(lambda norm, given, out: seen.append(out.detach()))
    return seen


def test_everything(case):
    fixture, model, batch = case
    said, seen = fixture.tensors, whole_outputs(model)
    z = model.perceive(batch, MEANS).latent
    count = z.spec.num_tokens
    assert torch.equal(frames_mask(fixture.config["num_hist"], count, 0, "cpu"), said["mask"].bool())
    cond = model.condition(z, batch, sampler=MEANS).cond
    close(torch.cat([z.flat("patches"), carried(model, z, batch.conditions["action"])], -1), said["z"], "latents")
    ahead = model.predict_next(z, cond).mode()
    close(ahead.flat("patches"), said["z_pred"][..., : model.dynamics.width], "predictions")
    close(seen[0], said["z_pred"].flatten(1, 2), "predictions with what they say of actions")
    loss = model.loss(batch)
    close(loss.total, fixture.scalars["z_loss"], "loss", 1e-6)  # float32 in the official code
    features, channels = ((ahead.get(f) - z[:, 1:].get(f)).square().mean() for f in ("features", "vectors"))
    close(features, fixture.scalars["z_visual_loss"], "visual loss")
    close(channels, fixture.scalars["z_proprio_loss"], "proprio loss")
    drawn = model.decode(z[:, :1].detach())
    stretch, offset = model.encoder.picture.stretch, model.encoder.picture.offset
    close(2 * drawn.video - 1, said["visual_reconstructed"], "drawn latents")
    close(2 * model.decode(ahead[:, :1]).video - 1, said["visual_pred"], "drawn predictions")
    model.decoder.requires_grad_()  # it is trained apart
    every = 2 * model.decode(z.detach()).video - 1
    wanted = 2 * stretch * (batch.video - 0.5) + offset
    reconstruction = (every - wanted).square().mean()
    close(reconstruction, fixture.scalars["decoder_recon_loss_reconstructed"], "reconstruction")
    ahead_off = (2 * model.decode(ahead.detach()).video - 1 - wanted[:, 1:]).square().mean()
    close(ahead_off, fixture.scalars["decoder_recon_loss_pred"], "pictures of predictions")
    for error, name in ((reconstruction, "reconstructed"), (ahead_off, "pred")):  # nothing is quantised
        assert fixture.scalars[f"decoder_vq_loss_{name}"] == 0
        close(error, fixture.scalars[f"decoder_loss_{name}"], f"decoder, {name}", 1e-6)
    close(loss.total + reconstruction, fixture.scalars["loss"], "both losses", 1e-6)
    (loss.total + reconstruction).backward()
    ours = dict(model.named_parameters())
    for key, norm in fixture.scalars["grad_norms"].items():
        name = name_of(key)
        if name not in ours or norm is None:
            assert not norm and (name not in ours or ours[name].grad is None), key
        else:
            close(ours[name].grad.norm(), norm, key)


def test_rollout(case):
    fixture, model, batch = case
    said, width, actions = fixture.tensors, model.dynamics.width, fixture.inputs["roll_action"]
    first, seen = fixture.config["n0"], whole_outputs(model)
    with torch.no_grad():
        z = model.encode(batch)
        horizon = actions.shape[1] - first + 1
        told = torch.cat([actions, torch.zeros_like(actions[:, :1])], 1)
        out = model.rollout(z[:, :first], horizon, conditions={"action": told}, decode=False)
        whole = torch.cat([z[:, :first].flat("patches"), out.latents.flat("patches")], 1)
        close(whole, said["rollout_z"][..., :width], "roll-out")
        close(carried(model, z, actions), said["rollout_z"][:, :-1, :, width:], "what it is told")
        close(seen[-1][:, -whole.shape[2] :, width:], said["rollout_z"][:, -1, :, width:], "after the last one")
        beside = torch.cat([z[:, :first].get("vectors"), out.latents.get("vectors")], 1)[:, :, 0]
        close(beside, said["rollout_proprio"], "what is beside the picture")


@torch.no_grad()
def test_planning_objectives(case):
    """The goal is the clip's last frame. Upstream reads proprioception off the first patch, ours off all of them; its
    "all" counts the given frame, too, and is divided by frames."""
    fixture, model, batch = case
    actions, alpha = fixture.inputs["roll_action"][:, None], fixture.config["alpha"]
    z, frames = model.encode(batch), actions.shape[2] + 1

    def costs(weight, **options):
        features, vectors = (LatentDistance(fields=(name,), **options) for name in ("features", "vectors"))

        def alike(latents):  # the first patch's vectors in all patches
            first = latents.get("vectors")[:, :, :1].expand_as(latents.get("vectors"))
            return Latent.build(latents.spec, {**latents.values, ("patches", "vectors"): first})

        def total(imagined, goal):
            seen = replace(imagined, rollout=replace(imagined.rollout, latents=alike(imagined.latents)))
            return features(imagined, goal) + weight * vectors(seen, goal)

        return Shooting(model, z[:, :1], total, goal=z[:, -1:], space=Continuous((-9,) * 10, (9,) * 10))

    close(costs(1.0).score(actions).cost[:, 0], fixture.tensors["objective_last"], "last", 1e-6)
    every = costs(alpha, frames="all", growth=2.0)
    imagined = every.imagine(actions)
    given = replace(imagined, rollout=Rollout(z[:, :1], z[:, :0]))
    share = 1 / (2**frames - 1)  # of the given frame
    total = (1 - share) * every.cost(imagined, every.goal) + share * every.cost(given, every.goal)
    close(total[:, 0] / frames, fixture.tensors["objective_all"], "all", 1e-6)
