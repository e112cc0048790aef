"""Trainings as files: what ``--config`` reads and every run folder holds."""

import json

import pytest

from worldkit import create_config, get_model_spec, list_models
from worldkit.cli import main
from worldkit.config import WorldModelConfig
from worldkit.errors import ConfigError
from worldkit.training import TrainConfig
from worldkit.training.settings import Settings

TINY = ["-o", "encoder.hidden_dim=16", "-o", "decoder.hidden_dim=16", "-o", "dynamics.dim=16",
        "-o", "latent_action.dim=16", "-o", "timestep_horizon=3", "-o", "data.num_episodes=3",
        "-o", "data.episode_length=12", "-o", "train.batch_size=2", "--device", "cpu", "--quiet"]


@pytest.mark.parametrize("name", list_models())
def test_every_preset_survives_a_file(name, tmp_path):
    model, train = create_config(name).to_dict(), TrainConfig.parse(get_model_spec(name).train).to_dict()
    options = {"cameras": ["a.b", "c"], "odd key": {"deep": [1.5, True]}}
    told = Settings(name, 'films "of" mine\\x\x7f', model, train, options)
    told.write(tmp_path / "config.toml")
    found = Settings.read(tmp_path / "config.toml")
    assert (found.preset, found.data, found.data_options) == (told.preset, told.data, told.data_options)
    assert WorldModelConfig.parse(found.model) == create_config(name)
    assert TrainConfig.parse(found.train).to_dict() == train


def losses(run):
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


def test_the_file_of_a_run_makes_the_same_run(tmp_path):
    first, second, third = (tmp_path / name for name in "abc")
    assert main(["train", "lpwm-balls-mini", "--data", "balls-32", "--steps", "2", "--run", str(first), *TINY]) == 0
    file = str(first / "config.toml")
    assert main(["train", "--config", file, "--run", str(second), "--quiet"]) == 0
    assert losses(first) == losses(second)
    assert (first / "config.toml").read_text() == (second / "config.toml").read_text()
    swapped = ["-o", "dynamics=gru", "-o", "train.lr=1e-9"]
    assert main(["train", "--config", file, "--run", str(third), "--quiet", *swapped]) == 0
    found = Settings.read(third / "config.toml")
    assert found.model["dynamics"]["name"] == "gru" and found.train["lr"] == 1e-9 and found.train["steps"] == 2


def test_a_file_may_hold_only_what_differs(tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text('preset = "lpwm-balls-mini"\n[model.dynamics]\nnum_layers = 1\n')
    found = Settings.read(file)
    assert WorldModelConfig.parse(found.model) == create_config("lpwm-balls-mini", dynamics__num_layers=1)
    assert found.data is None
    file.write_text("[model.dynamics]\nnum_layers = 1\n")
    assert Settings.read(file, "lpwm-balls-mini") == found


@pytest.mark.parametrize("text, says", [
    ("preset = 3", "preset must be a text"),
    ("data = 'balls'", "names no preset"),
    ("preset = 'lpwm-mini'\n[trian]\nlr = 1", "unknown key 'trian'. Did you mean 'train'?"),
    ("preset = ", "is no TOML file"),
    ("preset = 'lpwm-mini'\ntrain = 3", "train must be a table"),
])
def test_what_is_wrong_with_a_file_is_told(text, says, tmp_path):
    (tmp_path / "x.toml").write_text(text)
    with pytest.raises(ConfigError, match="^") as error:
        Settings.read(tmp_path / "x.toml")
    assert says in str(error.value)


@pytest.mark.parametrize("command, says", [
    (["train"], "worldkit train PRESET --data DATA"),
    (["train", "lpwm-balls-mini"], "say what to train on: --data DATA"),
    (["train", "--config", "nothere.toml"], "nothere.toml cannot be read"),
    (["rollout", "lpwm-balls-mini", "--data", "balls-32", "--device", "quantum"], "--device quantum"),
    (["demo", "--device", "meta"], "--device meta"),
    (["ablate", "lpwm-balls-mini", "--budget", "1steps", "--device", "cuda:99"], "--device cuda:99"),
])
def test_the_command_line_says_what_is_missing(command, says, capsys):
    assert main(command) == 2
    assert says in capsys.readouterr().err
