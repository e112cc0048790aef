"""benchmarks/families.py: the table of docs/bench.md is what cells measured, and the page is otherwise left alone."""

import importlib.util
import re
from pathlib import Path

import pytest
import torch

from worldkit.bench import load_suite, run
from worldkit.factory import list_models

ROOT = Path(__file__).parents[2]
SUITE = {
    "name": "two", "kind": "prediction", "seeds": 1, "budget": "1steps", "context_frames": 2, "horizon": 3, "clips": 2,
    "tasks": [{"name": "balls-32", "data": "balls-32", "options": {"num_episodes": 4, "episode_length": 20}}],
    "models": [{"name": "G-SWM", "preset": "g-swm-balls-mini", "overrides": {"train": {"batch_size": 2}}},
               {"name": "shipped", "preset": "g-swm-balls-mini", "weights": "shipped"},
               {"name": "none", "preset": "savi-balls-mini", "overrides": {"train": {"batch_size": 2}}}],
}


@pytest.fixture(scope="module")
def families():
    spec = importlib.util.spec_from_file_location("families", ROOT / "benchmarks/families.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_made_of_the_cells(families, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLDKIT_CACHE", str(tmp_path / "cache"))
    torch.set_num_threads(1)
    bench = run(SUITE, out=tmp_path / "out", isolate=False, show_progress=False)
    page = tmp_path / "page.md"
    page.write_text("# Title\n\n<!-- families -->\nold\n<!-- end -->\n\nrest <!-- end --> of it\n")
    families.write(bench, page)
    first = page.read_text()
    assert first.startswith("# Title\n") and first.endswith("\n\nrest <!-- end --> of it\n") and "old" not in first
    rows = [re.split(r" *\| *", line.strip("| ")) for line in first.splitlines() if line.startswith("|")]
    assert [row[0] for row in rows[2:]] == ["shipped", "G-SWM", "none", "*copy last frame*", "*mean training frame*"]
    assert len({len(row) for row in rows[:5]}) == 1
    psnr = bench.of("shipped", "balls-32")[0].number("psnr")
    assert rows[2][1] == f"{psnr:.2f}" and rows[2][-1].startswith("shipped: 5,000 steps")
    assert rows[4][1] == "failed" and "no dynamics and predicts nothing" in first
    families.write(bench, page)
    assert page.read_text() == first


def family_of(preset):
    return re.sub(r"-(balls|push|grid|games|pendulum)$", "", preset.split("-mini")[0])


def test_every_family_is_in_the_suite_or_the_page_says_why_not():
    """By its small preset: a new family's belongs in the suite, or in the table of those that are not there."""
    elsewhere = {"diffuse-ddlp": "DiffuseDDLP", "tdmpc2": "TD-MPC2", "ijepa": "I-JEPA", "vjepa2": "V-JEPA",
                 "dit": "DiT", "dlpv2": "DLPv2", "savi": "SAVi", "slots": "SAVi"}
    suite, page = load_suite("families"), (ROOT / "docs/bench.md").read_text(encoding="utf-8")
    used = {preset for entry in suite.models for preset in (entry.preset, *(s.preset for s in entry.stages))}
    families = {family_of(name) for name in used}
    for name in list_models("*-mini"):
        short = family_of(name)
        if any(short == family or short.startswith(f"{family}-") for family in families):
            continue
        assert short in elsewhere, f"{name}: put it into worldkit/bench/suites/families.toml, or say why not"
        assert elsewhere[short] in page.split("Not here, and why:")[1]


def test_the_page_holds_a_table():
    """Made by the script, with the command and what it was run on."""
    made = (ROOT / "docs/bench.md").read_text(encoding="utf-8").split("<!-- families -->")[1].split("<!-- end -->")[0]
    assert "copy last frame" in made and "worldkit bench families" in made and "threads" not in made
    for entry in load_suite("families").models:
        assert f"| {entry.name} |" in made
