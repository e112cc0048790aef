"""Playing with one latent action per factor."""

import pytest
import torch

import worldkit as wk
from worldkit.play.session import Session
from worldkit.play.terminal import _Game
from worldkit.testing.report import shake

CLIPS = wk.data.open_dataset("multigrid-16", split="val", num_frames=6, num_episodes=1)
SIZES = {"dim": 16, "num_layers": 1, "num_heads": 2}


def session(**overrides):
    torch.manual_seed(0)
    model = wk.create_model("flam-grid-mini", **{
        "obs": {"height": 16, "width": 16}, "timestep_horizon": 4, "encoder": {"map_channels": 8},
        "decoder": {"channels": 8, "map_channels": 8}, "dynamics": {**SIZES, "num_iterations": 1},
        "latent_action": SIZES, **overrides})
    return Session(shake(model), CLIPS, context_frames=2, latent=True)


def acted(game):
    game.step()
    return game.futures[0].now.dream.latent_action[0, 0]


def test_one_factor_is_steered_and_the_others_are_as_they_would_be():
    game = session()
    assert (game.steering.factors, game.steering.dim) == (4, 8)
    game.follow("mean")
    game.aim(2)
    game.steer([1, -1, 0.5, *[0] * 5])
    told = acted(game)
    assert told[2].tolist() == [1, -1, 0.5, *[0] * 5] and told[[0, 1, 3]].abs().max() == 0
    game.begin(0)
    game.follow("inferred")
    really = game._really_happened()[0, 1]
    told = acted(game)
    assert told[2].tolist() == [1, -1, 0.5, *[0] * 5] and torch.equal(told[[0, 1, 3]], really[[0, 1, 3]])
    game.begin(0)
    game.follow("sample")
    assert acted(game)[[0, 1, 3]].abs().min() > 0


def test_a_factor_that_there_is_not():
    with pytest.raises(wk.ConfigError, match="no factor 4 to be steered: it has 4, 0 to 3"):
        session().aim(4)
    one = session(latent_action={**SIZES, "name": "single", "action_dim": 4, "center": "none"})
    assert one.steering.factors == 0
    with pytest.raises(wk.ConfigError, match="no factor 0 to be steered: its latent action is one for all"):
        one.aim(0)


def test_digits_choose_a_factor_in_the_terminal():
    game = _Game(session(), {"model": "m", "data": "d"}, fps=0)
    game.hear("3")
    game.hear("up")
    assert game.session.factor == 3 and game.session.futures[0].now.t == 1
    game.hear("7")
    assert game.note == "there are factors 0 to 3" and game.session.factor == 3
