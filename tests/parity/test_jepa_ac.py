"""V-JEPA 2-AC against recorded outputs of the official code: features, loss, gradients, roll-outs; poses."""

import pytest
import torch

from worldkit.batch import Batch
from worldkit.conditions import Condition
from worldkit.convert import from_vjepa2_ac
from worldkit.convert.vjepa import target_of
from worldkit.distributions import MEANS
from worldkit.latents import Latent
from worldkit.nn.pose import between, in_camera, moved
from worldkit.nn.vit import frames_mask
from worldkit.planning import ArmCEM, Continuous, LatentDistance, Shooting

from .jepa_files import D, Fixture, close, folders

FOUND, needs = folders("vjepa2*")
CASES = [case for case in FOUND if case.name.startswith("vjepa2ac")]
pytestmark = needs


@pytest.fixture(params=CASES, ids=lambda path: path.name)
def case(request):
    fixture = Fixture(request.param)
    config = fixture.config
    parts = {part: fixture.weights(part) for part in ("encoder", "predictor")}
    model = from_vjepa2_ac(
        parts, image_size=config["img"], num_heads=config["heads"], predictor_heads=config["pheads"],
        frames=config["max_frames"], camera=config["extr"], objective={"rollout_frames": config["auto_steps"]},
        encoder={"picture": {"mean": [0.0], "std": [1.0]}},
    ).to(D)
    x = fixture.inputs["clips"].transpose(1, 2)
    low, high = x.min().item(), x.max().item()
    model.encoder.picture.mean.fill_(-low / (high - low))  # pictures are not in [0, 1] there
    model.encoder.picture.std.fill_(1 / (high - low))
    vectors = {"pose": fixture.inputs["states"]}
    if config["extr"]:
        vectors["camera"] = fixture.inputs["extrinsics"]
    actions = fixture.inputs["actions"]
    actions = torch.cat([actions, torch.zeros_like(actions[:, :1])], 1)  # the last one leads nowhere
    return fixture, model, Batch((x - low) / (high - low), {"action": actions}, vectors=vectors)


def flat(z):
    return z.get("features").flatten(1, 2)


def test_loss_and_gradients(case):
    fixture, model, batch = case
    said = fixture.tensors
    z = model.perceive(batch, MEANS).latent
    close(flat(z), said["features"], "features")
    cond = model.condition(z, batch, sampler=MEANS).cond
    ahead = model.predict_next(z, cond).mode()
    close(flat(ahead), said["z_tf"], "teacher-forced predictions")
    close(flat(model.objective._rolled(model, z, cond, ahead, fixture.config["auto_steps"])), said["z_ar"], "roll-out")
    loss = model.loss(batch)
    loss.total.backward()
    close(loss.terms["prediction"], fixture.scalars["jloss"], "teacher-forced loss")
    close(loss.terms["rollout"], fixture.scalars["sloss"], "roll-out loss")
    close(loss.total, fixture.scalars["loss"], "loss")
    assert all(p.grad is None for p in model.encoder.parameters()) and not fixture.scalars["encoder_has_grad"]
    ours = dict(model.named_parameters())
    for key, norm in fixture.scalars["grad_norms"].items():
        grad = ours[target_of(key.replace("predictor.", "ac|", 1))].grad
        if norm is None:
            assert grad is None or not grad.any(), key
        else:
            close(grad.norm(), norm, key)


def test_before_the_norms_and_what_a_frame_reaches(case):
    fixture, model, batch = case
    said, dynamics = fixture.tensors, model.dynamics
    with torch.no_grad():
        z = model.encode(batch)
        frames = batch.video.flatten(0, 1)[:, None].expand(-1, 2, -1, -1, -1)
        raw = model.encoder.picture.tokens(frames).unflatten(0, batch.video.shape[:2]).flatten(1, 2)
        close(raw, said["features_raw"], "features")
        cond = model.condition(z, batch, sampler=MEANS).cond
        dynamics._normalize = False
        close(flat(model.predict_next(z, cond).mode()), said["pred_raw"], "predictions")
        dynamics._normalize = True
        base = model.predict_next(z, cond).mode().get("features")
        moved_frame = z.get("features").clone()
        moved_frame[:, 2] += 1
        other = Latent.build(z.spec, {**z.values, ("patches", "features"): moved_frame})
        told = Batch(batch.video, {"action": batch.conditions["action"].clone()}, vectors=batch.vectors)
        told.conditions["action"][:, 1] += 1
        for name, found in (
            ("causal_frame_effect", model.predict_next(other, cond)),
            ("causal_action1_effect", model.predict_next(z, model.condition(z, told, sampler=MEANS).cond)),
        ):
            effect = (found.mode().get("features") - base).abs().amax((0, 2, 3))
            close(effect, said[name], name)
            assert torch.equal(effect == 0, said[name] == 0), name


def test_rollout(case):
    fixture, model, batch = case
    said, actions = fixture.tensors, fixture.inputs["rollout_actions"]
    with torch.no_grad():
        start = model.encode(batch)[:, :1]
        told = torch.cat([actions, torch.zeros_like(actions[:, :1])], 1)
        out = model.rollout(start, actions.shape[1], conditions={"action": told}, decode=False)
    poses = torch.cat([*(x.values["pose", "values"] for x in (start, out.latents))], 1)[:, :, 0]
    close(poses, said["rollout_poses"], "poses")
    ahead = out.latents
    if fixture.config["extr"]:  # the camera of a roll-out stands still, unless it is told where it goes
        start, ahead = filmed(model, start, actions, fixture.inputs["rollout_extrinsics"])
    whole = torch.cat([start.get("features"), ahead.get("features")], 1)
    close(whole.mean(2), said["rollout_z_mean_per_frame"], "frames")
    close(whole[:, -2:].flatten(1, 2), said["rollout_z_last2"], "last two frames")


@torch.no_grad()
def filmed(model, start, actions, cameras):
    """First frame and predictions, with a camera that moves."""
    def seen(z, camera):
        return Latent.build(z.spec, {**z.values, ("camera", "values"): camera[:, None, None]})

    start = seen(start, cameras[:, 0])
    carry, ahead = model.dynamics.start(start, Condition()), []
    for t, action in enumerate(actions.unbind(1)):
        ahead.append(model.dynamics.step(carry, Condition(frame=action[:, None])).mode())
        if t + 1 < cameras.shape[1]:
            model.dynamics.observe(carry, seen(ahead[-1], cameras[:, t + 1]))
    return start, Latent.cat(ahead)


def test_plan(case):
    fixture, model, batch = case
    if "cem" not in fixture.config:
        pytest.skip("recorded for one of the two")
    options, noise = fixture.config["cem"], fixture.inputs["cem_noise"]
    with torch.no_grad():
        z = model.encode(batch)
    task = Shooting(model, z[:1, :1], LatentDistance(fields=("features",), norm="l1"), goal=z[:1, -1:],
                    space=Continuous((-1,) * 7, (1,) * 7))
    rounds = iter(noise.unflatten(0, (options["cem_steps"], -1)).transpose(1, 2))  # candidates, then steps

    class Replayed(ArmCEM):
        def noise(self, shape, generator, device):
            return next(rounds)[None]

    plan = Replayed(candidates=options["samples"], iterations=options["cem_steps"], elites=options["topk"],
                    reach=options["maxnorm"], momentum=options["momentum_mean"], momentum_std=options["momentum_std"],
                    grip_momentum=options["momentum_mean_gripper"], grip_momentum_std=options["momentum_std_gripper"],
                    ).solve(task, options["rollout"])
    close(plan.actions, fixture.tensors["cem_action"], "plan", 1e-6)
    assert len(noise) == fixture.scalars["cem_draws_used"] and next(rounds, None) is None
    grid = fixture.inputs["grid_actions"][None]
    if "grid_energy" in fixture.tensors:
        task = Shooting(model, z[:1, :1], LatentDistance(fields=("features",), norm="l1"), goal=z[:1, 1:2],
                        space=Continuous((-1,) * 7, (1,) * 7))
        close(task.score(grid).cost, fixture.tensors["grid_energy"], "energies")


def test_poses():
    for folder in FOUND:
        if folder.name != "vjepa2_units":
            continue
        said = Fixture(folder).tensors
        close(moved(said["pose_in"], said["act_in"]), said["compute_new_pose"], "moved")
        close(between(said["poses"]), said["poses_to_diffs"], "between")
        close(between(said["poses"][:2]), said["poses_to_diff_pair"], "between two")
        close(in_camera(said["poses"], said["extrinsics"]), said["transform_frame"], "in_camera")
        for name in (n for n in said if n.startswith("ac_mask")):
            frames, height, width, beside = (int(part[1:].replace("dd", "")) for part in name.split("_")[2:])
            mask = frames_mask(frames, height * width + beside, 0, "cpu")
            assert torch.equal(mask, said[name].bool()), name
