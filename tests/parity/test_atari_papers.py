"""Games prepared as the official IRIS and DIAMOND code prepares them: every frame, reward and end."""

import hashlib
import json

import numpy as np
import pytest

import worldkit as wk
from worldkit.errors import MissingExtraError

from .pixels import MISSING, ROOT, name_of

pytestmark = pytest.mark.skipif(not ROOT.exists(), reason=MISSING)


def digest(frame):
    return hashlib.sha256(np.ascontiguousarray(frame).tobytes()).hexdigest()[:16]


def games(family):
    return sorted((ROOT / family / "atari").glob("*.json"))


def made(path, **options):
    stored = json.loads(path.read_text())
    game = stored["game"].removesuffix("NoFrameskip-v4")
    try:
        env = wk.make_env(f"ALE/{game}-v5", observation="pixels", protocol=path.parts[-3], training=True, **options)
    except MissingExtraError as error:
        pytest.skip(str(error))
    assert env.action_space.n == stored["num_actions"]
    return stored, env


@pytest.mark.parametrize("path", games("iris"), ids=name_of)
def test_iris(path):
    stored, env = made(path, noops=json.loads(path.read_text())["noops"])
    frame, _ = env.reset(seed=stored["reset_seed"])
    assert digest(frame) == stored["reset_sha"]
    for row, (action, reward, done, shown, begun) in enumerate(stored["rows"]):
        frame, got, terminated, truncated, _ = env.step(action)
        assert (got, terminated or truncated, digest(frame)) == (reward, done, shown), row
        if done:
            frame, _ = env.reset()
            assert digest(frame) == begun, row
    env.close()


@pytest.mark.parametrize("path", games("diamond"), ids=name_of)
def test_diamond(path):
    stored, env = made(path)
    frame, _ = env.reset(seed=stored["reset_seed"])
    assert digest(frame) == stored["reset_sha"]
    for row, (action, reward, terminated, truncated, lost, shown) in enumerate(stored["rows"]):
        frame, got, ended, cut, info = env.step(action)
        assert (got, ended, cut, info["life_lost"], digest(frame)) == (reward, terminated or lost, truncated, lost,
                                                                       shown), row
        if lost and not terminated:
            frame, info = env.reset()
            assert digest(frame) == shown and info["goes_on"], row
    env.close()
