"""Every example runs, at reduced size; in this process, but the first."""

import json
import re
import runpy
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest

import worldkit as wk
from worldkit.training import recipes

EXAMPLES = Path(__file__).parents[1] / "examples"


def run(name, *arguments, cwd):
    done = subprocess.run([sys.executable, EXAMPLES / name, *arguments], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def here(tmp_path, monkeypatch, capsys):
    """here(name, *arguments) -> what an example prints that runs in this process; what it trains is small."""
    monkeypatch.chdir(tmp_path)
    thin, few = {"base_channels": 4}, {"dim": 16, "num_layers": 1, "num_heads": 2}
    small = {"encoder": {"proposal_cnn": thin, "glimpse_cnn": thin, "background_cnn": thin}, "dynamics": few,
             "decoder": {"glimpse_cnn": thin, "background_cnn": thin}, "latent_action": few}
    monkeypatch.setattr(recipes, "train", partial(recipes.train, overrides=small))
    monkeypatch.setattr(wk.ablation, "run", partial(wk.ablation.run, isolate=False, clips=2))

    def here(name, *arguments):
        monkeypatch.setattr(sys, "argv", [name, *arguments])
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        return capsys.readouterr().out

    return here


def test_first_steps(tmp_path):
    out = run("01_first_steps.py", cwd=tmp_path)
    assert "reconstruction:" in out and (tmp_path / "first_steps.png").exists()
    before, after = re.search(r"would have been: (\S+) before, (\S+) after", out).groups()
    assert float(before) < 0.1 and float(after) > 0.8 and (tmp_path / "what_if.png").exists()


def test_swap_a_component(tmp_path, here):
    out = here("02_swap_a_component.py", "--steps", "1")
    assert "a GRU instead of PINT" in out and "Dynamics that fit: slotformer" in out
    assert (tmp_path / "runs/swap-a-component/report.html").exists()


def test_your_own_video(tmp_path, here):
    pytest.importorskip("av")
    from worldkit.data import write_video

    y, x = np.mgrid[:64, :64]
    discs = [((y - 32) ** 2 + (x - 8 - t / 2) ** 2 < 64)[..., None] * np.array([250, 180, 20]) for t in range(110)]
    write_video(tmp_path / "ball.mp4", np.stack(discs).astype(np.uint8))
    out = here("03_your_own_video.py", "ball.mp4", "--steps", "2")
    assert "2 steps" in out and (tmp_path / "runs/my-video/prediction.gif").exists()


def test_from_videos_to_a_shared_model(tmp_path, here):
    pytest.importorskip("av")
    out = here("04_from_videos_to_a_shared_model.py", "--steps", "2")
    assert "copy last frame" in out and "loaded again" in out
    assert "copy last frame" in (tmp_path / "my-model/README.md").read_text()


def test_other_actions(tmp_path, here):
    """A few clips only; docs/what_if.md has 200."""
    out = here("05_other_actions.py", "--clips", "8")
    assert (tmp_path / "other_actions.png").exists()
    for name in ("as told", "the other way"):
        gain = re.search(rf"steered {name}: nearer to its own future than to the other by (\S+) ± (\S+) dB", out)
        assert float(gain[1]) - float(gain[2]) > 0
    inside, apart = re.search(r"prediction, (\S+) ± .*; difference (\S+) ±", out).groups()
    assert float(inside) > 70 and float(apart) > 40


def test_plan(tmp_path, here):
    """A few problems only; docs/planning.md has 40."""
    out = here("06_plan.py", "--problems", "4", "--candidates", "60")
    assert (tmp_path / "plan.png").exists()
    ways = {name: float(far) for name, far in re.findall(r"^(.*): pusher (\S+) ±", out, re.MULTILINE)}
    assert ways["the plan"] < 0.5 * min(ways["random actions"], ways["no action"]) and ways["as in the data"] < 1e-3


def test_no_example_is_forgotten():
    assert {p.name for p in EXAMPLES.glob("*.py")} == {
        "01_first_steps.py", "02_swap_a_component.py", "03_your_own_video.py",
        "04_from_videos_to_a_shared_model.py", "05_other_actions.py", "06_plan.py", "07_other_moves.py",
        "08_without_torch.py",
    }


@pytest.mark.slow
def test_the_picture_of_the_readme_can_be_drawn_again(tmp_path):
    from PIL import Image

    images = EXAMPLES.parent / "docs/images"
    run(images / "balls_mini.py", str(tmp_path / "new.png"), cwd=tmp_path)
    assert Image.open(tmp_path / "new.png").size == Image.open(images / "balls-mini.png").size


@pytest.mark.slow
def test_the_benchmark_of_latent_actions_runs(tmp_path):
    small = "--steps 1 --every 1 --batch-size 2 --clips 2 --episodes 2".split()
    out = run(EXAMPLES.parent / "benchmarks/latent_actions.py", *small, cwd=tmp_path)
    why, before, after = map(json.loads, out.splitlines())
    assert why.keys() == {"prior", "inferred"}
    assert before.keys() == {"step", "prior", "inferred", "gap"} and after["kl"]["position"] > 0


def test_other_moves(tmp_path, here):
    """With a model that has learned nothing: docs/from_pixels.md has one that has."""
    wk.create_model("dvae-games-mini").save_pretrained(tmp_path / "model")
    out = here("07_other_moves.py", "--model", "dir:model", "--clips", "4")
    assert re.search(r"of what the move changes in the prediction, .* lies where the true futures differ \(\S+ of", out)
    assert (tmp_path / "other_moves.png").exists()


@pytest.mark.slow
def test_without_torch(tmp_path):
    """An exported model, driven by NumPy and ONNX Runtime in a process that never loads PyTorch."""
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package)
    model = wk.create_model("lpwm-push-mini")
    for what in ("encode", "step", "decode"):
        wk.export(model, tmp_path / "exported", what=what, context=2 if what == "step" else None)
    out = run("08_without_torch.py", "exported", "--steps", "3", cwd=tmp_path)
    assert "3 frames dreamed" in out and "PyTorch was not loaded" in out
    assert np.load(tmp_path / "dream.npy").shape == (3, 32, 32, 3)


# -- one for each family

FAMILIES = EXAMPLES / "families"
OF_FAMILIES = {  # name -> (steps, what the output says)
    "lpwm": (None, r"predicted: (1[5-9]|2\d)\.\d dB, copying the last frame: 1[0-4]"),
    "ddlp": (None, r"[3-9] particles seen"),
    "diffuse_ddlp": (None, r"\(4, 12, 3, 32, 32\) of which frames were drawn: 4"),
    "g_swm": (None, r"predicted: (1[5-9]|2\d)\.\d dB"), "slotformer": (None, r"predicted: 1[4-9]\.\d dB"),
    "rssm": (2, r"2 steps; what the actions change"), "dreamer": (60, r"agent: return \S+.* after 60 steps"),
    "planet": (None, r"planned action of each: \["), "tdmpc2": (None, r"actions of two environments: \["),
    "world_models": (2, r"temperature 1.15: two dreams differ"), "dit": (2, r"pictures: \(8, 3, 32, 32\)"),
    "iris": (2, r"codes of a frame: \["), "diamond": (2, r"predicted: -?\d+\.\d dB"),
    "dlp": (2, r"moving one changes 0\.\d*[1-9]"), "dvae": (None, r"predicted: (1[5-9]|2\d)\.\d dB"),
    "savi": (None, r"drawn again: 2[5-9]\.\d dB"), "modular_rssm": (None, r"transformer: \d+ thousand weights"),
    "jepa": (2, r"latent, linear: R2 -?\d"), "pldm": (2, r"5 ahead: off by \d"), "dino_wm": (None, r"the plan: \[\["),
    "vjepa2_ac": (None, r"move, turn, grip: \["),
    "genie": (2, r"codes of what happened: \[\d"), "flam": (2, r"another action of one factor changes \d"),
    "lewm": (2, r"the plan: \[\["), "semantic_wm": (2, r"predicted: -?\d+\.\d dB"),
}


@pytest.mark.parametrize("name", OF_FAMILIES)
def test_an_example_of_a_family(name, tmp_path, monkeypatch, capsys):
    steps, says = OF_FAMILIES[name]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [name, *([str(steps)] if steps else [])])
    runpy.run_path(str(FAMILIES / f"{name}.py"), run_name="__main__")
    out = capsys.readouterr().out
    assert re.search(says, out), out


def test_examples_of_families_are_short_and_none_is_forgotten():
    files = {path.stem: path.read_text(encoding="utf-8") for path in FAMILIES.glob("*.py")}
    assert set(files) == set(OF_FAMILIES)
    for name, text in files.items():
        assert len(text.splitlines()) <= 40 and f"python examples/families/{name}.py" in text, name
