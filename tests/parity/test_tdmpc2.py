"""TD-MPC2 against recorded outputs of the official code: networks, losses, a whole update, plans."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from worldkit.agents.actions import ActionSpec
from worldkit.agents.tdmpc2.agent import TDMPC2Agent, TDMPC2AgentConfig, discount_of, flat
from worldkit.agents.tdmpc2.official import fill_agent, official_weights
from worldkit.agents.tdmpc2.scale import RunningScale
from worldkit.assembly import build
from worldkit.batch import Batch
from worldkit.config import WorldModelConfig
from worldkit.distributions import Sampler
from worldkit.nn.simnorm import SimNorm
from worldkit.nn.symlog import SymlogBins
from worldkit.training.config import TrainConfig

ROOT = Path(os.environ.get("WORLDKIT_PARITY", Path(__file__).parents[2].parent / "shared" / "parity"))
CASES = sorted(ROOT.glob("dreamer/tdmpc2/*.npz"))
pytestmark = pytest.mark.skipif(not CASES, reason=f"golden files not found at {ROOT}; set WORLDKIT_PARITY")
D = torch.float64


@pytest.fixture(params=CASES, ids=lambda path: path.stem)
def case(request):
    """(config, tensors) of a file; floats in float64."""
    with np.load(request.param) as stored:
        tensors = {key: torch.from_numpy(stored[key]) for key in stored.files}
    config = json.loads(request.param.with_name(f"{request.param.stem}_config.json").read_text())
    return config, {key: x.to(D) if x.is_floating_point() else x for key, x in tensors.items()}


def close(ours, theirs, what, rtol=1e-9):
    theirs = torch.as_tensor(theirs, dtype=D)
    ours = torch.as_tensor(ours, dtype=D).reshape(theirs.shape)
    error = (ours - theirs).abs().max().item()
    assert error <= rtol * max(1e-3, theirs.abs().max().item()), f"{what}: off by {error:.3g}"


class Tape(Sampler):
    """Recorded noise in the order of its use; one start, so that candidates have no axis of starts on the tape."""

    KINDS = {"randn": "normal", "perm": "uniform", "exponential": "gumbel"}

    def __init__(self, tensors, prefix):
        super().__init__()
        keys = sorted(key for key in tensors if key.startswith(f"{prefix}/tape/"))
        self.tape = [(key.rpartition("_")[2], tensors[key]) for key in keys]

    def _next(self, kind):
        found, value = self.tape.pop(0)
        assert found == kind
        return value

    def normal(self, name, mean, logvar):
        noise = self._next("randn")
        if noise.ndim == 3:  # [time, rows, A] there
            noise = noise.transpose(0, 1)
        return mean + noise.reshape(mean.shape) * torch.exp(0.5 * logvar)

    def uniform(self, name, like):
        return self._next("perm").argsort()[None].to(D)

    def gumbel(self, name, like):
        return -self._next("exponential").log().reshape(like.shape)


def make(config, tensors):
    """A model and an agent with the file's weights."""
    hidden, groups = [config["mlp_dim"]] * 2, config["simnorm_dim"]
    model = build(WorldModelConfig.parse({
        "obs": {"height": 0, "width": 0, "vectors": {"state": config["obs_shape"]["state"][0]}},
        "timestep_horizon": 1,
        "encoder": {"name": "simnorm", "latent_dim": config["latent_dim"], "simnorm": groups,
                    "hidden": [config["enc_dim"]] * (config["num_enc_layers"] - 1)},
        "dynamics": {"name": "latent-mlp", "hidden": hidden, "simnorm": groups},
        "conditioners": {"action": {"name": "raw-action", "dim": config["action_dim"]}},
        "heads": {"reward": {"name": "symlog-two-hot", "hidden": hidden, "num_bins": config["num_bins"],
                             "limit": config["vmax"], "to": -config["latent_dim"], "weight": config["reward_coef"]}},
        "objective": {"name": "tdmpc2", "num_frames": config["horizon"] + 1, "rho": config["rho"],
                      "consistency": config["consistency_coef"]},
    }))
    options = TDMPC2AgentConfig(
        hidden=hidden, num_values=config["num_q"], num_bins=config["num_bins"], limit=config["vmax"],
        dropout=config["dropout"], horizon=config["horizon"], iterations=config["iterations"],
        candidates=config["num_samples"], proposals=config["num_pi_trajs"], elites=config["num_elites"],
        temperature=config["temperature"], min_std=config["min_std"], max_std=config["max_std"],
        episode_length=config["episode_length"], lr=config["lr"], encoder_lr=config["lr"] * config["enc_lr_scale"],
        clip=config["grad_clip_norm"], value=config["value_coef"], entropy=config["entropy_coef"], tau=config["tau"])
    count = config["action_dim"]
    agent = TDMPC2Agent(options, action=ActionSpec((-1,) * count, (1,) * count), frame_shape=(3, 0, 0), model=model)
    weights = {key[2:]: x for key, x in tensors.items() if key.startswith("w/")}
    slow = {key.replace("_Qs.", "_target_Qs."): 0.9 * x for key, x in weights.items() if key.startswith("_Qs.")}
    model, agent = model.to(D).eval(), agent.to(D).eval()
    fill_agent(agent, weights | slow)
    return model, agent


def observed(obs, **more):
    """Batch of vectors ``[B, T, S]``."""
    return Batch.of_vectors({"state": obs}, **more)


def test_units(case):
    config, t = case
    bins = SymlogBins(config["num_bins"], config["vmax"])
    close(bins.two_hot(t["th/x"]), t["th/two_hot"], "two hot")
    close(bins.loss(t["th/logits"], t["th/x"]), t["th/soft_ce"], "cross-entropy")
    close(bins.expected(t["th/logits"]), t["th/inv"], "expected value")
    close(SimNorm(config["simnorm_dim"])(t["simnorm/x"]), t["simnorm/y"], "simnorm")
    scale, number = RunningScale(config["tau"]).to(D), 0
    while f"scale/x{number}" in t:
        scale.update(t[f"scale/x{number}"])
        close(scale.value, t[f"scale/v{number}"], f"scale {number}")
        number += 1
    for length, discount in t["discounts"].tolist():
        close(discount_of(length), discount, f"discount of {length}")


def test_networks(case):
    config, t = case
    model, agent = make(config, t)
    z = model.perceive(observed(t["fwd/obs"][:, None])).latent
    close(flat(z), t["fwd/z"], "encoder")
    action = t["fwd/action"]
    found = agent.follow(z, action[:, None])
    close(flat(found.latents)[:, 1:], t["fwd/next"], "dynamics")
    close(found.predictions["reward"], model.heads["reward"].bins.expected(t["fwd/reward_logits"]), "reward")
    close(agent.values(flat(z)[:, 0], action), t["fwd/q_logits"], "values")

    class One(Sampler):
        def normal(self, name, mean, logvar):
            return t["fwd/pi_eps"]

        def uniform(self, name, like):
            return t["fwd/q_perm"].argsort()[None].to(D)

    choice = agent.policy(flat(z)[:, 0], One())
    for name in ("action", "mean", "log_std", "entropy", "scaled_entropy"):
        close(getattr(choice, name), t[f"fwd/pi_{name}"], f"policy {name}")
    close(agent.values.least(flat(z)[:, 0], action, One()), t["fwd/q_min_target"], "lesser value")


@pytest.mark.parametrize("how", ["train", "eval"])
def test_plan(case, how):
    config, t = case
    model, agent = make(config, t)
    z, sampler = model.perceive(observed(t["plan/obs"][:, None])).latent, Tape(t, f"plan_{how}")
    with torch.no_grad():
        found = agent.plan(z, t["plan/prev_mean"][None], sampler)
        action = agent.first(found, sampler, noise=float(how == "train"))
    close(found.mean, t[f"plan_{how}/mean_out"], "mean")
    close(action, t[f"plan_{how}/action"], "action")
    assert not sampler.tape


def values_stood_still(tensors):
    """Whether the recorded update left the values' weights alone (its gradient norm does not count them either)."""
    norms = {key.removeprefix("upd/norm/"): x for key, x in tensors.items() if key.startswith("upd/norm/_Qs.")}
    return all(abs(x - tensors[f"w/{key}"].norm()) < 1e-12 * x for key, x in norms.items())


def test_update(case):
    """Where the recorded run did not train the values, nor do we: tests/test_tdmpc2.py has their gradients."""
    config, t = case
    model, agent = make(config, t)
    if values_stood_still(t):
        agent.values.nets.requires_grad_(False)
    told = {key: t[f"upd/{key}"].transpose(0, 1) for key in ("obs", "action", "reward")}
    padded = {key: torch.cat([told[key], told[key][:, -1:]], 1) for key in ("action", "reward")}
    batch = observed(told["obs"], conditions={"action": padded["action"]}, targets={"reward": padded["reward"][..., 0]})
    sampler = Tape(t, "upd")
    found = agent.learner(TrainConfig()).update(batch, sampler)
    assert not sampler.tape
    names = {"consistency": "consistency_loss", "reward": "reward_loss", "value": "value_loss", "loss": "total_loss",
             "grad_norm": "grad_norm", "policy": "pi_loss", "policy_grad_norm": "pi_grad_norm",
             "entropy": "pi_entropy", "scaled_entropy": "pi_scaled_entropy", "value_scale": "pi_scale"}
    for ours, theirs in names.items():
        close(found[ours], t[f"upd/info/{theirs}"], ours)
    after = official_weights(agent)
    for key in t:
        if key.startswith("upd/norm/"):
            close(after[key.removeprefix("upd/norm/")].detach().norm(), t[key], key)
        elif key.startswith("upd/target_norm/"):
            close(after[f"_target_Qs.params.{key.removeprefix('upd/target_norm/')}"].norm(), t[key], key)
