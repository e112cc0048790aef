"""What commands cost before they begin: PyTorch alone takes 1.5 CPU seconds to import."""

import os
import subprocess
import sys

import numpy as np
import pytest

from worldkit.data import ArraySource, write_dataset, write_video

SECONDS = 1.5
"""CPU seconds that commands may take which need no PyTorch."""


def cpu_seconds(*arguments):
    """CPU seconds of ``worldkit ARGUMENTS``, the least of three, and the heavy modules it imported."""
    code = (
        "import sys, os\nfrom worldkit.cli import main\n"
        f"try: status = main({list(arguments)!r})\nexcept SystemExit as end: status = end.code\n"
        "heavy = {'torch', 'torchvision', 'piqa', 'scipy', 'transformers', 'accelerate'} & set(sys.modules)\n"
        "print(status or 0, sum(os.times()[:2]), *heavy, file=sys.stderr)"
    )
    seconds = []
    for _ in range(3):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True,
                              env={**os.environ, "WORLDKIT_PLUGINS": "0"})
        status, time, *heavy = done.stderr.split()
        assert status == "0", done.stdout
        seconds.append(float(time))
    return min(seconds), heavy


@pytest.mark.parametrize("command", [["--help"], ["list"], ["list", "lpwm*"], ["list", "--pretrained"],
                                     ["train", "--help"]])
def test_commands_without_models_start_fast(command):
    seconds, heavy = cpu_seconds(*command)
    assert heavy == [] and seconds < SECONDS


@pytest.mark.parametrize("kind", ["npz", "video", "lerobot", "columns"])
def test_looking_at_a_small_data_set_is_fast(kind, tmp_path):
    rng = np.random.default_rng(0)
    if kind == "video":
        target = tmp_path / "films"
        for number in range(3):
            write_video(target / f"{number}.mp4", rng.integers(0, 255, (12, 32, 32, 3)).astype(np.uint8))
    else:
        target = tmp_path / ("data.hdf5" if kind == "columns" else "data")
        episodes = [{"video": rng.integers(0, 255, (12, 3, 32, 32)).astype(np.uint8),
                     "action": rng.normal(size=(12, 2)).astype(np.float32)} for _ in range(3)]
        write_dataset(ArraySource(episodes), target, kind)
    seconds, heavy = cpu_seconds("data", "inspect", str(target))
    assert heavy == [] and seconds < SECONDS
