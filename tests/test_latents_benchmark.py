"""benchmarks/latents.py: its parts; what fails is a failed cell; a model from training to its row (slow)."""

import importlib.util
import json
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest

import worldkit as wk
from worldkit.data import generate_push

FILE = Path(__file__).parents[1] / "benchmarks/latents.py"
spec = importlib.util.spec_from_file_location("latents_benchmark", FILE)
latents = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(latents)


def options(out, **other):
    return Namespace(**{"out": out, "data": "push-32", "minutes": 0.01, "clips": 8, "problems": 2, "candidates": 4,
                        "seconds": 0.1, "seeds": "0", **other})


def test_every_stage_is_a_model_and_stands_on_one_that_gives_it_something():
    from worldkit.storage.hub import components

    made = {name: wk.create_model(stage.preset, **stage.changes) for name, stage in latents.STAGES.items()}
    for name, stage in latents.STAGES.items():
        if stage.after is not None:
            encoder, before = (made[key].config.encoder for key in (name, stage.after))
            inner = getattr(encoder, "picture", None)
            assert before in (encoder, inner), name
            assert components(made[name])
    for name, row in latents.MODELS.items():
        assert (row.stage is None) != (row.shipped is None)
        shares = [latents.STAGES[stage].share for stage in latents.lineage(row.stage)]
        assert row.stage is None or sum(shares) == pytest.approx(1), name


def test_actions_of_the_data_reach_the_goal_and_none_do_not():
    asked, test = latents.problems(3), generate_push("test", num_episodes=3, image_size=latents.SIZE)
    start = np.arange(3) % 4 * 8
    taken = test.action[np.arange(3)[:, None], start[:, None] + np.arange(latents.HORIZON)]
    assert latents.reached(asked, taken).max() < 1e-6
    assert latents.reached(asked, np.zeros_like(taken)).max() > 0.01
    assert asked["frames"].shape == (3, 1, 3, 32, 32) and asked["goals"].shape == (3, 3, 32, 32)


def found(off, psnr=None):
    scores = {key: [0.5, 0.4, 0.6] for key in ("latent linear", "latent mlp", "pixels linear", "pixels mlp")}
    drawn = {} if psnr is None else {"psnr": psnr}
    return {"probe": scores, "plan": {"off": off, "rounds": 7, "seconds": 1.0}, **drawn}


def test_a_row_says_what_failed(tmp_path):
    row = latents.MODELS["rssm"]
    one = latents.line(row, [found([0.0, 0.2], [20.0, 22.0])], [120.0])
    assert "| 2.0 | 0.50 [0.40, 0.60] |" in one and "| 50 % ± " in one and "| 21.0 ± " in one
    assert "1 of 2 seeds failed" in latents.line(row, [found([0.0], [20.0]), None], [120.0])
    none = latents.line(row, [None], [])
    assert "failed" in none and none.count("|") == one.count("|")
    text = latents.table({"lewm": [found([0.0, 0.3])], "rssm": [None]}, {"lewm": [60.0], "rssm": []}, options(tmp_path))
    assert len({line.count("|") for line in text}) == 1 and any("random actions" in line for line in text)
    two = latents.line(row, [found([0.0, 0.0], [20.0]), found([0.5, 0.5], [22.0])], [60.0, 60.0])
    assert "| 50 % ± 635 |" in two  # over the means of seeds


@pytest.mark.parametrize("explicit", [True, False])
def test_pictures_are_those_of_means_where_there_are_means(tmp_path, explicit):
    told = []

    def rollout(video, horizon, *, conditions, deterministic, generator):
        told.append(deterministic)
        assert conditions["action"].shape[1] == video.shape[1] + horizon
        return Namespace(video=video[:, -1:].expand(-1, horizon, -1, -1, -1))

    model = Namespace(rollout=rollout, dynamics=Namespace(explicit_prior=explicit))
    each = latents.drawn(model, options(tmp_path))
    assert told == [explicit] and len(each) == 2 and 5 < min(each) < 40


def test_the_command_goes_on_after_a_failure(tmp_path, monkeypatch, capsys):
    calls, fails = [], {"ijepa"}

    def process(command, **_):
        word, name = command[2:4]
        calls.append((word[2:], name))
        if name in fails:
            return Namespace(returncode=1, stderr="Trouble: here")
        folder = latents.cell(word[2:], name, 0, options(tmp_path))
        if word == "--train":
            (folder / latents.STEPS).write_text(json.dumps({"steps": 1, "cpu": 6.0, "done": True}))
        else:
            (folder / latents.RESULT).write_text(json.dumps(found([0.0, 0.2])))
        return Namespace(returncode=0, stderr="")

    monkeypatch.setattr(latents.subprocess, "run", process)
    command = ["latents.py", "--out", str(tmp_path), "--only", "lewm,dino,lpwm", "--seeds", "0", "--problems", "2"]
    monkeypatch.setattr(sys, "argv", command)
    monkeypatch.setattr(latents, "drawn", None)
    monkeypatch.setitem(latents.MODELS, "lpwm", latents.Row("LPWM", None, shipped="lpwm-push-mini"))
    latents.main()
    assert calls == [("train", "lewm"), ("score", "lewm"), ("train", "ijepa"), ("score", "lpwm")]
    assert "Trouble: here" in (tmp_path / "train-ijepa-0" / latents.FAILED).read_text()
    assert "DINO-WM on our I-JEPA | failed" in (tmp_path / "table.md").read_text()
    fails.clear()
    latents.main()
    assert calls[4:] == [("train", "ijepa"), ("train", "dino"), ("score", "dino")]
    assert "failed" not in (tmp_path / "table.md").read_text() and not list(tmp_path.glob(f"*/{latents.FAILED}"))
    monkeypatch.setattr(sys, "argv", ["latents.py", "--only", "lwem"])
    with pytest.raises(SystemExit, match="there is no model lwem; there are: lewm"):
        latents.main()
    capsys.readouterr()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lewm", "dino", "rssm"])
def test_from_training_to_a_row(name, tmp_path):
    command = [sys.executable, FILE, "--out", tmp_path, "--only", name, "--seeds", "0", "--minutes", "0.01", "--clips",
               "8", "--problems", "2", "--candidates", "4", "--seconds", "0.1"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=True)
    assert "failed" not in done.stdout and latents.MODELS[name].label in (tmp_path / "table.md").read_text()
