"""Actor-critics on pictures: networks, returns and losses as the official IRIS and DIAMOND code has them."""

import pytest
import torch

from worldkit.agents.pixel_actor_critic import (
    Dreamed,
    NetworkConfig,
    PixelNetwork,
    actor_critic_losses,
    inside_returns,
    lasting_returns,
)
from worldkit.agents.pixel_actor_critic.official import PREFIX, network_of, our_name

from .pixels import (
    MISSING,
    ROOT,
    D,
    Recorded,
    arrays,
    close,
    config_of,
    folders,
    name_of,
    numbered,
    scalars_of,
    weights_of,
)

pytestmark = pytest.mark.skipif(not ROOT.exists(), reason=MISSING)


def filled(config, weights, *, size, num_actions):
    """A network with official weights; every key must have a place."""
    assert NetworkConfig(**network_of(weights, (size, size))).halves == config.halves
    config = NetworkConfig(**network_of(weights, (size, size)))
    net = PixelNetwork(config, frame_shape=(3, size, size), num_actions=num_actions).to(D)
    net.load_state_dict({our_name(key): x for key, x in weights.items()}, strict=True)
    return net


def diamond(folder, weights):
    config = config_of(folder)
    told = config["actor_critic"]
    options = NetworkConfig(kind="residual", channels=told["channels"], down=told["down"], memory=told["lstm_dim"])
    return filled(options, weights, size=told["img_size"], num_actions=config["num_actions"])


def unit(levels):
    return levels.to(D) / 255


@pytest.mark.parametrize("folder", folders("iris", "lambda_cases"), ids=name_of)
def test_returns_inside_a_dream(folder):
    given, wanted = arrays(folder / "inputs.npz"), arrays(folder / "tensors_f64.npz")
    for index, (discount, lam) in enumerate(config_of(folder)["lambda_cases"]):
        reward, value, ended = (given[f"lr{index}_{name}"] for name in ("rewards", "values", "ends"))
        found = inside_returns(reward, ended, value, discount=discount, lam=lam)
        close(found, wanted[f"lr{index}_returns"], f"case {index}")


@pytest.mark.parametrize("folder", folders("diamond", "lambda_cases"), ids=name_of)
def test_returns_of_lasting_dreams(folder):
    given, wanted = arrays(folder / "inputs.npz"), arrays(folder / "tensors_f64.npz")
    for index, (discount, lam) in enumerate(config_of(folder)["lambda_cases"]):
        reward, ended, cut, following = (given[f"lr{index}_{name}"] for name in ("rew", "end", "trunc", "boot"))
        found = lasting_returns(reward.sign(), ended, cut, following, discount=discount, lam=lam)
        close(found, wanted[f"lr{index}_returns"], f"case {index}")


@pytest.mark.parametrize("folder", folders("diamond", "ac_obs_u8"), ids=name_of)
def test_diamonds_updates_on_a_scripted_environment(folder):
    given, wanted, scalars = arrays(folder / "inputs.npz"), arrays(folder / "tensors_f64.npz"), scalars_of(folder)
    config, net = config_of(folder), diamond(folder, weights_of(folder / "param_order.json"))
    options = config["loss"]
    frames, tap = unit(given["ac_obs_u8"]), 2 * unit(given["ac_obs_u8"])[0] - 1
    memory = net.begin(frames.shape[1])
    first = net(frames[0], memory)
    for name, x in zip(("logits", "value", "hx", "cx"), (first.logits, first.value, *first.memory), strict=True):
        close(x, wanted[f"first_{name}"], f"first {name}")
    for index, layer in enumerate(net.encoder):
        tap = layer(tap)
        close(tap[:1, ::4], wanted[f"tap_enc{index}"], f"layer {index}")
    sampler, steps = Recorded(numbered(given, "u_")), options["backup_every"]
    for send in range(config["num_sends"]):
        net.zero_grad()
        memory = tuple(x.detach() for x in memory)
        told = {name: [] for name in ("logits", "action", "value", "following")}
        for t in range(send * steps, (send + 1) * steps):
            said = net(frames[t], memory)
            told["logits"].append(said.logits)
            told["value"].append(said.value)
            told["action"].append(sampler.categorical("action", said.logits))
            dead = (given["ac_end"][t] + given["ac_trunc"][t]) > 0
            final, begun = unit(given["ac_final_u8"][t]), unit(given["ac_burnin_u8"][t])
            with torch.no_grad():  # dead ones: of their last frame, with the memory before they begin anew
                reached = torch.where(dead[:, None, None, None], final, frames[t + 1])
                told["following"].append(net(reached, said.memory).value)
            anew = net.watch(begun, None, net.begin(len(dead)))
            memory = tuple(torch.where(dead[:, None], new, old) for new, old in zip(anew, said.memory, strict=True))
        rows = {name: torch.stack(x, 1) for name, x in told.items()}
        now = slice(send * steps, (send + 1) * steps)
        reward, ended, cut = (given[f"ac_{name}"][now].T for name in ("rew", "end", "trunc"))
        returns = lasting_returns(reward.sign(), ended, cut, rows["following"], discount=options["gamma"],
                                  lam=options["lambda_"])
        stored = {"logits_act": rows["logits"], "val": rows["value"], "val_bootstrap": rows["following"], "rew": reward,
                  "lambda_returns": returns}
        for name, x in stored.items():
            close(x, wanted[f"send{send}_{name}"], f"send {send}, {name}")
        assert (rows["action"] == wanted[f"send{send}_act"]).all()
        losses = actor_critic_losses(Dreamed(rows["logits"], rows["action"], rows["value"], returns),
                                     entropy=options["weight_entropy_loss"], value=options["weight_value_loss"])
        for ours, theirs in (("policy", "actions"), ("value", "values"), ("entropy", "entropy")):
            close(losses[ours], scalars[f"send{send}_loss_{theirs}"], f"send {send}, loss {ours}")
        total = sum(losses.values())
        close(total, scalars[f"send{send}_loss_total"], f"send {send}, loss")
        total.backward()
        grads = {name: p.grad for name, p in net.named_parameters()}
        for key, norm in scalars[f"send{send}_grad_norms"].items():
            close(grads[our_name(key)].norm(), norm, f"send {send}, gradient of {key}")


@pytest.mark.parametrize("folder", [f for f in folders("diamond", "actor_critic", "obs_u8")
                                    if (f / "param_order_actor_critic.json").exists()], ids=name_of)
def test_diamonds_own_sizes(folder):
    given, wanted = arrays(folder / "inputs.npz"), arrays(folder / "tensors_f64.npz")
    net = diamond(folder, weights_of(folder / "param_order_actor_critic.json"))
    said = net(unit(given["obs_u8"])[:, 0], net.begin(len(given["obs_u8"])))
    close(said.value, wanted["val"], "value")
    close(said.logits, wanted["logits_act"], "logits")
    close(said.memory[0][:, :: said.memory[0].shape[1] // wanted["ac_hx"].shape[1]], wanted["ac_hx"], "memory")


@pytest.mark.parametrize("folder", [f for f in folders("iris", "act_vocab", "x_u8")], ids=name_of)
def test_iris_takes_every_weight(folder):
    whole = folder / "param_order.json"
    weights = weights_of(whole if whole.exists() else folder / "param_order_actor_critic.json")
    own = {key: x for key, x in weights.items() if key.startswith(PREFIX) or not whole.exists()}
    config = config_of(folder)
    net = filled(NetworkConfig(), own, size=config["tokenizer"]["resolution"], num_actions=config["act_vocab"])
    assert sum(p.numel() for p in net.parameters()) == sum(x.numel() for x in own.values())
