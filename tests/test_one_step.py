"""The one-step objective: a dynamics on the posteriors of a frozen encoder."""

import pytest
import torch

import worldkit as wk
from worldkit.assembly import build
from worldkit.distributions import MEANS
from worldkit.errors import ShapeError, TrainingError
from worldkit.objectives.terms import by_field
from worldkit.testing import check_objective
from worldkit.testing.examples import example_batch, small_config
from worldkit.testing.report import shake
from worldkit.training.recipes import train


def model(seed=0, objective=(), **parts):
    torch.manual_seed(seed)
    return shake(build(small_config(**parts, objective={"name": "one-step", **dict(objective)})))


@pytest.mark.parametrize("parts", [
    {},
    {"latent_action": None},
    {"dynamics": "diffusion"},
    {"encoder": "slot", "dynamics": "slotformer", "latent_action": None},
], ids=str)
def test_parts_that_it_trains_and_parts_that_stay(parts):
    check_objective("one-step", model=parts)


@torch.no_grad()
def test_the_loss_is_the_divergence_of_posteriors_from_predictions_out_of_means():
    built = model(objective={"burn_in": 2, "transparency_weight": 0.25}, latent_action=None).eval()
    batch = example_batch(built.config)
    encoding = built.encoder.see(batch.as_float(), sampler=MEANS)
    z, posterior = encoding.latent, encoding.posterior
    cond = built.condition(z, batch.as_float(), sampler=MEANS).cond
    total = 0.0
    for t in range(2, z.shape[1]):  # frame by frame, each from the true ones before it
        prior = built.dynamics.prior(z[:, :t], cond.at(slice(0, t)))[:, -1:]
        fields = by_field(posterior[:, t : t + 1].kl(prior), z.spec, z[:, t : t + 1])
        total += sum(v.mean() * (0.25 if k == "transparency" else 1.0) for k, v in fields.items())
    numbers = sum(g.size * f.dim for g in z.spec.groups for f in g.fields)
    torch.testing.assert_close(built.loss(batch).total, total / (z.shape[1] - 2) / numbers)


@torch.no_grad()
def test_what_actions_may_tell_has_a_price_of_its_own():
    cheap, dear = (model(objective={"kl_weight": w}).eval() for w in (1.0, 3.0))
    dear.load_state_dict(cheap.state_dict())
    batch = example_batch(cheap.config)
    a, b = (m.loss(batch, generator=torch.Generator().manual_seed(0)) for m in (cheap, dear))
    numbers = sum(g.size * f.dim for g in cheap.spec.groups for f in g.fields)
    torch.testing.assert_close(b.total - a.total, 2 * a.terms["kl_latent_action"] / numbers)
    assert a.terms["kl_latent_action"] > 0 and a.terms["kl_dynamics/position"] > 0


@torch.no_grad()
def test_frames_outside_the_episode_do_not_count():
    built = model(latent_action=None).eval()
    batch = example_batch(built.config)
    frames = batch.video.shape[1]
    mask = torch.ones(batch.batch_size, frames, dtype=torch.bool)
    mask[:, -1] = False
    other = batch.video.clone()
    other[:, -1] = 255 - other[:, -1] if other.dtype == torch.uint8 else 1 - other[:, -1]
    losses = [built.loss(wk.Batch(video, conditions=batch.conditions, done_mask=mask)).total
              for video in (batch.video, other)]
    torch.testing.assert_close(*losses)
    assert losses[0] != built.loss(batch).total


def test_nothing_left_to_predict_is_an_error():
    built = model(objective={"burn_in": 9})
    with pytest.raises(ShapeError, match="set objective.burn_in below"):
        built.loss(example_batch(built.config))


def test_it_needs_a_trained_encoder_and_leaves_it_as_it_is(tmp_path):
    options = {"steps": 2, "batch_size": 2, "optimizer": "muon", "clips": "tile", "early_steps": 0, "eval_clips": 2}
    few = {"num_episodes": 2, "episode_length": 20}
    overrides = {"objective": {"name": "one-step", "remember": 4}}
    with pytest.raises(TrainingError, match="decoder and encoder, which must come trained"):
        train("lpwm-balls-mini", "balls-32", run=tmp_path / "a", overrides=overrides, train_overrides=options,
              data_options=few, show_progress=False)
    trained, _ = train("lpwm-balls-mini", "balls-32", run=tmp_path / "b", overrides=overrides, data_options=few,
                       train_overrides={**options, "init_from": "lpwm-balls-mini"}, show_progress=False)
    shipped = wk.create_model("lpwm-balls-mini", pretrained=True)
    for part, same in (("encoder", True), ("decoder", True), ("dynamics", False)):
        pairs = zip(getattr(trained, part).parameters(), getattr(shipped, part).parameters(), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs) == same
