"""A disk that fills up at any write: a clear error that names the file, nothing half, nothing lost, nothing left.

Each writing of ``cases.py`` is done with its k-th call that asks the disk for room failing. By default k is the first
call of each kind and of each kind of file, at most six of them; ``-m slow`` tries every call. Needs a C compiler, and
a loader that knows LD_PRELOAD.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
QUICK = ("model folder", "png", "animation mp4", "page", "export", "video .gif", "data npz", "data columns",
         "data balls layout", "data of two splits", "data video", "data lerobot", "cache of frames", "collect",
         "control")
LONG = ("shared folder", "agent folder", "act in a game", "train", "train anew", "animation gif", "video .mp4",
        "video .webm", "data hdf5", "data of balls", "data frames", "data lerobot-v2.1", "data lossless",
        "data convert", "data preview", "rollout", "evaluate", "probe", "sample", "plan", "what if", "demo", "ablate",
        "bench", "bench apart")


class Driver:
    """``drive.py`` on a disk that fills up."""

    def __init__(self, shim):
        command = [sys.executable, str(HERE / "drive.py")]
        environment = os.environ | {"LD_PRELOAD": str(shim), "OMP_NUM_THREADS": "1"}
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, (str(HERE.parents[1]), os.environ.get("PYTHONPATH"))))
        self.process = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=subprocess.PIPE, text=True)

    def ask(self, name, everything):
        self.process.stdin.write(f"{name} {int(everything)}\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        assert line, f"the process is gone: {self.process.wait()}: {self.process.stderr.read()[-2000:]}"
        return json.loads(line)


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or not sys.platform.startswith("linux"):
        pytest.skip("needs a C compiler under Linux")
    shim = tmp_path_factory.mktemp("shim") / "shim.so"
    subprocess.run([compiler, "-O1", "-shared", "-fPIC", "-o", shim, HERE / "shim.c", "-ldl", "-lpthread"], check=True)
    made = Driver(shim)
    yield made
    made.process.communicate()


def check(driver, name, everything):
    found = driver.ask(name, everything)
    assert "broken" not in found, found["broken"]
    assert found["calls"] and not found["wrong"], "\n".join(found["wrong"][:20])
    assert found["tried"] == (found["calls"] if everything else found["tried"]) > 0
    assert any("Error" in outcome or "status" in outcome for outcome in found["outcomes"])  # it did fail


@pytest.mark.parametrize("name", QUICK)
def test_a_full_disk_loses_nothing(driver, name):
    check(driver, name, False)


@pytest.mark.slow
@pytest.mark.parametrize("name", QUICK + LONG)
def test_a_full_disk_at_every_call(driver, name):
    check(driver, name, True)


def test_every_writing_is_tried(driver):
    assert sorted(driver.ask("?", False)) == sorted(QUICK + LONG)
