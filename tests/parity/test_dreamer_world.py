"""The world model of official Dreamer v3 agents: states, divergences, observations, heads, whom each loss trains."""

import json
from dataclasses import replace
from functools import cache

import pytest
import torch

from worldkit.objectives.divergence import divergence

from .dreamer_rssm import Tape
from .dreamer_weights import MISSING, ROOT, close, folders, name_of
from .dreamer_world import World

pytestmark = pytest.mark.skipif(not ROOT.exists(), reason=MISSING)
V3 = folders("weights.npz", "tensors.npz", "inputs.npz")


@cache
def seen(folder):
    world = World(folder)
    return world, world.perceive(Tape(world.posterior_draws(), classes=world.config["classes"]))


def losses(world, found):
    """Losses per frame by their official names, of our objective; those of heads by the rewards of the file."""
    batch, heads, model = world.inputs, world.model.heads, world.model
    parts = model.objective.parts(model, found, _targets(world), sampler=Tape())
    features = model.dynamics.state_features(found.latent)
    kept = {name: x for name, x in parts.items() if name not in heads}
    return {**kept, "rew": heads["reward"].loss(features, batch["obs/reward"]),
            "con": heads["terminated"].loss(features, batch["obs/is_terminal"])}


def _targets(world):
    """The batch with the targets that its heads ask for, index t of the transition that leaves frame t."""
    shifted = {name: torch.cat([world.inputs[key][:, 1:], world.inputs[key][:, -1:]], 1)
               for name, key in (("reward", "obs/reward"), ("terminated", "obs/is_terminal"))}
    return replace(world.batch, targets=shifted)


@pytest.mark.parametrize("folder", V3, ids=name_of)
def test_states(folder):
    world, found = seen(folder)
    out, classes = world.out, world.config["classes"]
    values = {name: x[:, :, 0] for (_, name), x in found.latent.values.items()}
    close(values["deterministic"], out["post_deter"], "post_deter")
    assert values["stochastic"].unflatten(-1, (-1, classes)).argmax(-1).equal(out["post_stoch"].long())
    for name, dist in (("post", found.posterior), ("prior", found.prior)):
        close(dist.params["state", "stochastic"][:, :, 0].unflatten(-1, (-1, classes)), out[f"{name}_logit"], name)
    kind = world.model.spec.field(("state", "stochastic")).dist
    for name, dist in (("rep", found.posterior), ("dyn", found.prior)):
        close(kind.entropy(dist.params["state", "stochastic"])[:, :, 0], out[f"{name}_ent"], f"{name}_ent")
    close(divergence(found.posterior, found.prior), out["kl_raw"], "kl_raw")
    close(world.model.dynamics.state_features(found.latent)[:, :, 0], out["feat"], "feat")


@pytest.mark.parametrize("folder", V3, ids=name_of)
def test_losses(folder):
    world, found = seen(folder)
    ours = losses(world, found)
    for name, key in (("dyn", "loss_dyn"), ("rep", "loss_rep"), ("rew", "loss_rew"), ("con", "loss_con")):
        close(ours.pop(name), world.out[key], key)
    assert ours.keys() == {key.removeprefix("loss/") for key in world.out if key.startswith("loss/")}
    for name, loss in ours.items():
        close(loss, world.out[f"loss/{name}"], f"loss/{name}")


@pytest.mark.parametrize("folder", V3, ids=name_of)
def test_heads(folder):
    world, found = seen(folder)
    features, out = world.model.dynamics.state_features(found.latent), world.out
    reward, end = world.model.heads["reward"], world.model.heads["terminated"]
    close(reward.readout(features), out["rew_logits"], "rew_logits")
    close(reward(features), out["rew_pred"], "rew_pred")
    close(-end.readout(features)[..., 0], out["con_logit"], "con_logit")
    close(1 - end(features), out["con_prob1"], "con_prob1")


@pytest.mark.parametrize("folder", V3, ids=name_of)
def test_heads_in_clips(folder):
    """As our batches have rewards: known from the second frame on."""
    world, found = seen(folder)
    parts = world.model.objective.parts(world.model, found, _targets(world), sampler=Tape())
    for ours, key in (("reward", "loss_rew"), ("terminated", "loss_con")):
        close(parts[ours].mean(), world.out[key][:, 1:].mean(), key)


@pytest.mark.parametrize("folder", V3, ids=name_of)
def test_whom_each_loss_trains(folder):
    """Norms of the gradients of every single loss; what is not named gets none."""
    world, _ = seen(folder)
    wanted = json.loads((folder / "scalars.json").read_text())["grad_norm_each"]
    found = world.perceive(Tape(world.posterior_draws(), classes=world.config["classes"]))
    ours, parameters = losses(world, found), {}
    for layer in world.named:
        for kind in ("kernel", "bias", "scale"):
            if hasattr(world.named[layer], {"kernel": "weight"}.get(kind, kind)):
                parameters[f"{layer}/{kind}"] = world.parameter(f"{layer}/{kind}")
    for name in ("dyn", "rep", "rew", "con"):
        grads = torch.autograd.grad(ours[name].mean(), list(parameters.values()), retain_graph=True, allow_unused=True)
        norms = {key: grad.norm().item() for key, grad in zip(parameters, grads, strict=True)
                 if grad is not None and grad.norm() > 0}
        assert norms.keys() == wanted[name].keys(), name
        for key, norm in norms.items():
            assert norm == pytest.approx(wanted[name][key], rel=1e-9), f"{name}: {key}"
