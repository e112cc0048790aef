"""DDLP's dynamics alone and the terms of its loss against the official code's numbers. Skipped without the files."""

import json
from functools import cache
from types import SimpleNamespace

import pytest
import torch
from einops import rearrange

from worldkit.conditions import EMPTY
from worldkit.convert.ddlp_dynamics import MASK, dynamics_name, parameter_of
from worldkit.convert.state import fill
from worldkit.distributions import MEANS, Beta, Normal
from worldkit.dynamics.pint_joint import PINTJoint
from worldkit.encoders.particle_tracking import ParticleTrackingEncoder
from worldkit.latents import Field, Latent, LatentDist, LatentSpec, TokenGroup, particle_spec
from worldkit.objectives.ddlp import balanced_kl

from .ddlp_files import BETA, FIELDS, MISSING, ROOT, D, Replay, arrays, close, latent_of, state_of

pytestmark = pytest.mark.skipif(not ROOT.exists(), reason=MISSING)


# -- the dynamics alone


@cache
def pint():
    config, out = json.loads((ROOT / "pint_tiny" / "config.json").read_text()), arrays("pint_tiny")
    spec = particle_spec(num_particles=config["max_particles"] - 1, feature_dim=config["features_dim"],
                         background_dim=config["bg_features_dim"], beta=BETA)
    dynamics = PINTJoint(
        PINTJoint.Config(dim=config["projection_dim"], hidden_dim=config["hidden_dim"], num_heads=config["n_head"],
                         num_layers=config["n_layer"], depth_logvar="shared"),
        spec=spec, anchors={}, window=config["block_size"],
    ).to(D).eval()
    model = torch.nn.ModuleDict({"dynamics": dynamics})
    state = {key: x for key, x in state_of("pint_tiny").items() if not MASK.search(key)}
    fill(model, state, canonical=str, target_of=lambda key: parameter_of(model, dynamics_name(key)))
    return SimpleNamespace(dynamics=dynamics, out=out, z=latent_of(spec, out, "in_z"))


def check_latent(z, out, prefix, atol, frames=slice(None)):
    wanted = latent_of(z.spec, out, prefix)
    for key, value in z.values.items():
        close(value, wanted.values[key][:, frames], f"{prefix}{FIELDS[key]}", atol)


@torch.no_grad()
def test_pint_inside():
    c = pint()
    tokens, transformer = c.dynamics.embed(c.z), c.dynamics.transformer

    def theirs(name):
        return rearrange(c.out[name], "b n t d -> b t n d")

    close(tokens, theirs("proj_BNTD"), "projection", 2e-6)
    block = transformer.blocks[0]
    frames, count = tokens.shape[1:3]
    bias = block.bias(frames, frames, count).unflatten(2, (frames, count)).unflatten(1, (frames, count))
    visible = torch.ones(frames, frames).tril().bool()
    total = c.out["bias_time_HTT"][:, :, None, :, None] + c.out["bias_particle_HNN"][:, None, :, None, :]
    close(rearrange(bias, "h t n s m -> t s h n m")[visible], rearrange(total, "h t n s m -> t s h n m")[visible],
          "bias", 1e-7)
    assert (rearrange(bias, "h t n s m -> t s h n m")[~visible] == -torch.inf).all()
    q, k, v = block.attention.heads(rearrange(block.norm1(tokens), "b t n d -> b (t n) d"))
    out = block.attention.attend(q, k, v, bias=block.bias(frames, frames, count))
    close(out.unflatten(1, (frames, count)), theirs("attn0_out_BNTD"), "attention", 2e-6)
    for index, block in enumerate(transformer.blocks):
        tokens = block(tokens)
        close(tokens, theirs(f"block{index}_BNTD"), f"block {index}", 2e-6)
    close(transformer(c.dynamics.embed(c.z)), theirs("pint_out_BNTD"), "transformer", 2e-6)


def check_prior(prior, out, names, atol):
    """``names``: our key -> upstream's names of the two parameters."""
    for key, (first, second) in names.items():
        beta = key == ("particles", "transparency")
        ours = (Beta if beta else Normal).split(prior.params[key])
        for mine, name in zip(ours, (first, second), strict=True):
            mine = mine[..., 0] if beta else mine[:, :, 0] if key[0] == "background" else mine
            close(mine, out[name], name, atol)


@torch.no_grad()
def test_pint_predictions():
    c = pint()
    names = {key: (f"fwd_mu{n}", f"fwd_logvar{n}") for key, n in FIELDS.items()}
    names["particles", "transparency"] = ("fwd_obj_on_a", "fwd_obj_on_b")
    check_prior(c.dynamics.prior(c.z, EMPTY), c.out, names, 2e-6)


def unroll(dynamics, z, steps, sampler):
    """The frames of ``z`` and the predictions behind them."""
    carry, frames = dynamics.start(z, EMPTY), [z]
    for _ in range(steps):
        frames.append(dynamics.predict(carry, EMPTY, sampler, mean=False))
        dynamics.observe(carry, frames[-1])
    return Latent.cat(frames)


@torch.no_grad()
def test_pint_rollout_leaves_the_window():
    c = pint()
    check_latent(unroll(c.dynamics, c.z, 7, MEANS), c.out, "roll7_z", 2e-6)


@torch.no_grad()
def test_pint_sampled_rollout():
    c, noise = pint(), {}
    for step in range(2):
        for i, key in enumerate(("particles.position", "particles.depth", "particles.scale", "particles.features",
                                 "background.features")):
            noise.setdefault(key, []).append(c.out[f"smp2_eps_{5 * step + i:02d}"])
    check_latent(unroll(c.dynamics, c.z, 2, Replay(noise)), c.out, "smp2_z", 2e-6)
    assert not any(noise.values())


# -- terms of the loss


@pytest.mark.parametrize("balance", [0.5, 0.8])
@pytest.mark.parametrize("kind", ["kl", "beta"])
def test_kl_and_its_balanced_gradients(kind, balance):
    """The gradients of the sum reach posterior and prior as upstream's, with the leak of its Beta."""
    c = arrays("units")
    if kind == "kl":
        names, dist = (("mu", "lv"), ("mo", "lo")), Normal()
        leaves = [[c[f"kl_{n}"].requires_grad_() for n in pair] for pair in (("mu", "lv"), ("mu_o", "lv_o"))]
        params = [torch.cat(pair, -1)[None, None] for pair in leaves]
    else:
        names, dist = (("a", "b"), ("c", "d")), BETA
        leaves = [[c[f"beta_{n}"].requires_grad_() for n in pair] for pair in (("a", "b"), ("a2", "b2"))]
        params = [torch.stack(pair, -1).flatten(0, 1)[None, None] for pair in leaves]
    spec = LatentSpec((TokenGroup("x", params[0].shape[2], (Field("y", params[0].shape[-1] // 2, dist),)),))
    posterior, prior = (LatentDist(spec, {("x", "y"): p}) for p in params)
    value = balanced_kl(posterior, prior, balance, leaky=True)["x", "y"]
    total, wanted = value.sum(), json.loads((ROOT / "units" / "scalars.json").read_text())
    close(total, torch.tensor(wanted[f"{'beta_kl' if kind == 'beta' else 'kl'}_bal{balance}"]), "value", 2e-6)
    if kind == "beta":
        close(value.view(4, 3), c["beta_kl"], "beta_kl", 2e-6)
    else:
        close(value.flatten(), c["kl_none"], "kl_none", 2e-6)
    total.backward()
    for pair, keys in zip(leaves, names, strict=True):
        for leaf, name in zip(pair, keys, strict=True):
            close(leaf.grad, c[f"{kind}_grad_bal{balance}_{name}"], f"gradient {name}", 3e-6)


@torch.no_grad()
def test_chamfer_and_standard_kl():
    """Of positions to proposals as the encoder's regulariser has it, which is half of it; KL to a standard Normal."""
    c = arrays("units")
    aux = SimpleNamespace(anchors=c["ch_post"][:, None], proposals=c["ch_prior"][:, None])
    encoding = SimpleNamespace(aux=aux, posterior=SimpleNamespace(shape=(2, 1)))
    found = ParticleTrackingEncoder.regularizers(SimpleNamespace(), encoding)["proposals"]
    close(2 * found[:, 0], c["chamfer"], "chamfer", 2e-6)
    params = torch.cat([c["kl_mu"], c["kl_lv"]], -1)
    close(Normal().kl(params, torch.zeros_like(params)), c["kl_std"], "kl_std", 2e-6)
