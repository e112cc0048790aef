"""The models that ship: each gives its stored numbers again, is small, known by ``list``, of the preset's version."""

import importlib.util
import json
import re
from argparse import Namespace
from pathlib import Path
from unittest import mock

import pytest
import torch

import worldkit as wk
from worldkit.cli import main
from worldkit.errors import CheckpointError, NoPretrainedWeightsError
from worldkit.presets import packaged_file, preset_spec, shipped
from worldkit.storage.folders import digest
from worldkit.storage.hub import save_pretrained
from worldkit.training import find_protocol
from worldkit.training.probe import probe

ROOT = Path(__file__).parents[1]
SHIPPED = wk.list_models(pretrained=True)
MADE = {"headline", "command", "data", "seed", "steps", "minutes", "hardware", "torch", "date", "train", "config",
        "weights", "evaluation", "check", "log", "note"}


def load(script):
    spec = importlib.util.spec_from_file_location(script.stem, script)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def zoo():
    return load(ROOT / "benchmarks/zoo.py")


@pytest.mark.parametrize("name", SHIPPED)
def test_a_few_clips_give_the_stored_numbers(name, zoo):
    facts = shipped.facts_of(preset_spec(name))
    found, stored = zoo.numbers_of(wk.create_model(name, pretrained=True), facts["check"]), facts["check"]["numbers"]
    assert stored.get("psnr", 10) > 5 and found.keys() == stored.keys()
    for metric, value in stored.items():
        within = 0.1 if "psnr" in metric else 0.15 if metric == "things" else 0.02
        assert found[metric] == pytest.approx(value, abs=within), metric


@pytest.mark.parametrize("name", SHIPPED)
def test_what_is_told_of_shipped_weights(name):
    facts, spec = shipped.facts_of(preset_spec(name)), preset_spec(name)
    assert MADE <= facts.keys()
    assert spec.weights == f"weights/{name}.safetensors" and facts["weights"] == digest(packaged_file(spec))
    assert 0 < len(facts["log"]) <= 130 and facts["steps"] > 0 and facts["minutes"] > 0
    assert "/work" not in json.dumps(facts) and not re.search(r"(?<![\w.])/(home|root|tmp)\b", json.dumps(facts))
    for found in facts["evaluation"]:
        assert found["n"] >= 100 and found["command"].startswith(f"worldkit eval {name} --data ")
        for metric, score in found["results"]["model"].items():
            if "mean" in score:
                assert score["low"] <= score["mean"] <= score["high"]
                assert metric not in ("psnr", "probe_error") or score["low"] < score["high"]
            for over in score.get("over", {}).values():
                assert over["low"] <= over["mean"] <= over["high"]
    for first in facts["evaluation"][:1]:
        model = first["results"]["model"]
        assert {"copy last frame", "mean training frame"} <= model["psnr"]["over"].keys() if "psnr" in model else (
            model["probe_error"]["over"]["copy last frame"]["high"] < 0)
    assert facts["evaluation"] or facts["samples"]["model"]["fid"] < facts["samples"]["a Gaussian of pixels"]["fid"]


def test_shipped_weights_are_small():
    sizes = {name: shipped.megabytes(preset_spec(name)) for name in SHIPPED}
    assert max(sizes.values()) <= shipped.MAX_MB and sum(sizes.values()) <= shipped.MAX_MB_TOGETHER, sizes
    files = {file.name for file in (ROOT / "worldkit/presets/weights").iterdir()}
    assert files == {f"{name}.{kind}" for name in SHIPPED for kind in ("safetensors", "json")}


def test_the_list_of_models_with_weights(capsys):
    assert main(["list", "--pretrained"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert all(name in shown for name in SHIPPED) and "lpwm-sketchy" not in shown and "dB" in shown
    assert main(["info", "lpwm-balls-mini"]) == 0 and "predicted frames" in capsys.readouterr().out
    assert main(["list", "lpwm-balls*", "--pretrained"]) == 0
    assert main(["list", "lpwm-sketchy", "--pretrained"]) == 2
    error = capsys.readouterr().err
    assert "no model with weights matches 'lpwm-sketchy'" in error and "lpwm-balls-mini" in error


def test_a_name_without_weights_says_which_have_some(capsys):
    with pytest.raises(NoPretrainedWeightsError, match="for 'lpwm-sketchy'. Presets with weights: .*lpwm-balls-mini"):
        wk.create_model("lpwm-sketchy", pretrained=True)
    assert main(["eval", "lpwm-sketchy", "--data", "balls-32"]) == 2
    error = capsys.readouterr().err
    assert "lpwm-balls-mini" in error and "worldkit list --pretrained" in error and "Traceback" not in error


@pytest.mark.parametrize("change, said", [
    ({"timestep_horizon": 7}, "timestep_horizon is 7 there, 5 here"),
    ({"encoder.num_particles": 5, "dynamics.dim": 32}, r"dynamics.dim is 32 there, 64 here \(and 1 more\)"),
    ({"encoder.gone": 1}, "encoder.gone is 1 there, None here"),
])
def test_weights_of_another_version_of_the_preset_are_refused(change, said, monkeypatch, capsys):
    name = "lpwm-balls-mini"
    stored = wk.create_config(name).to_dict()
    for path, value in change.items():
        *parts, leaf = path.split(".")
        (stored[parts[0]] if parts else stored)[leaf] = value
    monkeypatch.setattr(shipped, "facts_of", lambda spec: {"config": stored, "data": "balls-32"})
    with pytest.raises(CheckpointError, match=f"another version of the preset: .*{said}"):
        wk.create_model(name, pretrained=True)
    assert main(["eval", name, "--data", "balls-32"]) == 2
    error = capsys.readouterr().err
    assert "Reinstall worldkit" in error and f"worldkit train {name} --data balls-32" in error


def test_what_was_minimised_has_no_part_in_the_version(monkeypatch):
    stored = wk.create_config("lpwm-balls-mini").to_dict()
    stored["objective"] = {"name": "elbo", "weights": {"kl": 0.7}}
    monkeypatch.setattr(shipped, "facts_of", lambda spec: {"config": stored})
    assert wk.create_model("lpwm-balls-mini", pretrained=True)


def test_a_damaged_record_of_weights_is_named(monkeypatch, tmp_path):
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights/lpwm-balls-mini.json").write_text("{")
    monkeypatch.setattr(shipped.resources, "files", lambda package: tmp_path)
    with pytest.raises(CheckpointError, match="lpwm-balls-mini.json is damaged"):
        shipped.facts_of(preset_spec("lpwm-balls-mini"))


def test_protocols_of_presets_exist():
    for name in wk.list_models():
        for protocol in preset_spec(name).eval.get("protocols", ()):
            assert find_protocol(protocol).name == protocol


def test_the_page_of_the_zoo_says_what_the_records_say():
    """After new weights: ``python docs/images/zoo.py``."""
    text, drawn = (ROOT / "docs/zoo.md").read_text("utf-8"), load(ROOT / "docs/images/zoo.py")
    assert drawn.page(SHIPPED) in text
    for name in SHIPPED:
        assert (ROOT / f"docs/images/zoo-{name}.png").stat().st_size > 2000


def test_the_picture_of_a_model_with_actions_shows_the_opposite_ones(tiny_model):
    drawn = load(ROOT / "docs/images/zoo.py")
    batch = wk.Batch(torch.rand(1, 5, 3, 32, 32), conditions={"action": torch.rand(1, 5, 2)})
    plain = drawn.strip(tiny_model().eval(), wk.Batch(batch.video), 3)
    steered = drawn.strip(tiny_model(conditioners={"action": {"name": "action", "dim": 2}}).eval(), batch, 3)
    assert steered.shape[-1] == plain.shape[-1] and steered.shape[-2] == plain.shape[-2] + 106 + 4  # a row more


def test_the_opposite_of_left_is_right_and_of_staying_staying(tiny_model, monkeypatch):
    drawn, told = load(ROOT / "docs/images/zoo.py"), []
    glance = importlib.import_module("worldkit.training.glance")
    seen = mock.Mock(rows={glance.PREDICTED: None}, predicts=True, context_frames=3)
    monkeypatch.setattr(glance, "glance", lambda model, batch, **_: told.append(batch.conditions["action"]) or seen)
    monkeypatch.setattr(glance, "Glance", mock.Mock())
    model = tiny_model(conditioners={"action": {"name": "action", "num_actions": 3}})
    drawn.strip(model, wk.Batch(torch.rand(1, 6, 3, 32, 32), {"action": torch.tensor([[1, 2, 0, 1, 2, 1]])}), 3)
    assert told[1].tolist() == [[1, 2, 0, 2, 1, 2]]


def test_a_model_whose_agents_do_what_they_want_is_told_what_they_did(zoo):
    assert find_protocol("flam-grid-mini").driven_by == ("inferred",)
    for name in wk.list_models():
        if "inferred" in preset_spec(name).eval.get("driven_by", ()):
            assert wk.create_config(name).latent_action is not None, name
    results = {"model": {"psnr": {"mean": 25.0}}, "copy last frame": {"psnr": {"mean": 22.6}}}
    entry = {"results": results, "driven by": "inferred", "protocol": {"horizon": 5}}
    assert zoo.headline([entry]) == "25.0 dB over 5 predicted frames by latent actions read off them, copying 22.6"


def test_a_model_that_comes_along_is_scored_and_rolled_out_on_its_own_data(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    small = ["-o", "data.num_episodes=2"]
    assert main(["eval", "lpwm-balls-mini", "--max-clips", "2", "--pictures", "0", *small]) == 0
    shown = capsys.readouterr().out
    assert "data: balls-32, which lpwm-balls-mini was trained on" in shown and "data balls-32" in shown
    assert main(["rollout", "lpwm-balls-mini", "--clips", "1", "--horizon", "1", *small]) == 0
    save_pretrained(wk.create_model("lpwm-balls-mini", pretrained=True), "model", facts={"data": "a.mp4"})
    for command in ("eval", "rollout"):
        assert main([command, "model"]) == 2
        assert re.search(r"say with --data what \S*model is to predict. It was trained on --data a.mp4",
                         capsys.readouterr().err)


@pytest.mark.parametrize("name", SHIPPED)
def test_what_comes_along_can_be_played_where_it_predicts(name, capsys):
    told = []

    def play(session, about, **_):
        session.step()
        told.append(session)

    with mock.patch("worldkit.play.terminal.play", play):
        code = main(["play", name])
    config, said = wk.create_config(name), capsys.readouterr().err
    if config.dynamics is None:
        assert code == 2 and "has no dynamics and predicts nothing" in said
    elif config.decoder is None:
        assert code == 2 and "has no decoder, so there is nothing to see" in said
    else:
        assert code == 0 and told


# -- from a run to weights that ship


def arguments(**given):
    return Namespace(**{"name": None, "hardware": None, "command": None, "note": None, "half": False} | given)


@pytest.fixture(scope="module")
def run(tmp_path_factory, tiny_model, balls):
    from worldkit.training import TrainConfig, Trainer

    model, folder = tiny_model(), tmp_path_factory.mktemp("runs") / "r"
    facts = {"preset": "lpwm-balls-mini", "data": "balls-32", "data.num_episodes": 10, "synthetic data": True}
    with mock.patch("sys.argv", ["/some/where/bin/worldkit", "train", "lpwm-balls-mini", "--run", str(folder)]):
        Trainer(model, balls(model.clip_length), balls(model.clip_length, "val"), run=folder, facts=facts,
                rollouts=(balls(6, "val", "tile"), 3), show_progress=False,
                config=TrainConfig(steps=4, eval_every=2, eval_clips=1, batch_size=1, log_every=1)).fit()
    return folder


def test_facts_of_a_run(run, zoo, monkeypatch):
    read = zoo.read_json
    monkeypatch.setattr(zoo, "read_json", lambda path: {
        **(found := read(path)), "train": {**found["train"], "init_from": str(run.parent / "first")}})
    facts = zoo.facts_of_run(run, run / "best", arguments())
    assert facts["command"] == "worldkit train lpwm-balls-mini --run runs/r"
    assert facts["train"]["init_from"] == "runs/first"
    assert facts["steps"] in (2, 4) and facts["data options"] == {"num_episodes": 10}
    assert re.fullmatch(r"the best of 2 evaluations on validation clips, step [24] of 4", facts["note"])
    assert facts["config"]["timestep_horizon"] == 3 and "thread(s) of" in facts["hardware"]
    assert [e["step"] for e in facts["log"] if "valid_loss" in e] == [2, 4]
    assert MADE - {"headline", "evaluation", "check", "weights"} <= facts.keys()


def test_a_log_is_thinned_evenly(zoo):
    log = [{"step": i, "epoch": 0, "loss": i / 3} for i in range(1, 1001)]
    kept = zoo.thinned([*log, {"step": 1000, "valid_loss": 1.23456789}], 10)
    assert [e["step"] for e in kept][:2] == [1, 112] and len(kept) == 11
    assert kept[-1]["valid_loss"] == 1.2346 and "epoch" not in kept[0]


def test_what_does_not_ship_is_refused(run, zoo, monkeypatch, tmp_path):
    monkeypatch.setattr(zoo, "MAX_MB", 1e-3)
    with pytest.raises(SystemExit, match=r"MB, more than the 0.001 MB that may ship"):
        zoo.ship(run, arguments())
    monkeypatch.undo()
    with pytest.raises(CheckpointError, match="another version of the preset"):  # tiny, not the preset's own
        zoo.ship(run, arguments())
    with pytest.raises(SystemExit, match="no run folder of worldkit train"):
        zoo.ship(run / "best", arguments())


def test_a_run_ships(run, zoo, monkeypatch, tmp_path, capsys):
    """Weights and record are written, and the check can be repeated; of a tiny model."""
    monkeypatch.setattr(zoo, "WEIGHTS", tmp_path)
    monkeypatch.setattr(zoo, "refuse_older", lambda *a: None)
    monkeypatch.setattr(zoo, "CLIPS", 6)
    monkeypatch.setattr(zoo, "find_protocol", lambda name: find_protocol(name).changed(horizon=5)[0])
    monkeypatch.setattr(zoo, "preset_spec", lambda name: Namespace(eval={}, weights=None))
    with pytest.raises(SystemExit, match="numbers of fewer than 100 clips do not ship: 6 by worldkit eval"):
        zoo.ship(run, arguments())
    assert not list(tmp_path.glob("*.json"))
    monkeypatch.setattr(zoo, "LEAST", 6)
    zoo.ship(run, arguments())
    facts = json.loads((tmp_path / "lpwm-balls-mini.json").read_text("utf-8"))
    assert facts["evaluation"][0]["n"] == 6 and "over 5 predicted frames" in facts["headline"]
    assert facts["evaluation"][0]["command"] == (
        "worldkit eval lpwm-balls-mini --data balls-32 --max-clips 6 --metrics psnr,ssim,fg_ari,miou --driven-by prior "
        "--driven-by encoded -o data.num_episodes=10 -o data.segments=true")
    assert 'weights = "weights/lpwm-balls-mini.safetensors"' in capsys.readouterr().out
    model = wk.WorldModel.from_pretrained(run / "best")
    assert zoo.numbers_of(model, facts["check"])["psnr"] == pytest.approx(facts["check"]["numbers"]["psnr"], abs=1e-3)


def test_models_without_dynamics_are_scored_by_what_they_draw_again(zoo, monkeypatch):
    monkeypatch.setattr(zoo, "CLIPS", 3)
    torch.manual_seed(0)
    model = wk.create_model("savi-balls-mini").eval()
    found = zoo.evaluations(model, "savi-balls-mini", "balls-32", {"num_episodes": 4})
    assert found[0]["driven by"] == "encoded" and found[0]["n"] == 3
    assert found[0]["command"].endswith("--metrics psnr,ssim,fg_ari,miou -o data.num_episodes=4 -o data.segments=true")
    assert re.match("frames drawn again at .* dB, the mean frame .*; FG-ARI 0", zoo.headline(found))


def test_a_model_that_draws_no_pictures_is_scored_by_what_its_latents_hold(zoo, monkeypatch):
    monkeypatch.setattr(zoo, "CLIPS", 3)
    torch.manual_seed(0)
    model = wk.create_model("lewm-mini").eval()
    found = zoo.evaluations(model, "lewm-mini", "push-32", {"num_episodes": 4})
    assert [entry["driven by"] for entry in found][:2] == ["prior", "encoded"] and found[0]["n"] == 3
    assert found[0]["command"] == ("worldkit eval lewm-mini --data push-32 --horizon 5 --max-clips 3 "
                                   "--driven-by prior --driven-by encoded -o data.num_episodes=4")
    results = found[0]["results"]
    assert results["model"].keys() == {"probe_error"} and results["copy last frame"]["probe_error"]["mean"] > 0
    assert re.fullmatch(r"state read off 5 predicted latents: error \S+ of its variance, off the last given one "
                        r"\S+, off those of the true frames \S+", zoo.headline(found))
    check = zoo.few_clips(model, "lewm-mini", "push-32", {"num_episodes": 4})
    assert check["numbers"].keys() == {"probe_error", "copy last frame, probe_error"}


def test_a_model_that_draws_single_pictures_is_scored_by_them(zoo, monkeypatch):
    monkeypatch.setattr(zoo, "DRAWN", 8)
    monkeypatch.setattr(zoo, "PICTURES", 8)
    torch.manual_seed(0)
    model = wk.create_model("dit-mini", prior__sampling_steps=2).eval()
    facts = zoo.judged(model, "dit-mini", {"data": "balls-32", "log": []})
    assert facts["evaluation"] == [] and facts["check"]["numbers"].keys() == {"things", "brightness"}
    assert facts["samples"]["command"] == (
        "worldkit sample dit-mini --data balls-32 --n 8 --judge diffuse-ddlp-balls-mini")
    assert re.fullmatch(r"draws [\d.]+ things a frame, true [\d.]+; FID \d+, other true pictures \d+, a Gaussian of "
                        r"pixels \d+", facts["headline"])


def test_weights_of_16_bits_load_as_what_the_model_has(zoo, tmp_path, tiny_model):
    model = tiny_model().eval()
    save_pretrained(model, tmp_path / "whole")
    save_pretrained(model, tmp_path / "half")
    zoo.halve(tmp_path / "half" / "model.safetensors")
    sizes = [(tmp_path / name / "model.safetensors").stat().st_size for name in ("whole", "half")]
    assert sizes[1] < 0.6 * sizes[0]
    for one, other in zip(model.parameters(), wk.create_model(f"dir:{tmp_path / 'half'}").parameters(), strict=True):
        assert other.dtype == one.dtype and torch.allclose(one, other, rtol=1e-3, atol=1e-6)


def test_models_whose_states_are_to_mean_something_are_probed_as_well(zoo, monkeypatch):
    monkeypatch.setattr(zoo, "probe", lambda *a, **b: probe(*a, **{**b, "max_clips": 4}))
    torch.manual_seed(0)
    model = wk.create_model("rssm-push-mini").eval()
    read = zoo.probed(model, "rssm-push-mini", "push-32", {"num_episodes": 8})
    assert read["command"] == "worldkit probe rssm-push-mini --data push-32 --target position -o data.num_episodes=8"
    assert read["r2"].keys() == {"latent linear", "latent mlp", "pixels linear", "pixels mlp"}
    score = read["r2"]["latent linear"]
    assert score["low"] <= score["mean"] <= score["high"] < 1
    entry = {"results": {"model": {"psnr": {"mean": 18.0}}, "copy last frame": {"psnr": {"mean": 14.8}}},
             "driven by": "prior", "protocol": {"horizon": 5}}
    assert zoo.headline([entry], read=read).endswith(f"; position read off it: R2 {score['mean']:.2f} by a linear map")


def test_what_ddlp_draws_out_of_nothing_moves_and_is_nearer_to_the_data_than_its_own_prior():
    samples = shipped.facts_of(preset_spec("diffuse-ddlp-balls-mini"))["samples"]
    model, other, own = (samples[name] for name in ("model", "other true videos", "the encoder's own prior"))
    assert other["fid"] <= model["fid"] < own["fid"] / 2 and model["histogram"] < own["histogram"]
    first = wk.create_model("diffuse-ddlp-balls-mini", pretrained=True).sample_first_frames(
        8, generator=torch.Generator().manual_seed(1))
    moved = (first.position[:, 1:] - first.position[:, :-1]).norm(dim=-1)
    assert 0.02 < moved.mean() < 0.15  # true balls move 0.08 a frame
