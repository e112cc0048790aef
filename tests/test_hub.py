import json
import os
import pickle
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

import worldkit as wk
from worldkit.errors import CheckpointError
from worldkit.storage import hub
from worldkit.storage.folders import find_model, write_folder


def test_a_saved_model_gives_the_same_numbers(tiny_model, tmp_path):
    model = tiny_model().eval()
    model.save_pretrained(tmp_path / "m")
    again = wk.WorldModel.from_pretrained(tmp_path / "m")
    assert again.config == model.config
    video = torch.rand(2, 3, 3, 32, 32)
    before, after = (m.rollout(video, 4, deterministic=True).video for m in (model, again))
    assert torch.equal(before, after)


@pytest.mark.parametrize("source", ["dir:{}", "{}"])
def test_sources(tiny_model, tmp_path, source):
    tiny_model().save_pretrained(tmp_path / "m")
    assert wk.WorldModel.from_pretrained(source.format(tmp_path / "m")).config.timestep_horizon == 3
    assert wk.create_model(f"dir:{tmp_path / 'm'}").config.timestep_horizon == 3


def test_weights_that_do_not_fit_the_config_are_listed(tiny_model, tmp_path):
    tiny_model().save_pretrained(tmp_path / "m")
    file = tmp_path / "m" / "model.safetensors"
    state = load_file(file)
    name = next(iter(state))
    state["stranger"] = state.pop(name)
    other = next(iter(state))
    state[other] = torch.zeros(1, 1, 1)
    save_file(state, file)
    with pytest.raises(CheckpointError) as error:
        wk.WorldModel.from_pretrained(tmp_path / "m")
    text = str(error.value)
    assert f"missing: {name}" in text and "not in the model: stranger" in text and f"wrong size: {other}" in text
    assert "disagree" in text


def test_damaged_files_are_named(tiny_model, tmp_path):
    model = tiny_model()
    model.save_pretrained(tmp_path / "m")
    weights, config = tmp_path / "m" / "model.safetensors", tmp_path / "m" / "config.json"
    weights.write_bytes(weights.read_bytes()[:200])
    with pytest.raises(CheckpointError, match="cannot read weights .*model.safetensors"):
        wk.WorldModel.from_pretrained(tmp_path / "m")
    config.write_text("{")
    with pytest.raises(CheckpointError, match="config.json is damaged"):
        wk.WorldModel.from_pretrained(tmp_path / "m")


def test_nothing_there(tmp_path):
    with pytest.raises(CheckpointError, match="no such folder"):
        wk.WorldModel.from_pretrained(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="no config.json"):
        wk.WorldModel.from_pretrained(tmp_path)


def test_a_run_folder_means_its_best_model_else_the_newest_readable_checkpoint(tiny_model, tmp_path):
    for seed, name in enumerate(("checkpoints/step-00000001", "checkpoints/step-00000002", "best")):
        tiny_model(seed=seed).save_pretrained(tmp_path / "run" / name)
    assert find_model(tmp_path / "run") == tmp_path / "run/best"
    shutil.rmtree(tmp_path / "run/best")
    newest = tmp_path / "run/checkpoints/step-00000002"
    assert find_model(tmp_path / "run") == newest
    (newest / "model.safetensors").write_bytes((newest / "model.safetensors").read_bytes()[:-9])
    with pytest.warns(UserWarning, match="step-00000002 is passed over, its weights cannot be read"):
        assert find_model(tmp_path / "run").name == "step-00000001"
    (tmp_path / "run/checkpoints/step-00000001/model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="none of its 2 checkpoints can be read"):
        find_model(tmp_path / "run")


def test_a_component_may_read_values_while_it_is_built(tiny_model, tmp_path, monkeypatch):
    def build(config):
        torch.zeros(1).item()  # fails where the size is looked at without memory
        return hub.build_before(config)

    monkeypatch.setattr(hub, "build_before", hub.build, raising=False)
    monkeypatch.setattr(hub, "build", build)
    model = tiny_model()
    model.save_pretrained(tmp_path / "model")
    again = wk.WorldModel.from_pretrained(tmp_path / "model")
    assert all(torch.equal(x, y) for x, y in zip(model.state_dict().values(), again.state_dict().values(), strict=True))


def test_offline_hub_says_what_would_do(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(CheckpointError, match="cannot get 'nobody/nothing' from the hub(.|\n)*dir:"):
        wk.create_model("hub:nobody/nothing")


def test_a_config_cannot_name_code(tiny_model, tmp_path):
    tiny_model().save_pretrained(tmp_path / "m")
    file = tmp_path / "m" / "config.json"
    data = json.loads(file.read_text())
    data["config"]["encoder"]["name"] = "os:system"
    file.write_text(json.dumps(data))
    with pytest.raises(CheckpointError, match="unknown encoder 'os:system'"):
        wk.WorldModel.from_pretrained(tmp_path / "m")


class Bomb:
    def __reduce__(self):
        return (open, ("exploded", "w"))


def test_a_pickle_in_place_of_weights_does_not_run(tiny_model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tiny_model().save_pretrained("m")
    (tmp_path / "m" / "model.safetensors").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(CheckpointError):
        wk.WorldModel.from_pretrained("m")
    assert not (tmp_path / "exploded").exists()


def test_a_newer_format_says_so(tiny_model, tmp_path):
    tiny_model().save_pretrained(tmp_path / "m")
    file = tmp_path / "m" / "config.json"
    data = json.loads(file.read_text())
    data["config"]["format_version"] = 99
    file.write_text(json.dumps(data))
    with pytest.raises(CheckpointError, match="config format 99"):
        wk.WorldModel.from_pretrained(tmp_path / "m")


@pytest.mark.parametrize("path, value, message", [
    ("dynamics.dim", 2**20, "config and weights of .* disagree"),
    ("dynamics.dim", 10**30, r"config.dynamics.dim is 1e\+30; no model is that large"),
    ("decoder.glimpse_cnn", {"base_channels": 2**20, "channel_multipliers": [2**20, 2**20]}, "cannot be built: "),
    ("timestep_horizon", 10**9, "timestep_horizon is 1e"),
    ("dynamics.num_layers", 10**5, "num_layers is 1e"),
    ("encoder.glimpse_cnn.channel_multipliers", [1] * 2000, "channel_multipliers has 2000 entries"),
    ("format_version", "1", "format_version must be a number, got '1'"),
])
def test_an_absurd_config_is_refused_before_it_takes_memory(path, value, message, tiny_model, tmp_path):
    tiny_model().save_pretrained(tmp_path / "m")
    file = tmp_path / "m" / "config.json"
    data = json.loads(file.read_text())
    *parents, last = path.split(".")
    place = data["config"]
    for key in parents:
        place = place[key]
    place[last] = value
    file.write_text(json.dumps(data))
    with pytest.raises(CheckpointError, match=message):
        wk.WorldModel.from_pretrained(tmp_path / "m")


def test_a_model_far_larger_than_its_file_is_refused(tiny_model, tmp_path, monkeypatch):
    folder = tiny_model().save_pretrained(tmp_path / "m")
    build = hub.build

    def with_a_buffer(config):
        model = build(config)
        model.register_buffer("table", torch.empty(2**34), persistent=False)
        return model

    monkeypatch.setattr(hub, "build", with_a_buffer)
    with pytest.raises(CheckpointError, match="would take 64 GB"):
        wk.WorldModel.from_pretrained(folder)


def test_an_interrupted_save_leaves_the_old_model(tiny_model, tmp_path):
    tiny_model().save_pretrained(tmp_path / "m")
    before = (tmp_path / "m" / "model.safetensors").read_bytes()

    def fill(folder):
        (folder / "model.safetensors").write_bytes(b"half")
        raise OSError("No space left on device")

    with pytest.raises(OSError, match="No space"):
        write_folder(tmp_path / "m", fill)
    assert (tmp_path / "m" / "model.safetensors").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["m"]


def test_files_have_the_mode_that_the_umask_says(tiny_model, tmp_path):
    before = os.umask(0o027)
    try:
        tiny_model().save_pretrained(tmp_path / "m")
    finally:
        os.umask(before)
    assert {p.stat().st_mode & 0o777 for p in (tmp_path / "m").iterdir()} == {0o640}
    assert (tmp_path / "m").stat().st_mode & 0o777 == 0o750


def test_a_folder_that_holds_something_else_is_not_overwritten(tiny_model, tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(CheckpointError, match="is no model folder"):
        tiny_model().save_pretrained(tmp_path)
    assert (tmp_path / "thesis.tex").read_text() == "precious"
