"""The world model of a stored Dreamer v3 agent, built from its configuration, with its weights and its batch."""

from dataclasses import replace

import torch

from worldkit.assembly import build
from worldkit.batch import Batch
from worldkit.config import WorldModelConfig
from worldkit.latents import Latent

from .dreamer_rssm import make_rssm
from .dreamer_weights import D, Weights, arrays, config_of, load_decoder_v3, load_encoder_v3


class Recorder(Weights):
    """Weights that remember which layer got which."""

    def __init__(self, stored):
        super().__init__(stored)
        self.layers = {}

    def copy(self, layer, name):
        self.layers[name] = layer
        super().copy(layer, name)


def observed(config, inputs):
    """(options of ``obs``, batch with observations) of a folder."""
    picture = dict(zip(("height", "width", "channels"), config["image"] or (0, 0, 3), strict=True))
    widths = {name: max(1, int(torch.tensor(shape).prod())) for name, shape in config["vec"].items()}
    discrete = {"flag": config["flag"]} if config["flag"] else {}
    shape = inputs["obs/reward"].shape
    values = {name: inputs[f"obs/{name}"].reshape(*shape, width) for name, width in widths.items()}
    batch = Batch.of_vectors(values | {name: inputs[f"obs/{name}"].long() for name in discrete})
    if config["image"]:
        batch = replace(batch, video=inputs["obs/image"].to(D).movedim(-1, -3) / 255)
    return {**picture, "vectors": widths, "discrete": discrete}, batch


def parts_of(config):
    """Options of encoder and decoder."""
    vectors = {part: {"units": config["units"], "layers": config["layers"][part]} for part in ("enc", "dec")}
    if not config["image"]:
        return {"name": "mlp", **vectors["enc"]}, {"name": "mlp", **vectors["dec"]}
    image = {"depth": config["depth"], "multipliers": config["mults"]}
    return {"name": "multi", "image": image, "vectors": vectors["enc"]}, {
        "name": "multi", "image": {**image, "units": config["units"], "blocks": config["bspace"]},
        "vectors": vectors["dec"]}


def head(config, name):
    return {"layers": config["layers"][name], "units": config["units"]}


def world_config(config, obs):
    encoder, decoder = parts_of(config)
    width = "num_actions" if config["act"] == "disc" else "dim"
    return WorldModelConfig.parse({
        "obs": obs, "timestep_horizon": config["T"] - 1, "encoder": encoder, "decoder": decoder,
        "dynamics": {
            "name": "rssm", "deterministic_dim": config["deter"], "hidden_dim": config["hidden"],
            "num_variables": config["stoch"], "num_classes": config["classes"], "unimix": config["unimix"],
            "prior_layers": config["layers"]["prior"], "posterior_layers": config["layers"]["obs"],
            "cell": {"name": "block-gru", "hidden": config["hidden"], "blocks": config["blocks"],
                     "layers": config["layers"]["dyn"]}},
        "conditioners": {"action": {"name": "transition-action", width: config["nact"]}},
        "heads": {
            "reward": {"name": "two-hot", "num_bins": config["bins"], "readout": head(config, "rew")},
            "terminated": {"name": "bernoulli", "discount": 1 - 1 / config["horizon"], "readout": head(config, "con")}},
        "objective": {"name": "dreamer", "free_nats": config["free_nats"]},
    })


class World:
    """A model in float64 with the stored weights.

    Attributes:
        model, batch, first: The model, its observations, and where episodes begin.
        out, inputs, config, weights: What is stored.
        carry, action: State before the first frame, and the actions that lead to frames.
        named: Official name of a layer -> our layer.
    """

    def __init__(self, folder):
        self.config, self.inputs = config_of(folder), arrays(folder / "inputs.npz")
        self.out = arrays(folder / "tensors.npz")
        self.weights = weights = Recorder(arrays(folder / "weights.npz"))
        obs, self.batch = observed(self.config, self.inputs)
        self.model = model = build(world_config(self.config, obs)).to(D)
        load_encoder_v3(weights, model.encoder)
        load_decoder_v3(weights, model.decoder)
        rssm, action = make_rssm({k: v for k, v in weights.values.items() if k.startswith("dyn/")},
                                 classes=self.config["classes"], seen=self.out["tokens"].shape[-1])
        model.dynamics.load_state_dict(rssm.state_dict())
        model.conditioners["action"].load_state_dict(action.state_dict())
        for name, ours in (("rew", "reward"), ("con", "terminated")):
            readout = model.heads[ours].readout
            weights.stack(readout.layers, f"{name}/mlp/linear{{}}", f"{name}/mlp/norm{{}}")
            weights.copy(readout.out, f"{name}/head/{'logits' if name == 'rew' else 'logit'}")
        with torch.no_grad():  # of the end, not of going on
            model.heads["terminated"].readout.out.weight.neg_()
            model.heads["terminated"].readout.out.bias.neg_()
        self.named = {**weights.layers, **self._dynamics()}
        self.first = self.inputs["obs/is_first"].bool()
        action = self.inputs["prevact/action"]
        self.action = action if action.is_floating_point() else action.long()
        drawn = self.inputs["carry_stoch"].flatten(-2)
        self.carry = Latent.build(model.spec, {("state", "deterministic"): self.inputs["carry_deter"][:, None, None],
                                               ("state", "stochastic"): drawn[:, None, None]})

    def _dynamics(self):
        cell, dynamics, action = self.model.dynamics.cell, self.model.dynamics, self.model.conditioners["action"]
        found = {"dyn/dyngru": cell.gates, "dyn/dynin2": action.linear, "dyn/dynin2norm": action.norm,
                 "dyn/obslogit": dynamics.after.out, "dyn/priorlogit": dynamics.before.out}
        for index, layer in enumerate((cell.from_state, cell.from_drawn)):
            found |= {f"dyn/dynin{index}": layer.linear, f"dyn/dynin{index}norm": layer.norm}
        for index, (layer, norm) in enumerate(zip(cell.layers, cell.norms, strict=True)):
            found |= {f"dyn/dynhid{index}": layer, f"dyn/dynhid{index}norm": norm}
        for name, part in (("obs", dynamics.after), ("prior", dynamics.before)):
            for index, layer in enumerate(part.layers):
                found |= {f"dyn/{name}{index}": layer.linear, f"dyn/{name}{index}norm": layer.norm}
        return found

    def parameter(self, name):
        """Our parameter of an official name; its gradient may differ in sign and order, not in size."""
        layer, kind = name.rsplit("/", 1)
        return getattr(self.named[layer], {"kernel": "weight"}.get(kind, kind))

    def perceive(self, sampler):
        before, rest = ({"action": x} for x in self.action.split([1, self.action.shape[1] - 1], 1))
        return self.model.perceive(replace(self.batch, first=self.first), sampler, conditions=rest, last=self.carry,
                                   last_action=before)

    def posterior_draws(self):
        """Recorded classes of the posterior, ``[B, T, variables]``."""
        return torch.stack([self.inputs[f"tape/{t:03d}"] for t in range(self.config["T"])], 1)
