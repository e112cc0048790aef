"""Whole agents of Dreamer v3 beside the official ones: all losses, all gradients, three training steps."""

import functools
from dataclasses import replace

import pytest
import torch

from worldkit.agents.actor_critic.features import Arrivals, state_tokens
from worldkit.agents.actor_critic.learner import ActorCriticLearner
from worldkit.agents.actor_critic.losses import replayed_returns
from worldkit.latents import Latent
from worldkit.training.optimizers import OptimizerConfig

from .dreamer_agent import Case, as_optax
from .dreamer_weights import MISSING, ROOT, D, arrays, close, folders, name_of

FOLDERS = folders("config.json", "weights.npz", "inputs.npz", "tensors.npz", "scalars.json", "grads.npz")
pytestmark = [pytest.mark.skipif(not ROOT.exists(), reason=MISSING),
              pytest.mark.parametrize("folder", FOLDERS, ids=name_of)]
THEIRS = {"reward": "rew", "terminated": "con", "replay_value": "repval"}

case_of = functools.cache(Case)


@pytest.fixture(autouse=True, scope="module")
def forget():
    yield
    case_of.cache_clear()


def parameters(case):
    return [p for part in (case.agent.model, case.agent.behavior) for p in part.parameters() if p.requires_grad]


def test_what_is_seen_and_said(folder):
    case, c = case_of(folder), case_of(folder).config
    out = case.out
    seen, losses, scales, _ = case.losses()
    deter, stoch = (seen.latent.values["state", name][:, :, 0] for name in ("deterministic", "stochastic"))
    close(deter, out["post_deter"], "post_deter")
    assert torch.equal(stoch.unflatten(-1, (-1, c["classes"])).argmax(-1), out["post_stoch"].long())
    for name, dist in (("post", seen.posterior), ("prior", seen.prior)):
        logits = dist.params["state", "stochastic"][:, :, 0].unflatten(-1, (-1, c["classes"]))
        close(logits, out[f"{name}_logit"], f"{name}_logit")
    kl = seen.posterior.kl(seen.prior)["state", "stochastic"][:, :, 0]
    close(kl, out["kl_raw"], "kl_raw")
    tokens = state_tokens(seen.latent)
    heads, behavior = case.agent.model.heads, case.agent.behavior
    close(tokens[:, :, 0], out["feat"], "feat")
    close(heads["reward"].readout(tokens), out["rew_logits"], "rew_logits")
    close(heads["reward"](tokens), out["rew_pred"], "rew_pred")
    close(1 - heads["terminated"](tokens), out["con_prob1"], "con_prob1")
    close(-heads["terminated"].readout(tokens)[..., 0], out["con_logit"], "con_logit")
    close(behavior.critic.read(tokens), out["val_logits"], "val_logits")
    close(behavior.critic(tokens), out["val_pred"], "val_pred")
    close(behavior.slow(tokens), out["slowval_pred"], "slowval_pred")
    said = behavior.actor(tokens)
    close(said.entropy(), out["pol_entropy"], "pol_entropy")
    if c["act"] == "disc":
        close(said.logits, out["pol_logits"], "pol_logits")
    else:
        close(said.mean, out["pol_mean"], "pol_mean")
        close(said.std, out["pol_std"], "pol_std")


def test_imagination(folder):
    case, c = Case(folder), case_of(folder).config
    out, tape, behavior = case.out, case.tape(), case.agent.behavior
    seen = case.learner.perceive(case.batch, tape, case.carry)
    start = seen.latent[:, -c["K"]:].detach().singles()
    close(start.values["state", "deterministic"][:, 0, 0], out["start_deter"], "start_deter")
    dream = case.agent.model.imagine(start, behavior.policy, c["H"], sampler=tape)
    close(dream.latents.values["state", "deterministic"][:, 1:, 0], out["img_deter"], "img_deter")
    drawn = dream.latents.values["state", "stochastic"][:, 1:, 0].unflatten(-1, (-1, c["classes"])).argmax(-1)
    assert torch.equal(drawn, out["img_stoch"].long())
    action = out["img_action"][:, :-1]  # the last one leads nowhere
    if c["act"] == "disc":
        action = torch.nn.functional.one_hot(action.long(), c["nact"]).to(D)
    close(dream.actions, action, "img_action")

    retold = case.tape()
    case.learner.perceive(case.batch, retold, case.carry)
    tokens, imagined = behavior.imagine(case.agent.model, start, retold)
    close(imagined.reward, out["img_rew"], "img_rew")
    close(imagined.discount, out["img_con"], "img_con")
    close(behavior.critic(tokens), out["img_val"], "img_val")
    close(behavior.slow(tokens), out["img_slowval"], "img_slowval")
    policy = behavior.actor(tokens)
    close(policy.entropy(), out["img_entropy"], "img_entropy")
    close(behavior.actor(tokens[:, :-1]).log_prob(imagined.action), out["img_logpi"][:, :-1], "img_logpi")
    made = behavior._learn(tokens, imagined, inside=True)
    for ours, name in ((made.returns, "img_ret"), (made.weight, "img_weight"), (made.policy, "img_policy_loss"),
                       (made.value, "img_value_loss"), (torch.quantile(made.returns, 0.05), "img_ret_p05"),
                       (torch.quantile(made.returns, 0.95), "img_ret_p95")):
        close(ours, out[name], name)
    boot = made.returns[:, 0].reshape(-1, c["K"])
    close(boot, out["repl_boot"], "repl_boot")
    arrived = Arrivals.of(case.batch, c["T"])
    returns = replayed_returns(*(x[:, -c["K"]:] for x in (arrived.reward, arrived.terminal, arrived.last)), boot,
                               lam=c["lam"], discount=1 - 1 / c["horizon"])
    close(returns, out["repl_ret"], "repl_ret")


def test_losses_and_gradients(folder):
    """Every loss as an array, the gradient of each loss alone (who learns from what) and of their sum."""
    case = Case(folder)
    _, losses, scales, _ = case.losses()
    names = {name: THEIRS.get(name, name) for name in losses}
    assert {*names.values()} == {*case.scalars["losses"]}
    for name, array in losses.items():
        wanted = case.out[f"agent_loss/{names[name]}"]
        close(array.mean(1).reshape(wanted.shape) if name in ("policy", "value") else array, wanted, f"loss {name}")
        close(array.mean(), torch.tensor(case.scalars["losses"][names[name]], dtype=D), f"mean loss {name}")
        assert scales.get(name, 1.0) == case.scalars["loss_scales"][names[name]]
    total = sum(scales.get(name, 1.0) * array.mean() for name, array in losses.items())
    close(total, torch.tensor(case.scalars["total_loss"], dtype=D), "total loss")
    for name, theirs in names.items():
        wanted = case.scalars["grad_norm_each"].get(theirs)
        if wanted is None:
            continue
        ours = gradients(case, losses[name].mean())
        reached = {key for key, x in ours.items() if x.abs().max() > 0}
        assert reached == {*wanted}, f"{name} reaches {reached ^ {*wanted}}"
        for key, norm in wanted.items():
            close(ours[key].norm(), torch.tensor(norm, dtype=D), f"gradient of {name} for {key}")
    ours = gradients(case, total)
    for key, norm in case.scalars["grad_norm"].items():
        close(ours[key].norm(), torch.tensor(norm, dtype=D), f"gradient norm of {key}")
    for key, wanted in arrays(folder / "grads.npz").items():
        close(ours[key], wanted, f"gradient of {key}")


def gradients(case, loss):
    """Official name -> gradient; zeros where none arrives."""
    learn = parameters(case)
    found = torch.autograd.grad(loss, learn, retain_graph=True, allow_unused=True)
    by_id = {id(p): torch.zeros_like(p) if g is None else g for p, g in zip(learn, found, strict=True)}
    return {key: x for key, x in case.weights.theirs(lambda p: by_id.get(id(p), torch.zeros_like(p))).items()
            if not key.startswith("slowval/")}


def test_three_steps(folder, monkeypatch):
    monkeypatch.setattr(OptimizerConfig, "rate", as_optax)
    case = Case(folder)
    first = {key: x.clone() for key, x in case.weights.theirs(lambda p: p.detach()).items()}
    for number, wanted in enumerate(case.scalars["train_steps"], 1):
        terms = case.learner.update(case.batch, case.tape(), carry=case.carry)
        norm, now = case.agent.behavior.returns_norm, case.weights.theirs(lambda p: p.detach())
        for ours, name in ((terms["loss"], "loss"), (terms["grad_norm_all"], "grad_norm"), (norm.lower, "retnorm_lo"),
                           (norm.upper, "retnorm_hi")):
            close(ours, torch.tensor(wanted[name], dtype=D), f"{name} of step {number}")
        for key, value in wanted["param_norm"].items():
            close(now[key].norm(), torch.tensor(value, dtype=D), f"norm of {key} after step {number}")
        for key, value in wanted["delta_norm"].items():
            close((now[key] - first[key]).norm(), torch.tensor(value, dtype=D), f"change of {key} in {number} steps")
    after = case.weights.theirs(lambda p: p.detach())
    for key, value in arrays(folder / "after3.npz").items():
        close(after[key], value, f"{key} after three steps")


def test_replay_context(folder, monkeypatch):
    """What is filtered from a context frame: its stored state and action lead in, where the window does not go on."""
    case, stored = Case(folder), arrays(folder / "replay_context.npz")
    frames = stored["in_action"].shape[1]
    action = stored["in_action"]
    choices = case.config["act"] == "disc"
    batch = replace(
        case.batch, video=case.batch.video[:, 1 : frames + 1], first=case.first[:, 1 : frames + 1],
        conditions={"action": action.long() if choices else action},
        vectors={name: x[:, 1 : frames + 1] for name, x in case.batch.vectors.items()},
        targets={name: x[:, 1 : frames + 1] for name, x in case.batch.targets.items()})
    state = Latent.build(case.agent.model.spec, {
        ("state", "deterministic"): stored["in_dyn_deter"][:, :1, None],
        ("state", "stochastic"): stored["in_dyn_stoch"][:, :1].flatten(2)[:, :, None]})
    asked = []
    monkeypatch.setattr(case.agent.model, "perceive", lambda rest, sampler, **known: asked.append((rest, known)))
    ActorCriticLearner.perceive(case.learner, batch, None, state)
    rest, known = asked[0]
    led = torch.cat([known["last_action"]["action"], rest.conditions["action"][:, :-1]], 1)
    arrived = Arrivals.of(batch, frames - 1)
    for name in (key.removesuffix("_consec") for key in stored if key.endswith("_consec")):
        assert torch.equal(led, stored[f"{name}_prevact"].to(led.dtype))
        assert torch.equal(rest.first, stored[f"{name}_is_first"].bool())
        close(arrived.reward, stored[f"{name}_reward"] * ~rest.first, "reward")
        fresh = stored[f"{name}_consec"][:, 0] == 0
        for part, x in (("deter", "deterministic"), ("stoch", "stochastic")) if fresh.any() else ():
            wanted = stored[f"{name}_carry_{part}"].flatten(1)[fresh]
            close(known["last"].values["state", x][:, 0, 0][fresh], wanted, f"carry_{part}")
