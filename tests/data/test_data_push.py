"""Push: the physics, that everybody gets the same episodes, and that another action makes another future."""

import hashlib

import numpy as np
import pytest
import torch

from worldkit.data import describe, generate_push, make_loader, open_dataset, validate, write_dataset
from worldkit.data.formats.push import FRICTION, RADIUS, RESTITUTION, STEP, draw, rollout, simulate
from worldkit.errors import DataError


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLDKIT_CACHE", str(tmp_path / "cache"))


def state(*places):
    """Discs at rest: (position, velocity), ``[1, 3, 2]``."""
    position = np.array([places], dtype=np.float32)
    return position, np.zeros_like(position)


def told(*actions):
    return np.array([actions], dtype=np.float32)


FAR = (0.75, 0.75)


def test_an_action_moves_the_pusher_by_what_it_says():
    actions = told((0.5, 0.25), (-1, 0.5), (0, 0))
    position, velocity, contact = rollout(*state((0, 0), FAR, (-0.75, 0.75)), actions)
    assert np.allclose(position[0, :, 0], STEP * actions[0].cumsum(0), atol=1e-6)
    assert np.allclose(velocity[0, :, 0], STEP * actions[0], atol=1e-6) and not contact.any()
    assert (position[0, :, 1:] == position[0, 0, 1:]).all() and (velocity[0, :, 1:] == 0).all()


def test_the_pusher_gives_its_speed_to_what_it_hits():
    """Head-on: the disc leaves with (1 + restitution) of the speed, then loses friction every frame until it lies."""
    position, velocity, contact = rollout(*state((0, -0.7), (0, -0.15), FAR), told((0, 1), *[(0, 0)] * 30))
    assert contact[0].tolist() == [True] + [False] * 30
    speed = velocity[0, :, 1, 1]
    assert abs(speed[0] - (1 + RESTITUTION) * STEP) < FRICTION and (velocity[0, :, 1, 0] == 0).all()
    assert np.allclose(np.diff(speed[:7]), -FRICTION, atol=1e-6) and speed[-1] == 0
    assert (position[0, -1, 0] == position[0, 0, 0]).all()


def test_discs_of_one_mass_keep_their_momentum(monkeypatch):
    monkeypatch.setattr("worldkit.data.formats.push.FRICTION", 0.0)
    position, velocity = state((-0.75, -0.75), (0, -0.3), (0.1, 0.25))
    velocity[0, 1] = (0, 0.1)
    after = rollout(position, velocity, told((0, 0), (0, 0), (0, 0)))[1][0, -1]
    assert (after[0] == 0).all() and after[1, 1] < 0.1 and after[2, 1] > 0
    assert np.allclose(after[1] + after[2], (0, 0.1), atol=1e-6)
    before, now = 0.1**2, (after[1:] ** 2).sum()
    assert RESTITUTION**2 * before < now < before
    angle = np.arctan2(after[2, 0], after[2, 1])
    assert 0.1 < angle < 0.4  # it was hit off centre, and leaves along the line between the two


def test_walls_give_everything_back(monkeypatch):
    monkeypatch.setattr("worldkit.data.formats.push.FRICTION", 0.0)
    position, velocity = state((0.5, -0.75), (-0.5, 0.6), FAR)
    velocity[0, 1] = (0.02, 0.1)
    position, velocity, _ = rollout(position, velocity, told((0, 0), (0, 0), (0, 0)))
    assert np.allclose(velocity[0, -1, 1], (0.02, -0.1)) and position[..., 1].max() <= 1 - RADIUS


def test_nothing_leaves_the_image_and_nothing_overlaps():
    made = simulate("train", 60, 40)
    assert np.abs(made["position"]).max() <= 1 - RADIUS and np.abs(made["action"]).max() <= 1
    for i, j in ((0, 1), (0, 2), (1, 2)):
        between = np.linalg.norm(made["position"][:, :, i] - made["position"][:, :, j], axis=-1)
        assert between.min() > 2 * RADIUS - 0.5 / 32


def test_a_disc_without_room_stops_the_pusher():
    position, _, contact = rollout(*state((0, 0.2), (0, 0.74), FAR), told(*[(0, 1)] * 4))
    assert contact.all() and (position[0, -2:, 0, 1] < 0.26).all() and position[0, -1, 1, 1] == 0.75
    position, velocity, _ = rollout(*state((0, 0.7), (0, -0.74), FAR), told((0, 1), (0, 1)))
    assert position[0, :, 0, 1].tolist() == [0.75, 0.75] and velocity[0, 1, 0, 1] == 0


def test_the_policy_visits_the_discs():
    made = simulate("train", 60, 40)
    moving = (np.abs(made["velocity"][:, :, 1:]).max((2, 3)) > 0).mean()
    assert 0.25 < made["contact"].mean() < 0.45 and 0.55 < moving < 0.8
    assert (made["velocity"][:, 0] == 0).all() and not made["contact"][:, 0].any()
    steps = made["velocity"][:, 1:, 0] - STEP * made["action"][:, :-1]
    assert (np.abs(steps).max(-1) < 1e-5).mean() > 0.7  # the others: against a wall, or a disc without room
    smooth = np.linalg.norm(np.diff(made["action"], axis=1), axis=-1).mean()
    assert smooth < 0.6 * np.linalg.norm(made["action"][:, 1:] - made["action"][:, :1], axis=-1).mean()


def test_everybody_gets_the_same_episodes():
    made = generate_push("val", num_episodes=2, image_size=32, num_frames=12)
    digest = hashlib.sha256(made.action.tobytes() + made.position.tobytes() + made.video.tobytes()).hexdigest()
    assert digest[:16] == "195359792690aa02"
    more = generate_push("val", num_episodes=3, image_size=32, num_frames=15)
    assert np.array_equal(made.video, more.video[:2, :12]) and np.array_equal(made.action, more.action[:2, :12])
    assert not np.array_equal(made.position, generate_push("test", num_episodes=2, num_frames=12).position)


def test_the_stored_future_follows_from_any_stored_state():
    made = simulate("test", 8, 30)
    position, velocity, contact = rollout(made["position"][:, 9], made["velocity"][:, 9], made["action"][:, 9:29])
    assert np.array_equal(position, made["position"][:, 10:]) and np.array_equal(velocity, made["velocity"][:, 10:])
    assert np.array_equal(contact, made["contact"][:, 10:])
    other = rollout(made["position"][:, 9], made["velocity"][:, 9], -made["action"][:, 9:14])[0]
    assert (np.linalg.norm(other[:, -1, 0] - position[:, 4, 0], axis=-1) > RADIUS).mean() > 0.6


def test_open_push_gives_actions_and_states():
    dataset = open_dataset("push-32", split="val", num_frames=5, num_episodes=2, episode_length=8)
    assert len(dataset) == 2 * 4 and dataset.summary["synthetic"] is True
    item, truth = dataset[5], generate_push("val", num_episodes=2, image_size=32, num_frames=8)
    assert np.array_equal(item["video"], truth.video[1, 1:6]) and np.array_equal(item["action"], truth.action[1, 1:6])
    assert item["action"].dtype == torch.float32 and item["state"]["contact"].dtype == torch.bool
    for name in ("position", "velocity"):
        assert np.array_equal(item["state"][name], getattr(truth, name)[1, 1:6])
    again = draw(truth.position, truth.colors, 32)
    assert np.array_equal(again, truth.video)
    batch = next(iter(make_loader(dataset, 4)))
    assert batch.conditions["action"].shape == (4, 5, 2)


def test_push_in_the_data_command(tmp_path):
    few = {"num_episodes": 5, "episode_length": 12}
    found = describe("push-32", **few)
    assert found["splits"]["train"]["frames"] == 60
    assert found["splits"]["val"]["entries"]["action"]["shape"] == ["T", 2]
    checked = validate("push-32", **few)
    assert not checked.faults and not checked.warnings
    source = open_dataset("push-32", split="train", num_frames=2, **few).source
    copy = open_dataset(write_dataset(source, tmp_path / "copy", "npz"), split="all", num_frames=12)
    for i in range(5):
        ours, theirs = source.read(i, 0, 12), copy[i]
        assert np.array_equal(ours["video"], theirs["video"]) and np.array_equal(ours["action"], theirs["action"])


@pytest.mark.parametrize(("arguments", "message"), [
    ({"split": "valid"}, "split"), ({"image_size": 48}, "64, 32, 16 pixels, not 48"),
    ({"num_episodes": 0}, "num_episodes must be at least 1"), ({"num_frames": 0}, "num_frames must be at least 1"),
])
def test_push_says_what_is_wrong(arguments, message):
    with pytest.raises(DataError, match=message):
        generate_push(**{"num_episodes": 1, **arguments})


@pytest.mark.parametrize(("change", "message"), [
    ({"action": told((0, 2))}, r"actions must lie in \[-1, 1\]; clip them"),
    ({"action": told((0, np.nan))}, "actions must lie"),
    ({"action": np.zeros((2, 3, 2), np.float32)}, r"action must be \[1, T, 2\].*got \[2, 3, 2\]"),
    ({"velocity": np.zeros((1, 2, 2), np.float32)}, r"must be \[E, 3, 2\], got \[1, 3, 2\] and \[1, 2, 2\]"),
])
def test_rollout_says_what_is_wrong(change, message):
    position, velocity = state((0, 0), FAR, (-0.75, 0.75))
    with pytest.raises(DataError, match=message):
        rollout(**{"position": position, "velocity": velocity, "action": told((0, 0)), **change})
