"""Presets: every number of the 17 official configurations, inheritance, and files of plugins."""

import json
import sys
import tomllib
from importlib import resources
from pathlib import Path

import pytest
import torch

import worldkit as wk
from worldkit import presets
from worldkit.convert.lpwm import config_from_hparams
from worldkit.errors import DuplicateComponentError, UnknownComponentError

OFFICIAL = json.loads(Path(__file__).with_name("official_lpwm_hparams.json").read_text(encoding="utf-8"))
IMAGE = {"shapes": "dlpv3-shapes", "obj3d128_img": "dlpv3-obj3d128"}
NAMES = {name: IMAGE.get(name, "lpwm-" + name.replace("_", "-")) for name in OFFICIAL["configs"]}
TABLES = tomllib.loads(resources.files(presets).joinpath("lpwm.toml").read_text(encoding="utf-8"))


def hparams(name):
    values = OFFICIAL["common"] | OFFICIAL["configs"][name]
    return values | {"timestep_horizon": 1} if name in IMAGE else values  # upstream's image script sets it to 1


def differences(a, b, path=""):
    if not (isinstance(a, dict) and isinstance(b, dict)):
        return [] if a == b else [f"{path}: {a} is not {b}"]
    return [d for k in sorted(a.keys() | b.keys()) for d in differences(a.get(k), b.get(k), f"{path}.{k}")]


@pytest.mark.parametrize("name", NAMES)
def test_official_preset_equals_the_official_configuration(name):
    ours, theirs = wk.create_config(NAMES[name]), config_from_hparams(hparams(name))
    assert differences(ours.to_dict(), theirs.to_dict()) == []
    assert ours == theirs


@pytest.mark.parametrize("name", NAMES)
def test_official_training_and_evaluation_settings(name):
    h, spec = hparams(name), wk.get_model_spec(NAMES[name])
    assert dict(spec.train) == {k: h[k] for k in ("batch_size", "lr", "num_epochs")}
    protocol = {} if name in IMAGE else {
        "context_frames": h["cond_steps"], "horizon": h["animation_horizon"], "fps": h["animation_fps"],
        "driven_by_inferred_actions": h["ctx_for_eval"],
    }
    assert dict(spec.eval) == protocol


@pytest.mark.parametrize("name", NAMES)
def test_sizes_that_worldkit_derives_are_those_upstream_writes_down(name):
    h, config = hparams(name), wk.create_config(NAMES[name])
    assert h["n_kp_prior"] == (h["image_size"] // h["patch_size"]) ** 2 * h["n_kp_per_patch"]
    assert h["bg_res_from_fc"] == config.obs.height // config.decoder.background_cnn.downsampling
    assert h["bg_base_ch"] == h["bg_final_cnn_ch"]
    assert not h.get("random_action_condition", False)


def test_optimiser_of_all_official_runs_is_the_trainers_default():
    from worldkit.training.config import TrainConfig

    default, common = TrainConfig(), OFFICIAL["common"]
    assert list(default.betas) == common["adam_betas"]
    assert (default.eps, default.weight_decay) == (common["adam_eps"], common["weight_decay"])


def test_conditions_of_the_official_presets():
    taken = {name: set(wk.create_config(name).conditioners) for name in NAMES.values()}
    assert {name: fields for name, fields in taken.items() if fields} == {
        "lpwm-sketchy-action": {"action"}, "lpwm-langtable-action": {"action"}, "lpwm-bridge": {"language"},
        "lpwm-langtable": {"language"}, "lpwm-ogbench": {"goal_image"}, "lpwm-panda": {"goal_image"},
    }


@pytest.mark.parametrize("name", ["dlpv3", *IMAGE.values()])
def test_image_presets_have_no_time(name):
    config = wk.create_config(name)
    assert (config.timestep_horizon, config.dynamics, config.latent_action, config.conditioners) == (1, None, None, {})
    assert config.encoder.select == "keep"


MILLIONS = {  # parameters of the official models, counted on the official code
    "lpwm-sketchy": 109.55, "lpwm-bridge": 147.91, "lpwm-panda": 112.46, "lpwm-langtable": 146.46, "lpwm-bair": 108.11,
    "lpwm-balls": 105.15, "lpwm-ogbench": 103.71, "dlpv3-shapes": 10.01,
}


@pytest.mark.parametrize("name", wk.list_models())
def test_every_preset_builds(name):
    with torch.device("meta"):  # shapes without memory
        model = wk.create_model(name)
    total = model.parameter_report()["total"]
    assert total > 0
    if name in MILLIONS:
        assert round(total / 1e6, 2) == MILLIONS[name]
    if name == "lpwm-balls-mini":
        assert total < 1.1e6


@pytest.mark.parametrize("name", ["lpwm-balls-mini", "lpwm-mini", "ddlp-balls-mini", "dlpv2-balls-mini"])
def test_small_presets_train(name):
    torch.manual_seed(0)
    model = wk.create_model(name)
    obs = model.config.obs
    loss = model.loss(wk.Batch(torch.rand(1, model.clip_length, obs.channels, obs.height, obs.width)))
    loss.total.backward()
    assert torch.isfinite(loss.total)
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in model.parameters())


@pytest.mark.parametrize("name", wk.list_models())
def test_every_preset_says_what_it_is_and_where_from(name):
    spec = wk.get_model_spec(name)
    assert spec.name == name and spec.summary and spec.source
    if name in NAMES.values():
        assert spec.source.startswith("github.com/taldatech/lpwm configs/") and spec.source.endswith("@ 4cf53c4")
        assert spec.paper == "arXiv:2603.04553"


def leaves(table, path=()):
    for key, value in table.items():
        yield from leaves(value, (*path, key)) if isinstance(value, dict) else [((*path, key), value)]


@pytest.mark.parametrize("name", [n for n, t in TABLES.items() if "extends" in t])
def test_a_preset_lists_only_what_differs(name):
    base = presets.preset_spec(TABLES[name]["extends"])
    for part in ("config", "train", "eval"):
        inherited = dict(leaves(dict(getattr(base, part))))
        own = leaves(TABLES[name].get(part, {}))
        repeated = [".".join(p) for p, v in own if p[-1] != "name" and inherited.get(p) == v]
        assert repeated == [], part


def test_unknown_model_suggests_the_nearest():
    with pytest.raises(UnknownComponentError, match=r"unknown model 'lpwm-skecthy'\. Did you mean 'lpwm-sketchy'\?"):
        wk.create_config("lpwm-skecthy")


def test_names_are_found_in_any_spelling():
    assert wk.create_config("LPWM_Sketchy") == wk.create_config("lpwm-sketchy")
    assert wk.list_models("LPWM_bair*") == ["lpwm-bair", "lpwm-bair64"]
    assert wk.list_models("no-such-*") == []


@pytest.fixture
def preset_package(tmp_path, monkeypatch):
    """A package with preset files; what it registers is forgotten afterwards."""
    presets.preset_names()
    monkeypatch.setattr(presets, "_tables", dict(presets._tables))
    monkeypatch.setattr(presets, "_aliases", dict(presets._aliases))
    folder = tmp_path / "wk_test_presets"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    yield folder
    sys.modules.pop("wk_test_presets", None)
    presets.preset_spec.cache_clear()


def test_presets_of_a_plugin(preset_package):
    (preset_package / "a.toml").write_text(
        '[mine]\nextends = "lpwm-balls"\nsummary = "s"\naliases = ["my_own"]\nconfig.dynamics.num_layers = 3\n'
    )
    wk.register_preset_file("wk_test_presets", "a.toml")
    spec = wk.get_model_spec("my-own")
    assert (spec.name, spec.provider, spec.aliases) == ("mine", "wk_test_presets", ("my_own",))
    assert spec.paper == "arXiv:2603.04553" and spec.train["batch_size"] == 5
    assert "mine" in wk.list_models()
    assert wk.create_config("mine") == wk.create_config("lpwm-balls", dynamics__num_layers=3)


def test_a_preset_leaves_out_a_part_that_it_would_inherit(preset_package):
    left_out = 'config.latent_action = "none"\ntrain.batch_size = "none"\n'
    (preset_package / "c.toml").write_text(f'[plain]\nextends = "lpwm-balls"\n{left_out}')
    wk.register_preset_file("wk_test_presets", "c.toml")
    assert wk.create_config("plain") == wk.create_config("lpwm-balls", latent_action=None)
    assert wk.create_config("plain").latent_action is None and "batch_size" not in wk.get_model_spec("plain").train


@pytest.mark.parametrize("text", ['["lpwm-balls"]\n', '["fresh"]\naliases = ["LPWM_balls"]\n'])
def test_a_plugin_cannot_take_the_name_of_a_preset(preset_package, text):
    (preset_package / "b.toml").write_text(text)
    with pytest.raises(DuplicateComponentError, match="'lpwm-balls' is defined twice: by worldkit and by wk_test"):
        wk.register_preset_file("wk_test_presets", "b.toml")
