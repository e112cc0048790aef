"""A whole agent of Dreamer v3 with the official weights, its batch, and the samples that were drawn."""

import json
import math
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from worldkit.agents import ActionSpec, create_agent
from worldkit.assembly import build
from worldkit.batch import Batch
from worldkit.config import WorldModelConfig
from worldkit.distributions import Sampler
from worldkit.latents import Latent
from worldkit.nn.dense import BlockLinear, RMSNorm
from worldkit.training import TrainConfig
from worldkit.training.optimizers import OptimizerConfig

from .dreamer_weights import D, Weights, arrays, config_of, load_decoder_v3, load_encoder_v3


def as_optax(config, update, rate_of=OptimizerConfig.rate):
    """The learning rate with optax's rounding: lines are computed in float32, cosines and constants are not."""
    f, exact, length = np.float32, rate_of(config, update), config.anneal_steps - config.warmup_steps
    if update < config.warmup_steps:
        rate = f(-config.lr) * (f(1) - f(update) / f(config.warmup_steps)) + f(config.lr)
    elif config.schedule == "linear":
        end = config.final * config.lr
        rate = f(config.lr - end) * (f(1) - f(min(update - config.warmup_steps, length)) / f(length)) + f(end)
    else:
        rate = f(exact) if config.warmup_steps else exact
    assert abs(rate - exact) <= 3e-7 * config.lr
    return float(rate)


class Tape(Sampler):
    """Draws in the order of one evaluation of the loss: posteriors of all frames, then action and prior by turns."""

    def __init__(self, drawn, frames, classes):
        super().__init__()
        self.posterior, self.rest, self.classes = torch.stack(drawn[:frames], 1), list(drawn[frames:]), classes

    def gumbel(self, name, like):
        one_hot = F.one_hot(self.posterior.long(), self.classes).flatten(2)[:, :, None]
        return 50 * one_hot.to(like.dtype).expand_as(like)

    def categorical(self, name, logits):
        return self.rest.pop(0).long().reshape(logits.shape[:-1])

    def normal(self, name, mean, logvar):
        return mean + self.rest.pop(0).reshape(mean.shape) * torch.exp(0.5 * logvar)


class Recorded(Weights):
    """Copies weights into layers, and remembers which layer has which name (and whether its sign is turned)."""

    def __init__(self, stored):
        super().__init__(stored)
        self.layers, self.turned = [], set()

    def copy(self, layer, name):
        super().copy(layer, name)
        self.layers.append((layer, name))

    def theirs(self, read):
        """Official name -> ``read(parameter)`` in the official layout."""
        found = {}
        for layer, name in self.layers:
            sign = -1 if name in self.turned else 1
            if isinstance(layer, RMSNorm):
                found[f"{name}/scale"] = read(layer.scale)
                continue
            weight = read(layer.weight)
            if isinstance(layer, nn.Linear):
                weight = weight.T
            elif not isinstance(layer, BlockLinear):
                weight = weight.permute(2, 3, 1, 0)
            found[f"{name}/kernel"], found[f"{name}/bias"] = sign * weight, sign * read(layer.bias)
        return found


def model_config(c, obs, action):
    layers, enc = c["layers"], {"units": c["units"], "layers": c["layers"]["enc"]}
    dec = {"units": c["units"], "layers": layers["dec"]}
    encoder, decoder = {"name": "mlp", **enc}, {"name": "mlp", **dec}
    if c["image"]:
        common = {"depth": c["depth"], "multipliers": c["mults"]}
        encoder = {"name": "multi", "image": common, "vectors": enc}
        decoder = {"name": "multi", "image": {**common, "units": c["units"], "blocks": c["bspace"]}, "vectors": dec}

    def readout(part):
        return {"layers": layers[part], "units": c["units"]}

    return WorldModelConfig.parse({
        "obs": obs, "encoder": encoder, "decoder": decoder,
        "dynamics": {"name": "rssm", "deterministic_dim": c["deter"], "hidden_dim": c["hidden"],
                     "num_variables": c["stoch"], "num_classes": c["classes"], "unimix": c["unimix"],
                     "prior_layers": layers["prior"], "posterior_layers": layers["obs"],
                     "cell": {"name": "block-gru", "hidden": c["hidden"], "blocks": c["blocks"],
                              "layers": layers["dyn"]}},
        "conditioners": {"action": {"name": "transition-action", **action}},
        "heads": {"reward": {"name": "two-hot", "num_bins": c["bins"], "readout": readout("rew")},
                  "terminated": {"name": "bernoulli", "discount": 1 - 1 / c["horizon"], "readout": readout("con")}},
        "objective": {"name": "dreamer", "free_nats": c["free_nats"]}, "timestep_horizon": c["T"],
    })


def agent_options(c):
    opt, norm = c["opt"], c["retnorm"]
    return {
        "actor": {"readout": {"layers": c["layers"]["pol"], "units": c["units"]}, "min_std": c["minstd"],
                  "max_std": c["maxstd"]},
        "critic": {"readout": {"layers": c["layers"]["val"], "units": c["units"]}, "num_bins": c["bins"]},
        "horizon": c["H"], "starts": c["imag_last"], "discount": 1 - 1 / c["horizon"], "lam": c["lam"],
        "entropy": c["actent"], "slow_rate": c["slow_rate"],
        "returns": {"rate": norm["rate"], "limit": norm["limit"], "low": norm["lo"], "high": norm["hi"],
                    "debias": norm["debias"]},
        "optimizers": {"all": {"name": "laprop", "lr": opt["lr"], "warmup_steps": opt["warmup"], "agc": opt["agc"],
                               "eps": opt["eps"], "betas": [opt["beta1"], opt["beta2"]]}},
    }


def load(agent, stored, c):
    """All official weights into an agent and its model."""
    w, model, behavior = Recorded(stored), agent.model, agent.behavior
    load_encoder_v3(w, model.encoder)
    load_decoder_v3(w, model.decoder)
    rssm, cell = model.dynamics, model.dynamics.cell
    for layer, name in ((cell.from_state, "dyn/dynin0"), (cell.from_drawn, "dyn/dynin1"),
                        (model.conditioners["action"], "dyn/dynin2")):
        w.copy(layer.linear, name)
        w.copy(layer.norm, f"{name}norm")
    for index, (layer, norm) in enumerate(zip(cell.layers, cell.norms, strict=True)):
        w.copy(layer, f"dyn/dynhid{index}")
        w.copy(norm, f"dyn/dynhid{index}norm")
    w.copy(cell.gates, "dyn/dyngru")
    for part, name in ((rssm.before, "prior"), (rssm.after, "obs")):
        w.stack(part.layers, f"dyn/{name}{{}}", f"dyn/{name}{{}}norm")
        w.copy(part.out, f"dyn/{name}logit")
    heads = [(model.heads["reward"].readout, "rew", {"logits": "out"}),
             (model.heads["terminated"].readout, "con", {"logit": "out"}),
             (behavior.critic, "val", {"logits": "out"}), (behavior.slow, "slowval", {"logits": "out"})]
    for readout, name, _ in heads:
        w.stack(readout.layers, f"{name}/mlp/linear{{}}", f"{name}/mlp/norm{{}}")
        w.copy(readout.out, f"{name}/head/{'logit' if name == 'con' else 'logits'}")
    w.turned.add("con/head/logit")  # ours says how likely the end is, theirs how likely it is to go on
    with torch.no_grad():
        for p in model.heads["terminated"].readout.out.parameters():
            p.neg_()
    w.stack(behavior.actor.layers, "pol/mlp/linear{}", "pol/mlp/norm{}")
    for ours, theirs in (("logits", "logits"), ("mean", "mean"), ("std", "stddev")):
        if ours in behavior.actor.out:
            w.copy(behavior.actor.out[ours], f"pol/head/action/{theirs}")
    low, high = c["retnorm_init"]
    behavior.returns_norm.lower.fill_(low)
    behavior.returns_norm.upper.fill_(high)
    assert not w.left, w.left
    return w


@dataclass
class Case:
    """A stored run, repeated by our parts.

    Frame 0 of the batch is context, whose state is the stored carry. The random rewards of the fixture also arrive with
    frames that begin an episode, where ours are zero: so the marks are shown to who filters alone.
    """

    folder: object

    def __post_init__(self):
        self.config = c = config_of(self.folder)
        self.inputs, self.out = arrays(self.folder / "inputs.npz"), arrays(self.folder / "tensors.npz")
        self.scalars = json.loads((self.folder / "scalars.json").read_text())
        inputs, choices = self.inputs, c["act"] == "disc"
        widths = {name: max(1, math.prod(shape)) for name, shape in c["vec"].items()}
        discrete = {"flag": c["flag"]} if c["flag"] else {}
        picture = dict(zip(("height", "width", "channels"), c["image"] or (0, 0, 3), strict=True))
        count = c["nact"]
        spec = ActionSpec(num_actions=count) if choices else ActionSpec(low=(-1,) * count, high=(1,) * count)
        model = build(model_config(c, {**picture, "vectors": widths, "discrete": discrete},
                                   {"num_actions": count} if choices else {"dim": count})).double()
        self.agent = create_agent("actor-critic", action=spec, model=model, **agent_options(c)).double()
        self.weights = load(self.agent, arrays(self.folder / "weights.npz"), c)
        clips, frames = inputs["obs/reward"].shape

        def later(x):
            """Entries of frames, behind one of the context's frame."""
            return torch.cat([torch.zeros_like(x[:, :1]), x], 1)

        def before(x):
            """Entries of transitions: those that lead to frames, and one that leads nowhere."""
            return torch.cat([x, torch.zeros_like(x[:, :1])], 1)

        vectors = {name: later(inputs[f"obs/{name}"].reshape(clips, frames, width)) for name, width in widths.items()}
        vectors |= {name: later(inputs[f"obs/{name}"].long()) for name in discrete}
        video = torch.zeros(clips, frames + 1, 3, 0, 0)
        if c["image"]:
            video = later(inputs["obs/image"].movedim(-1, -3).to(D) / 255)
        action, terminal = inputs["prevact/action"], inputs["obs/is_terminal"].bool()
        self.batch = Batch(
            video, {"action": before(action.long() if choices else action)}, vectors=vectors,
            targets={"reward": before(inputs["obs/reward"]), "terminated": before(terminal),
                     "truncated": before(inputs["obs/is_last"].bool() & ~terminal)})
        self.first = later(inputs["obs/is_first"].bool())
        stoch = inputs["carry_stoch"].flatten(1)
        self.carry = Latent.build(model.spec, {("state", "deterministic"): inputs["carry_deter"][:, None, None],
                                               ("state", "stochastic"): stoch[:, None, None]})
        self.learner = self.agent.learner(TrainConfig())
        perceive = self.learner.perceive
        self.learner.perceive = lambda batch, sampler, carry: perceive(replace(batch, first=self.first), sampler, carry)

    def tape(self):
        drawn = [x for key, x in sorted(self.inputs.items()) if key.startswith("tape/")]
        return Tape(drawn, self.config["T"], self.config["classes"])

    def losses(self):
        """What was seen, the arrays of all losses and their factors."""
        tape = self.tape()
        seen = self.learner.perceive(self.batch, tape, self.carry)
        objective, model = self.agent.model.objective, self.agent.model
        arrays = objective.parts(model, seen, self.batch, sampler=tape, step=0)
        found = self.agent.behavior.losses(model, seen, self.batch, tape)
        scales = {**objective.scales(model), **found.scales}
        return seen, {**arrays, **found.arrays}, scales, found
