"""Optimisers beside the official ones of Dreamer v1, v2 and v3, step by step. Skipped without the files."""

import pytest
import torch
from torch import nn

from worldkit.training.optimizers import OptimizerConfig, clip_adaptively

from .dreamer_agent import as_optax
from .dreamer_weights import MISSING, ROOT, arrays, close, files, name_of

pytestmark = pytest.mark.skipif(not ROOT.exists(), reason=MISSING)

V3 = {"name": "laprop", "eps": 1e-20, "agc": 0.3, "lr": 4e-5}
CASES = {
    "default": {}, "warm": {"lr": 1e-2, "warmup_steps": 3}, "nesterov": {"lr": 1e-3, "nesterov": True},
    "wd_linear": {"lr": 1e-2, "warmup_steps": 2, "weight_decay": 1e-2, "schedule": "linear", "anneal_steps": 6},
    # upstream hands optax a tenth of lr as the SHARE of lr that the cosine ends at
    "cosine": {"lr": 1e-2, "schedule": "cosine", "anneal_steps": 4, "final": 1e-3},
}


def steps(out, config, names, key, tolerance, prefix):
    """All steps of a case; ``key(letter, name, number)`` names an entry."""
    weights = [nn.Parameter(out[key("p", name, 0)].clone()) for name in names]
    optimizer = config.make(weights)
    number = 1
    while key("g", names[0], number) in out:
        for weight, name in zip(weights, names, strict=True):
            weight.grad = out[key("g", name, number)].clone()
        for group in optimizer.param_groups:
            group["lr"] = as_optax(config, number - 1)
        if config.max_grad_norm is not None:
            torch.nn.utils.clip_grad_norm_(weights, config.max_grad_norm)
        before = [weight.detach().clone() for weight in weights]
        optimizer.step()
        for weight, name, old in zip(weights, names, before, strict=True):
            close(weight, out[key("p", name, number)], f"{prefix}: {name} after step {number}", tolerance)
            if (update := key("u", name, number)) in out:
                close(weight.detach() - old, out[update], f"{prefix}: update {number} of {name}", tolerance)
        number += 1
    assert number > 1


@pytest.mark.parametrize("file", files("*/*optimizer*.npz"), ids=name_of)
def test_v3(file):
    out = arrays(file)
    if "agc/g/x/bias" not in out:
        pytest.skip("of another generation")
    for case in sorted({key.split("/")[0] for key in out} - {"agc"}):
        names = [key.removeprefix(f"{case}/p0/") for key in out if key.startswith(f"{case}/p0/")]
        config = OptimizerConfig.parse(V3 | CASES[case])
        steps(out, config, names, lambda letter, name, n, case=case: f"{case}/{letter}{n}/{name}",
              1e-8 if config.warmup_steps or config.anneal_steps else 1e-9, case)
    names = [key.removeprefix("agc/g/") for key in out if key.startswith("agc/g/")]
    clipped = clip_adaptively([out[f"agc/g/{n}"] for n in names], [out[f"agc/p/{n}"] for n in names], 0.3)
    for name, ours in zip(names, clipped, strict=True):
        close(ours, out[f"agc/out/{name}"], name)


@pytest.mark.parametrize("file", files("v[12]/*.npz"), ids=name_of)
def test_tensorflows_adam(file):
    out = arrays(file)
    cases = {key.split("/")[0] for key in out if "/p0_0" in key}
    for case in sorted(cases):
        if f"{case}/args_lr_eps_clip_wd" in out:
            lr, eps, clip, decay = out[f"{case}/args_lr_eps_clip_wd"].tolist()
            config = OptimizerConfig(name="adam-tf", lr=lr, eps=eps, max_grad_norm=clip, weight_decay=decay)
        else:
            config = OptimizerConfig(name="adam-tf", lr=1e-2, eps=1e-7, max_grad_norm=1.5)
        names = [str(i) for i in range(9) if f"{case}/p{i}_0" in out]
        steps(out, config, names, lambda letter, name, n, case=case: f"{case}/{letter}{name}_{n}", 1e-6, case)
