"""Memory that threads have freed does not stay with the process."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

from worker.memory import lower_mmap_threshold

PROGRAM = """
import threading
from pathlib import Path
from worker.memory import lower_mmap_threshold

def resident_mb():
    return int(next(line for line in Path("/proc/self/status").open() if line.startswith("VmRSS")).split()[1]) >> 10

assert lower_mmap_threshold()
before, all_there = resident_mb(), threading.Barrier(5)

def answer():
    for _ in range(5):
        block = b"x" * (20 << 20)
        all_there.wait()
        all_there.wait()  # looked at
        del block

threads = [threading.Thread(target=answer) for _ in range(4)]
for thread in threads:
    thread.start()
peak = 0
for _ in range(5):
    all_there.wait()
    peak = max(peak, resident_mb())
    all_there.wait()
for thread in threads:
    thread.join()
assert peak - before >= 20, peak - before
print(resident_mb() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc keeps them, and only it can be told")
def test_large_blocks_that_four_threads_freed_are_given_back():
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 10


def test_another_allocator_is_left_as_it_is(monkeypatch):
    monkeypatch.setattr("ctypes.CDLL", lambda _: object())
    assert lower_mmap_threshold() is False
