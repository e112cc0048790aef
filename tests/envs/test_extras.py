"""Each extra alone, in a fresh Python environment: it installs, and an environment of it is played.

It takes minutes and gigabytes, so say which, or all::

    WORLDKIT_FRESH=scenes,multi python -m pytest -m slow tests/envs/test_extras.py
    WORLDKIT_FRESH=all python -m pytest -m slow tests/envs/test_extras.py
"""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
ENVS = {
    "envs": ["CartPole-v1", "LunarLander-v3", "MiniGrid-Empty-5x5-v0"], "mujoco": ["Reacher-v5"],
    "dmc": ["dmc/reacher-easy"], "ogbench": ["cube-single-v0"], "atari": ["ALE/Pong-v5"], "pusht": ["pusht"],
    "crafter": ["crafter/reward"], "doom": ["VizdoomBasic-v1"], "scenes": ["scenes/throw"],
    "multi": ["mpe2/simple_spread_v3", "pettingzoo/multiwalker_v9"], "metaworld": ["metaworld/reach-v3"],
    "aloha": ["aloha/transfer-cube"], "robotics": ["FetchPush-v4"], "procgen": ["procgen/bigfish"],
}
ALONE = {"metaworld", "aloha", "robotics", "procgen"}
ENVS["all-envs"] = [name for extra, names in ENVS.items() if extra not in ALONE for name in names]
ASKED = os.environ.get("WORLDKIT_FRESH", "").split(",")


def test_all_extras_are_here():
    """Those of environments, and all-envs holds all that can live together."""
    together = EXTRAS["all-envs"][0].removeprefix("worldkit[").removesuffix("]").split(",")
    assert set(together) == set(ENVS) - ALONE - {"all-envs"}
    assert set(ENVS) <= set(EXTRAS)
    for extra in set(ENVS) - ALONE - {"all-envs"}:
        if any("mujoco" in requirement for requirement in EXTRAS[extra]):
            assert any(requirement.startswith("mujoco>=") and requirement.endswith(",<4")
                       for requirement in EXTRAS[extra]), "dm-control and others break on mujoco 4"


@pytest.mark.slow
@pytest.mark.parametrize("extra", ENVS)
def test_a_fresh_environment(extra, tmp_path):
    if extra not in ASKED and ASKED != ["all"]:
        pytest.skip(f"WORLDKIT_FRESH={extra} installs and plays it")
    clean = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    python = str(tmp_path / "venv" / "bin" / "python")
    for command in ([sys.executable, "-m", "venv", str(tmp_path / "venv")],
                    [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-c",
                     str(ROOT / "constraints.txt"), "-e", f"{ROOT}[{extra}]"],
                    [python, "-m", "pip", "check"]):
        done = subprocess.run(command, env=clean, capture_output=True, text=True, timeout=3600)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    for number, env_id in enumerate(ENVS[extra]):
        out = tmp_path / str(number)
        done = subprocess.run([python, "-m", "worldkit", "collect", env_id, "--episodes", "1", "--max-steps", "3",
                               "--quiet", "--out", str(out)], env=clean, capture_output=True, text=True, timeout=600,
                              cwd=tmp_path)
        assert done.returncode == 0, f"{env_id}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
        assert (out / "episode_000000.npz").is_file()
