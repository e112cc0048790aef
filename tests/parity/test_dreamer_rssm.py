"""Whole state-space models of PlaNet and Dreamer v1 and v2 beside the official ones: states, divergences, gradients."""

import pytest
import torch

from worldkit.conditions import Condition
from worldkit.encoders.conv import embedding, embedding_spec

from .dreamer_rssm import Tape, generation, make_rssm
from .dreamer_weights import MISSING, ROOT, arrays, close, files, name_of

pytestmark = pytest.mark.skipif(not ROOT.exists(), reason=MISSING)


def parts(stored, prefix):
    return {key.removeprefix(prefix): x for key, x in stored.items() if key.startswith(prefix)}


FILES = [f for f in files("*/*.npz") if generation(parts(arrays(f), "w/")) in (
    "transition/in/kernel", "img1/kernel", "img_in/kernel")]


def tape(stored, kind):
    """Recorded draws of posteriors or priors, ``[B, T, ...]``."""
    planet = stored.get(f"eps/{kind}")
    if planet is not None:
        return planet.transpose(0, 1)
    steps = [x for key, x in sorted(stored.items()) if key.startswith("tape/") and key.endswith(kind)]
    return torch.stack([x.reshape(-1, *x.shape[-1:]) for x in steps], 1)


class Case:
    """A stored run, repeated by our parts."""

    def __init__(self, path):
        self.out, self.w = parts(arrays(path), "out/"), parts(arrays(path), "w/")
        self.stored = stored = arrays(path)
        self.classes = self.out["post_logit"].shape[-1] if "post_logit" in self.out else 0
        embed = stored["in/embed"]
        self.rssm, self.action = make_rssm(self.w, classes=self.classes, seen=embed.shape[-1])
        first = stored.get("in/is_first", torch.zeros(embed.shape[:2], dtype=torch.bool)).bool()
        begins = first.clone()
        begins[:, 0] = True
        cond = self.action(stored["in/action"], ~first, view=None)
        self.found = self.rssm.filter(embedding(embedding_spec(embed.shape[-1]), embed), cond,
                                      Tape(tape(stored, "post"), classes=self.classes), first=begins)

    def close(self, dist, prefix):
        """Parameters of a distribution of states beside the stored ones."""
        dim = self.rssm.config.drawn_dim
        close(dist.params["state", "deterministic"][:, :, 0], self.read(f"{prefix}_deter"), f"{prefix}_deter")
        params = dist.params["state", "stochastic"][:, :, 0]
        if self.classes:
            close(params.unflatten(-1, (-1, self.classes)), self.out[f"{prefix}_logit"], f"{prefix}_logit")
        else:
            close(params[..., :dim], self.out[f"{prefix}_mean"], f"{prefix}_mean")
            close((0.5 * params[..., dim:]).exp(), self.read(f"{prefix}_std"), f"{prefix}_std")

    def read(self, name):
        """A stored output; PlaNet has other words."""
        other = name.replace("deter", "belief").replace("std", "stddev").replace("stoch", "sample")
        return self.out[name] if name in self.out else self.out[other]

    def drawn(self, name):
        """Stored draws, flat."""
        return self.read(name).flatten(2)


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_states_and_divergences(path):
    case = Case(path)
    case.close(case.found.posterior, "post")
    case.close(case.found.prior, "prior")
    close(case.found.latent.values["state", "stochastic"][:, :, 0], case.drawn("post_stoch"), "post_stoch")
    kl = case.found.posterior.kl(case.found.prior)["state", "stochastic"][:, :, 0]
    close(kl, case.out["kl_value" if "kl_value" in case.out else "kl"], "kl")


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_imagination(path):
    case = Case(path)
    if "imagine_deter" not in case.out:
        pytest.skip("no imagination is stored")
    steps = [x.reshape(-1, x.shape[-1]) for key, x in sorted(case.stored.items()) if key.startswith("tape_imagine/")]
    state, sampler = case.found.latent[:, -1:], Tape(steps=steps, classes=case.classes)
    carry = case.rssm.start(state, Condition())
    for t in range(len(steps)):
        cond = case.action(case.stored["in/action"][:, t : t + 1], None, view=None)
        dist = case.rssm.step(carry, cond)
        state = dist.sample(sampler)
        case.rssm.observe(carry, state)
        close(state.values["state", "deterministic"][:, 0, 0], case.out["imagine_deter"][:, t], f"state {t}")
        close(state.values["state", "stochastic"][:, 0, 0], case.drawn("imagine_stoch")[:, t], f"draw {t}")


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_gradients(path):
    """Of the divergence (v2: balanced by 0.8) and a hundredth of all squared numbers of the states."""
    case = Case(path)
    grads = parts(case.stored, "grad/")
    if not grads:
        pytest.skip("no gradients are stored")
    key, (posterior, prior) = ("state", "stochastic"), (case.found.posterior, case.found.prior)
    if "kl_loss" in case.out:
        kl = 0.2 * posterior.kl(prior.detach())[key].mean() + 0.8 * posterior.detach().kl(prior)[key].mean()
        close(kl, case.out["kl_loss"], "kl_loss")
    else:
        kl = posterior.kl(prior)[key].mean()
        close(kl, case.out["div"], "div")
    total = kl + 0.01 * sum(x.square().sum() for x in case.found.latent.values.values())
    close(total, case.out["total"], "total")
    total.backward()
    for name, wanted in grads.items():
        close(found(case, name), wanted, name)


def found(case, name):
    """Our gradient in the shape of the stored one."""
    rssm = case.rssm
    layer, kind = name.rsplit("/", 1)
    inputs, before, after = rssm.cell.inputs.linear, rssm.before.layers[0].linear, rssm.after.layers[0].linear
    linear = {"img_in": inputs, "img_out_0": before, "img_dist_0": rssm.before.out, "obs_out": after,
              "obs_dist": rssm.after.out, "img1": inputs, "img2": before, "img3": rssm.before.out, "obs1": after,
              "obs2": rssm.after.out}
    if layer in ("img_in", "img1") and kind == "kernel":
        return torch.cat([linear[layer].weight.grad.T, case.action.linear.weight.grad.T])
    if layer in linear:
        return linear[layer].weight.grad.T if kind == "kernel" else linear[layer].bias.grad
    cell = rssm.cell
    if name.startswith("gru/norm"):
        return (cell.gate_norm.weight if kind == "gamma" else cell.gate_norm.bias).grad
    if name.startswith("gru/dense"):
        return cell.gates.weight.grad.T if kind == "kernel" else cell.gates.bias.grad
    if kind == "bias":  # Keras: one of the inputs and one of the state; update, reset, candidate
        return torch.stack([_update_first(x.bias.grad) for x in (cell.from_input, cell.from_state)])
    return _update_first((cell.from_input if kind == "kernel" else cell.from_state).weight.grad.T)


def _update_first(columns):
    reset, update, candidate = columns.chunk(3, -1)
    return torch.cat([update, reset, candidate], -1)
