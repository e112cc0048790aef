"""Several environments at once: the same episodes as one at a time, and what goes wrong in a process is told here."""

import os
import signal
import subprocess
import sys
import time

import gymnasium
import numpy as np
import pytest

import worldkit as wk
from worldkit.collecting import collect
from worldkit.collecting.pool import Pool
from worldkit.envs.worker import Failure
from worldkit.errors import ConfigError, EnvError

from .test_collecting import arrays


def same(a, b):
    a, b = arrays(a), arrays(b)
    assert list(a) == list(b)
    for name in a:
        assert a[name].keys() == b[name].keys()
        for entry in a[name]:
            np.testing.assert_array_equal(a[name][entry], b[name][entry])
            assert a[name][entry].dtype == b[name][entry].dtype


class Ragged(gymnasium.Env):
    """Episodes of all lengths, custom text in the observation, masks; it can break."""

    observation_space = gymnasium.spaces.Dict({
        "count": gymnasium.spaces.Discrete(100), "word": gymnasium.spaces.Text(9),
        "place": gymnasium.spaces.Box(-1, 1, (2,), np.float64)})
    action_space = gymnasium.spaces.Discrete(3, start=1)
    metadata = {"render_modes": ["rgb_array"]}

    def __init__(self, render_mode="rgb_array", breaks=None):
        self.render_mode, self.breaks = render_mode, breaks

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.count, self.length = 0, int(self.np_random.integers(1, 12))
        return self.look(), {"length": self.length}

    def look(self):
        return {"count": self.count, "word": "abc", "place": self.np_random.uniform(-1, 1, 2)}

    def step(self, action):
        assert self.count < self.length and action in (1, 2, 3)
        self.count += 1
        if self.breaks == "raise" and self.count == 5:
            raise ZeroDivisionError("the fifth step")
        if self.breaks == "strange" and self.count == 5:
            class Strange(Exception):
                pass
            raise Strange("cannot be sent")
        if self.breaks == "die" and self.count == 5:
            os.kill(os.getpid(), signal.SIGKILL)
        return self.look(), float(action) + self.count, self.count == self.length, False, {"length": self.length}

    def render(self):
        return np.full((20, 20, 3), 20 * self.count, np.uint8)

    def masks(self, height, width):
        return np.full((height, width), self.count, np.uint8)


gymnasium.register("Ragged-v0", f"{__name__}:Ragged", disable_env_checker=True, order_enforce=False)


def ragged(**options):
    spec = gymnasium.envs.registration.EnvSpec("Ragged-v0", entry_point=Ragged, kwargs=options,
                                               disable_env_checker=True, order_enforce=False)
    return wk.make_env(spec.make(), size=16)


@pytest.mark.parametrize("policy", ["random", lambda observation, info: 1 + (info["length"] % 3)])
def test_several_give_the_same_episodes(tmp_path, policy):
    """Of all lengths, cut off or not, more than there are environments: no step is lost, none is added."""
    env = ragged()
    one = collect(env, tmp_path / "one", policy=policy, episodes=7, max_steps=7)
    several = collect(env, tmp_path / "several", policy=policy, episodes=7, max_steps=7, num_envs=3)
    same(tmp_path / "one", tmp_path / "several")
    assert one.lengths == several.lengths and one.returns == several.returns and len(set(one.lengths)) > 3
    assert one.terminated == several.terminated < 7
    for episode in arrays(tmp_path / "several").values():
        frames = len(episode["video"])
        np.testing.assert_array_equal(episode["video"][:, 0, 0, 0] // 20, np.arange(frames))
        np.testing.assert_array_equal(episode["state.segmentation"][:, 0, 0], np.arange(frames))
        np.testing.assert_array_equal(episode["state.reward"][:-1], episode["action"][:-1] + np.arange(1, frames))


def test_scripted(tmp_path):
    env = wk.make_env("games/freeway", size=16)
    for num_envs in (1, 2):
        collect(env, tmp_path / str(num_envs), policy="scripted", episodes=2, num_envs=num_envs, max_steps=40)
    same(tmp_path / "1", tmp_path / "2")


@pytest.mark.parametrize("breaks, error, says", [
    ("raise", ZeroDivisionError, "the fifth step"), ("strange", EnvError, "Ragged-v0.*Strange: cannot be sent"),
    ("die", EnvError, "process of environment 'Ragged-v0', number . of 2, in episode . .seed .* by SIGKILL, as"),
])
def test_what_goes_wrong_in_a_process(tmp_path, breaks, error, says):
    """It is raised here, with the traceback there; the processes are gone; what was over is stored, and all goes on."""
    import multiprocessing

    with pytest.raises(error, match=says) as caught:
        collect(ragged(breaks=breaks), tmp_path / "data", episodes=50, num_envs=2)
    assert not [p for p in multiprocessing.active_children() if "AsyncVectorEnv" in p.name]
    if breaks != "die":
        note = "\n".join(caught.value.__notes__)
        assert "raised in environment 'Ragged-v0', number" in note and "in step" in note and "test_pool.py" in note
    before = len(arrays(tmp_path / "data"))
    assert before < 50
    collect(ragged(), tmp_path / "whole", episodes=before + 4)
    # options of the environment differ only in what breaks
    (tmp_path / "data" / "collection.json").write_text((tmp_path / "whole" / "collection.json").read_text())
    collect(ragged(), tmp_path / "data", episodes=4, append=True)
    same(tmp_path / "whole", tmp_path / "data")


def test_gaps_are_filled_first(tmp_path):
    env = ragged()
    collect(env, tmp_path / "whole", episodes=5)
    collect(env, tmp_path / "data", episodes=4)
    (tmp_path / "data" / "episode_000001.npz").unlink()
    collect(env, tmp_path / "data", episodes=2, append=True)
    same(tmp_path / "whole", tmp_path / "data")


def test_an_exception_that_pickles_into_something_else():
    class Lost(Exception):
        def __reduce__(self):
            return ValueError, ("other",)

    for error in (Lost("x"), OSError(2, "gone", "file")):
        try:
            raise error
        except Exception as caught:
            failure = Failure.of(caught)
        assert (failure.error is None) == isinstance(error, Lost)
        assert str(error) in failure.text and "raise error" in failure.trace


def test_what_cannot_be_made_again(tmp_path):
    with pytest.raises(ConfigError, match="environment Ragged cannot be made in another process.*leave out num_envs"):
        collect(wk.make_env(Ragged()), tmp_path / "x", episodes=3, num_envs=2)
    with pytest.raises(ConfigError, match="num_envs must be at least 1"):
        collect(wk.make_env(Ragged()), tmp_path / "x", episodes=3, num_envs=0)
    assert not (tmp_path / "x").exists()


def test_one_that_cannot_be_made_there(tmp_path):
    env = wk.make_env("games/catch", size=16)
    env.spec.kwargs["env_id"] = "games/cath"
    with pytest.raises(wk.UnknownComponentError, match="Did you mean 'games/catch'") as caught, Pool(env, 2) as pool:
        for number, slot in enumerate(pool.slots):
            slot.number, slot.seed = number, number
        pool.begin(pool.slots)
    assert "unknown_env" in caught.value.__notes__[0]


def test_killed(tmp_path):
    """Of a killed collection by several, whole episodes are left, no process, and --append fills what is missing."""
    out = tmp_path / "data"
    command = [sys.executable, "-m", "worldkit", "collect", "games/freeway", "--out", str(out), "--quiet",
               "--num-envs", "2", "--episodes"]
    process = subprocess.Popen([*command, "100000"], env={**os.environ, "OMP_NUM_THREADS": "1"},
                               stderr=subprocess.DEVNULL, start_new_session=True)
    deadline = time.monotonic() + 120
    while len(list(out.glob("episode_*.npz"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    deadline = time.monotonic() + 120  # of a machine so busy that the episodes took all of the first
    while any_left(process.pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any_left(process.pid)
    before = arrays(out)
    assert len(before) >= 3 and all(len(e["video"]) == 251 for e in before.values())


def any_left(session):
    """Whether a process of that session is alive."""
    try:
        os.killpg(session, 0)
        return True
    except ProcessLookupError:
        return False
