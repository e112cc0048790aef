"""The ELBO beyond what the golden files cover: the perceptual reconstruction and the schedules of its first steps."""

import pytest
import torch

import worldkit as wk
from worldkit.distributions import MEANS
from worldkit.errors import WorldkitError
from worldkit.metrics import VGGPerceptual
from worldkit.metrics.perceptual import random_state_dicts


def test_perceptual_reconstruction_follows_the_formula(tiny_model):
    """CHW * mean over pixels of [(x - rec)^2 + 0.1 LPIPS], 0.01 in front of the sum, gradient to the model alone."""
    model = tiny_model(objective={"reconstruction": "vgg"})
    network = VGGPerceptual(*random_state_dicts())
    model.use_perceptual(network)
    video = torch.rand(2, 4, 3, 32, 32)
    loss = model.loss(wk.Batch(video), sampler=MEANS)
    drawn = model.decode(model.encode(video)).video
    mse = (video - drawn).square().mean((-1, -2, -3))
    lpips = network(video.flatten(0, 1), drawn.flatten(0, 1)).view(2, 4)
    expected = (3 * 32 * 32 * (mse + 0.1 * lpips)).sum(1).mean()
    torch.testing.assert_close(loss.terms["reconstruction"], expected.detach(), rtol=1e-4, atol=1e-4)
    same = tiny_model()
    rest = sum(w * loss.terms[k] for k, w in (("kl", 0.1), ("kl_dynamics", 0.1), ("kl_latent_action", 0.1)))
    torch.testing.assert_close(loss.total.detach(), 0.01 / 4 * (loss.terms["reconstruction"] + rest))
    loss.total.backward()
    assert all(p.grad is None for p in network.parameters())
    assert model.decoder.glimpse_cnn.conv_out.weight.grad.abs().sum() > 0
    assert set(model.state_dict()) == set(same.state_dict()), "the frozen network is not saved"


def test_perceptual_weights_that_are_missing_are_named(tiny_model, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    model = tiny_model(objective={"reconstruction": "vgg"})
    with pytest.raises(WorldkitError, match="(?i)vgg16"):
        model.loss(wk.Batch(torch.rand(1, 4, 3, 32, 32)))


def test_warmup_lasts_for_its_share_of_the_first_epochs(tiny_model):
    objective = tiny_model(objective={"warmup_epochs": 2}).objective
    assert not objective.in_warmup(0), "without a trainer nobody knows how long an epoch is"
    objective.steps_per_epoch = 10
    assert objective.in_warmup(15) and not objective.in_warmup(16)


@pytest.mark.parametrize("dynamics", ["pint", "diffusion"])
def test_frames_first_leaves_the_dynamics_alone_for_so_many_steps_of_a_training(tiny_model, dynamics):
    model = tiny_model(objective={"frames_first": 2}, dynamics=dynamics)
    batch = wk.Batch(torch.rand(2, 4, 3, 32, 32))

    def reached(step):
        model.zero_grad()
        loss = model.loss(batch, step, sampler=MEANS)
        loss.total.backward()
        return {name for name in ("encoder", "decoder", "dynamics", "latent_action")
                if any(p.grad is not None for p in getattr(model, name).parameters())}, loss.terms

    assert "dynamics" in reached(0)[0], "without a trainer there is no first step"
    model.objective.steps_per_epoch = 10
    parts, terms = reached(1)
    assert parts == {"encoder", "decoder"} and not any("dynamics" in term for term in terms)
    same = tiny_model(dynamics=None, latent_action=None)
    same.load_state_dict({k: v for k, v in model.state_dict().items() if k in same.state_dict()})
    torch.testing.assert_close(same.loss(batch, sampler=MEANS).terms["kl"], terms["kl"])
    assert reached(2)[0] == {"encoder", "decoder", "dynamics", "latent_action"}


@pytest.mark.parametrize("dynamics", ["pint", "diffusion"])
def test_dynamics_turns_train_the_dynamics_alone_by_the_same_terms(tiny_model, dynamics):
    model = tiny_model(objective={"dynamics_turns": 2, "frames_first": 1}, dynamics=dynamics)
    batch = wk.Batch(torch.rand(2, 4, 3, 32, 32))
    parts = ("encoder", "decoder", "dynamics", "latent_action")

    def reached(step):
        model.zero_grad()
        loss = model.loss(batch, step, sampler=MEANS)
        loss.total.backward()
        return {name for name in parts if any(p.grad is not None for p in getattr(model, name).parameters())}, loss

    assert reached(2)[0] == set(parts), "without a trainer no step is a turn"
    model.objective.steps_per_epoch = 10
    assert [len(reached(step)[0]) for step in range(8)] == [2, 4, 2, 2, 4, 2, 2, 4]
    (_, joint), (turn, alone) = reached(1), reached(2)
    assert turn == {"dynamics", "latent_action"}
    shared = set(alone.terms) & set(joint.terms)
    assert any("dynamics" in name for name in shared) and "reconstruction" not in alone.terms
    for name in shared:
        torch.testing.assert_close(alone.terms[name], joint.terms[name])
    assert "reconstruction" in model.eval().loss(batch, 2, sampler=MEANS).terms, "validation sees the whole loss"


def test_a_turn_of_a_clip_without_dynamic_frames_trains_everything(tiny_model):
    model = tiny_model(objective={"dynamics_turns": 1, "num_static_frames": 4})
    model.objective.steps_per_epoch = 10
    loss = model.loss(wk.Batch(torch.rand(2, 4, 3, 32, 32)), 1, sampler=MEANS)
    assert "reconstruction" in loss.terms


@pytest.mark.parametrize("encoder, dynamics, reached", [
    ("slot", "pint", False), ("slot", "diffusion", False), ("particle", "diffusion", False), ("particle", "pint", True),
])
def test_whether_the_dynamics_shapes_the_encoder(encoder, dynamics, reached):
    """Only where latents have a density and the dynamics an explicit prior; else latents would shrink to please it."""
    from worldkit.assembly import build
    from worldkit.testing import example_batch
    from worldkit.testing.examples import small_config

    model = build(small_config(
        encoder=encoder, dynamics=dynamics,
        objective={"name": "elbo", "weights": {"reconstruction": 0.0, "kl": 0.0, "transparency": 0.0}},
    ))
    model.loss(example_batch(model.config), generator=torch.Generator().manual_seed(0)).total.backward()
    moved = any(p.grad is not None and p.grad.abs().max() > 0 for p in model.encoder.parameters())
    assert moved == reached
    assert any(p.grad is not None and p.grad.abs().max() > 0 for p in model.dynamics.parameters())
