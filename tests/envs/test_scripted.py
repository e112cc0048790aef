"""Scripted policies do what they are for: they solve tasks, and move things."""

import numpy as np
import pytest

import worldkit as wk
from worldkit.collecting import collect, make_policy, play_episode
from worldkit.errors import ConfigError, MissingExtraError


def made(env_id, **options):
    try:
        return wk.make_env(env_id, **options)
    except MissingExtraError as error:
        pytest.skip(str(error))


def ends(env, seeds, steps):
    """Whether each episode terminated, and the states of the last one."""
    found, act = [], make_policy("scripted", env)
    for seed in seeds:
        observation, info = env.reset(seed=seed)
        states, over = [observation], False
        while not over and len(states) <= steps:
            observation, _, terminated, truncated, info = env.step(act(observation, info))
            states.append(observation)
            over = terminated or truncated
        found.append(terminated)
    return found, np.stack(states)


def test_pushing_in_a_scene_and_near_the_t():
    with made("scenes/push", observation="state") as env:
        assert sum(ends(env, range(6), 200)[0]) >= 4
    with made("pusht", observation="state") as env:
        assert np.ptp(ends(env, [0], 100)[1][:, 2:4], axis=0).max() > 10, "the T was not touched"


def test_a_thrown_ball_moves_others():
    with made("scenes/throw", size=32) as env:
        episode = play_episode(env, make_policy("scripted", env), seed=0)
        states = episode["state"]["observation"].reshape(101, -1, 14)
        there = states[0, :, 0] == 1
        moved = np.linalg.norm(states[-1, :, 1:4] - states[0, :, 1:4], axis=-1)[there]
        assert moved[0] > 1 and (moved[1:] > 0.05).any() and 4 <= there.sum() <= 6
        assert set(np.unique(episode["state"]["segmentation"])) <= set(range(there.sum() + 1))
        assert len(env.reset(seed=0)[1]["objects"]) == there.sum()


def test_masks_are_where_things_are():
    """A thing's middle, seen through the camera, lies in its mask; one camera for all."""
    with made("scenes/push", size=64) as env:
        env.reset(seed=1)
        masks = env.get_wrapper_attr("masks")(64, 64)
        states = env.reset(seed=1)[0]["state"].reshape(-1, 14)
    for number, state in enumerate(states):
        pixels = np.argwhere(masks == number + 1)
        if len(pixels) > 8:
            x, y, z = state[1:4]
            away = (y + 2.9 + 2.9 - z) / 2**0.5  # of a camera at (0, -2.9, 2.9) that looks at the middle
            assert abs(31.5 + 32 * x / away / np.tan(np.radians(25)) - pixels[:, 1].mean()) < 1.5
    assert len(np.unique(masks)) > 3


@pytest.mark.slow
@pytest.mark.parametrize("env_id", ["cube-single-v0", "cube-double-v0"])
def test_oracles_solve_cube_tasks(env_id):
    with made(env_id, observation="state") as env:
        assert all(ends(env, range(3), 300)[0])


@pytest.mark.slow
@pytest.mark.parametrize("env_id", ["cube-single-v0", "scene-v0", "puzzle-3x3-v0"])
def test_oracles_go_from_target_to_target(env_id):
    with made(env_id, observation="state", mode="data_collection") as env:
        found, states = ends(env, [0], 150)
        again = ends(env, [0], 150)[1]
    assert found == [False] and len(states) == 151 and np.ptp(states[:, 19:], axis=0).max() > 1
    np.testing.assert_array_equal(states, again)


@pytest.mark.slow
def test_oracles_that_do_not_know_the_goal(tmp_path):
    with made("scene-v0") as env, pytest.raises(ConfigError, match="no scripted policy.*-o mode=data_collection"):
        collect(env, tmp_path / "x", policy="scripted", episodes=1)
    assert not (tmp_path / "x").exists()


@pytest.mark.slow
@pytest.mark.parametrize("env_id", ["metaworld/reach-v3", "metaworld/pick-place-v3"])
def test_meta_worlds_own_policies(env_id):
    """They see the goal; and another seed is another goal, the same one the same."""
    with made(env_id, observation="state", terminate_on_success=True) as env:
        assert all(ends(env, range(2), 120)[0])
        goals = [tuple(env.reset(seed=seed)[0][-3:]) for seed in (0, 1, 0)]
    assert goals[0] == goals[2] != goals[1]
