"""The DDLP loss beyond what the golden files cover: stages, the ramp, other parts, and what it adds up."""

import pytest
import torch

import worldkit as wk
from worldkit.distributions import MEANS
from worldkit.latents import LatentDist
from worldkit.objectives.ddlp import DDLP, DDLPConfig, balanced_kl
from worldkit.testing import check_model, check_objective, example_spec
from worldkit.testing.examples import small_config


def objective(**options):
    made = DDLP(DDLPConfig(**options)).train()
    made.steps_per_epoch = 10
    return made


def test_stages_follow_the_epochs_of_a_training():
    made = objective(warmup_epochs=2)
    assert [made.stage(step) for step in (0, 19, 20, 29, 30)] == ["warmup", "warmup", "noisy", "noisy", "full"]
    assert made.eval().stage(0) == "full"
    assert objective(epoch_steps=3).stage(3) == "noisy"
    made = DDLP(DDLPConfig())
    assert made.stage(0) == "full", "without a trainer nobody knows how long an epoch is"


def test_predicted_frames_join_one_after_another():
    """w_i = step / (i + 1) times a T-th of the ramp, at most 1; a long epoch makes the ramp longer."""
    made = objective(ramp_steps=40, warmup_epochs=1)
    assert made.ramp(0, 4).tolist() == [0, 0, 0, 0]
    assert made.ramp(5, 4).tolist() == [0.5, 0.25, pytest.approx(1 / 6), 0.125]
    assert made.ramp(40, 4).tolist() == [1, 1, 1, 1] and made.ramp(39, 4)[-1] < 1
    assert objective(ramp_steps=5).ramp(9, 2)[-1] == pytest.approx(0.9)
    assert objective(ramp_steps=20, warmup_epochs=2).ramp(20, 1) == 0.5
    for still in (made.eval(), objective(ramp_steps=0)):
        assert still.ramp(0, 3).tolist() == [1, 1, 1]


@torch.no_grad()
def test_the_loss_is_the_weighted_sum_of_its_terms():
    weights = {"reconstruction": 2.0, "kl": 0.3, "dynamics": 0.7, "dynamics_reconstruction": 0.5, "features": 0.01}
    model = wk.create_model(config=small_config(
        dynamics="pint-joint", latent_action=None,
        objective={"name": "ddlp", "num_static_frames": 2, "weights": weights},
    )).eval()
    video = torch.rand(2, 5, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    loss = model.loss(wk.Batch(video), sampler=MEANS)
    encoding = model.perceive(video)
    error = (video - model.decode(encoding.latent).video).square().sum((-1, -2, -3))
    reconstruction = (error * torch.tensor([1, 1, 0.5, 0.5, 0.5])).sum(1).mean()
    static = encoding.posterior[:, :2].kl(model.encoder.static_prior(encoding)[:, :2])
    weak = (("particles", "depth"), ("particles", "features"), ("background", "features"))
    kl = sum(v.sum((1, 2)).mean() * (0.01 if key in weak else 1) for key, v in static.items())
    kl = kl + 0.01 * model.encoder.regularizers(encoding)["proposals"][:, :2].sum(1).mean()
    cond = model.condition(encoding.latent, wk.Batch(video), sampler=MEANS).cond
    prior = model.predict_next(encoding.latent, cond)
    dynamic = sum(v.sum((1, 2)).mean() for v in encoding.posterior[:, 2:].kl(prior[:, 1:]).values())
    for name, value in (("reconstruction", reconstruction), ("kl", kl), ("kl_dynamics", dynamic)):
        torch.testing.assert_close(loss.terms[name], value)
    torch.testing.assert_close(loss.total, (2 * reconstruction + 0.3 * kl + 0.7 * dynamic) / 5)
    same = wk.create_model(config=model.config.replace("objective.background_kl", "mean")).eval()
    same.load_state_dict(model.state_dict())
    less = same.loss(wk.Batch(video), sampler=MEANS).terms["kl/background"]
    torch.testing.assert_close(less, loss.terms["kl/background"] / 2)


def tracking_model(**options):
    torch.manual_seed(0)
    model = wk.create_model(config=small_config(**{
        "encoder": "particle-tracking", "dynamics": "pint-joint", "latent_action": None,
        "objective": {"name": "ddlp", "num_static_frames": 2, "weights": {"kl": 0.0, "dynamics": 0.0}}, **options,
    }))
    model.objective.steps_per_epoch = 10
    return model


@pytest.mark.parametrize("kind", ["video", "images"])
def test_the_warmup_reconstructs_glimpses_alone(kind):
    """Summed over the particles of a video, their mean in images. Neither where particles are nor the background learn
    from it.
    """
    still = {"dynamics": None, "timestep_horizon": 1, "encoder.tracking": False} if kind == "images" else {}
    model = tracking_model(**still).train()
    video = torch.rand(2, model.clip_length, 3, 32, 32)
    loss = model.loss(wk.Batch(video), 0, sampler=MEANS)
    assert "psnr" not in loss.terms
    encoding = model.encoder(video, sampler=MEANS, stage="warmup")
    drawn = model.decoder(encoding.latent, stage="warmup", sampler=MEANS).glimpses[..., 1:, :, :]
    error = (encoding.aux.glimpses - drawn).square().sum((-1, -2, -3)).detach()
    expected = error.mean() if kind == "images" else (model.objective.ramp(0, 4)[None, :3, None] * error[:, 2:]).sum()
    if kind == "video":
        expected = (error[:, :2].sum() / 2 + expected / 2) / model.clip_length
    torch.testing.assert_close(loss.total.detach(), expected)
    loss.total.backward()
    moved = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.abs().max() > 0}
    assert any(name.startswith("decoder.glimpse.") for name in moved)
    assert not any(name.startswith(("decoder.background.", "encoder.start.", "encoder.attributes.")) for name in moved)


def test_the_noisy_stage_is_told_to_encoder_and_decoder(monkeypatch):
    model, told = tracking_model().train(), []
    for part in (model.encoder, model.decoder):
        plain = part.forward

        def forward(*args, plain=plain, **options):
            told.append(options.get("stage"))
            return plain(*args, **options)

        monkeypatch.setattr(part, "forward", forward)
    video = torch.rand(1, model.clip_length, 3, 32, 32)
    for step, stages in ((0, ["warmup"] * 2), (10, ["noisy"] * 2), (20, ["full", None])):
        model.loss(wk.Batch(video), step)
        assert told == stages
        told.clear()
    model.eval().loss(wk.Batch(video), 0)
    assert told == ["full", None]


def test_frames_first_leaves_the_dynamics_alone_for_so_many_steps_of_a_training():
    model = tracking_model(**{"objective.frames_first": 30, "objective.dynamics_turns": 1}).train()
    video = torch.rand(1, model.clip_length, 3, 32, 32)

    def reached(step):
        model.zero_grad()
        loss = model.loss(wk.Batch(video), step, sampler=MEANS)
        loss.total.backward()
        return {name.split(".")[0] for name, p in model.named_parameters() if p.grad is not None}, loss.terms

    for step in (0, 10, 29):
        parts, terms = reached(step)
        assert "dynamics" not in parts and "encoder" in parts and not any("dynamics" in term for term in terms)
    model.objective.config = model.objective.config.model_copy(update={"frames_first": 0, "num_static_frames": 99})
    torch.testing.assert_close(reached(29)[1]["kl"], terms["kl"])
    model.objective.config = model.objective.config.model_copy(update={"frames_first": 30, "num_static_frames": 2})
    assert "dynamics" in reached(30)[0] and "encoder" in reached(30)[0] and reached(31)[0] == {"dynamics"}
    assert any("dynamics" in term for term in model.eval().loss(wk.Batch(video), 0, sampler=MEANS).terms)


def test_the_dynamics_takes_turns_of_its_own():
    """In the full stage, so many after each step of all parts; their loss is the KL alone, and reaches it alone."""
    model = tracking_model(**{"objective.dynamics_turns": 2, "objective.weights.dynamics": 0.5}).train()
    video = torch.rand(1, model.clip_length, 3, 32, 32)
    assert [model.objective.is_dynamics_turn(step) for step in (1, 19, 20, 21, 22, 23)] == [False] * 3 + [True] * 2 + [
        False]
    loss = model.loss(wk.Batch(video), 21, sampler=MEANS)
    loss.total.backward()
    assert loss.partial and not model.loss(wk.Batch(video), 23, sampler=MEANS).partial
    assert "reconstruction" not in loss.terms and "kl" not in loss.terms and loss.terms["kl_dynamics"] > 0
    moved = {name.split(".")[0] for name, p in model.named_parameters() if p.grad is not None}
    assert moved == {"dynamics"}
    assert not model.eval().loss(wk.Batch(video), 21, sampler=MEANS).partial


def test_a_decoder_without_such_glimpses_is_named():
    model = tracking_model(decoder={"name": "particle", "glimpse_map_size": 4, "hidden_dim": 16, "glimpse_ratio": 0.5,
                                    "glimpse_cnn": {"base_channels": 8, "channel_multipliers": [1, 1, 1]},
                                    "background_cnn": {"base_channels": 8}}).train()
    message = "decoder 'particle' gives no glimpses of the size that encoder .* sees, .*set objective.warmup_epochs = 0"
    with pytest.raises(wk.ConfigError, match=message):
        model.loss(wk.Batch(torch.rand(1, 5, 3, 32, 32)), 0)


@torch.no_grad()
def test_frames_after_the_end_do_not_count():
    model = wk.create_model(config=small_config(dynamics="pint-joint", latent_action=None, objective="ddlp")).eval()
    video = torch.rand(2, 5, 3, 32, 32)
    done = torch.ones(2, 5)
    done[:, 3:] = 0
    other = video.clone()
    other[:, 3:] = 0.5
    first, second = (model.loss(wk.Batch(v, done_mask=done), sampler=MEANS).total for v in (video, other))
    torch.testing.assert_close(first, second)


@pytest.mark.parametrize("balance, shares", [(0.5, (1.0, 1.0)), (0.8, (0.8, 0.2)), (1.0, (1.0, 0.0))])
def test_the_balance_shares_the_gradient_out(balance, shares):
    spec = example_spec()
    params = [{key: torch.rand(2, 3, spec.group(key[0]).size, spec.field(key).dist.param_dim(spec.field(key).dim))
               .add(0.1).requires_grad_() for key in spec.keys()} for _ in range(2)]
    posterior, prior = (LatentDist(spec, p) for p in params)
    plain, ours = posterior.kl(prior), balanced_kl(posterior, prior, balance)
    for key in plain:
        torch.testing.assert_close(ours[key], plain[key])
        leaves = [p[key] for p in params]
        wanted = torch.autograd.grad(plain[key].sum(), leaves, retain_graph=True)
        got = torch.autograd.grad(ours[key].sum(), leaves)
        for mine, whole, share in zip(got, wanted, shares, strict=True):
            torch.testing.assert_close(mine, share * whole)


def test_vgg_adds_squared_features_and_weakens_the_whole():
    from worldkit.metrics import VGGPerceptual
    from worldkit.metrics.perceptual import random_state_dicts

    network = VGGPerceptual(*random_state_dicts())
    models = [wk.create_model(config=small_config(
        dynamics=None, latent_action=None, timestep_horizon=1, **{"encoder.select": "keep"},
        objective={"name": "ddlp", "reconstruction": kind, "weights": {"kl": 0.0}},
    )).eval() for kind in ("mse", "vgg")]
    models[1].load_state_dict(models[0].state_dict())
    models[1].use_perceptual(network)
    video = torch.rand(2, 1, 3, 32, 32)
    plain, vgg = (m.loss(wk.Batch(video), sampler=MEANS) for m in models)
    drawn = models[0].decode(models[0].encode(video)).video
    more = 0.12151 * network.squared_features(video[:, 0], drawn[:, 0]).mean()
    torch.testing.assert_close(vgg.total, 1e-3 * (plain.total + more))
    vgg.total.backward()
    assert all(p.grad is None for p in network.parameters())
    assert any(p.grad is not None for p in models[1].encoder.parameters())


@pytest.mark.parametrize("model", [
    {"encoder": "slot", "dynamics": "pint-joint", "latent_action": None}, {"encoder": "patch", "dynamics": "gru"},
    {"dynamics": "diffusion"}, {"dynamics": None, "latent_action": None, "timestep_horizon": 1,
                                "encoder.select": "keep"}, {"obs.views": 2, "dynamics": "pint-joint"},
], ids=str)
def test_it_trains_other_parts_too(model):
    check_model(small_config(objective={"name": "ddlp", "num_static_frames": 1}, **model))


def test_conformance():
    check_objective("ddlp", num_static_frames=2, balance=0.8, leaky_balance=True)
