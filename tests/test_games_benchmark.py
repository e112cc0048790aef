"""benchmarks/games.py: an oracle scores as one, and a model that repeats the newest frame does not."""

import importlib.util
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import worldkit as wk

spec = importlib.util.spec_from_file_location("games_benchmark", Path(__file__).parents[1] / "benchmarks/games.py")
games = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(games)


@pytest.fixture(scope="module")
def clips():
    return games.play(partial(wk.make_env, "games/catch", size=16, grid=8), episodes=1)


class Told:
    """Answers with frames and rewards of clips that it has."""

    def __init__(self, clips, copies=False):
        self.clips, self.copies = clips, copies

    def rollout(self, video, horizon, *, conditions, deterministic, generator):
        known = self.clips.video[:, : games.SEEN].flatten(1)
        row = (known[:, None] == video.flatten(1)).all(-1).float().argmax(0)
        same = (self.clips.action[row] == conditions["action"])[:, games.SEEN - 1 : -1].all(1)
        future = torch.where(same[:, None, None, None, None], self.clips.video[row], self.clips.other[row]) / 255
        future = future[:, games.SEEN :]
        if self.copies:
            future = (video[:, -1:] / 255).expand_as(future)
        return SimpleNamespace(video=future, predictions={"reward": self.clips.reward[row, games.SEEN - 1 : -1]})


def test_clips_are_play_and_the_same_game_with_other_actions(clips):
    assert len(clips.video) == 6 and clips.video.shape[1:] == (14, 3, 16, 16)
    assert torch.equal(clips.video[:, : games.SEEN], clips.other[:, : games.SEEN])
    changed = clips.action != clips.replaced
    assert changed[:, 3:].all() and not changed[:, :3].any()
    assert clips.before[:, 0].any() and not clips.before[:, -1].any()  # a ball falls seven steps
    assert ((clips.reward[:, 3:-1] != 0) & clips.until).sum(1).tolist() == [1] * 6


def test_an_oracle_and_a_model_that_copies(clips):
    perfect, still = (games.measure(Told(clips, copies), clips) for copies in (False, True))
    assert perfect["error"].max() < 1e-9 and torch.allclose(still["error"], still["copy"]) and still["copy"].min() > 1
    assert perfect["right place"].nanmean() > 0.999 and perfect["follows"].nanmean() == 1
    assert still["right place"].nanmean() == 0 and still["follows"].nanmean() < 0.7
    frames = clips.video[:, games.SEEN :] / 255
    assert perfect["next ball"].nanmean() == 1 and not games.balls(0.6 * frames, frames).any()
    real = clips.reward[:, games.SEEN - 1 : -1]
    assert games.correlation(perfect["reward"][None], real, clips.until, 20).low > 0.999
    assert abs(games.correlation(torch.rand(1, 6, 10), real, clips.until, 20).mean) < 0.5
