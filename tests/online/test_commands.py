"""The commands, end to end, with a Dreamer of a few thousand parameters."""

import json
import shutil
from functools import partial

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

from worldkit.agents import check_fits, create_agent, load_agent
from worldkit.cli import main
from worldkit.cli.commands.online import _folder_of
from worldkit.envs import make_env
from worldkit.errors import CheckpointError, ConfigError
from worldkit.online import OnlineConfig, OnlineTrainer, find_agent
from worldkit.storage.folders import find_model
from worldkit.training import TrainConfig

TINY = ["train.batch_size=2", "train.log_every=5", "online.length=5", "online.prefill=24", "online.max_steps=20",
        "online.train_ratio=3", "online.eval_every=0", "online.eval_episodes=2", "online.film_steps=4",
        "online.save_every=30", "obs.height=16", "obs.width=16", "encoder.depth=2", "encoder.multipliers=[2,2]",
        "decoder.depth=2", "decoder.multipliers=[2,2]", "decoder.units=8", "decoder.blocks=4",
        "dynamics.deterministic_dim=16", "dynamics.hidden_dim=8", "dynamics.num_variables=4",
        "dynamics.cell.blocks=4", "dynamics.cell.hidden=8", "agent.horizon=3", "agent.optimizers.all.warmup_steps=0"]


def command(*arguments, options=TINY):
    return main([*arguments, *(part for option in options for part in ("-o", option)), "--quiet"])


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    torch.set_num_threads(1)
    run = tmp_path_factory.mktemp("commands") / "run"
    assert command("train-agent", "dreamer-v3-mini", "--env", "games/catch", "--run", str(run), "--steps", "70",
                   "--seed", "3", "-o", "online.context=true") == 0
    return run


def log(run):
    found = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [{name: x for name, x in line.items() if name not in ("seconds", "cpu")} for line in found]


def test_a_dreamer_learns_and_says_what(run):
    learned = [line for line in log(run) if "ratio" in line]
    assert {"loss_image", "loss_reward", "loss_dyn", "entropy", "return_scale", "imagined_return"} <= {*learned[-1]}
    assert (run / "best" / "agent.safetensors").is_file() and (run / "curve.html").is_file()
    assert list((run / "figures").glob("*.gif"))
    assert json.loads((run / "run.json").read_text())["train"]["seed"] == 3


def test_a_dreamer_goes_on_exactly(run, tmp_path):
    """Stopped at step 40, in the middle of an episode, with its states."""
    options = [*TINY, "online.context=true", "train.seed=3"]
    for steps in (40, 70):
        assert command("train-agent", "dreamer-v3-mini", "--env", "games/catch", "--run", str(tmp_path / "run"),
                       "--steps", str(steps), options=options) == 0
    one, two = (log(place) for place in (run, tmp_path / "run"))
    assert [line for line in two if "ratio" in line] == [line for line in one if "ratio" in line]
    assert two[-1] == one[-1]


def test_folders_have_names_that_any_file_system_takes():
    assert _folder_of("dreamer-v3-mini", "my_games.maze:Maze-v0") == "dreamer-v3-mini-my_games.maze-Maze-v0"
    assert _folder_of("dreamer-v3-mini", "games/catch") == "dreamer-v3-mini-games-catch"


def test_it_is_scored_beside_random_actions(run, capsys):
    assert main(["eval-agent", str(run), "--episodes", "2", "--seeds", "0,1", "--quiet"]) == 0
    shown = capsys.readouterr().out
    assert "random" in shown and "agent - random" in shown
    found = json.loads(next((run / "eval").glob("step-*/control.json")).read_text())
    assert found["results"]["agent"]["return"]["n"] == 4 and found["protocol"]["budget"] == 20


def test_it_is_filmed(run, capsys, tmp_path):
    assert main(["play-agent", str(run), "--episodes", "2", "--out", str(tmp_path / "films"), "--quiet"]) == 0
    assert len(list((tmp_path / "films").glob("*.gif"))) == 2 and "return" in capsys.readouterr().out


def test_its_run_is_a_world_model_too(run, capsys, tmp_path):
    """For every command that takes a model; that of the best agent, else of the newest checkpoint."""
    assert find_model(run) == find_model(run / "best") == run / "best/model"
    assert main(["info", str(run)]) == 0
    assert "parameters: dynamics" in capsys.readouterr().out
    shutil.copytree(run / "checkpoints", tmp_path / "checkpoints")
    assert find_model(tmp_path).parts[-3:] == ("step-00000070", "agent", "model")
    about = json.loads((run / "best/config.json").read_text())
    (tmp_path / "simple").mkdir()
    shutil.copy(run / "best/agent.safetensors", tmp_path / "simple")
    for model, said in ((None, "acts without a world model"), ({"place": "away"}, "away, which is not there")):
        (tmp_path / "simple/config.json").write_text(json.dumps(about | {"model": model}))
        with pytest.raises(CheckpointError, match=said):
            find_model(tmp_path / "simple")


@pytest.mark.parametrize("arguments, said", [
    (["train-agent", "lpwm-mini", "--env", "games/catch"], "is a world model and does not act"),
    (["train-agent", "dreamer-v3-minni", "--env", "games/catch"], "Did you mean 'dreamer-v3-mini'"),
    (["train-agent", "dreamer-v3-mini", "--env", "games/catsh"], "Did you mean 'games/catch'"),
    (["train-agent", "dreamer-v3-mini", "--env", "games/catch", "-o", "online.train_ration=3"], "train_ratio"),
    (["train-agent", "dreamer-v3-mini", "--env", "games/catch", "-o", "online=3"], "online.OPTION=VALUE"),
    (["train-agent", "dreamer-v3-mini", "--env", "games/catch", "-o", "agent.actor.kind=tanh-normal"],
     "an actor of kind 'tanh-normal' gives vectors of numbers, and these actions are 3 choices"),
    (["train-agent", "dreamer-v1-dmc", "--env", "games/catch"], "tanh-normal"),
    (["eval-agent", "nowhere"], "is no agent: there is no such folder"),
])
def test_mistakes_say_what_to_type(arguments, said, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main([*arguments, "--quiet"]) == 2
    assert said in capsys.readouterr().err.replace("\n", " ")


def test_an_agent_of_other_actions_is_refused(run):
    class Other(gymnasium.Env):
        action_space, observation_space = spaces.Discrete(5), spaces.Box(0, 255, (16, 16, 3), np.uint8)

    with pytest.raises(ConfigError, match="it gives 3 choices, the environment takes 5 choices"):
        check_fits(load_agent(find_agent(run)), make_env(Other(), size=16))


def test_what_it_saw_is_a_data_set_for_other_commands(run, capsys):
    assert main(["data", "inspect", str(run / "data")]) == 0
    shown = capsys.readouterr().out
    assert "reward" in shown and "action" in shown


def test_a_planner_trains_its_model(tmp_path):
    """PlaNet: the model alone learns, on its own objective; noise is what the model is told was done."""
    make = partial(make_env, Slide(), size=16, actions="scaled")
    options = {"obs": {"height": 16, "width": 16}, "encoder": {"depth": 2, "multipliers": [1, 2], "padding": "same"},
               "decoder": {"depth": 2, "multipliers": [2]}, "dynamics": {"deterministic_dim": 8, "hidden_dim": 8,
               "num_variables": 3, "cell": {"hidden": 8}}, "heads": {"reward": {"readout": {"units": 8}}}}
    planning = {"horizon": 2, "planner_options": {"candidates": 8, "elites": 2, "iterations": 1}}
    with make() as env:
        agent = create_agent("planet-dmc", env=env, agent=planning, **options)
    before = {name: x.clone() for name, x in agent.model.state_dict().items()}
    config = OnlineConfig(steps=26, prefill=14, max_steps=10, length=5, cross=False, train_ratio=3, eval_episodes=1,
                          film_steps=3)
    result = OnlineTrainer(agent, make, config, TrainConfig(batch_size=2, lr=1e-2, log_every=1), run=tmp_path / "run",
                           show_progress=False).fit()
    assert result.updates == 3 and {"kl", "loss"} <= {name for line in result.log for name in line}
    moved = [name for name, x in agent.model.state_dict().items() if not torch.equal(x, before[name])]
    assert any(name.startswith("dynamics") for name in moved) and any(name.startswith("heads") for name in moved)


class Slide(gymnasium.Env):
    """A bright column where the last action said."""

    action_space, observation_space = spaces.Box(-2, 2, (1,)), spaces.Box(0, 255, (16, 16, 3), np.uint8)
    at = 8

    def _seen(self):
        frame = np.zeros((16, 16, 3), np.uint8)
        frame[:, self.at] = 255
        return frame

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.at = int(self.np_random.integers(16))
        return self._seen(), {}

    def step(self, action):
        self.at = int(np.clip(self.at + action[0], 0, 15))
        return self._seen(), self.at / 15, False, False, {}
