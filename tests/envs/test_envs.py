"""Every environment is a real Gymnasium environment, and its pixels are a function of state and seed.

A backend whose package is missing is skipped; what the message says then is tested in test_env_errors.py.
"""

import warnings

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import worldkit as wk
from worldkit.envs import get_env_backend_spec
from worldkit.errors import MissingExtraError

IDS = {
    "gymnasium": ["CartPole-v1", "Pendulum-v1", "Acrobot-v1", "MountainCarContinuous-v0", "LunarLander-v3",
                  "CarRacing-v3"],
    "mujoco": ["HalfCheetah-v5", "Reacher-v5"],
    "games": ["games/catch", "games/breakout", "games/freeway"],
    "pusht": ["pusht"],
    "minigrid": ["MiniGrid-DoorKey-6x6-v0", "BabyAI-GoToRedBall-v0"],
    "atari": ["ALE/Pong-v5", "ALE/Breakout-v5"],
    "dmc": ["dmc/reacher-easy", "dmc/cheetah-run"],
    "ogbench": ["cube-single-v0", "visual-cube-single-v0", "pointmaze-medium-v0"],
    "crafter": ["crafter/reward"],
    "vizdoom": ["VizdoomBasic-v1", "VizdoomTakeCover-v1"],
    "scenes": ["scenes/throw", "scenes/push"],
    "world-model": ["world-model/lpwm-push-mini"],
    "robotics": ["FetchPush-v4", "HandReach-v3", "AdroitHandDoor-v1", "AntMaze_UMaze-v5"],
    "metaworld": ["metaworld/reach-v3", "metaworld/door-open-v3", "metaworld/pick-place-v3"],
    "aloha": ["aloha/transfer-cube", "aloha/insertion"],
    "multi": ["mpe2/simple_spread_v3", "pettingzoo/pistonball_v6", "pettingzoo/multiwalker_v9",
              "pettingzoo/cooperative_pong_v6", "pettingzoo/knights_archers_zombies_v11"],
    "procgen": ["procgen/bigfish", "procgen/leaper", "procgen/starpilot"],
}
_LONG = ("ogbench", "crafter", "world-model", "multi", "metaworld", "aloha", "robotics", "procgen")
ALL = [pytest.param(name, marks=[pytest.mark.slow] if backend in _LONG else [])
       for backend, names in IDS.items() for name in names]


@pytest.fixture
def make():
    """make_env, or skip where the package is missing; what is made is closed at the end."""
    made = []

    def make(env_id, **options):
        try:
            env = wk.make_env(env_id, **options)
        except MissingExtraError as error:
            pytest.skip(str(error))
        made.append(env)
        return env

    yield make
    for env in made:
        env.close()


def play(env, seed=3, steps=12, pause=None):
    """Frames, states, rewards and flags of some random play; it begins anew where an episode ends."""
    env.action_space.seed(seed)
    found = [env.reset(seed=seed)[0]]
    rewards = []
    for step in range(steps):
        if pause is not None:
            pause(step)
        observation, reward, terminated, truncated, _ = env.step(env.action_space.sample())
        found.append(observation)
        rewards.append((reward, terminated, truncated))
        if terminated or truncated:
            found.append(env.reset()[0])
    states = [o.get("state") for o in found]
    return np.stack([o["pixels"] for o in found]), states, rewards


def same(a, b):
    np.testing.assert_array_equal(a[0], b[0])
    for x, y in zip(a[1], b[1], strict=True):
        np.testing.assert_array_equal(x, y)
    assert a[2] == b[2]


@pytest.mark.parametrize("env_id", ALL)
def test_gymnasium_accepts_it(env_id, make):
    env = make(env_id)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it is wrapped, and that infinite bounds are unusual
        check_env(env)
    observation, info = env.reset(seed=0)
    assert isinstance(info, dict) and env.observation_space.contains(observation)
    observation, reward, terminated, truncated, info = env.step(env.action_space.sample())
    assert (type(reward), type(terminated), type(truncated)) == (float, bool, bool)
    assert observation["pixels"].shape == (64, 64, 3) and observation["pixels"].dtype == np.uint8
    assert env.render().dtype == np.uint8 and env.render().shape[-1] == 3


@pytest.mark.parametrize("env_id", ALL)
def test_pixels_depend_on_state_and_seed_alone(env_id, make):
    fresh = make(env_id)
    wanted = play(fresh)
    assert wanted[0].std() > 1 and (wanted[0][0] != wanted[0]).any(), "a picture that shows nothing, or never changes"
    same(play(fresh), wanted)  # used
    play(fresh, seed=8, steps=5)
    same(play(fresh), wanted)  # used by another seed
    other, third = make(env_id), make(env_id)
    other.reset(seed=5)
    third.reset(seed=6)

    def disturb(step):  # others live, play, are looked at, and one of them is closed
        if step < 6:
            other.step(other.action_space.sample())
            np.random.seed(step)
            fresh.render()
        elif step == 6:
            other.close()
        third.render()

    same(play(fresh, pause=disturb), wanted)


@pytest.mark.parametrize("env_id", ["CartPole-v1", "HalfCheetah-v5", "dmc/reacher-easy", "games/catch"])
def test_another_kind_of_environment_in_between(env_id, make):
    env = make(env_id)
    wanted = play(env)
    others = [make(name) for name in ("Pendulum-v1", "Reacher-v5", "dmc/cartpole-swingup") if name != env_id]
    for other in others:
        other.reset(seed=0)
    same(play(env, pause=lambda step: others[step % len(others)].render()), wanted)
    for other in others:
        other.close()
    same(play(env), wanted)


@pytest.mark.parametrize("backend", sorted({*IDS} - {"mujoco"}))
def test_it_is_listed(backend):
    try:
        names = wk.list_envs(backend)
    except MissingExtraError as error:
        pytest.skip(str(error))
    assert set(IDS[backend]) <= set(names) and names == sorted(names)
    assert wk.list_envs()[backend] == names == wk.list_envs(backend), "what is listed depends on what was imported"
    assert get_env_backend_spec(backend).description


def test_frames_per_second_of_mujoco(make):
    """Drawn by us, HalfCheetah gives over 5 times the frames of Gymnasium's own pictures."""
    import time

    def seconds(env, steps):
        env.reset(seed=0)
        env.render()
        start = time.process_time()
        for _ in range(steps):
            env.step(env.action_space.sample())
            getattr(env, "rendered", env.render)()
        return (time.process_time() - start) / steps

    ours = make("HalfCheetah-v5", observation="pixels")
    ours.rendered = lambda: None
    theirs = gymnasium.make("HalfCheetah-v5", render_mode="rgb_array", width=64, height=64)
    assert 5 * seconds(ours, 30) < seconds(theirs, 3)
    theirs.close()


@pytest.mark.slow
@pytest.mark.parametrize("env_id", ["MiniGrid-DoorKey-6x6-v0", "ALE/Pong-v5", "dmc/reacher-easy", "HalfCheetah-v5",
                                    "LunarLander-v3", "cube-single-v0", "crafter/reward", "VizdoomBasic-v1",
                                    "scenes/throw", "pusht", "mpe2/simple_spread_v3"])
def test_several_collect_what_one_does(env_id, make, tmp_path):
    """In processes of their own, with their renderers and text in observations: the same files."""
    from worldkit.collecting import collect

    env = make(env_id)
    for num_envs in (1, 2):
        collect(env, tmp_path / str(num_envs), episodes=3, max_steps=8, num_envs=num_envs)
    one, two = ([dict(np.load(file)) for file in sorted((tmp_path / name).glob("*.npz"))] for name in "12")
    assert len(one) == len(two) == 3
    for a, b in zip(one, two, strict=True):
        assert a.keys() == b.keys()
        for name in a:
            np.testing.assert_array_equal(a[name], b[name], err_msg=name)
