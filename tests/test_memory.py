"""Memory that is freed stays with the process."""

import os
import platform
import subprocess
import sys

import pytest
import torch

from worldkit import memory
from worldkit.memory import keep_memory

PROGRAM = """
import resource, torch
from worldkit.memory import keep_freed_memory
keep_freed_memory()
def work():
    blocks = [torch.ones(14 * 2**18) for _ in range(6)]  # 14 MiB each
    del blocks
for _ in range(3):
    work()
before = resource.getrusage(resource.RUSAGE_SELF)
for _ in range(3):
    work()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before.ru_minflt)
"""


def faults(**chosen):
    env = {name: value for name, value in os.environ.items() if name not in memory._DECIDED}
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True, env=env | chosen)
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="it is glibc that gives memory back")
def test_large_operations_take_the_pages_of_those_before():
    assert faults() < 1000  # with 64 MiB kept tens of thousands


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="it is glibc that gives memory back")
def test_what_was_decided_outside_holds():
    assert faults(MALLOC_TRIM_THRESHOLD_="131072") > 10_000


def _resident() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096


@pytest.mark.skipif(not sys.platform.startswith("linux") or memory._glibc() is None, reason="needs glibc")
def test_freed_memory_stays_inside_and_goes_back_at_the_end():
    with keep_memory():
        block = torch.ones(100 * 2**18)  # 100 MiB
        used = _resident()
        del block
        freed = used - _resident()
    assert freed < 10 * 2**20
    assert used - _resident() > 50 * 2**20


def test_without_glibc_nothing_happens(monkeypatch):
    monkeypatch.setattr(memory, "_glibc", lambda: None)
    with keep_memory():
        assert torch.ones(3).sum() == 3
