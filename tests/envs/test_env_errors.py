"""Bad input of environments: each a clear error that says what to type."""

import subprocess
import sys

import gymnasium
import numpy as np
import pytest

import worldkit as wk
from worldkit.envs import get_env_backend_spec, register_env_backend, registry
from worldkit.envs.observe import Observe
from worldkit.envs.registry import backend_of
from worldkit.envs.resize import resize
from worldkit.errors import ConfigError, DuplicateComponentError, MissingExtraError, UnknownComponentError


@pytest.mark.parametrize("env_id, backend", [
    ("ALE/Pong-v5", "atari"), ("CartPole-v1", "gymnasium"), ("HalfCheetah-v5", "gymnasium"), ("games/catch", "games"),
    ("MiniGrid-Empty-8x8-v0", "minigrid"), ("BabyAI-GoToObj-v0", "minigrid"), ("dmc/reacher-easy", "dmc"),
    ("dm_control/reacher-easy-v0", "dmc"), ("visual-cube-single-v0", "ogbench"), ("scene-v0", "ogbench"),
    ("antmaze-large-navigate-v0", "ogbench"), ("crafter", "crafter"), ("CrafterReward-v1", "crafter"),
    ("pusht", "pusht"), ("VizdoomBasic-v1", "vizdoom"), ("scenes/throw", "scenes"), ("mpe2/simple_spread_v3", "multi"),
    ("pettingzoo/pistonball_v6", "multi"), ("metaworld/reach-v3", "metaworld"), ("Meta-World/reach-v3", "metaworld"),
    ("gym_aloha/AlohaInsertion-v0", "aloha"), ("FetchPush-v4", "robotics"), ("PointMaze_UMaze-v3", "robotics"),
    ("procgen/bigfish", "procgen"),
    ("my-own-package/Env-v0", "gymnasium"),
])
def test_auto_picks_by_the_id(env_id, backend):
    assert backend_of(env_id).name == backend


@pytest.mark.parametrize("module, env_id, extra, needs", [
    ("ale_py", "ALE/Pong-v5", "atari", "ale_py"), ("minigrid", "MiniGrid-Empty-8x8-v0", "envs", "minigrid"),
    ("pymunk", "pusht", "pusht", "pymunk"), ("mujoco", "HalfCheetah-v5", "mujoco", "mujoco"),
    ("mujoco", "dmc/reacher-easy", "dmc", "mujoco"), ("mujoco", "cube-single-v0", "ogbench", "mujoco"),
    ("crafter", "crafter", "crafter", "crafter"), ("pygame", "CartPole-v1", "envs", "pygame"),
    ("Box2D", "LunarLander-v3", "envs", "box2d"), ("vizdoom", "VizdoomBasic-v1", "doom", "vizdoom"),
    ("pybullet", "scenes/throw", "scenes", "pybullet"), ("mpe2", "mpe2/simple_v3", "multi", "mpe2"),
    ("pettingzoo", "pettingzoo/pistonball_v6", "multi", "pettingzoo"),
])
def test_a_missing_package_says_what_to_type(module, env_id, extra, needs):
    """In a process where the package cannot be imported, and with auto: it does not go on to another backend."""
    code = (
        "import sys\n"
        f"sys.modules[{module!r}] = None\n"
        "import worldkit as wk\n"
        f"try: wk.make_env({env_id!r})\n"
        "except wk.MissingExtraError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert f'pip install -c constraints.txt -e ".[{extra}]"' in done.stdout, done.stderr
    assert needs in done.stdout.lower()
    assert wk.MissingExtraError is MissingExtraError


@pytest.mark.parametrize("module, env_id, extra, older", [
    ("metaworld", "metaworld/reach-v3", "metaworld", "mujoco"), ("gym_aloha", "aloha/insertion", "aloha", "mujoco"),
    ("gymnasium_robotics", "FetchPush-v4", "robotics", "mujoco"), ("procgen", "procgen/bigfish", "procgen", "numpy")])
def test_what_cannot_live_beside_the_others(monkeypatch, module, env_id, extra, older):
    """Which package, why not here, and what to type for an environment of its own."""
    monkeypatch.setitem(sys.modules, module, None)
    says = (f'needs {module}, which is not installed.*{older}.*own.*python -m venv {extra}-venv && '
            rf'{extra}-venv/bin/pip install -c constraints.txt -e "..{extra}."; then use {extra}-venv/bin/worldkit')
    with pytest.raises(MissingExtraError, match=says):
        wk.make_env(env_id)
    with pytest.raises(MissingExtraError, match=says):
        wk.list_envs(extra)
    assert extra not in wk.list_envs()


@pytest.mark.parametrize("arguments, error, says", [
    (("CartPol-v1",), UnknownComponentError, r"no environment 'CartPol-v1'.*Did you mean 'CartPole-v1'"),
    (("games/cath",), UnknownComponentError, r"Did you mean 'games/catch'"),
    (("games/catch", "gamez"), UnknownComponentError, r"no environment backend 'gamez'. Did you mean 'games'"),
    (("no_such_package:Env-v0",), MissingExtraError, r"needs no_such_package: pip install no_such_package"),
])
def test_unknown_names(arguments, error, says):
    with pytest.raises(error, match=says):
        wk.make_env(*arguments)


@pytest.mark.parametrize("options, says", [
    ({"size": -1}, r"size is a number of pixels, \(height, width\), or None"), ({"size": (64,)}, "size"),
    ({"size": (0, 64)}, "size"), ({"size": 64.0}, "size"), ({"size": True}, "size"),
    ({"observation": "image"}, "observation must be 'dict', 'keys', 'pixels', 'state', got 'image'"),
    ({"frame_skip": 4}, r"'games/catch' \(backend 'games'\) has no option 'frame_skip'"),
    ({"render_mode": "human"}, "render to arrays.*not 'human'"),
])
def test_options(options, says):
    with pytest.raises(ConfigError, match=says):
        wk.make_env("games/catch", **options)


def test_observations():
    for size, shape in ((32, (32, 32, 3)), ((24, 40), (24, 40, 3)), (None, (256, 256, 3))):
        with wk.make_env("games/catch", size=size) as env:
            assert env.reset(seed=0)[0]["pixels"].shape == shape
    with wk.make_env("games/catch", observation="pixels") as env:
        assert env.reset(seed=0)[0].shape == (64, 64, 3)
    with wk.make_env("games/catch", observation="state") as env:
        assert env.reset(seed=0)[0].shape == (4,)


class Blind(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)
    render_mode = None

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(2, np.float32), {}

    def step(self, action):
        return np.zeros(2, np.float32), np.float64(1), np.bool_(False), np.bool_(False), {}


def test_an_environment_without_pixels():
    with pytest.raises(ConfigError, match="gives no pixels.*render_mode='rgb_array'.*observation='state'"):
        wk.make_env(Blind())
    env = wk.make_env(Blind(), observation="state")
    env.reset(seed=0)
    assert [type(x) for x in env.step(0)[1:4]] == [float, bool, bool]
    with pytest.raises(ConfigError, match="made already: leave out size_of_map"):
        wk.make_env(Blind(), size_of_map=3)
    with pytest.raises(ConfigError, match="gymnasium.Env, got int"):
        wk.make_env(3)


def test_a_backend_of_ones_own(monkeypatch):
    monkeypatch.setattr(registry, "_backends", dict(registry._backends))
    monkeypatch.setitem(sys.modules, "lab", type(sys)("lab"))
    sys.modules["lab"].make = lambda env_id, **options: wk.make_env("games/catch", observation="state").unwrapped
    sys.modules["lab"].ids = lambda: ["lab/arm"]
    register_env_backend("lab", factory_path="lab:make", ids_path="lab:ids", claims=["lab/*"], aliases=["our-lab"])
    assert wk.make_env("lab/arm").reset(seed=0)[0]["pixels"].shape == (64, 64, 3)
    assert wk.list_envs("our-lab") == ["lab/arm"] == wk.list_envs()["lab"] and "lab" in wk.list_env_backends()
    for name, options in (("lab", {}), ("other", {"aliases": ["our-lab"]}), ("auto", {})):
        with pytest.raises(DuplicateComponentError, match="registered already"):
            register_env_backend(name, factory_path="lab:make", **options)
    register_env_backend("lab", factory_path="lab:make", description="new", override=True)
    assert get_env_backend_spec("lab").description == "new"
    register_env_backend("gone", factory_path="no_such.module:make", ids_path="no_such.module:ids")
    assert "gone" not in wk.list_envs()
    with pytest.raises(MissingExtraError, match="no module no_such"):
        wk.make_env("x", "gone")
    with pytest.raises(ConfigError, match="package.module:function"):
        register_env_backend("wrong", factory_path="lab.make")


def test_resize_is_the_mean_of_the_area():
    picture = np.random.default_rng(0).integers(0, 256, (40, 60, 3)).astype(np.uint8)
    blocks = picture.reshape(20, 2, 30, 2, 3).mean((1, 3))
    assert np.abs(resize(picture, 20, 30).astype(float) - blocks).max() <= 0.51
    assert abs(resize(picture, 7, 11).mean() - picture.mean()) < 1
    assert resize(picture, 40, 60) is not picture
    np.testing.assert_array_equal(resize(np.full((5, 7, 3), 200, np.uint8), 9, 4), np.full((9, 4, 3), 200))


def test_games_are_over_when_they_are_over():
    env = wk.make_env("games/breakout")
    env.reset(seed=0)
    with pytest.raises(gymnasium.error.ResetNeeded, match="call reset"):
        for _ in range(100):
            env.step(0)
    with pytest.raises(ValueError, match="0, 1 or 2, got 5"):
        env.reset()
        env.step(5)


@pytest.mark.parametrize("env_id, options, message", [
    ("ALE/Brekout-v5", {"protocol": "iris"}, "no environment 'ALE/Brekout-v5' .* Did you mean 'ALE/Breakout-v5'"),
    ("ALE/Breakout-v5", {"protocol": "dreamer"}, "prepared as in 'iris' or 'diamond', not as in 'dreamer'"),
    ("ALE/Breakout-v5", {"protocol": "iris", "noops": (3, 1)}, r"noops are a number or \(least, most\), got \(3, 1\)"),
    ("ALE/Breakout-v5", {"training": True}, "has no option 'training'"),
])
def test_games_that_cannot_be_prepared(env_id, options, message):
    pytest.importorskip("ale_py")
    with pytest.raises((ConfigError, UnknownComponentError), match=message):
        wk.make_env(env_id, **options)


class Own(gymnasium.Env):
    """An environment of one's own, whose observation is the picture: it has no render mode."""

    observation_space = gymnasium.spaces.Box(0, 255, (16, 16, 3), np.uint8)
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self, shade=3):
        self.shade = shade

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.full((16, 16, 3), self.shade, np.uint8), {}


@pytest.fixture(params=[Own, f"{__name__}:Own"], ids=["class", "name"])
def own(request):
    gymnasium.register("worldkit-own-v0", entry_point=request.param, disable_env_checker=True)
    yield "worldkit-own-v0"
    del gymnasium.registry["worldkit-own-v0"]


def test_an_environment_without_render_modes(own):
    with wk.make_env(own, size=16, shade=5) as env:
        assert (env.reset(seed=0)[0]["pixels"] == 5).all()
    with pytest.raises(ConfigError, match="'worldkit-own-v0' does not take all of .*'colour': 5.*unexpected keyword"):
        wk.make_env(own, size=16, colour=5)


class Both(Own):
    """A picture and numbers in one dict."""

    observation_space = gymnasium.spaces.Dict(
        {"camera": Own.observation_space, "arm": gymnasium.spaces.Box(-1, 1, (3,), np.float32)})

    def reset(self, *, seed=None, options=None):
        picture, info = super().reset(seed=seed)
        return {"camera": picture, "arm": np.full(3, 0.5, np.float32)}, info


def test_the_picture_in_a_dict():
    for size, side in ((12, 12), (None, 16)):
        seen = Observe(Both(), size=size, observation="keys").reset(seed=0)[0]
        assert seen["pixels"].shape == (side, side, 3) and (seen["pixels"] == 3).all()
        assert seen.keys() == {"pixels", "arm"} and (seen["arm"] == 0.5).all()
    assert Observe(Both()).observation_space["state"].shape == (3,)
