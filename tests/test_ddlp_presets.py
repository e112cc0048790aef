"""Presets of DDLP and DLPv2: every number of the ten official configurations, and what the small ones do without."""

import json
from pathlib import Path

import pytest
import torch

import worldkit as wk
from worldkit.convert.ddlp import config_from_hparams

OFFICIAL = json.loads(Path(__file__).with_name("official_ddlp_hparams.json").read_text(encoding="utf-8"))
NAMES = {name: "dlpv2-" + name.removesuffix("_img") if "_img" in name or name == "shapes" else "ddlp-" + name
         for name in OFFICIAL["configs"]}
PARAMETERS = {  # counted on the official code
    "ddlp-balls": 9_652_801, "ddlp-obj3d": 9_678_144, "ddlp-obj3d128": 11_716_654, "ddlp-phyre": 26_052_426,
    "dlpv2-obj3d128": 3_906_020, "dlpv2-shapes": 2_989_238,
}
MILLIONS = {"ddlp-traffic": 11.72, "ddlp-clevrer": 11.72, "dlpv2-obj3d": 4.58, "dlpv2-traffic": 4.23}  # likewise


def hparams(name):
    return OFFICIAL["common"] | OFFICIAL["configs"][name]


@pytest.mark.parametrize("name", NAMES)
def test_official_preset_equals_the_official_configuration(name):
    assert wk.create_config(NAMES[name]) == config_from_hparams(hparams(name))


@pytest.mark.parametrize("name", NAMES)
def test_official_training_and_evaluation_settings(name):
    h, spec = hparams(name), wk.get_model_spec(NAMES[name])
    assert dict(spec.train) == {
        "batch_size": h["batch_size"], "lr": h["lr"], "num_epochs": h["num_epochs"], "eps": h["adam_eps"],
        "schedule": "step", "decay_every": 0, "decay_factor": h["scheduler_gamma"],
    }
    video = NAMES[name].startswith("ddlp")
    assert dict(spec.eval) == ({
        "context_frames": h["cond_steps"], "horizon": h["animation_horizon"] - h["cond_steps"],
    } if video else {})
    assert spec.source == f"github.com/taldatech/ddlp configs/{name}.json @ 5686275"
    assert spec.paper == "arXiv:2306.05957"


@pytest.mark.parametrize("name", NAMES.values())
def test_parameters_are_as_many_as_upstreams(name):
    with torch.device("meta"):
        total = wk.create_model(name).parameter_report()["total"]
    assert total == PARAMETERS.get(name, total)
    assert round(total / 1e6, 2) == MILLIONS.get(name, round(total / 1e6, 2))
    assert name in PARAMETERS or name in MILLIONS
