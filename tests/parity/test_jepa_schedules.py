"""Schedules of I-JEPA and V-JEPA against recorded values."""

import json

import pytest

from worldkit.training.config import TrainConfig
from worldkit.training.schedule import learning_rate, weight_decay

from .jepa_files import ROOT

UNITS = ROOT / "vjepa2_units" / "scalars.json"
pytestmark = pytest.mark.skipif(not UNITS.exists(), reason=f"golden files not found at {ROOT}; set WORLDKIT_PARITY")


def test_schedules():
    said = json.loads(UNITS.read_text())
    for name, schedule in (("warmup_cosine", "warmup-cosine"), ("wsd", "warmup-hold-fall"),
                           ("linear_decay", "warmup-hold-fall")):
        options = said[name]["args"]
        total = options["T_max"]
        config = TrainConfig(schedule=schedule, lr=options["ref_lr"], final_lr=options["final_lr"],
                             warmup_from=options.get("start_lr", 0.0), warmup_steps=options.get("warmup_steps", 0),
                             fall_steps=options.get("anneal_steps", total))
        rates = said[name].get("lr") or [group[0] for group in said[name]["lr_and_group_lrs"]]
        ours = [learning_rate(config, step, total) for step in range(min(total, len(rates)))]  # later ones are clamped
        assert ours == pytest.approx(rates[:total], rel=1e-9, abs=1e-12), name
    for name in ("cosine_wd_up", "cosine_wd_down"):
        options = said[name]["args"]
        config = TrainConfig(weight_decay=options["ref_wd"], final_weight_decay=options["final_wd"])
        ours = [weight_decay(config, step, options["T_max"]) for step in range(options["T_max"])]
        assert ours == pytest.approx(said[name]["wd"][: options["T_max"]], rel=1e-9), name


def test_ijepa_updates():
    for folder in ROOT.glob("ijepa_tiny"):
        opt, steps = (json.loads((folder / f"{name}.json").read_text()) for name in ("config", "scalars"))
        opt, steps = opt["opt"], steps["f64"]["steps"]
        total = opt["ipe"] * opt["epochs"]
        config = TrainConfig(schedule="warmup-cosine", lr=opt["lr"], final_lr=opt["final_lr"],
                             warmup_from=opt["start_lr"], warmup_steps=int(opt["warmup"] * opt["ipe"]),
                             stretch=opt["ipe_scale"], weight_decay=opt["wd"], final_weight_decay=opt["final_wd"])
        for number, recorded in enumerate(steps):
            assert learning_rate(config, number, total) == pytest.approx(recorded["lr"], rel=1e-9)
            assert weight_decay(config, number, total) == pytest.approx(recorded["wd"], rel=1e-9)
