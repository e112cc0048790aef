"""Agents collect: of their folder, in one environment or several, each with a memory of its own."""

import numpy as np
import pytest

import worldkit as wk
from worldkit.agents import create_agent, save_agent
from worldkit.cli import main
from worldkit.collecting import PerEnvironment, collect
from worldkit.errors import ConfigError

from .test_pool import same


class Remembering:
    """Counts its steps; it must be told when an episode begins, and not be shared."""

    def __init__(self, env):
        self.steps = None

    def begin(self, seed):
        self.steps, self.seed = 0, seed

    def __call__(self, observation, info):
        self.steps += 1
        return (self.steps + self.seed) % 3


def test_one_that_remembers(tmp_path):
    env = wk.make_env("games/catch", size=16)
    for num_envs in (1, 2):
        collect(env, tmp_path / str(num_envs), policy=PerEnvironment(Remembering), episodes=5, max_steps=9,
                num_envs=num_envs)
    same(tmp_path / "1", tmp_path / "2")
    actions = np.stack([np.load(file)["action"][:-1] for file in sorted((tmp_path / "1").glob("*.npz"))])
    assert (np.diff(actions, axis=1) % 3 == 1).all() and len(set(actions[:, 0])) > 1


def test_an_agents_folder(tmp_path, capsys):
    """One that wants to see the goal, which is drawn where the environment is."""
    pytest.importorskip("pymunk")
    folder = tmp_path / "agent"
    with wk.make_env("pusht", size=16) as env:
        save_agent(create_agent("cloning", env=env, hidden_dim=8), folder)
    command = ["collect", "pusht", "--size", "16", "--episodes", "2", "--max-steps", "6", "--quiet", "--policy"]
    for num_envs in ("1", "2"):
        assert main([*command, str(folder), "--out", str(tmp_path / num_envs), "--num-envs", num_envs]) == 0
    same(tmp_path / "1", tmp_path / "2")


def test_agents_that_cannot_act_here(tmp_path, capsys):
    with wk.make_env("games/catch", size=16) as env:
        save_agent(create_agent("cloning", env=env, hidden_dim=8), tmp_path / "agent")
    command = ["collect", "--episodes", "1", "--out", str(tmp_path / "x"), "--policy"]
    for more, says in (([str(tmp_path), "games/catch"], "is no agent: it holds no agent.safetensors"),
                       ([str(tmp_path / "agent"), "games/catch", "--size", "16"], "has no picture of its goal"),
                       ([str(tmp_path / "agent"), "games/catch", "--size", "32"], "make the environment with size=16")):
        assert main([*command, *more]) == 2
        assert says in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_dreams_are_collected(tmp_path):
    """A trained model as the environment, by its name: what it imagines is data as any other."""
    clips = wk.data.open_dataset("push-32", split="train", num_frames=6, num_episodes=3)
    with wk.make_env("world-model/lpwm-push-mini", data=clips, size=None, horizon=4, context_frames=1) as env:
        found = collect(env, tmp_path / "dreams", episodes=2)
    assert found.lengths == (5, 5)
    clips = wk.data.open_dataset(tmp_path / "dreams", split="all", num_frames=5)
    assert clips[0]["video"].shape == (5, 3, 32, 32) and clips[0]["action"].shape == (5, 2)


def test_a_model_in_a_folder(tmp_path):
    model = wk.create_model("lpwm-push-mini", pretrained=True)
    model.save_pretrained(tmp_path / "model")
    with pytest.raises(ConfigError, match="begins episodes with frames of data: say which, data=PATH"):
        wk.make_env(str(tmp_path / "model"), "world-model")
    clips = wk.data.open_dataset("push-32", split="train", num_frames=6, num_episodes=3)
    options = {"data": clips, "context_frames": 1, "horizon": 3, "size": None}
    with wk.make_env(f"world-model/{tmp_path / 'model'}", **options) as env:
        first = env.reset(seed=0)[0]["pixels"]
    with wk.make_env("world-model/lpwm-push-mini", **options) as env:
        np.testing.assert_array_equal(env.reset(seed=0)[0]["pixels"], first)
