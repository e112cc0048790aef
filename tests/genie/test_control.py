"""Steering by codes, in games and environments; how much codes matter, and whether they are the true actions."""

import math

import numpy as np
import pytest
import torch

from worldkit import Batch
from worldkit.data import open_dataset
from worldkit.errors import ConfigError, ShapeError, WorldkitError
from worldkit.metrics import agreement, normalized_mutual_information
from worldkit.play.session import Session
from worldkit.training.controllability import DELTA, DELTA_USAGE, Controllability, with_true_actions
from worldkit.training.protocols import find_protocol
from worldkit.training.watch import PATIENCE, Watch


@pytest.fixture
def clips(genie, tmp_path):
    """Three episodes of seven frames of 24 x 16 pixels, with discrete actions."""
    draw = np.random.default_rng(0)
    for i in range(3):
        np.savez(tmp_path / f"e{i}.npz", video=draw.integers(0, 256, (7, 24, 16, 3), dtype=np.uint8),
                 action=draw.integers(0, 3, 7))
    return open_dataset(tmp_path, split="all", num_frames=6, height=24, width=16, conditions={})


def test_a_player_names_codes(genie, clips):
    session = Session(genie(), clips, context_frames=2, latent=True)
    assert session.steering.choices == 3 and session.steering.latent
    session.steer(2)
    session.step()
    assert session.futures[0].now.dream.latent_action.tolist() == [[[[2]]]]
    session.branch()
    session.steer(None)
    session.follow("inferred")
    session.step()
    told = session.model.infer_latent_actions(session._video)[:, 2:3]
    assert torch.equal(session.futures[1].now.dream.latent_action, told)
    assert [frame.t for frame in session.frames()] == [2, 2]
    with pytest.raises(ConfigError, match="run from 0 to 2, got 3"):
        session.steer(3)
    with pytest.raises(WorldkitError, match="steering by latent actions needs latent actions"):
        Session(genie(latent_action=None, objective={"name": "two-stage", "num_frames": 5}), clips, context_frames=2,
                latent=True)


def test_codes_are_actions_of_an_environment(genie, video):
    env = genie().as_env(Batch(video), context_frames=2, horizon=3, num_envs=2)
    assert env.single_action_space.n == 3
    first, _ = env.reset(seed=0)
    seen, *_ = env.step(np.array([0, 2]))
    assert first.shape == seen.shape == (2, 24, 16, 3)
    again, _ = env.reset(seed=0)
    assert np.array_equal(first, again)


@torch.no_grad()
def test_what_other_latent_actions_cost(genie, clips):
    model = genie().eval()
    control = Controllability(model, draws=2)
    batch = Batch(torch.stack([with_true_actions(clips)[i]["video"] for i in range(3)]).float() / 255,
                  {"action": torch.stack([with_true_actions(clips)[i]["action"] for i in range(3)])})
    actions = model.infer_latent_actions(batch.video)
    rolled = model.rollout(batch.video[:, :1], 5, latent_actions=actions, deterministic=True)
    found = control.scores(batch, batch.video[:, 1:], rolled.video, actions, context_frames=1)
    assert set(found) == {DELTA, DELTA_USAGE} and all(x.shape == (3, 5) for x in found.values())
    assert control.agreement().transitions == 15
    model.latent_action.usage.copy_(torch.tensor([0.0, 1.0, 0.0]))  # collapsed: as used, nothing else can be drawn
    same = torch.ones_like(actions)
    rolled = model.rollout(batch.video[:, :1], 5, latent_actions=same, deterministic=True)
    found = control.scores(batch, batch.video[:, 1:], rolled.video, same, context_frames=1)
    assert found[DELTA_USAGE].abs().max() == 0 and found[DELTA].abs().max() > 0
    # the truth itself as a prediction: the analytic value
    found = control.scores(batch, batch.video[:, 1:], batch.video[:, 1:], same, context_frames=1)
    others = model.rollout(batch.video[:, :1], 5, latent_actions=same, deterministic=True).video.clamp(0, 1)
    errors = (others - batch.video[:, 1:]).square().mean((2, 3, 4))
    torch.testing.assert_close(found[DELTA_USAGE], 100 + 10 * errors.log10())
    with pytest.raises(ConfigError, match="this model has none"):
        Controllability(genie(latent_action=None, objective={"name": "two-stage", "num_frames": 5}))
    assert find_protocol("genie-controllability").driven_by == ("inferred", "encoded")


def test_agreement_where_the_place_is_known():
    """Codes that name the place that a move leads to, as colours on a map; by themselves they tell nothing of it."""
    draw = torch.Generator().manual_seed(0)
    places, actions = (torch.randint(n, (400, 5), generator=draw) for n in (3, 3))
    codes = (places + actions) % 3
    apart, known = (agreement(codes, actions, given=given, generator=draw) for given in (None, places))
    assert apart.nmi < 0.01 and apart.accuracy < 0.4
    assert known.nmi == 1 and known.accuracy == 1 and known.shuffled < 0.01
    same = agreement(codes, actions, given=torch.zeros_like(places), generator=draw)
    assert (same.nmi, same.accuracy) == (apart.nmi, apart.accuracy)
    told_by_place = agreement(places, (places + 1) % 3, given=places, generator=draw)  # nothing is left to be told
    assert told_by_place.nmi == 0 and told_by_place.accuracy == 1
    with pytest.raises(ShapeError, match="given"):
        agreement(codes, actions, given=places[:, :2])
    # shuffles stay within a place: an action that follows from the place alone is never another one's
    chance = agreement(codes, places, given=places, generator=draw)
    assert chance.nmi == 0 and chance.shuffled == 0


def test_agreement_with_true_actions():
    draw = torch.Generator().manual_seed(0)
    actions = torch.randint(3, (50, 6), generator=draw)
    split = actions * 2 + torch.randint(2, actions.shape, generator=draw)  # two codes for every action
    found = agreement(split, actions, generator=draw)
    entropy = math.log(3)
    assert abs(found.nmi - 2 * entropy / (entropy + math.log(6))) < 0.01 and found.accuracy == 1
    assert found.low < found.nmi <= found.high + 1e-9 and 5 < found.codes_used <= 6
    one = agreement(torch.zeros_like(actions), actions, generator=draw)
    assert one.nmi == one.shuffled == 0 and one.codes_used == 1
    unrelated = agreement(torch.randint(3, actions.shape, generator=draw), actions, generator=draw)
    assert unrelated.nmi < 0.05 and 0 < unrelated.shuffled < 0.05
    assert normalized_mutual_information(torch.tensor([[2.0, 1], [1, 2]])) == pytest.approx(0.0817, abs=1e-3)


def test_collapsed_codes_are_reported_once():
    watch = Watch()
    terms = {"latent_action/perplexity": 1.0, "perplexity": 30.0}
    assert watch.look(1, terms) == [] and watch.look(PATIENCE, terms) == []
    (text,) = watch.look(PATIENCE + 1, terms)
    assert "latent_action/perplexity is 1" in text and "latent_action.center=batch" in text
    assert watch.look(PATIENCE + 2, terms) == []
    assert watch.look(PATIENCE + 3, {"latent_action/perplexity": 3.0}) == []
