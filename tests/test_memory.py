"""Memory that is freed stays with the process."""

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
    for _ in range(5):
        a = torch.ones(2**21)  # 8 MiB each
        b, c = a + a, a * a
    del a, b, c
for _ in range(3):
    work()
before = resource.getrusage(resource.RUSAGE_SELF)
for _ in range(3):
    work()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before.ru_minflt)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="it is glibc that gives memory back")
def test_large_operations_take_the_pages_of_those_before():
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 1000  # without it about 10,000


def _resident() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096


@pytest.mark.skipif(not sys.platform.startswith("linux") or memory._glibc() is None, reason="needs glibc")
def test_freed_memory_stays_inside_and_goes_back_at_the_end():
    with keep_memory():
        before = _resident()
        block = torch.ones(100 * 2**18)  # 100 MiB
        del block
        kept = _resident() - before
    assert kept > 90 * 2**20
    assert _resident() - before < 50 * 2**20


def test_without_glibc_nothing_happens(monkeypatch):
    monkeypatch.setattr(memory, "_glibc", lambda: None)
    with keep_memory():
        assert torch.ones(3).sum() == 3
