"""Objectives, evaluation, planning and pictures with a dynamics that filters."""

import pytest
import torch

import worldkit as wk
from worldkit.batch import Batch
from worldkit.data import ArraySource, ClipDataset, collate
from worldkit.errors import IncompatibleComponentsError
from worldkit.planning import CEM, Continuous, PixelDistance, Shooting
from worldkit.testing import check_model
from worldkit.testing.examples import example_batch
from worldkit.testing.report import shake
from worldkit.training.evaluation import evaluate
from worldkit.training.figures import film, panel
from worldkit.training.glance import glance
from worldkit.training.weightless import emptied, mode_of, weightless

ENCODERS = ["patch", "slot", "particle", "particle-tracking"]
HEADS = {"reward": {"name": "gaussian"}}


def clips(frames, episodes=2, length=9):
    generator = torch.Generator().manual_seed(0)
    data = [{"video": torch.randint(256, (length, 3, 32, 32), dtype=torch.uint8, generator=generator).numpy(),
             "action": torch.randn(length, 3, generator=generator).numpy(),
             "state": {"reward": torch.randn(length, generator=generator).numpy()}} for _ in range(episodes)]
    return ClipDataset(ArraySource(data, name="noise"), num_frames=frames)


@pytest.mark.parametrize("encoder", ENCODERS)
def test_the_elbo_holds_states_against_what_was_expected(make, encoder):
    if encoder == "slot":
        check_model(make(encoder=encoder, heads=HEADS).config)
    model = make(encoder=encoder)
    loss = model.loss(example_batch(model.config), generator=torch.Generator().manual_seed(0))
    assert loss.terms["kl_dynamics"] > 0 and "kl_dynamics/stochastic" in loss.terms
    assert loss.terms["kl_dynamics/deterministic"] == 0  # posterior and prior share it
    assert any("filters" in note for note in model.objective.notes(model))


def test_heads_learn_on_states_and_not_over_borders(make):
    model = shake(make(heads=HEADS, objective="heads"))
    batch = example_batch(model.config, 5)
    first = torch.zeros(2, 5, dtype=torch.bool)
    first[0, 3] = True
    reward = batch.targets["reward"].clone()
    reward[0, 2] += 100  # of the transition that leads over the border
    losses = [model.loss(Batch(batch.video, batch.conditions, targets={"reward": r}, first=first)).total
              for r in (batch.targets["reward"], reward)]
    assert losses[0] == losses[1]
    losses[0].backward()
    assert {name.partition(".")[0] for name, p in model.named_parameters() if p.grad is not None} == {"heads"}


def test_objectives_that_learn_on_the_encoders_latents_refuse(make):
    for objective in ("two-stage", "ddlp"):
        with pytest.raises(IncompatibleComponentsError, match=f"'{objective}' trains a dynamics that does not.*elbo"):
            make(objective=objective)


def test_evaluation_and_pictures_give_it_the_actions(make):
    model = make(heads=HEADS).eval()
    data = clips(6).feeding(model.config.columns, model.config.targets)
    state = {name: x.clone() for name, x in model.state_dict().items()}
    reports = evaluate(model, data, context_frames=3, driven_by=("prior", "sampled", "encoded"), max_clips=2)
    assert set(reports) == {"prior", "sampled", "encoded"}
    batch = collate([data[0]])
    assert panel(model, batch).dtype == torch.uint8
    assert len(film(model, batch, context_frames=3)[0]) == 6
    assert "the prediction" in glance(model, batch, context_frames=3).rows
    assert all(torch.equal(x, state[name]) for name, x in model.state_dict().items()) and not model.training


def test_planning_starts_from_the_state(make):
    model = make()
    video, past = torch.rand(1, 3, 3, 32, 32), torch.zeros(1, 2, 3)
    task = Shooting(model, video, PixelDistance(), goal=torch.rand(1, 3, 32, 32), past=past,
                    space=Continuous((-1,) * 3, (1,) * 3))
    assert torch.equal(task.start.pack(), model.encode(video, conditions={"action": past}).pack())
    assert CEM(candidates=4, iterations=1, elites=2).solve(task, horizon=2).actions.shape == (1, 2, 3)


def test_a_model_as_an_environment_and_what_if(make):
    model = make(heads=HEADS)
    batch = example_batch(model.config, 6)
    env = model.as_env(batch, context_frames=3, horizon=3)
    env.reset(seed=0)
    assert env.step(env.action_space.sample())[0].shape == (32, 32, 3)
    slots = shake(make(encoder="slot"))
    given = example_batch(slots.config, 5)
    z = slots.encode(given.video[:, :3], conditions=given.conditions)
    changed = z.edit(0, features_from=1)
    answer = wk.what_if(slots, z, changed, horizon=2, conditions=given.conditions)
    assert answer.edited.shape == (2, 5, 3, 32, 32) and (answer.edited - answer.original).abs().max() > 0


def test_swapped_in_it_drops_the_latent_action_and_says_so():
    with pytest.warns(UserWarning, match="'tiny-filter' filters.*'gaussian' is left out"):
        config = wk.create_config("lpwm-balls-mini", dynamics="tiny-filter")
    assert config.latent_action is None and config.dynamics.name == "tiny-filter"
    with pytest.raises(IncompatibleComponentsError, match="latent_action=none"):
        wk.create_model("lpwm-balls-mini", dynamics="tiny-filter", latent_action="gaussian")
    with pytest.raises(wk.UnknownComponentError, match="Did you mean 'tiny-filter'"):
        wk.create_config("lpwm-balls-mini", dynamics="tiny-fliter")


def test_saved_and_loaded_it_sees_the_same(make, tmp_path):
    model = shake(make())
    model.save_pretrained(tmp_path / "model")
    batch = example_batch(model.config, 4)
    again = type(model).from_pretrained(tmp_path / "model")
    assert torch.equal(again.encode(batch).pack(), model.encode(batch).pack())


@pytest.mark.parametrize("objective", ["dreamer", "planet"])
def test_a_dry_run_needs_no_values(make, objective):
    told = {"action": {"name": "transition-action", "num_actions": 3}}
    model = weightless(lambda: make(encoder="conv", dynamics="rssm", conditioners=told, objective=objective,
                                    heads={"reward": "two-hot", "terminated": "bernoulli"}))
    batch = emptied(example_batch(model.config, 4), mode_of(model))
    with mode_of(model):
        model.train().loss(batch).total.backward()
