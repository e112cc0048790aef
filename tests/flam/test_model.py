"""FLAM's parts together: what its loss is, what it trains, and that one factor's action is edited alone."""

import pytest
import torch

import worldkit as wk
from worldkit.assembly import build
from worldkit.distributions import MEANS, Normal, Sampler
from worldkit.errors import IncompatibleComponentsError, TrainingError
from worldkit.testing import check_model
from worldkit.testing.examples import small_config
from worldkit.testing.report import shake
from worldkit.training.recipes import train

TINY = {"obs": {"height": 16, "width": 16}, "timestep_horizon": 4}
SIZES = {"dim": 16, "num_layers": 1, "num_heads": 2}


def flam(*, shaken=True, **overrides):
    torch.manual_seed(0)
    small = {**TINY, "encoder": {"map_channels": 8}, "decoder": {"channels": 8, "map_channels": 8},
             "dynamics": {**SIZES, "num_iterations": 2}, "latent_action": SIZES}
    model = wk.create_model("flam-grid-mini", **{**small, **overrides})
    return shake(model) if shaken else model


@pytest.fixture
def video():
    return torch.rand(2, 5, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def test_the_loss_is_the_papers(video):
    model = flam(objective={"kl_weight": 0.5, "quiet_steps": 2, "kl_steps": 0}).eval()
    batch = wk.Batch(video)
    told = model.loss(batch, 5, sampler=MEANS)
    z = model.encode(video)
    slots = model.dynamics.factors(z)
    steering = model.condition(z, batch, sampler=MEANS, factors=slots)
    with torch.no_grad():
        predicted = model.predict_next(z, steering.cond).mode().features
        squared = (predicted - z.features[:, 1:]).square().mean()
        mean, logvar = Normal.split(steering.posterior.params)
        kl = 0.5 * (mean**2 + logvar.exp() - 1 - logvar).sum((2, 3)).mean()
    torch.testing.assert_close(told.terms["next"], squared)
    torch.testing.assert_close(told.terms["kl_latent_action"], kl)
    torch.testing.assert_close(told.total, squared + 0.5 * kl)
    torch.testing.assert_close(model.loss(batch, 1, sampler=Sampler()).total, squared)  # quiet: no noise, no KL
    assert model.loss(batch, 5, sampler=Sampler()).total != told.total


def test_only_what_is_inside_an_episode_counts(video):
    model = flam().eval()
    cut = torch.ones(2, 5)
    cut[:, 3:] = 0
    short = model.loss(wk.Batch(video[:, :3]), 5000, sampler=MEANS)
    masked = model.loss(wk.Batch(video, done_mask=cut), 5000, sampler=MEANS)
    torch.testing.assert_close(masked.total, short.total)


def test_the_tokenizer_stays_as_it_is(video):
    model = flam()
    model.loss(wk.Batch(video), 0).total.backward()
    learned = {name.split(".")[0] for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    assert learned == {"dynamics", "latent_action"}


def test_slots_are_made_once_a_step(video, monkeypatch):
    model, made = flam(), []
    factorizer = model.dynamics.factorizer
    monkeypatch.setattr(factorizer, "forward", lambda *x, run=factorizer.forward: made.append(1) or run(*x))
    model.loss(wk.Batch(video), 0)
    assert made == [1]


@torch.no_grad()
def test_an_edited_action_moves_one_slot_and_no_other():
    model = flam().eval()
    video = torch.rand(1, 1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    action = torch.randn(1, 1, 4, 8, generator=torch.Generator().manual_seed(1))
    edited = model.latent_action.edited(action, 2, torch.zeros(8))
    slots, seen = model.dynamics.factors(model.encode(video)).features, []
    for a in (action, edited):
        seen.append(model.dynamics.forward_factors(slots, model.latent_action.condition(a).token))
    assert [bool(x) for x in (seen[0] != seen[1]).any(-1)[0, 0]] == [False, False, True, False]
    z = model.encode(video)
    drawn = [model.dynamics.prior(z, model.latent_action.condition(a)).mode().features for a in (action, edited)]
    assert (drawn[0] != drawn[1]).any()


@torch.no_grad()
def test_a_rollout_makes_slots_anew_of_what_was_predicted(video):
    model = flam().eval()
    actions = torch.randn(2, 7, 4, 8, generator=torch.Generator().manual_seed(1))
    future = model.rollout(video[:, :2], 6, latent_actions=actions)
    z = type(future.latents).cat([future.context_latents, future.latents])
    for t in (1, 4, 6):  # inside the window of 4 frames and beyond
        window = slice(max(0, t - 3), t + 1)
        cond = model.latent_action.condition(actions[:, window])
        expected = model.dynamics.prior(z[:, window], cond).mode()[:, -1:]
        torch.testing.assert_close(z[:, t + 1 : t + 2].features, model.encoder.settle(expected).features)
        levels = 2 * z[:, t + 1].features  # five of them: -1, -0.5, 0, 0.5, 1
        torch.testing.assert_close(levels, levels.round())


def test_other_latent_actions_on_the_same_slots(video):
    for name, tokens in (("single", 1), ("gaussian", 4)):
        sizes = {**SIZES, "name": name, "action_dim": 3}
        model = flam(latent_action=sizes).eval()
        found = model.infer_latent_actions(video)
        assert found.shape == (2, 4, tokens, 3)
        model.loss(wk.Batch(video), 5000).total.backward()
        drawn = model.rollout(video[:, :2], 6).latents.features  # the policy of 'gaussian' sees new slots
        assert drawn.shape[1] == 6 and drawn.isfinite().all()


@pytest.mark.parametrize("overrides", [
    {"encoder": "slot", "dynamics": "factored", "latent_action": "factored"},
    {"encoder": "slot", "dynamics": "pint", "latent_action": "factored", "objective": "inverse-forward"},
    {"dynamics": "factored", "latent_action": "factored"},
    {"encoder": "fsq", "dynamics": "flam", "latent_action": "factored", "objective": "inverse-forward"},
    {"encoder": "patch", "dynamics": "pint", "latent_action": "single", "objective": "inverse-forward"},
    {"encoder": "slot", "dynamics": "factored", "latent_action": {"name": "playslot", "per_token": True},
     "objective": "inverse-forward"},
], ids=lambda o: "-".join(str(x) for x in o.values()))
def test_on_slots_and_particles(overrides):
    check_model(small_config(**overrides))


@torch.no_grad()
@pytest.mark.parametrize("encoder", ["particle", "slot"])
def test_an_edited_action_moves_one_particle_or_slot(encoder):
    torch.manual_seed(0)
    model = shake(build(small_config(encoder=encoder, dynamics="factored", latent_action="factored"))).eval()
    obs = model.config.obs
    video = torch.rand(1, 3, 3, obs.height, obs.width, generator=torch.Generator().manual_seed(0))
    action = model.infer_latent_actions(video)  # of two transitions; the third is ours
    action = torch.cat([action, torch.zeros_like(action[:, :1])], 1)
    edited = action.clone()
    edited[:, -1] = model.latent_action.edited(action[:, -1:], 1, torch.ones(action.shape[-1]))[:, 0]
    before, after = (model.rollout(video, 1, latent_actions=a).latents.pack() for a in (action, edited))
    change = (after - before).abs().amax(-1)[0, 0]
    assert len(change) == action.shape[2] > 2 and change[1] > 1e-4
    assert change[1] == change.sum()


def test_more_factors_than_slots():
    with pytest.raises(IncompatibleComponentsError, match="num_factors 5 asks for more .* has 4 .4 slots."):
        flam(latent_action={**SIZES, "num_factors": 5})


def test_a_stage_without_its_tokenizer(tmp_path):
    with pytest.raises(TrainingError, match="trains nothing in decoder and encoder, which must come trained(?s:.*)"
                                            "worldkit train flam-grid-mini-tokenizer --data multigrid-16"):
        train("flam-grid-mini", "multigrid-16", run=tmp_path / "run", overrides=TINY, show_progress=False,
              data_options={"num_episodes": 2})
