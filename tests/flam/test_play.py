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


def test_who_is_let_go_does_as_the_others_do():
    game = session()
    game.follow("mean")
    game.steer([1] * 8)
    game.aim(3)
    assert acted(game).abs().max() == 0
    game.steer([1] * 8)
    told = acted(game)
    assert told[3].min() == 1 and told[:3].abs().max() == 0


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


def test_a_browser_aims_and_steers():
    """What the page is told of factors, and what its buttons, keys and sliders send."""
    pytest.importorskip("aiohttp", reason="extra 'play'")
    from worldkit.play.server import COMMANDS, Server

    game = session()
    said = Server(game, {"model": "m", "data": "d"})._state()["state"]["steering"]
    assert (said["dim"], said["factors"], said["factor"], said["choices"]) == (8, 4, 0, None)
    for message in ({"do": "mode", "mode": "mean"}, {"do": "aim", "factor": 2}, {"do": "steer", "action": [0.5] * 8},
                    {"do": "step"}):
        COMMANDS[message["do"]](game, message)
    told = game.futures[0].now.dream.latent_action[0, 0]
    assert told[2].tolist() == [0.5] * 8 and told[[0, 1, 3]].abs().max() == 0
    with pytest.raises(wk.ConfigError, match="no factor 9 to be steered: it has 4, 0 to 3"):
        COMMANDS["aim"](game, {"do": "aim", "factor": 9})


def test_the_command_steers_factors(tmp_path, monkeypatch):
    """``worldkit play FOLDER --data multigrid-16 --latent``, with keys typed ahead."""
    from worldkit.cli import main
    from worldkit.play import terminal

    folder, seen = tmp_path / "flam", []
    session().model.save_pretrained(folder)
    monkeypatch.setattr(terminal, "play", lambda game, about, **_: seen.append((terminal._Game(game, about, 0), about)))
    assert main(["play", str(folder), "--data", "multigrid-16", "-o", "data.num_episodes=2", "--context", "2",
                 "--horizon", "3", "--latent"]) in (None, 0)
    (game, about), = seen
    for key in ("m", "2", "down"):  # the mean, factor 2, one push
        game.hear(key)
    told = game.session.futures[0].now.dream.latent_action[0, 0]
    assert about["data"] == "multigrid-16" and game.session.mode == "mean"
    assert told[2].tolist() == [1, *[0] * 7] and told[[0, 1, 3]].abs().max() == 0
