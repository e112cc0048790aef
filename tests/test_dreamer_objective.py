"""The world-model losses of Dreamer and PlaNet: whom they train, and what counts where episodes begin."""

from dataclasses import replace

import pytest
import torch

from worldkit.assembly import build
from worldkit.batch import Batch
from worldkit.config import WorldModelConfig
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


@pytest.mark.parametrize("encoder", ["multi", "slot"])
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
                                                          r"filters .*fit: .*dreamer, elbo, heads, .*planet"):
        make(objective="two-stage")
    with pytest.raises(IncompatibleComponentsError, match="'dreamer' .*that filters, and 'gru' does not"):
        make(dynamics="gru", objective="dreamer", conditioners={})


def test_a_missing_target_is_told():
    model = make()
    batch = replace(example_batch(model.config), targets={})
    with pytest.raises(ShapeError, match="a head for the target 'reward', which the batch lacks"):
        model.loss(batch)


# -- learning

PLACES = 8


def walk(clips, frames, seed):
    """A token on a ring of eight places goes back, stays or goes on; reaching the first place is rewarded."""
    generator = torch.Generator().manual_seed(seed)
    action = torch.randint(3, (clips, frames), generator=generator)
    moved = torch.cat([torch.zeros(clips, 1, dtype=torch.long), (action[:, :-1] - 1).cumsum(1)], 1)
    place = torch.randint(PLACES, (clips, 1), generator=generator) + moved
    angle = place * 2 * torch.pi / PLACES
    seen = {"place": torch.stack([angle.cos(), angle.sin()], -1)}
    reward = ((place + action - 1) % PLACES == 0).float()
    return replace(Batch.of_vectors(seen), conditions={"action": action}, targets={"reward": reward})


def ring_model():
    readout = {"units": 32}
    torch.manual_seed(0)
    return build(WorldModelConfig.parse({
        "obs": {"height": 0, "width": 0, "vectors": {"place": 2}}, "timestep_horizon": 7,
        "encoder": {"name": "mlp", "units": 32, "layers": 1}, "decoder": {"name": "mlp", "units": 32, "layers": 1},
        "dynamics": {"name": "rssm", "deterministic_dim": 32, "hidden_dim": 32, "num_variables": 4, "num_classes": 8,
                     "cell": {"name": "block-gru", "hidden": 32, "blocks": 4}},
        "conditioners": {"action": {"name": "transition-action", "num_actions": 3}},
        "heads": {"reward": {"name": "gaussian", "mean": [0.0], "std": [1.0], "readout": readout}},
        "objective": {"name": "dreamer", "free_nats": 0.1}}))


@pytest.mark.slow
def test_rewards_are_right_eight_steps_ahead_and_follow_the_actions():
    model, sampler = ring_model(), seeded()
    optimiser = torch.optim.Adam(model.parameters(), 3e-3)
    for step in range(300):
        optimiser.zero_grad()
        model.loss(walk(32, 8, step), sampler=sampler).total.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimiser.step()
    batch, correlation = walk(128, 12, 10**6), []
    given = batch.conditions["action"]
    for action in (given, torch.cat([given[:, :3], given[:, 3:].flip(0)], 1)):
        with torch.no_grad():
            out = model.rollout(batch.context(4), 8, conditions={"action": action},
                                generator=torch.Generator().manual_seed(1))
        both = torch.stack([out.predictions["reward"].flatten(), batch.targets["reward"][:, 3:11].flatten()])
        correlation.append(torch.corrcoef(both)[0, 1].item())
    assert correlation[0] > 0.6 and abs(correlation[1]) < 0.2, correlation


def test_an_encoder_that_comes_trained_stays_as_it_is():
    model = make(encoder="slot", decoder="slot", objective={"name": "dreamer", "train_encoder": False})
    model.train()
    loss = model.loss(example_batch(model.config)).total
    loss.backward()
    assert not model.encoder.training and all(p.grad is None for p in model.encoder.parameters())
    assert all(any(p.grad is not None for p in part.parameters()) for part in (model.decoder, model.dynamics))
