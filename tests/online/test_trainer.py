"""The loop: acts, learns by ratio, looks without touching anything, and goes on exactly."""

import json
import multiprocessing
import os
import signal
from functools import partial

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

import worldkit as wk
from worldkit.agents import check_fits, load_agent
from worldkit.agents.carry import tensors_of, with_tensors
from worldkit.envs import make_env
from worldkit.errors import ConfigError, DataError, EnvError, TrainingError
from worldkit.online import OnlineConfig, OnlineTrainer, find_agent
from worldkit.training.config import TrainConfig

SMALL = dict(steps=330, prefill=40, length=7, train_ratio=8, eval_every=0, save_every=100, eval_episodes=2,
             max_steps=30, film_steps=0)


def trainer(agent, make, run, *, batch_size=4, seed=0, **options):
    return OnlineTrainer(agent, make, OnlineConfig(**{**SMALL, **options}),
                         TrainConfig(batch_size=batch_size, log_every=10, seed=seed), run=run, show_progress=False)


def lines(run):
    """What a log tells, clocks apart."""
    found = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [{name: x for name, x in line.items() if name not in ("seconds", "cpu")} for line in found]


@pytest.fixture(scope="module")
def finished(stub_agent, tmp_path_factory):
    """A run of two environments that nothing disturbed."""
    torch.set_num_threads(1)
    run, make = tmp_path_factory.mktemp("online") / "run", partial(make_env, "games/catch", size=32)
    agent = stub_agent(make)
    result = trainer(agent, make, run, num_envs=2).fit()
    return run, result, agent


def test_it_acts_and_learns_by_the_ratio(finished):
    run, result, _ = finished
    assert result.finished and result.steps == 330
    acted = 330 - 40 + 2  # learning began with the last random step
    assert abs(result.updates - acted * 8 / (4 * 7)) < 1
    log = lines(run)
    assert {"random_return", "eval_return", "return", "entropy"} <= {name for line in log for name in line}
    assert 7 < [line["ratio"] for line in log if "ratio" in line][-1] <= 8
    numbers = [line["episode"] for line in log if "episode" in line]
    assert sorted(numbers) == list(range(10)) and all(line["length"] == 30 for line in log if "episode" in line)
    assert (run / "curve.html").read_text().count("<svg") >= 3
    assert load_agent(find_agent(run)).config.name == "stub"
    assert load_agent(run / "best").facts["score"]["return"] == max(
        line["eval_return"] for line in log if "eval_return" in line)


def test_what_was_collected_is_a_data_set(finished):
    run, _, _ = finished
    clips = wk.data.open_dataset(str(run / "data"), split="train", num_frames=8)
    assert clips.summary["episodes"] > 5 and clips[0]["video"].shape == (8, 3, 32, 32)


def _run_and_die(agent, make, run, updates, options):
    learner = agent.learner(None)
    update = learner.update

    def fatal(*given, **named):
        if learner.updates >= updates:
            os.kill(os.getpid(), signal.SIGKILL)
        return update(*given, **named)

    learner.update = fatal
    agent.learner = lambda config: learner
    trainer(agent, make, run, **options).fit()


@pytest.mark.parametrize("updates", [5, 60])
def test_killed_it_goes_on_to_the_same_numbers(finished, stub_agent, tmp_path, updates):
    """kill -9 before any checkpoint, and between two of them, in the middle of episodes."""
    run, result, agent = finished
    make = partial(make_env, "games/catch", size=32)
    process = multiprocessing.get_context("fork").Process(
        target=_run_and_die, args=(stub_agent(make), make, tmp_path / "run", updates, {"num_envs": 2}))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    assert len(list((tmp_path / "run" / "checkpoints").glob("step-*"))) == (0 if updates == 5 else 2)
    before = {path.name for path in (tmp_path / "run" / "data").glob("*.npz")}
    again = stub_agent(make)
    found = trainer(again, make, tmp_path / "run", num_envs=2).fit()
    assert (found.steps, found.updates) == (result.steps, result.updates)
    assert all(torch.equal(x, again.state_dict()[name]) for name, x in agent.state_dict().items())
    assert lines(tmp_path / "run") == lines(run)
    assert before <= {path.name for path in (tmp_path / "run" / "data").glob("*.npz")}
    one, two = (np.load(folder / "data" / "episode_000006.npz") for folder in (run, tmp_path / "run"))
    assert all(np.array_equal(one[name], two[name]) for name in one.files)


def test_stopped_it_goes_on_and_refuses_what_would_change_it(finished, stub_agent, tmp_path, catch):
    run, _, whole = finished
    agent = stub_agent(catch)
    half = trainer(agent, catch, tmp_path / "run", num_envs=2)
    update = half._learn

    def learn():
        update()
        if half.progress.updates == 33:
            half.stop()

    half._learn = learn
    result = half.fit()
    assert not result.finished
    with pytest.raises(TrainingError, match=r"online.num_envs: it began with 2, not 1"):
        trainer(stub_agent(catch), catch, tmp_path / "run").fit()
    with pytest.raises(TrainingError, match=r"another agent: agent.explode is 0 there, 7 here"):
        trainer(stub_agent(catch, explode=7), catch, tmp_path / "run", num_envs=2).fit()
    pendulum = partial(make_env, "games/freeway", size=32)
    with pytest.raises(TrainingError, match="belongs to another environment: environment is 'games/catch' there"):
        trainer(stub_agent(pendulum), pendulum, tmp_path / "run", num_envs=2).fit()
    again = stub_agent(catch)
    trainer(again, catch, tmp_path / "run", num_envs=2).fit()
    assert all(torch.equal(x, again.state_dict()[name]) for name, x in whole.state_dict().items())
    assert lines(tmp_path / "run") == lines(run)


def test_looking_changes_nothing(finished, stub_agent, catch, tmp_path):
    run, _, whole = finished
    agent = stub_agent(catch)
    trainer(agent, catch, tmp_path / "run", num_envs=2, eval_every=150, film_steps=3).fit()
    assert all(torch.equal(x, agent.state_dict()[name]) for name, x in whole.state_dict().items())
    quiet = [line for line in lines(tmp_path / "run") if "eval_return" not in line]
    assert quiet == [line for line in lines(run) if "eval_return" not in line]
    assert len(list((tmp_path / "run" / "figures").glob("*.gif"))) == 3


class Odd(gymnasium.Env):
    """Never ends; its reward may be NaN, its actions a box of other bounds, its step that of old Gym."""

    def __init__(self, *, bad_at=0, old=False, space=None):
        self.action_space = space or spaces.Box(np.float32([0, -2]), np.float32([4, 2]))
        self.observation_space = spaces.Box(0, 255, (32, 32, 3), np.uint8)
        self._bad_at, self._old, self.render_mode, self.given = bad_at, old, None, []

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self._steps = 0
        return np.zeros((32, 32, 3), np.uint8), {}

    def step(self, action):
        self._steps += 1
        self.given.append(action)
        frame = np.full((32, 32, 3), self._steps % 200, np.uint8)
        reward = float("nan") if self._steps == self._bad_at else 1.0
        return (frame, reward, False, {}) if self._old else (frame, reward, False, False, {})


def make_odd(**options):
    return make_env(Odd(**options), size=32, actions="scaled")


def test_a_reward_that_is_no_number(stub_agent, tmp_path):
    make = partial(make_odd, bad_at=13)
    run = trainer(stub_agent(make), make, tmp_path / "run")
    run.looks.random = {}
    with pytest.raises(EnvError, match=r"gave the reward nan at step 13 of episode 0 \(seed \d+\).*correct the env"):
        run.fit()


def test_an_environment_that_never_ends_is_cut_off_with_a_note(stub_agent, tmp_path, monkeypatch):
    from worldkit.online import trainer as module

    monkeypatch.setattr(module, "LIMIT", 25)
    monkeypatch.setattr("worldkit.online.looks.LONG", 10)
    said = []
    run = trainer(stub_agent(make_odd), make_odd, tmp_path / "run", max_steps=None, steps=60)
    monkeypatch.setattr(module.OnlineBar, "say", lambda self, text: said.append(text))
    result = run.fit()
    assert [line["length"] for line in result.log if "episode" in line] == [25, 25]
    assert sum("did not end within 25 steps" in text and "online.max_steps" in text for text in said) == 2
    assert sum("after 10 steps some go on" in text and "online.max_steps" in text for text in said) == 1


def test_many_updates_in_a_row_are_told_and_take_no_part_in_the_eta(stub_agent, tmp_path, monkeypatch):
    make, shown = partial(make_env, "games/catch", size=32), []
    run = trainer(stub_agent(make), make, tmp_path / "run", steps=44, pretrain=40, train_ratio=0)
    learn = run._learn
    monkeypatch.setattr(run, "_learn", lambda: (learn(), shown.append(run.bar.meter.plain()))[0])
    run.fit()
    told = [line.split(":")[0] for line in shown]
    assert len(told) == 40 and told[0] == "learning" and told[1:3] == ["learning, 39 updates to go",
                                                                        "learning, 38 updates to go"]
    assert run.bar.meter.what == "acting and learning"


def test_an_old_environment_says_what_to_do(stub_agent):
    with pytest.raises(ConfigError, match=r"gave 4 values; Gymnasium's gives five.*shimmy"):
        env = make_odd(old=True)
        env.reset(seed=0)
        env.step(np.zeros(2, np.float32))


def test_a_reset_of_old_gym():
    class Old(Odd):
        def reset(self, **options):
            return super().reset()[0]

    with pytest.raises(ConfigError, match="reset.* gave ndarray.*two: observation and info"):
        make_env(Old(), size=32).reset(seed=0)


def test_vectors_of_actions_run_from_minus_one_to_one(stub_agent, tmp_path):
    env = make_odd()
    assert env.action_space == spaces.Box(-1, 1, (2,), np.float32)
    env.reset(seed=0)
    env.step(np.float32([-1, 0.5]))
    assert env.unwrapped.given[-1].tolist() == [0, 1]
    agent = stub_agent(make_odd)
    trainer(agent, make_odd, tmp_path / "run", steps=60).fit()
    with pytest.raises(ConfigError, match=r"the environment takes 2 numbers within .*-o actions=scaled"):
        check_fits(agent, make_env(Odd(), size=32))
    found = np.load(tmp_path / "run" / "data" / "episode_000000.npz")
    assert abs(found["action"]).max() <= 1


def test_an_action_held_for_several_steps_sums_rewards():
    env = make_env(Odd(), size=32, repeat=3)
    env.reset(seed=0)
    assert env.step(np.float32([1, 1]))[1] == 3.0 and env.unwrapped._steps == 3
    with pytest.raises(ConfigError, match="repeat is how many steps"):
        make_env(Odd(), size=32, repeat=0)


def test_a_replay_shorter_than_a_clip(stub_agent, catch, tmp_path):
    run = trainer(stub_agent(catch), catch, tmp_path / "run", length=99, cross=False)
    run.looks.random = {}
    with pytest.raises(DataError, match=r"longest has 31 frames, a clip 100.*online.length=30.*online.cross=true"):
        run.fit()


def test_a_loss_that_is_not_finite_keeps_the_checkpoint(stub_agent, catch, tmp_path):
    with pytest.raises(TrainingError, match="nan"):
        trainer(stub_agent(catch, explode=40), catch, tmp_path / "run").fit()
    assert find_agent(tmp_path / "run").is_dir()


@pytest.mark.slow
def test_processes_play_the_same_episodes(stub_agent, catch, tmp_path):
    for name, processes in (("here", False), ("there", True)):
        trainer(stub_agent(catch), catch, tmp_path / name, num_envs=2, processes=processes, steps=130).fit()
    assert lines(tmp_path / "here") == lines(tmp_path / "there")


def test_a_carry_as_tensors():
    carry = {"a": torch.ones(2), "b": [(torch.zeros(3), "text")], "c": None}
    twice = with_tensors(carry, [2 * x for x in tensors_of(carry)])
    assert twice["a"].tolist() == [2, 2] and twice["b"][0][1] == "text"
    with pytest.raises(ValueError, match="1 tensors for a carry of 2"):
        with_tensors(carry, [torch.zeros(1)])


def test_lost_episodes_are_missed(finished, stub_agent, catch, tmp_path):
    import shutil

    shutil.copytree(finished[0], tmp_path / "run")
    (tmp_path / "run" / "data" / "episode_000003.npz").unlink()
    with pytest.raises(DataError, match="lacks episode 3, which the run has learned from"):
        trainer(stub_agent(catch), catch, tmp_path / "run", num_envs=2, steps=400).fit()
