"""Catch as a data set: the rules and pictures of the game, and that every machine makes the same."""

import hashlib

import numpy as np
import pytest
import torch

import worldkit as wk
from worldkit.data.formats.catch import generate_catch, length
from worldkit.envs.backends.games import Catch


@pytest.mark.parametrize("grid, image_size", [(8, 32), (5, 17)])
def test_the_rules_and_pictures_are_those_of_the_game(grid, image_size):
    made = generate_catch("train", num_episodes=4, image_size=image_size, grid=grid)
    for e in range(4):
        game = Catch(grid=grid)
        game.reset(seed=0)
        for t in range(length(grid)):
            (row, column), (_, paddle) = made.cell[e, t]
            if row:  # the game's own chance decides where the next ball begins
                assert game.values[:3].tolist() == [row, column, paddle]
            game.values[:3] = row, column, paddle
            assert np.array_equal(game.draw(image_size, image_size), np.moveaxis(made.video[e, t], 0, -1))
            if t == length(grid) - 1:
                break
            if e % 2:
                assert made.action[e, t] == game.scripted_action()
            _, reward, over, _, _ = game.step(int(made.action[e, t]))
            assert (reward, over) == (made.reward[e, t], made.terminated[e, t])
            assert game.values[2] == made.cell[e, t + 1, 1, 1]
    assert over and made.terminated[:, -1].all() and not made.reward[:, -1].any() and not made.action[:, -1].any()


def test_half_is_played_at_random_and_half_by_the_script():
    made = generate_catch("train", num_episodes=60)
    caught = made.reward.sum(1)
    assert (caught[1::2] == 10).all() and -6 < caught[::2].mean() < -1
    assert np.allclose(np.bincount(made.action[::2].ravel()) / made.action[::2].size, 1 / 3, atol=0.03)


def test_episodes_are_the_same_however_many_and_on_every_machine():
    few = generate_catch("val", num_episodes=2, num_frames=5)
    many = generate_catch("val", num_episodes=60)  # more than are made at a time
    assert np.array_equal(few.video, many.video[:2, :5]) and np.array_equal(few.action[:, :-1], many.action[:2, :4])
    assert not few.terminated.any()
    assert len({episode.tobytes() for episode in many.cell}) == 60
    assert hashlib.sha256(many.cell[:2].tobytes() + many.action[:2].tobytes()).hexdigest()[:16] == "3b063624dce4db00"


def test_a_clip_and_what_a_model_is_told_of_it():
    clips = wk.data.open_dataset("catch-play-32", split="test", num_frames=71, num_episodes=2)
    clip = clips[1]
    assert clip["video"].shape == (71, 3, 32, 32) and clip["action"].dtype == torch.int64
    assert clip["state"]["position"].shape == (71, 2, 2) and clip["state"]["position"].abs().max() <= 0.875
    batch = wk.data.collate([clips[0], clip])
    assert batch.targets["reward"].sum(1)[1] == 10 and batch.targets["terminated"][:, -2].all()
    assert batch.conditions["action"].shape == (2, 71)


@pytest.mark.parametrize("options, message", [
    ({"grid": 3}, "from 4 to 64, got 3"), ({"image_size": 7}, "8 squares do not fit into 7 pixels"),
    ({"num_frames": 72}, "has 71 frames, got episode_length=72"), ({"num_frames": 0}, "got episode_length=0"),
    ({"num_episodes": 0}, "num_episodes must be at least 1"),
])
def test_what_cannot_be_made(options, message):
    with pytest.raises(wk.DataError, match=message):
        generate_catch("val", **{"num_episodes": 1, **options})


@pytest.mark.parametrize("name", ["catch", "catch-32", "games/catch"])
def test_folders_that_people_call_after_the_game_are_folders(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    video = np.zeros((5, 16, 16, 3), np.uint8)
    (tmp_path / name).mkdir(parents=True)
    np.savez(tmp_path / name / "episode_000000.npz", video=video)
    assert wk.data.open_dataset(name, split="all", num_frames=5)[0]["video"].shape == (5, 3, 16, 16)
