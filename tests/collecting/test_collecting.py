"""Collected episodes: what index t means, appending, interruptions, and what models read."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import worldkit as wk
from worldkit.cli import main
from worldkit.collecting import EpisodeFolder, collect, make_policy, play_episode
from worldkit.errors import ConfigError, DataError


@pytest.fixture
def env():
    with wk.make_env("games/catch", size=16) as env:
        yield env


def arrays(folder):
    return {file.name: dict(np.load(file)) for file in sorted(folder.glob("episode_*.npz"))}


def test_index_t_is_the_transition_from_t_to_t_plus_1(env):
    """Played again from the seed, the stored actions give the stored frames, rewards and ends."""
    episode = play_episode(env, make_policy("random", env), seed=4)
    observation, _ = env.reset(seed=4)
    for t, action in enumerate(episode["action"][:-1]):
        np.testing.assert_array_equal(episode["video"][t].transpose(1, 2, 0), observation["pixels"])
        np.testing.assert_array_equal(episode["state"]["observation"][t], observation["state"])
        observation, reward, terminated, truncated, _ = env.step(action)
        assert reward == episode["state"]["reward"][t]
        assert (terminated, truncated) == (episode["state"]["terminated"][t], episode["state"]["truncated"][t])
    np.testing.assert_array_equal(episode["video"][-1].transpose(1, 2, 0), observation["pixels"])
    assert terminated and episode["action"].dtype == np.int64 and {-1, 0} <= set(episode["state"]["reward"])
    assert episode["action"][-1] == 0 == episode["state"]["reward"][-1] and episode["state"]["terminated"][-1]


def test_cut_off(env):
    episode = play_episode(env, make_policy("random", env), seed=0, max_steps=7)
    assert len(episode["video"]) == 8 and not episode["state"]["terminated"].any()
    assert episode["state"]["truncated"].tolist() == [False] * 6 + [True] * 2


def test_appended_or_in_one_go(env, tmp_path):
    """The same episodes; and a folder of another environment, size or seed is not mixed in."""
    collect(env, tmp_path / "a", episodes=3, max_steps=5)
    collect(env, tmp_path / "b", episodes=1, max_steps=5)
    found = collect(env, tmp_path / "b", episodes=2, max_steps=5, append=True)
    assert found.before == 1 and found.lengths == (6, 6)
    a, b = arrays(tmp_path / "a"), arrays(tmp_path / "b")
    assert list(a) == list(b) == [f"episode_{i:06d}.npz" for i in range(3)]
    for name in a:
        for entry in a[name]:
            np.testing.assert_array_equal(a[name][entry], b[name][entry])
    assert len({tuple(episode["action"]) for episode in a.values()}) == 3
    with pytest.raises(DataError, match="holds 3 episodes already: append=True"):
        collect(env, tmp_path / "a", episodes=1)
    for other in (wk.make_env("games/freeway", size=16), wk.make_env("games/catch", size=32)):
        with pytest.raises(DataError, match="a data set is of one kind"):
            collect(other, tmp_path / "a", episodes=1, append=True)
    assert len(arrays(tmp_path / "a")) == 3


def test_two_that_append_lose_nothing(env, tmp_path):
    about = {"x": 1}
    one, two = (EpisodeFolder(tmp_path, about=about, append=True) for _ in range(2))
    episode = play_episode(env, make_policy("random", env), seed=0, max_steps=2)
    names = {folder.add(episode).name for folder in (one, two, one, two)}
    assert names == {f"episode_{i:06d}.npz" for i in range(4)} == {p.name for p in tmp_path.glob("*.npz")}


def test_bad_places_and_policies(env, tmp_path):
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(DataError, match="holds other things .notes.txt."):
        collect(env, tmp_path, episodes=1)
    with pytest.raises(DataError, match="is a file"):
        collect(env, tmp_path / "notes.txt", episodes=1)
    with pytest.raises(ConfigError, match="no policy 'scriptd'. Did you mean 'scripted'"):
        collect(env, tmp_path / "x", episodes=1, policy="scriptd")
    with pytest.raises(ConfigError, match="episodes must be at least 1"):
        collect(env, tmp_path / "x", episodes=0)
    with pytest.raises(ConfigError, match="gives no pixels"):
        collect(wk.make_env("games/catch", observation="state"), tmp_path / "x", episodes=1)
    with pytest.raises(ConfigError, match="environment 'CartPole-v1' has no scripted policy"):
        pytest.importorskip("pygame")
        collect(wk.make_env("CartPole-v1"), tmp_path / "x", episodes=1, policy="scripted")
    assert not (tmp_path / "x").exists()


def test_a_killed_collection_leaves_whole_episodes(tmp_path):
    """Killed in the middle, all episodes that are there can be read, and --append goes on to the same data."""
    out = tmp_path / "data"
    command = [sys.executable, "-m", "worldkit", "collect", "games/freeway", "--out", str(out), "--quiet", "--episodes"]
    process = subprocess.Popen([*command, "100000"], env={**os.environ, "OMP_NUM_THREADS": "1"})
    deadline = time.monotonic() + 120
    while len(list(out.glob("episode_*.npz"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = arrays(out)
    assert len(before) >= 3 and all(len(e["video"]) == 251 for e in before.values())
    subprocess.run([*command, "1", "--append"], check=True, timeout=120)
    after = arrays(out)
    assert len(after) == len(before) + 1
    source = wk.data.open_dataset(out, split="all", num_frames=4).source
    assert source.num_episodes == len(after)


def test_models_train_on_it(tmp_path, capsys, tiny_overrides):
    """`worldkit collect`, then `worldkit train` with the actions."""
    out = str(tmp_path / "data")
    command = ["collect", "games/catch", "--out", out, "--size", "32", "--policy", "scripted", "--episodes"]
    assert main([*command, "4"]) == 0
    assert "4 episodes, 604 frames, mean return 10; 4 ended by themselves, 0 were cut off" in capsys.readouterr().out
    assert main([*command, "1"]) == 2
    assert "--append adds to them" in capsys.readouterr().err
    clips = wk.data.open_dataset(out, split="train", num_frames=4)
    assert clips[0]["action"].shape == (4,)
    import json
    overrides = [f"{k}={json.dumps(v)}" for k, v in tiny_overrides.items()]
    status = main(["train", "lpwm-balls-mini", "--data", out, "--run", str(tmp_path / "run"), "--steps", "2", "--quiet",
                   "-o", "conditioners.action=action", "-o", "train.batch_size=2", "-o", "train.eval_clips=2",
                   *(part for text in overrides for part in ("-o", text))])
    assert status == 0, capsys.readouterr().err
    assert json.loads((tmp_path / "run" / "run.json").read_text())


def test_environments_are_listed(capsys):
    assert main(["envs", "games"]) == 0
    assert capsys.readouterr().out.split() == ["games/breakout", "games/catch", "games/freeway"]
    assert main(["envs"]) == 0
    assert "dmc" in capsys.readouterr().out
    assert main(["envs", "gamez"]) == 2


def test_collect_is_the_function_whatever_was_asked_for_first():
    """A module and its function share a name; the function is meant."""
    code = "from worldkit.collecting import Collected, collect; print(callable(collect))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert run.stdout.split() == ["True"]


def test_the_name_of_an_environment_is_not_one(tmp_path):
    with pytest.raises(ConfigError, match=r"worldkit.make_env\('games/catch'\)"):
        collect("games/catch", tmp_path / "data", episodes=1)
    assert not (tmp_path / "data").exists()
