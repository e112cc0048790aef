"""IRIS's agent as a whole: burn-in, a dream with a memory that is rebuilt, returns, losses, gradients; in float64."""

from functools import lru_cache

import pytest
import torch

from worldkit.agents.pixel_actor_critic import live_afresh
from worldkit.agents.pixel_actor_critic.dreams import as_drawn
from worldkit.agents.pixel_actor_critic.losses import actor_critic_losses
from worldkit.agents.pixel_actor_critic.official import PREFIX, our_name
from worldkit.agents.pixel_actor_critic.official import agent_of as agent_of_official
from worldkit.assembly import build
from worldkit.batch import Batch
from worldkit.config import WorldModelConfig
from worldkit.distributions import MEANS, Sampler
from worldkit.errors import CheckpointError
from worldkit.training import TrainConfig

from .iris_files import HEADS, MISSING, D, arrays, close, config_of, filled, folders, scalars, stack_options, weights

AGENTS = [f for f in folders("tokenizer", "world_model") if "burn_in" in config_of(f)]
pytestmark = pytest.mark.skipif(not AGENTS, reason=MISSING)


@lru_cache(maxsize=1)
def agent_of(folder):
    """An agent with every stored weight; made once, for most of the time goes into the weights of a VGG beside them."""
    config = config_of(folder)
    t, w = config["tokenizer"], config["world_model"]
    stack, width = stack_options(t), w["embed_dim"]
    readout = {"layers": 1, "units": width, "norm": "none", "activation": "relu", "init": "normal"}
    model = build(WorldModelConfig.parse({
        "obs": {"height": t["resolution"], "width": t["resolution"]}, "timestep_horizon": w["max_blocks"] - 1,
        "encoder": {**stack, "quantizer": {"codes": t["vocab_size"], "dim": t["embed_dim"]}}, "decoder": stack,
        "dynamics": {"name": "token-transformer", "dim": width, "num_layers": w["num_layers"],
                     "num_heads": w["num_heads"], "refresh": "frame"},
        "conditioners": {"action": {"name": "raw-action", "num_actions": config["act_vocab"]}},
        "heads": {name: {"name": "categorical", "values": values, "readout": readout}
                  for name, values in HEADS.items()}, "objective": "iris"}))
    stored = {key: x for key, x in weights(folder).items() if ".lpips." not in key}
    filled(model, {key: x for key, x in stored.items() if not key.startswith(PREFIX)})
    own = {key: x for key, x in stored.items() if key.startswith(PREFIX)}
    return agent_of_official(own, model.to(D), horizon=config["horizon"], discount=config["gamma"],
                             lam=config["lambda_"], entropy=config["entropy_weight"]).to(D)


class Recorded(Sampler):
    """Uniform numbers in the order of the official code: action, reward, end, codes."""

    def __init__(self, given, codes):
        super().__init__()
        self.uniforms, self.codes = [given[key] for key in sorted(given) if key.startswith("u_")], codes
        self.taken = self.frame = 0

    def categorical(self, name, logits):
        at = {"action": 0, "reward": 1, "terminated": 2}.get(name)
        if name == "action":
            self.frame, self.taken = self.frame + 1, 0
        if at is None:
            at, self.taken = 3 + self.taken, self.taken + 1
        drawn = self.uniforms[(self.frame - 1) * (3 + self.codes) + at]
        shares = logits.detach().softmax(-1).cumsum(-1)
        return (shares <= drawn.reshape(*logits.shape[:-1], 1)).sum(-1).clamp(max=logits.shape[-1] - 1)


@pytest.mark.parametrize("folder", AGENTS, ids=lambda f: f.name)
def test_an_agent_looks_back_and_acts(folder):
    agent, given, wanted = agent_of(folder), arrays(folder, "inputs"), arrays(folder, "tensors_f64")
    video, real, net = given["x_u8"].to(D) / 255, given["mask_padding"], agent.network
    z, seen = as_drawn(agent.model, video)
    assert (z.values["patches", "code"][..., 0] == wanted["first_tokens"]).all()
    close(seen[:1, :1], wanted["burnin_reconstruction"], "reconstruction")
    memory = net.watch(seen[:, :-1], real[:, :-1], net.begin(len(seen)))
    close(memory[0], wanted["burnin_hx"], "burn-in, hidden")
    close(memory[1], wanted["burnin_cx"], "burn-in, cell")
    first = torch.ones(len(seen), dtype=torch.bool)
    actions = []
    for t in range(video.shape[1]):
        said = net(seen[:, t], net.begin(len(seen)))
        if torch.allclose(said.logits, wanted["act_logits_first_frame"][:, 0]):
            close(said.value, wanted["act_value_first_frame"][:, 0, 0], "value")
            actions.append(agent.act(video[:, t], agent.start(len(seen)), first=first, sampler=MEANS)[0])
    assert len(actions) == 1 and (actions[0] == wanted["agent_act_argmax"]).all()


def test_an_actor_of_another_game_is_refused():
    agent = agent_of(AGENTS[0])
    weights = {key: torch.zeros_like(x) for key, x in agent.network.state_dict().items()}
    kinds = ("weight", "bias")
    names = {f"{part}.{kind}": f"{part}_linear.{kind}" for part in ("actor", "critic") for kind in kinds}
    names |= {f"encoder.{3 * i}.{kind}": f"conv{i + 1}.{kind}" for i in range(4) for kind in kinds}
    state = {PREFIX + names.get(key, key): x for key, x in weights.items()}
    other = {**state, PREFIX + "actor_linear.weight": torch.zeros(18, 512),
             PREFIX + "actor_linear.bias": torch.zeros(18)}
    choices = agent.action.num_actions
    with pytest.raises(CheckpointError, match=f"has 18 actions, and the model is told one of {choices}"):
        agent_of_official(other, agent.model)
    with pytest.raises(CheckpointError, match="keys with no place in this model:\n    actor_critic.strange.weight"):
        agent_of_official({**state, PREFIX + "strange.weight": torch.zeros(2)}, agent.model)
    with pytest.raises(CheckpointError, match="no weights of IRIS's or DIAMOND's actor-critic: 'lstm.weight_hh'"):
        agent_of_official({PREFIX + "conv1.weight": torch.zeros(2)}, agent.model)


@pytest.mark.parametrize("mode", [pytest.param("argmax", marks=pytest.mark.slow), "icdf"])
@pytest.mark.parametrize("folder", AGENTS, ids=lambda f: f.name)
def test_a_dream_is_lived_and_learned_from(folder, mode):
    agent, given, wanted = agent_of(folder), arrays(folder, "inputs"), arrays(folder, "tensors_f64")
    config, numbers = config_of(folder), scalars(folder)
    starts = Batch(given["x_u8"].to(D) / 255, {"action": torch.zeros(given["x_u8"].shape[:2], dtype=torch.int64)},
                   done_mask=given["mask_padding"])
    codes = config["world_model"]["tokens_per_block"] - 1
    sampler = Sampler(deterministic=True) if mode == "argmax" else Recorded(given, codes)
    frames, decode = [], agent.model.decode
    agent.model.decode = lambda z, **more: frames.append(z) or decode(z, **more)
    lived = live_afresh(agent.model, agent.network, starts, sampler, horizon=config["horizon"])
    del agent.model.decode
    drawn = torch.cat([frames[0].values["patches", "code"][:, -1:], *(z.values["patches", "code"] for z in frames[1:])],
                      1)[..., 0]
    assert (drawn == wanted[f"{mode}_tokens"]).all()
    assert (lived.action[:, :-1] == wanted[f"{mode}_actions"][:, :-1]).all()
    close(lived.logits, wanted[f"{mode}_logits_actions"], "logits")
    close(lived.value, wanted[f"{mode}_values"], "values")
    for ours, theirs in ((lived.reward, "rewards"), (lived.ended, "ends")):
        close(ours[:, :-1], wanted[f"{mode}_{theirs}"][:, :-1].to(D), theirs)
    dreamed = agent.learner(TrainConfig()).judged(lived)
    close(dreamed.returns, wanted[f"{mode}_lambda_returns"], "returns")
    losses = actor_critic_losses(dreamed, entropy=agent.config.entropy)
    for ours, theirs in (("policy", "actions"), ("value", "values"), ("entropy", "entropy")):
        close(losses[ours], numbers[f"{mode}_loss_{theirs}"], f"loss {ours}")
    total = sum(losses.values())
    close(total, numbers[f"{mode}_loss_total"], "loss")
    agent.network.zero_grad()
    total.backward()
    grads = {name: p.grad for name, p in agent.network.named_parameters()}
    for key, norm in numbers[f"{mode}_grad_norms"].items():
        close(grads[our_name(key)].norm(), norm, f"gradient of {key}")
