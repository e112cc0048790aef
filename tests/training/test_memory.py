"""Memory that stays with the process while training."""

import sys

import pytest
import torch

from worldkit.training import memory
from worldkit.training.memory import keep_memory


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
