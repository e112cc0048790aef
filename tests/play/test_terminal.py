"""The terminal's side: what keys do, what is shown, and `worldkit play` itself."""

import io
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from rich.console import Console

from worldkit.assembly import build
from worldkit.cli import main
from worldkit.data import ArraySource, ClipDataset
from worldkit.errors import ConfigError
from worldkit.play.session import Session
from worldkit.play.terminal import play, shrink
from worldkit.testing.examples import small_config
from worldkit.testing.report import shake

RANDOM = np.random.default_rng(0)


def session(action=None):
    torch.manual_seed(0)
    episode = {"video": RANDOM.integers(0, 255, (8, 3, 32, 32), np.uint8)}
    parts = {}
    if action:
        episode["action"] = RANDOM.random((8, 3), np.float32) if "dim" in action else np.arange(8) % 4
        parts = {"conditioners": {"action": {"name": "action", **action}}, "latent_action": None}
    clips = ClipDataset(ArraySource([episode] * 2), num_frames=6)
    return Session(shake(build(small_config(**parts))), clips, context_frames=3)


def played(game, keys, width=100):
    """Play with these keys (None: nothing, until the time is up); what was shown."""
    shown, waits, keys = io.StringIO(), [], iter([*keys, "q"])

    def key(seconds):
        waits.append(seconds)
        return next(keys)

    console = Console(file=shown, force_terminal=True, color_system="truecolor", width=width, height=30)
    play(game, {"model": "m", "data": "d"}, fps=0, console=console, key=key)
    return shown.getvalue(), waits


def test_keys():
    game = session()
    shown, waits = played(game, [".", ".", ",", "b", " ", None, None, " "])
    assert [f.t for f in game.frames()] == [3, 3] and len(game.futures) == 2
    assert "step 2" in shown and "▀" in shown and "pause" in shown
    assert waits[:5] == [3600.0] * 5 and waits[5] == 0.0 and waits[-1] == 3600.0
    played(game, ["d", "m", "n"])
    assert len(game.futures) == 1 and game.mode == "mean" and game.frames()[0].t == 0
    played(game, ["right", "right", "left", "unknown"])
    assert game.frames()[0].t == 1


def test_arrows_steer_for_one_step(monkeypatch):
    game, told = session({"dim": 3}), []
    step = game.step
    monkeypatch.setattr(game, "step", lambda: (told.append(game.action), step()))
    played(game, ["up", ".", " ", None, "left", None, None])
    assert told == [[-1.0, 0.0, 0.0], None, None, [0.0, -1.0, 0.0], None]


def test_digits_choose():
    game = session({"num_actions": 4})
    shown, _ = played(game, ["2", "."])
    assert game.action == 2 and "digits steer" in shown
    shown, _ = played(game, ["7"])
    assert game.action == 2 and "there are choices 0 to 3" in shown


@pytest.mark.parametrize("shape, room, wanted", [
    ((32, 32), (60, 100), (32, 32)), ((32, 32), (64, 100), (64, 64)), ((128, 128), (60, 100), (60, 60)),
    ((33, 20), (40, 40), (34, 20)), ((64, 128), (60, 40), (20, 40)),
])
def test_pictures_fit(shape, room, wanted):
    assert shrink(np.zeros((*shape, 3), np.uint8), *room).shape == (*wanted, 3)


def test_without_a_terminal(capsys):
    with pytest.raises(ConfigError, match="--web plays in a browser"):
        play(session(), {"model": "m", "data": "d"}, fps=0, console=Console(file=io.StringIO()))


@pytest.mark.parametrize("typed, says", [
    (["lpwm-balls-mini", "--fps", "-1"], "--fps runs from 0"),
    (["lpwm-balls-mini", "--port", "99999"], "--port runs from 0 to 65535"),
    (["savi-balls-mini"], "has no dynamics"),
    (["lpwm-balls-mini", "--clip", "99999"], "clip 99999 is out of range"),
    (["lpwm-balls-mini"], "this is no terminal"),
    (["lpwm-balls-mini", "--port", "8081"], "--port is of --web"),
    (["lpwm-balls-mini", "--open"], "--open is of --web"),
])
def test_what_cannot_be_is_said(typed, says, capsys):
    assert main(["play", *typed]) == 2
    assert says in " ".join(capsys.readouterr().err.split())


def test_without_the_extra(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "aiohttp", None)
    assert main(["play", "lpwm-balls-mini", "--web"]) == 2
    assert "[play]" in capsys.readouterr().err


@pytest.mark.skipif(os.name == "nt", reason="a pseudo terminal")
def test_in_a_terminal():
    """The command as it is typed, in a terminal of its own: it shows pictures, hears keys and leaves all as it was."""
    import pty

    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color", "COLORTERM": "truecolor", "COLUMNS": "100", "LINES": "40"}
    game = subprocess.Popen([sys.executable, "-m", "worldkit", "play", "lpwm-balls-mini"], stdin=theirs, stdout=theirs,
                            stderr=theirs, env=environment)
    os.close(theirs)
    said = b""
    try:
        while b"step 0" not in said:
            said += os.read(ours, 65536)
        os.write(ours, b".")
        while b"step 1" not in said:
            said += os.read(ours, 65536)
        os.write(ours, b"q")
        while game.poll() is None:
            try:
                said += os.read(ours, 65536)
            except OSError:
                break
        assert game.wait(20) == 0 and "▀".encode() in said
    finally:
        if game.poll() is None:
            game.kill()
        os.close(ours)
