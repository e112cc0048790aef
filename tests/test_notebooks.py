"""Every notebook runs from top to bottom, cell by cell, in a process of its own, and is stored without outputs.

No Jupyter is needed: cells are plain Python, and what stands on a cell's last line is shown there, and evaluated here.
"""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "examples/notebooks").glob("*.ipynb"))
RUNNER = """
import json, sys
names = {"__name__": "__main__"}
for number, cell in enumerate(json.load(open(sys.argv[1], encoding="utf-8"))["cells"]):
    if cell["cell_type"] == "code":
        print(f"## cell {number}", flush=True)
        exec(compile("".join(cell["source"]), f"{sys.argv[1]}, cell {number}", "exec"), names)
"""
SAYS = {  # notebook -> what its output must hold
    "1_first_steps": ["predicted: 2", "dB, copied: 1", "share of the pixels that changed"],
    "2_swap_and_compare": ["['slot', 'slotformer', 'slot']", "Dynamics that fit:", "# Ablation of lpwm-balls-mini",
                           "# Benchmark mine", "TrainingError", "shipped weights"],
    "3_from_recordings_to_play": ["copy last frame", "the futures differ by 0.", "config.json", "ComposedWorldModel"],
}


def code_of(notebook):
    return ["".join(cell["source"]) for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]
            if cell["cell_type"] == "code"]


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda p: p.stem)
def test_a_notebook_runs(notebook, tmp_path):
    pytest.importorskip("av")
    pytest.importorskip("PIL")
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", RUNNER, notebook], cwd=tmp_path, env=env, capture_output=True,
                          text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    assert [words for words in SAYS[notebook.stem] if words not in done.stdout] == [], done.stdout


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda p: p.stem)
def test_a_notebook_is_clean(notebook):
    content = json.loads(notebook.read_text(encoding="utf-8"))
    assert (content["nbformat"], content["nbformat_minor"]) == (4, 5)
    assert content["cells"][0]["cell_type"] == "markdown" and "".join(content["cells"][0]["source"]).startswith("# ")
    assert len({cell["id"] for cell in content["cells"]}) == len(content["cells"])
    for cell in content["cells"]:
        assert cell["cell_type"] == "markdown" or (cell["outputs"] == [] and cell["execution_count"] is None)
    for code in code_of(notebook):
        ast.parse(code)
        assert not any(line.startswith(("%", "!")) for line in code.splitlines()), "not plain Python"


def test_there_are_three():
    assert [path.stem for path in NOTEBOOKS] == list(SAYS)
