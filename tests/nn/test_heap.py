"""Memory that is freed stays with the process."""

import platform
import subprocess
import sys

import pytest

PROGRAM = """
import resource, torch
from worldkit.nn.heap import keep_freed_memory
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
