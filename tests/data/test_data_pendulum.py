"""The pendulum as a data set: Gymnasium's equations, rewards and pictures, and that every machine makes the same."""

import hashlib

import gymnasium
import numpy as np
import pytest
import torch

import worldkit as wk
from worldkit.data.formats.pendulum import cos_sin, draw, generate_pendulum
from worldkit.errors import DataError


def test_the_equations_and_rewards_are_gymnasiums():
    made = generate_pendulum("train", num_episodes=4, num_frames=60)
    env = gymnasium.make("Pendulum-v1").unwrapped
    env.reset(seed=0)
    for e in range(4):
        for t in range(59):
            c, s, speed = made.observation[e, t].astype(np.float64)
            env.state = np.array([np.arctan2(s, c), speed])
            seen, reward, *_ = env.step(2 * made.action[e, t])
            assert np.allclose(seen, made.observation[e, t + 1], atol=3e-6), (e, t)
            assert reward == pytest.approx(made.reward[e, t], abs=1e-5)
    assert np.abs(made.action).max() <= 1 and (made.reward <= 0).all()


def test_the_pictures_are_about_where_gymnasium_draws_them():
    pytest.importorskip("pygame")
    env = gymnasium.make("Pendulum-v1", render_mode="rgb_array").unwrapped
    env.reset(seed=0)
    env.last_u = None  # no arrow
    for angle in (0.0, 0.7, -2.5):
        env.state = np.array([angle, 0.0])
        theirs = env.render().reshape(25, 20, 25, 20, 3).mean((1, 3))
        ours = draw(np.array([[[np.cos(angle), np.sin(angle), 0.0]]]), 25)[0, 0]
        assert np.abs(theirs - np.moveaxis(ours, 0, -1)).mean() < 1.0, angle


def test_the_rod_stands_hangs_and_leans():
    up, down, left = (draw(np.array([[[c, s, 0.0]]]), 32)[0, 0].astype(int) for c, s in ((1, 0), (-1, 0), (0, 1)))
    red = [(x[0] - x[1] > 60) for x in (up, down, left)]
    assert red[0][:16].sum() > 15 > red[0][18:].sum() and red[1][16:].sum() > 15 > red[1][:14].sum()
    assert red[2][:, :16].sum() > 15 > red[2][:, 18:].sum()
    assert (up == down[:, ::-1]).all() and up[:, 0, 0].tolist() == [255, 255, 255]


def test_half_is_played_at_random_and_half_swings_the_rod_up():
    reward = generate_pendulum("train", num_episodes=40).reward[:, -20:].mean(1)
    assert reward[::2].mean() < -5 and np.median(reward[1::2]) > -1.5


def test_cosine_and_sine_are_exact_enough():
    angle = np.linspace(-np.pi, np.pi, 1001)
    c, s = cos_sin(angle)
    assert max(np.abs(c - np.cos(angle)).max(), np.abs(s - np.sin(angle)).max()) < 1e-8


def test_episodes_are_the_same_however_many_and_on_every_machine():
    few, many = generate_pendulum("val", num_episodes=2, num_frames=5), generate_pendulum("val", num_episodes=25)
    for name in ("video", "action", "reward", "observation"):
        assert np.array_equal(getattr(few, name), getattr(many, name)[:2, :5]), name
    made = many.observation[:2].tobytes() + many.action[:2].tobytes()
    assert hashlib.sha256(made).hexdigest()[:16] == "0a540a40476fb136"


def test_a_clip_and_what_a_model_is_told_of_it():
    clips = wk.data.open_dataset("pendulum-play-32", split="test", num_frames=20, num_episodes=2)
    clip = clips[0]
    assert clip["video"].shape == (20, 3, 32, 32) and clip["action"].shape == (20, 1)
    batch = wk.data.collate([clips[0], clip])
    assert batch.targets["reward"].shape == (2, 20) and batch.conditions["action"].dtype == torch.float32
    y, x = clip["state"]["position"][0, 0]  # the tip is red, what lies on the other side of the axle is not
    pixel = lambda y, x: clip["video"][0][:, int((y + 1) * 16), int((x + 1) * 16)]  # noqa: E731
    assert pixel(0.8 * y, 0.8 * x)[1] < 150 and pixel(-0.8 * y, -0.8 * x)[1] == 255
    assert clip["state"]["observation"][:, :2].square().sum(1).allclose(torch.ones(20), atol=1e-6)


def test_mistakes_are_named():
    for options, said in (({"num_episodes": 0}, "num_episodes must be at least 1"), ({"image_size": 4}, "at least 8")):
        with pytest.raises(DataError, match=said):
            generate_pendulum("train", **{"num_episodes": 1, **options})
    with pytest.raises(DataError, match="split"):
        generate_pendulum("rest", num_episodes=1)
