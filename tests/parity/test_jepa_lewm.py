"""LeWM and PLDM against recorded outputs of stable-worldmodel: networks, losses, gradients, roll-outs, plans."""

import math
from dataclasses import replace

import pytest
import torch

from worldkit import create_config
from worldkit.batch import Batch
from worldkit.convert import from_lewm
from worldkit.convert.lewm import _target
from worldkit.distributions import MEANS
from worldkit.objectives.collapse import knots_of, pldm_original_terms, pldm_terms, sigreg
from worldkit.planning import CEM, ICEM, Continuous, LatentDistance, Shooting

from .jepa_files import D, Fixture, Recorded, close, close_norms, folders

CASES, needs = folders("*_tiny")
CASES = [case for case in CASES if Fixture(case).config.get("kind") in ("lewm", "pldm")]
pytestmark = pytest.mark.skipif(not CASES, reason="golden files not found; set WORLDKIT_PARITY")
NAMES = {"std_loss": "std", "std_t_loss": "std_t", "cov_loss": "cov", "cov_t_loss": "cov_t",
         "temp_align_loss": "smooth", "idm_loss": "inverse"}


@pytest.fixture(params=CASES, ids=lambda path: path.name)
def case(request):
    fixture = Fixture(request.param)
    config, pixels = fixture.config, fixture.inputs["pixels"]
    state = fixture.weights("model") | {f"idm.{key}": x for key, x in fixture.weights("idm").items()}
    low, high = pixels.min().item(), pixels.max().item()
    objective = {"sigreg": {"weight": config["lambda"], "knots": config["knots"], "projections": config["num_proj"]}}
    if config["kind"] == "pldm":
        w = config["weights"]
        objective = {"vicreg": {"std": w["std"], "std_t": w["std_t"], "cov": w["cov"], "cov_t": w["cov_t"],
                                "smooth": w["temp_align"], "straight": w["temp_straight"], "inverse": w["idm"],
                                "inverse_hidden": config["idm_hidden"]}}
    model = from_lewm(state, heads=config["vheads"], predictor_heads=config["heads"], objective=objective,
                      encoder={"mean": [0.0], "std": [1.0]}, dynamics={"dropout": 0.0}).to(D)
    model.encoder.mean.fill_(-low / (high - low))  # pictures are not in [0, 1] there
    model.encoder.std.fill_(1 / (high - low))
    return fixture, model, Batch((pixels - low) / (high - low), {"action": fixture.inputs["action"]})


def test_training_pass(case):
    fixture, model, batch = case
    config, said = fixture.config, fixture.tensors
    model.train()
    z = model.encoder(batch.video, sampler=MEANS).latent
    close(z.get("embedding")[:, :, 0], said["emb_train"], "embeddings")
    cond = model.condition(z, batch, sampler=MEANS).cond
    frames = z.get("embedding")[:, :-1, 0]
    close(model.conditioners["action"](batch.conditions["action"], None, view=None).frame, said["act_emb"], "actions")
    close(model.dynamics.hidden(frames, cond.frame), said["predictor_raw"], "predictor")
    close(model.dynamics.blocks[0](said["pred_block_in"], cond.frame), said["pred_block0"], "first block")
    close(model.predict_next(z, cond).mode().get("embedding")[:, :, 0], said["prediction_train"], "prediction")
    for ours, theirs in ((model.encoder.projector, "projector"), (model.dynamics.outputs, "predproj")):
        close(ours.norm.running_mean, said[f"bn_{theirs}_running_mean"], "running mean")
        close(ours.norm.running_var, said[f"bn_{theirs}_running_var"], "running variance")
    draws = {"sigreg": fixture.inputs.get("sigreg_noise")}
    loss = model.loss(batch, sampler=Recorded(**draws))
    loss.total.backward()
    close(loss.total, fixture.scalars["loss"], "loss")
    close(loss.terms["prediction"], fixture.scalars["pred_loss"], "prediction loss")
    if config["kind"] == "lewm":
        close(loss.terms["sigreg"], fixture.scalars["sigreg_loss"], "sigreg")
        for ours, theirs in zip(knots_of(config["knots"], 3.0, z.presence), ("t", "phi", "weights"), strict=True):
            close(ours, said[f"sigreg_{theirs}"], f"knots, {theirs}")
    else:
        for theirs, value in fixture.scalars["terms"].items():
            close(loss.terms[NAMES[theirs]], value, theirs)
        close(model.objective.inverse(z), said["idm_pred"], "inverse model")
        straight = pldm_terms(z.get("embedding")[:, :, 0])["straight"]
        close(straight, fixture.scalars["temp_straight_loss"], "straightness")
    names = {name for name, _ in model.named_parameters()}
    dim = model.config.encoder.dim
    close_norms(model, fixture.scalars["grad_norms"],
                lambda key: _target(key.removeprefix("model."), dim, names))


def test_target_may_be_detached(case):
    fixture, model, batch = case
    if "pred_loss_detached_target_encoder_grad_norm" not in fixture.scalars:
        pytest.skip("recorded for one of the two")
    model.train()
    for target in ("attached", "detached"):
        config = model.objective.config.parse(
            model.objective.config.to_dict() | {"target": target, "sigreg": {"weight": 0.0}, "vicreg": {}})
        model.objective.config = config
        model.zero_grad()
        model.loss(batch, sampler=Recorded()).total.backward()
        norm = torch.stack([p.grad.norm() for p in model.encoder.net.parameters() if p.grad is not None]).norm()
        close(norm, fixture.scalars[f"pred_loss_{target}_target_encoder_grad_norm"], target)


class Noise:
    """Recorded noise of a planner, environments outermost."""

    def __init__(self, noise, problems):
        self.rounds = noise[:, 0].unflatten(0, (problems, -1)).transpose(0, 1)
        self.used = 0

    def __call__(self):
        self.used += 1
        return self.rounds[self.used - 1]


def evaluated(fixture, model):
    """The model with running statistics of the fixture, in evaluation mode."""
    for ours, number in ((model.encoder.projector, 0), (model.dynamics.outputs, 1)):
        ours.norm.running_mean.copy_(fixture.inputs[f"rm{number}"])
        ours.norm.running_var.copy_(fixture.inputs[f"rv{number}"])
    return model.eval()


def test_evaluation_pass(case):
    fixture, model, batch = case
    said = fixture.tensors
    evaluated(fixture, model)
    with torch.no_grad():
        z = model.encode(batch)
        close(z.get("embedding")[:, :, 0], said["emb_eval"], "embeddings")
        close(model.encoder.net(fixture.inputs["x_interp"])[:, 0], said["vit_interp_cls"], "another size")
        placed = []
        model.encoder.net.blocks[0].register_forward_pre_hook(lambda block, given: placed.append(given[0]))
        net = model.encoder.net((batch.video.flatten(0, 1) - model.encoder.mean) / model.encoder.std)
        close(placed[0], said["vit_patch_pos"], "patches with their places")
        close(net, said["vit_last_hidden_state"], "tokens")
        plans = fixture.inputs["candidates"]
        problems, candidates, horizon = plans.shape[:3]
        rows = z[:problems].map(lambda x: x.repeat_interleave(candidates, 0))
        for frames, name in ((1, "rollout_h1"), (fixture.config["history"], "rollout_h3")):
            past = fixture.inputs["action_history"][:problems, : frames - 1].repeat_interleave(candidates, 0)
            told = torch.cat([past, plans.flatten(0, 1), torch.zeros_like(plans.flatten(0, 1)[:, :1])], 1)
            out = model.rollout(rows[:, :frames], horizon, conditions={"action": told}, decode=False)
            found = torch.cat([out.context_latents.get("embedding"), out.latents.get("embedding")], 1)
            close(found[:, :, 0], said[name].flatten(0, 1), name)


@pytest.mark.parametrize("kind", ["cem", "icem"])
def test_plans(case, kind):
    fixture, model, batch = case
    said, options = fixture.tensors, fixture.config["cem"]
    evaluated(fixture, model)
    problems = said[f"{kind}_actions"].shape[0]
    with torch.no_grad():
        z = model.encode(batch)
    goal = z[:problems, -1:]
    bound = math.inf if kind == "cem" else 1.0
    dim = batch.conditions["action"].shape[-1]
    task = Shooting(model, z[:problems, :1], LatentDistance(), goal=goal,
                    space=Continuous((-bound,) * dim, (bound,) * dim))
    numbers = goal.get("embedding").shape[-1]
    close(task.score(fixture.inputs["candidates"]).cost * numbers, said["cost"], "cost")
    noise = Noise(fixture.inputs[f"{kind}_noise"], problems)
    sizes = {"candidates": options["num_samples"], "iterations": options["n_steps"], "elites": options["topk"]}
    states, rounds = [], []

    class Kept(CEM if kind == "cem" else ICEM):
        def begin(self, *given):  # in float64, as the recording
            state = super().begin(*given)
            return replace(state, mean=state.mean.to(D), std=state.std.to(D))

        def learn(self, state, elites):
            states.append(super().learn(state, elites))
            return states[-1]

    if kind == "cem":
        class Replayed(Kept):
            def noise(self, shape, generator, device):
                return noise().clone()
        planner = Replayed(**sizes)
    else:
        class Replayed(Kept):
            def white(self, shape, generator, device):
                return noise().transpose(-1, -2).clone()
        keep = min(5, options["topk"] - 1)  # the recording kept 3 of its 4 elites, which its config does not say
        planner = Replayed(**sizes, returns="mean", normalize="sequence", keep=keep)
    plan = planner.solve(task, options["horizon"], watch=rounds.append)
    close(plan.actions, said[f"{kind}_actions"], "actions", 1e-6)  # in float32 there
    close(states[-1].std, said[f"{kind}_var"], "deviations after the last round")
    best = rounds[-1].score.cost.topk(options["topk"], largest=False).values.mean(1)  # what upstream reports
    close(best * numbers, said[f"{kind}_costs"], "costs of the last elites")
    assert noise.used * problems == fixture.scalars["cem_draws_used"]


def test_loss_terms():
    found, _ = folders("loss_terms")
    fixture = Fixture(found[0])
    said, scalars = fixture.tensors, fixture.scalars
    z = said["z_btd"].clone().requires_grad_()
    close(sigreg(z, said["sigreg_A_raw"]), scalars["sigreg_knots17_f64"], "sigreg")
    close(sigreg(z, said["sigreg_A_raw"], knots=5), scalars["sigreg_knots5_f32"], "sigreg", 1e-6)
    close(sigreg(torch.zeros_like(z), said["sigreg_A_raw"]), scalars["sigreg_zeros"], "sigreg of zeros", 1e-6)
    for theirs, name in NAMES.items():
        if name == "inverse":
            close((said["a_pred"] - said["a_target"]).square().mean(), scalars[f"pldm_swm_{theirs}"], theirs, 1e-6)
            continue
        term = pldm_terms(z)[name]
        close(term, scalars[f"pldm_swm_{theirs}"], theirs, 1e-6)  # stored in float32
        close(torch.autograd.grad(term, z)[0], said[f"grad_{theirs}"], f"gradient of {theirs}", 1e-6)
    close(pldm_terms(z)["straight"], scalars["temp_straight"], "straight", 1e-6)
    z, predicted = (said[f"pldm_{name}_tbd"].transpose(0, 1).clone().requires_grad_() for name in ("enc", "pred"))
    names = {"sim": "prediction", "sim_t": "smooth", "std": "std", "cov": "cov", "std_t": "std_t", "cov_t": "cov_t"}
    terms = pldm_original_terms(z, predicted)
    for theirs, name in names.items():
        close(terms[name], scalars[f"pldm_orig_{theirs}"], theirs, 1e-6)
        grad = torch.autograd.grad(terms[name], z, retain_graph=True)[0]
        close(grad.transpose(0, 1), said[f"grad_orig_{theirs}"], f"gradient of {theirs}", 1e-6)
    loose = pldm_original_terms(z, predicted, adjust=False)
    close(loose["cov"], scalars["pldm_orig_cov_adjust_false"], "cov without adjustment", 1e-6)
    weights = scalars["pldm_coefficients"]["wall"]
    total = sum(weights[theirs] * terms[name] for theirs, name in names.items())
    close(total, scalars["pldm_wall_total_without_idm"], "all of Wall's terms", 1e-6)
    for theirs, preset in (("wall", "pldm-wall"), ("maze_obs", "pldm-maze")):
        ours = create_config(preset).objective.vicreg
        weights = dict(scalars["pldm_coefficients"][theirs])
        weights.pop("pred_proprio", None)  # ours predicts velocities as all other channels
        assert weights.pop("sim") == 1.0  # what the prediction always weighs
        assert {name: getattr(ours, (names | {"idm": "inverse"})[name]) for name in weights} == weights
