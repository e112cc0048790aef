"""The command line, run as a user would: in this process where possible, installed script included."""

import json
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

import worldkit as wk
from worldkit.cli import main
from worldkit.storage.folders import provenance
from worldkit.training.figures import INFERRED_NOTE

TINY = ["-o", "encoder.hidden_dim=16", "-o", "decoder.hidden_dim=16", "-o", "dynamics.dim=16",
        "-o", "latent_action.dim=16", "-o", "timestep_horizon=3", "-o", "data.num_episodes=3",
        "-o", "data.episode_length=20", "-o", "train.batch_size=4", "-o", "train.eval_clips=2"]


def test_help_teaches_and_does_not_import_torch():
    code = ("import sys, worldkit.cli as c\ntry: c.main(['--help'])\nexcept SystemExit: pass\n"
            "assert 'torch' not in sys.modules")
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    for word in ("demo", "train", "rollout", "eval", "convert", "examples:", "worldkit train lpwm-mini --data"):
        assert word in out


def test_list_and_info(capsys):
    assert main(["list", "lpwm-b*"]) == 0
    assert "lpwm-balls-mini" in capsys.readouterr().out
    assert main(["info", "lpwm-balls-mini"]) == 0
    out = capsys.readouterr().out
    assert "parameters: encoder" in out and '"timestep_horizon"' in out and "extra" not in out
    assert main(["info", "lpwm-bridge"]) == 0
    out = capsys.readouterr().out
    assert "conditioners.language uses" in out and '".[language]"' in out


@pytest.mark.parametrize(("command", "message"), [
    (["info", "lpwm-skechy"], "Did you mean 'lpwm-sketchy'?"),
    (["train", "lpwm-balls-mini", "--data", "balls-32", "-o", "dynamics.num_layres=3"], "Did you mean 'num_layers'?"),
    (["train", "lpwm-balls-mini", "--data", "balls-32", "-o", "train.lrr=3"], "Did you mean 'lr'?"),
    (["train", "lpwm-balls-mini", "--data", "balls-32", "-o", "dynamics.dim"], "path=value"),
    (["train", "lpwm-balls-mini", "--data", "no/such/video.mp4"], "no/such/video.mp4"),
    (["eval", "no/such/model", "--data", "balls-32"], "is no model"),
    (["rollout", "lpwm-sketchy", "--data", "balls-32"], "no weights are published for 'lpwm-sketchy'"),
    (["convert", "lpwm", "none.pth", "--hparams", "none.json", "--out", "x"], "cannot read hparams none.json"),
])
def test_errors_are_lines_not_tracebacks(command, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(command) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error and "Traceback" not in error


def test_a_dry_run_is_printed_by_one_process_and_says_what_it_writes(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    command = ["train", "lpwm-balls-mini", "--data", "balls-32", "--dry-run", *TINY]
    assert main(command) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "at most the data cache was filled" in out and "runs/lpwm-balls-mini, from the beginning" in out
    assert not (tmp_path / "runs").exists()
    monkeypatch.setattr("worldkit.training.recipes.make_trainer", lambda *a, **k: SimpleNamespace(is_main=False))
    assert main(command) == 0 and capsys.readouterr().out == ""


def test_train_rollout_eval(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["train", "lpwm-balls-mini", "--data", "balls-32", "--steps", "2", "--quiet", "--keep", "1",
                 *TINY, "-o", "train.save_every=1"]) == 0
    assert (tmp_path / "runs/lpwm-balls-mini/best/model.safetensors").exists()
    assert [p.name for p in (tmp_path / "runs/lpwm-balls-mini/checkpoints").iterdir()] == ["step-00000002"]
    run, data = "runs/lpwm-balls-mini", ["--data", "balls-32"]
    assert main(["rollout", run, *data, "--context", "2", "--horizon", "3", "--clips", "1", "--split", "val"]) == 0
    latents = load_file("rollouts/clip-000.safetensors")
    assert latents["particles.position"].shape == (1, 3, 16, 2) and latents["latent_actions"].shape[:2] == (1, 4)
    assert (tmp_path / "rollouts/clip-000.gif").stat().st_size > 1000
    assert (tmp_path / "rollouts/clip-000.png").stat().st_size > 1000
    assert INFERRED_NOTE.split(":")[0] in " ".join(capsys.readouterr().out.split())  # what one column must be told with
    assert main(["eval", run, *data, "--context", "2", "--horizon", "3", "--max-clips", "3", "--driven-by", "prior",
                 "--driven-by", "inferred"]) == 0
    out = capsys.readouterr().out
    assert "copy last frame" in out and "mean training frame" in out
    for driver in ("prior", "inferred"):
        report = json.loads((tmp_path / run / f"eval-lpwm-balls-mini-test-{driver}.json").read_text())
        assert report["protocol"]["context_frames"] == 2 and report["protocol"]["n"] == 3
        assert report["protocol"]["weights"] == provenance(tmp_path / run / "best")["weights"]
        assert report["protocol"]["step"] == 2
    assert f"model: {run}/best" in out and f"weights {report['protocol']['weights'][:12]}; step 2" in out
    assert main(["push", run, "dir:shared"]) == 0  # the numbers are those of the weights that are shared
    assert "left out" not in capsys.readouterr().out
    assert (tmp_path / "shared/eval-lpwm-balls-mini-test-prior.json").exists()


def test_train_on_a_video_file(tmp_path, monkeypatch):
    pytest.importorskip("av")
    import numpy as np

    from worldkit.data import write_video

    frames = np.random.default_rng(0).integers(0, 255, (1, 48, 64, 3), np.uint8).repeat(40, 0)
    frames[:, 10:20] += np.arange(40, dtype=np.uint8)[:, None, None, None]
    write_video(tmp_path / "clip.mp4", frames)
    monkeypatch.chdir(tmp_path)
    options = [o for o in TINY if not o.startswith("data.") and o != "-o"]
    command = ["train", "lpwm-balls-mini", "--data", "clip.mp4", "--steps", "1", "--quiet", "--run", "r"]
    assert main([*command, *(x for o in options for x in ("-o", o))]) == 0
    assert list((tmp_path / "r/figures").glob("*-rollout.gif"))


def test_convert(tiny_official_checkpoint, tmp_path, capsys):
    checkpoint, hparams = tiny_official_checkpoint
    assert main(["convert", "lpwm", str(checkpoint), "--hparams", str(hparams), "--out", str(tmp_path / "out")]) == 0
    model = wk.WorldModel.from_pretrained(tmp_path / "out")
    assert model.encode(torch.rand(1, 2, 3, 32, 32)).position.shape == (1, 2, 16, 2)


def test_python_dash_m():
    out = subprocess.run([sys.executable, "-m", "worldkit", "--version"], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == f"worldkit {wk.__version__}"


def test_brackets_in_names_are_shown(tmp_path, monkeypatch, capsys):
    """They are no markup: paths, and notes such as ``train.init_parts None -> [encoder]``."""
    from worldkit import create_model
    from worldkit.training.progress import ProgressBar

    monkeypatch.chdir(tmp_path)
    create_model("lpwm-balls-mini", pretrained=True).save_pretrained("runs[bold]x")
    assert main(["push", "runs[bold]x", "dir:out[red]"]) == 0
    with ProgressBar(0, 1, None, enabled=True) as bar:
        bar.say("parts None -> [encoder]")
    shown = capsys.readouterr().out
    assert "dir:out[red]" in shown and "note parts None -> [encoder]" in shown
