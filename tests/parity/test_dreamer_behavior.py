"""Actors, critics, returns and losses beside the official Dreamer v1, v2 and v3. Skipped without the files."""

import math

import pytest
import torch

from worldkit.agents.actor_critic.actions import BoundedNormal, OneHot, TanhNormal, TruncNormal, atanh, log_slope
from worldkit.agents.actor_critic.losses import (
    Imagined,
    first_generation,
    replayed_loss,
    replayed_returns,
    second_generation,
    third_generation,
    weights,
)
from worldkit.agents.actor_critic.networks import Critic, CriticConfig
from worldkit.agents.actor_critic.normalizer import Normalizer, NormalizerConfig
from worldkit.agents.actor_critic.returns import lambda_returns
from worldkit.nn.dense import DenseStack, linear

from .dreamer_weights import MISSING, ROOT, D, Weights, arrays, close, files, name_of

pytestmark = pytest.mark.skipif(not ROOT.exists(), reason=MISSING)


def of(pattern):
    return pytest.mark.parametrize("file", files(pattern), ids=name_of)


# -- version 3


@of("*/v3_units*.npz")
def test_v3_bounded_normal(file):
    out = arrays(file)
    dist = BoundedNormal.of_raw(out["bn/raw_mean"], out["bn/raw_std"])
    close(dist.mean, out["bn/mean"], "mean")
    close(dist.std, out["bn/std"], "std")
    close(dist.log_prob(out["bn/action"]), out["bn/logp"], "log-probability")
    close(dist.entropy(), out["bn/entropy"], "entropy")


@of("*/v3_units*.npz")
def test_v3_choices(file):
    out = arrays(file)
    for case in {key.split("/")[0] for key in out if key.startswith("oh")}:
        dist = OneHot(out[f"{case}/logits"], float(case[2:]))
        close(dist.entropy().sum(-1), out[f"{case}/entropy"], f"{case} entropy")
        close(dist.mode(), out[f"{case}/mode"], f"{case} mode")
        close(dist.log_prob(out[f"{case}/event"].to(D)).sum(-1), out[f"{case}/logp"], f"{case} log-probability")


@of("*/v3_units*.npz")
def test_v3_returns(file):
    out = arrays(file)
    for key in (k for k in out if k.startswith(("lr/out_", "lr/soft_")) and k != "lr/soft_term"):
        disc, lam = map(float, key.split("_")[1:])
        disc = 1 - 1 / 333 if disc == 0.997 else disc
        soft = key.startswith("lr/soft_")
        terminal = out["lr/soft_term" if soft else "lr/term"].to(D)
        last = torch.zeros_like(terminal) if soft else out["lr/last"].to(D)
        ours = lambda_returns(out["lr/rew"][:, 1:], out["lr/boot"][:, 1:], (1 - terminal[:, 1:]) * disc,
                              (1 - last[:, 1:]) * lam, out["lr/boot"][:, -1])
        close(ours, out[key], key)


@of("*/v3_units*.npz")
def test_v3_normalisers(file):
    out = arrays(file)
    cases = {"perc": {}, "perc_debias": {"rate": 0.1, "low": 10, "high": 80, "debias": True},
             "meanstd": {"kind": "mean-std", "rate": 0.05, "limit": 1e-8, "debias": True}}
    for case, options in cases.items():
        norm = Normalizer(NormalizerConfig(**options)).to(D)
        for number in range(99):
            if f"norm_{case}/x{number}" not in out:
                break
            norm.update(out[f"norm_{case}/x{number}"])
            close(torch.stack(norm()), out[f"norm_{case}/offset_scale{number}"], f"{case} after {number}")
        assert number


@of("*/v3_units*.npz")
def test_v3_losses_of_imagination(file):
    out = arrays(file)
    cases = sorted({key.split("/")[1].split("_")[0] for key in out if key.startswith("il/") and "_" in key} &
                   {str(i) for i in range(20)})
    for case in cases:
        slow_target, contdisc, with_value_norm = out[f"il/{case}_slowtar_contdisc_valnorm"].tolist()
        policy, values = (out[f"il/{x}_logits"].clone().requires_grad_() for x in ("pol", "val"))
        critic = Critic(CriticConfig(num_bins=values.shape[-1]), feature_dim=1).to(D)
        action = torch.nn.functional.one_hot(out["il/act"], policy.shape[-1]).to(D)
        value_norm = Normalizer(NormalizerConfig(kind="mean-std", limit=1e-8, debias=True)).to(D)
        made = third_generation(
            Imagined(action[:, :-1], out["il/rew"], out["il/con"]), OneHot(policy[:, :-1]), critic, values,
            critic.value(out["il/slow_logits"]), Normalizer(NormalizerConfig()).to(D), lam=0.95,
            discount=1.0 if contdisc else 1 - 1 / 333, gradient="reinforce", mix=0.1, entropy=3e-4, slow_weight=1.0,
            slow_target=slow_target, value_norm=value_norm if with_value_norm else None,
        )
        for name, ours in (("policy", made.policy), ("value", made.value), ("ret", made.returns)):
            close(ours, out[f"il/{case}_{name}"], f"{case} {name}")
        (made.policy.mean() + made.value.mean()).backward()
        close(policy.grad, out[f"il/{case}_grad_pol"], f"{case} gradient of the policy")
        close(values.grad, out[f"il/{case}_grad_val"], f"{case} gradient of the value")
    assert cases


@of("*/v3_units*.npz")
def test_v3_losses_of_replay(file):
    out = arrays(file)
    values = out["il/val_logits"].clone().requires_grad_()
    critic = Critic(CriticConfig(num_bins=values.shape[-1]), feature_dim=1).to(D)
    last = out["rl/last"].to(D)
    returns = replayed_returns(out["il/rew"], out["rl/term"].to(D), last, out["rl/boot"], lam=0.95,
                               discount=1 - 1 / 333)
    close(returns, out["rl/ret"], "returns")
    loss = replayed_loss(critic, values, returns, critic.value(out["il/slow_logits"]), last, slow_weight=1.0)
    close(loss, out["rl/loss"], "loss")
    loss.mean().backward()
    close(values.grad, out["rl/grad_val"], "gradient")


# -- version 2


@of("*/v2_units*.npz")
def test_v2_units(file):
    out = arrays(file)
    for key in (k for k in out if k.startswith("lr/out_")):
        rows = {name: out[f"lr/{name}"].T for name in ("reward", "value", "discount")}
        following = torch.cat([rows["value"][:, 1:], out["lr/bootstrap"][:, None]], 1)
        ours = lambda_returns(rows["reward"], following, rows["discount"], float(key.split("_")[1]),
                              out["lr/bootstrap"])
        close(ours.T, out[key], key)
    cut = TruncNormal.of_raw(out["tn/raw_mean"], out["tn/raw_std"])
    close(cut.std, out["tn/std"], "std of trunc-normal")
    close(cut.log_prob(out["tn/action"]), out["tn/log_prob"], "log-probability of trunc-normal")
    close(cut.entropy(), out["tn/entropy"], "entropy of trunc-normal")
    close(cut.mode(), out["tn/mode"], "mode of trunc-normal")
    tanh = TanhNormal.of_raw(out["th/raw_mean"], out["th/raw_std"], init_std=0, min_std=0.1)
    close(tanh.mean, out["th/mean"], "mean of tanh-normal")
    close(tanh.std, out["th/std"], "std of tanh-normal")
    close(tanh.log_prob(out["th/action"]), out["th/log_prob"], "log-probability of tanh-normal")
    logits = out["oh/logits"].clone().requires_grad_()
    choice = OneHot(logits)
    close(choice.entropy(), out["oh/entropy"], "entropy of choices")
    close(choice.log_prob(out["oh/sample"]), out["oh/log_prob"], "log-probability of choices")
    close(choice.mode(), out["oh/mode"], "mode of choices")
    (choice._kind._one_hot(logits, out["oh/index"].long()[:, None]) * out["oh/weight"]).sum().backward()
    close(logits.grad, out["oh/grad"], "straight-through gradient")
    momentum, scale, _ = out["sn/args_momentum_scale_eps"].tolist()
    norm = Normalizer(NormalizerConfig(kind="magnitude", rate=1 - momentum, limit=0)).to(D)
    for number in range(3):
        x = out[f"sn/in{number}"]
        norm.update(x)
        close(norm.upper, out[f"sn/mag{number}"], "magnitude")
        close(x / norm()[1] * scale, out[f"sn/out{number}"], "normalised")


@of("*/v2_actor_critic*.npz")
def test_v2_losses(file):
    out = arrays(file)
    cases = sorted({key.split("/")[0] for key in out})
    for case in cases:
        o = {key.removeprefix(f"{case}/"): x for key, x in out.items() if key.startswith(f"{case}/")}
        feat, action = o["feat"].transpose(0, 1), o["action"].transpose(0, 1)
        actor, critic = (o[f"W_{name}"].clone().requires_grad_() for name in ("actor", "critic"))
        reward = o["reward_base"].T + 0.3 * torch.tanh(feat @ actor).sum(-1)
        scores = feat[:, :-2] @ actor
        policy = OneHot(scores)
        if not ((action == 0) | (action == 1)).all():
            policy = TruncNormal.of_raw(scores, feat[:, :-2] @ o["W_std"])
        value = (feat[:, :-1] @ critic)[..., 0]
        # upstream's action at index i led to state i
        made = second_generation(
            Imagined(action[:, 1:], reward, o["discount"].T), policy, (feat @ o["W_slow"])[..., 0], lam=0.95,
            gradient=case, mix=0.1, entropy=2e-3,
            nll=lambda target, value=value: 0.5 * ((target - value).square() + math.log(2 * math.pi)))
        close(made.returns.T, o["target"], f"{case}: returns")
        close(made.weight.T, weights(o["discount"].T).T, f"{case}: weights")
        close(made.policy.mean(), o["actor_loss"], f"{case}: loss of the actor")
        close(made.value.mean(), o["critic_loss"], f"{case}: loss of the critic")
        close(torch.autograd.grad(made.policy.mean(), actor)[0], o["grad_actor"], f"{case}: gradient of the actor")
        close(torch.autograd.grad(made.value.mean(), critic)[0], o["grad_critic"], f"{case}: gradient of the critic")
    assert cases


# -- version 1


def stack_v1(out, prefix):
    """Layers of a head as stored, ``h0``, ``h1``, ..., ``hout``."""
    weights = Weights(out, prefix)
    count = sum(key.startswith("h") and key.endswith("kernel") for key in weights.values) - 1
    first, last = weights.values["h0/kernel"], weights.values["hout/kernel"]
    layers = DenseStack(first.shape[0], units=first.shape[1], layers=count, norm="none", activation="elu").to(D)
    end = linear(*last.shape).to(D)
    weights.stack(layers, "h{}", "")
    weights.copy(end, "hout")
    return lambda x: end(layers(x))


@of("*/v1_units*.npz")
def test_v1_units(file):
    out = arrays(file)
    mean, std = stack_v1(out, "w/")(out["feat"]).chunk(2, -1)
    dist = TanhNormal.of_raw(mean, std)
    close(dist.mean, out["normal_mean"], "mean")
    close(dist.std, out["normal_std"], "std")
    close(dist.log_prob(out["action"]), out["log_prob"], "log-probability")
    actions, log_prob = dist.drawn(out["eps"])
    close(log_prob, out["sample_log_prob"], "log-probability of samples")
    close(-log_prob.mean(0), out["entropy_mc"], "entropy")
    close(actions.mean(0), out["mean_mc"], "mean of samples")
    close(actions[log_prob[:, 0].argmax()], out["mode_mc"], "mode, as upstream takes it for a whole batch")
    close(atanh(out["edge_action"]), out["edge_inverse"], "inverse of tanh")
    close(log_slope(out["edge_fldj_x"]), out["edge_fldj"], "slope of tanh")
    returns = {name: out[f"lr/{name}"].T for name in ("reward", "value", "pcont")}
    start = {name: torch.cat([x[:, :1], x], 1) for name, x in returns.items()}  # the start is left out
    made = first_generation(Imagined(torch.zeros(0), start["reward"], start["pcont"]), start["value"], 0.95,
                            lambda target: target)
    close(made.returns.T, out["lr/returns"], "returns")
    close(made.weight.T, out["lr/discount"], "weights")
    close(made.policy.mean(), out["lr/actor_loss"], "loss of the actor")
