"""Grey pictures, states of windows, and what an agent of a preset is made of."""

from functools import partial

import numpy as np
import pytest

from worldkit.agents import create_agent
from worldkit.envs import make_env
from worldkit.errors import ConfigError
from worldkit.online import OnlineConfig, OnlineTrainer


def test_grey_pictures_have_one_channel():
    colour, grey = make_env("games/catch", size=16), make_env("games/catch", size=16, grey=True)
    one, two = (env.reset(seed=3)[0]["pixels"] for env in (colour, grey))
    assert two.shape == (16, 16, 1) and grey.observation_space["pixels"].contains(two)
    assert abs(one @ np.array([0.299, 0.587, 0.114]) - two[..., 0]).max() <= 0.51
    assert np.array_equal(grey.spec.make().reset(seed=3)[0]["pixels"], two)


def test_states_are_refused_where_there_are_none(stub_agent, catch, tmp_path):
    with pytest.raises(ConfigError, match="'pint' has none: -o online.context=false"):
        OnlineTrainer(stub_agent(catch), catch, OnlineConfig(context=True), run=tmp_path)


def test_presets_that_do_not_act():
    with pytest.raises(ConfigError, match="'lpwm-mini' is a world model and does not act"):
        create_agent("lpwm-mini", env=partial(make_env, "games/catch")())


def test_catch_on_fewer_squares():
    env = make_env("games/catch", size=16, grid=8)
    pixels = env.reset(seed=0)[0]["pixels"]
    assert (pixels == 240).all(-1).sum() == 4  # the ball is 2 x 2
    total, over = 0.0, False
    while not over:
        _, reward, over, _, _ = env.step(env.get_wrapper_attr("scripted_action")())
        total += reward
    assert total == 10
    narrow = make_env("games/catch", size=16, grid=8, paddle=1)
    assert (narrow.reset(seed=0)[0]["pixels"] == (90, 200, 120)).all(-1).sum() == 4
    for options in ({"grid": 2}, {"paddle": 2}):
        with pytest.raises(ConfigError, match="number of squares"):
            make_env("games/catch", **options)
