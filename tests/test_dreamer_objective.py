"""The world-model losses of Dreamer and PlaNet: whom they train, and what counts where episodes begin."""

from dataclasses import replace

import pytest
import torch

from worldkit.assembly import build
from worldkit.distributions import MEANS, Sampler
from worldkit.errors import IncompatibleComponentsError, ShapeError
from worldkit.objectives.planet import PlaNetConfig
from worldkit.testing import check_model, check_objective, example_batch
from worldkit.testing.examples import small_config

HEADS = {"reward": {"name": "two-hot", "num_bins": 9, "readout": {"units": 8}},
         "terminated": {"name": "bernoulli", "readout": {"units": 8}}}
ACTION = {"action": {"name": "transition-action", "dim": 3}}


def make(**overrides):
    torch.manual_seed(0)
    given = {"encoder": "conv", "dynamics": "rssm", "latent_action": None, "heads": HEADS, "conditioners": ACTION,
             "objective": {"name": "dreamer", "free_nats": 0.0}}
    return build(small_config(**(given | overrides)))


def seeded():
    return Sampler(generator=torch.Generator().manual_seed(0))


def parts(model, batch):
    return model.objective.parts(model, model.perceive(batch, seeded()), batch, sampler=seeded())


@pytest.mark.parametrize("options", [
    {}, {"kl": "joint", "free": "mean", "likelihood": "normal"}, {"free": "mean", "dynamics_scale": 0.8},
], ids=str)
def test_dreamer_passes_the_checks(options):
    check_objective("dreamer", **options)


@pytest.mark.parametrize("options", [{}, {"overshooting": 3}, {"bits": 8, "likelihood": "squared"}], ids=str)
def test_planet_passes_the_checks(options):
    check_objective("planet", **options)


@pytest.mark.parametrize("encoder", ["multi", "slot", "particle"])
def test_models_pass_the_checks(encoder):
    check_model(make(encoder=encoder))


def reached(model, loss):
    """Parts of a model that a loss trains."""
    model.zero_grad()
    loss.backward(retain_graph=True)
    names = {name.removeprefix("dynamics.") if name.startswith("dynamics") else name
             for name, p in model.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    return {name.partition(".")[0] for name in names}


def test_whom_each_part_trains():
    model = make()
    found = parts(model, example_batch(model.config))
    assert found.keys() == {"dyn", "rep", "image", "reward", "terminated"}
    assert all(x.shape == (2, 5) for x in found.values())
    told = {name: reached(model, x.mean()) for name, x in found.items()}
    assert told["image"] == {"encoder", "decoder", "cell", "after", "conditioners"}
    assert told["dyn"] == {"encoder", "cell", "after", "before", "conditioners"}
    assert told["rep"] == {"encoder", "cell", "after", "conditioners"}
    assert told["reward"] == told["terminated"] == {"encoder", "cell", "after", "conditioners", "heads"}


def test_free_nats_stop_gradients():
    model = make(objective={"name": "dreamer", "free_nats": 1e3})
    found = parts(model, example_batch(model.config))
    assert (found["dyn"] == 1e3).all() and not reached(model, found["dyn"].mean() + found["rep"].mean())


def test_the_total_is_the_weighed_sum_of_means():
    model = make(heads={**HEADS, "reward": {**HEADS["reward"], "weight": 3.0}},
                 objective={"name": "dreamer", "free_nats": 0.0, "image_scale": 0.5})
    batch = example_batch(model.config)
    means = {name: x.mean() for name, x in parts(model, batch).items()}
    wanted = means["dyn"] + 0.1 * means["rep"] + 0.5 * means["image"] + 3 * means["reward"] + means["terminated"]
    loss = model.loss(batch, sampler=seeded())
    torch.testing.assert_close(loss.total, wanted)
    assert {"kl", "dyn", "rep", "image", "psnr", "head/reward", "head/terminated"} == set(loss.terms)
    torch.testing.assert_close(loss.terms["head/reward"], means["reward"])


def test_rewards_come_with_the_frame_they_led_to():
    """Nothing is known of the first one; where an episode begins they are zero, whatever the batch holds there."""
    model = make()
    batch = example_batch(model.config)
    first = torch.zeros(2, 5, dtype=torch.bool)
    first[0, 3] = True
    base = parts(model, replace(batch, first=first))
    assert (base["reward"][:, 0] == 0).all()
    for t in range(5):
        reward = batch.targets["reward"].clone()
        reward[:, t] += 5
        moved = parts(model, replace(batch, first=first, targets={**batch.targets, "reward": reward}))["reward"]
        changed = (moved != base["reward"])
        wanted = torch.zeros_like(changed)
        if t < 4:
            wanted[:, t + 1] = True
            wanted[0, 3] = False
        assert torch.equal(changed, wanted), t


def test_the_first_frame_counts_where_it_begins_an_episode():
    model = make()
    batch = example_batch(model.config)
    first = torch.zeros(2, 5, dtype=torch.bool)
    first[1, 0] = True
    found = parts(model, replace(batch, first=first))["reward"]
    assert found[0, 0] == 0 and found[1, 0] > 0
    head, z = model.heads["reward"], model.perceive(batch, seeded()).latent
    target = torch.cat([torch.zeros(2, 1), batch.targets["reward"][:, :-1]], 1)
    losses = head.loss(model.dynamics.state_features(z), target)
    torch.testing.assert_close(found.mean(), torch.cat([losses[0, 1:], losses[1]]).mean())


def test_a_clip_with_context_counts_all_it_sees():
    """With one frame before those that are seen, the reward of every transition is known."""
    model = make()
    batch = example_batch(model.config)
    before = model.perceive(batch.video[:, :1]).latent
    action = batch.conditions["action"]
    rest = replace(batch, video=batch.video[:, 1:], conditions={"action": action[:, 1:]}, targets={})
    seen = model.perceive(rest, seeded(), last=before, last_action={"action": action[:, :1]})
    found = model.objective.parts(model, seen, batch, sampler=seeded())
    assert all(x.shape == (2, 4) for x in found.values())
    losses = model.heads["reward"].loss(model.dynamics.state_features(seen.latent), batch.targets["reward"][:, :-1])
    torch.testing.assert_close(found["reward"], losses)


@pytest.mark.parametrize("objective", ["dreamer", "planet"])
def test_frames_outside_of_the_episode_do_not_count(objective):
    model = make(objective=objective)
    batch = example_batch(model.config)
    done = torch.ones(2, 5)
    done[0, 3:] = 0
    other = batch.video.clone()
    other[0, 3:] = 1 - other[0, 3:]
    totals = [model.loss(replace(batch, video=video, done_mask=done), sampler=MEANS).total
              for video in (batch.video, other)]
    torch.testing.assert_close(*totals)


def test_overshooting_stops_at_borders_and_trains_no_posterior():
    model = make(objective={"name": "planet", "overshooting": 4, "free_nats": 0.0, "bits": 8})
    batch = example_batch(model.config)
    ahead = parts(model, batch)["overshooting"]
    assert ahead > 0 and "before" in reached(model, ahead)
    first = torch.ones(2, 5, dtype=torch.bool)
    assert parts(model, replace(batch, first=first))["overshooting"] == 0
    assert PlaNetConfig().overshooting == 0


def test_objectives_and_dynamics_that_do_not_fit_are_refused():
    with pytest.raises(IncompatibleComponentsError, match=r"'two-stage' trains .*does not filter, and 'rssm' "
                                                          r"filters .*fit: dreamer, elbo, heads, planet"):
        make(objective="two-stage")
    with pytest.raises(IncompatibleComponentsError, match="'dreamer' .*that filters, and 'gru' does not"):
        make(dynamics="gru", objective="dreamer", conditioners={})


def test_a_missing_target_is_told():
    model = make()
    batch = replace(example_batch(model.config), targets={})
    with pytest.raises(ShapeError, match="a head for the target 'reward', which the batch lacks"):
        model.loss(batch)
