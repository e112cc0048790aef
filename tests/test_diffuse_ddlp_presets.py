"""The presets of DiffuseDDLP say what the official configuration and code say."""

import pytest
import torch

import worldkit as wk
from worldkit.training import TrainConfig

OFFICIAL = [name for name in wk.list_models("diffuse-ddlp-*") if not name.endswith("mini")]
PRIOR = {"frames": 4, "num_layers": 6, "num_heads": 8, "dropout": 0.1, "steps": 1000, "target": "x0", "loss": "l1",
         "normalize": "minmax", "clamp": 1.0, "sampler": "ddpm", "sampling_steps": None, "causal": True,
         "noisy_padding": True, "sampling_dropout": True}
TRAIN = {"batch_size": 32, "lr": 8e-5, "betas": (0.9, 0.99), "schedule": "constant", "steps": 700_000,
         "max_grad_norm": 1.0, "ema": 0.995, "ema_every": 10, "ema_after": 101, "ema_warmup": "power"}


def test_names():
    names = ("balls", "clevrer", "obj3d", "obj3d128", "phyre", "traffic")
    assert OFFICIAL == [f"diffuse-ddlp-{name}" for name in names]


@pytest.mark.parametrize("name", OFFICIAL)
def test_numbers(name):
    config, base = wk.create_config(name), wk.create_config(name.removeprefix("diffuse-"))
    assert {key: getattr(config.prior, key) for key in PRIOR} == PRIOR
    assert (config.prior.dim, config.prior.num_layers, config.prior.num_heads) == (
        base.dynamics.dim, base.dynamics.num_layers, base.dynamics.num_heads)
    assert (config.encoder, config.decoder, config.dynamics) == (base.encoder, base.decoder, base.dynamics)
    assert config.objective.background == "decoder" and config.clip_length == 4
    train = TrainConfig.parse(wk.get_model_spec(name).train)
    assert {key: getattr(train, key) for key in TRAIN} == TRAIN
    assert train.clips == ("all" if name.endswith("traffic") else "first")


def test_parameters():
    """Counted on the official code."""
    with torch.device("meta"):
        assert wk.create_model("diffuse-ddlp-obj3d128").parameter_report()["prior"] == 5_464_590


def test_the_small_one_learns_and_draws():
    torch.manual_seed(0)
    model = wk.create_model("diffuse-ddlp-balls-mini")
    assert model.parameter_report()["prior"] < 300_000 and model.clip_length == 4
    loss = model.loss(wk.Batch(torch.rand(2, 4, 3, 32, 32)))
    loss.total.backward()
    assert loss.total.isfinite() and all(p.grad.isfinite().all() for p in model.prior.parameters())
    assert model.sample(1, horizon=2, deterministic=True).video.shape == (1, 2, 3, 32, 32)
