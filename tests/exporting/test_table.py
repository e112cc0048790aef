"""docs/exports.json, of which the table of docs/export.md is made, holds of the presets that there are."""

import importlib.util
import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("exports", ROOT / "benchmarks/exports.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def stored():
    return json.loads((ROOT / "docs/exports.json").read_text(encoding="utf-8"))


def test_the_page_is_made_of_the_file(script, stored):
    """Again, after python benchmarks/exports.py, or with --page."""
    assert script.page(stored) in (ROOT / "docs/export.md").read_text(encoding="utf-8")


def test_no_preset_is_there_that_is_no_more(script, stored):
    assert set(stored) <= set(script.presets())


def test_files_that_were_kept_are_near_the_model_and_others_say_why(stored):
    for preset, cells in stored.items():
        for what, cell in cells.items():
            assert ("why" in cell) != (cell.get("difference", 1) < 1e-4), (preset, what)
            assert not any(word in cell.get("why", "") for word in ("Error", "died", "Traceback")), (preset, what)


@pytest.mark.slow
@pytest.mark.parametrize("preset, what", [
    ("rssm-push-mini", "rollout"), ("ijepa-mini", "encode"), ("tdmpc2-mini", "step")])
def test_a_few_come_out_again(script, stored, preset, what):
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package)
    found, before = script.tried(preset, what), stored[preset][what]
    assert found["free"] == before["free"] and found["difference"] < 1e-4
