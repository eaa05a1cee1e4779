"""The guard between the endpoint and a worker, alone with commands of its own; with real ones in tests/endpoint."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

GUARD = Path(__file__).resolve().parents[2] / "endpoint" / "reaper.py"
LEAVES_ONE = "import subprocess; print(subprocess.Popen(['sleep', '600']).pid, flush=True)"


def guarded(code: str) -> subprocess.Popen[str]:
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    return subprocess.Popen([sys.executable, GUARD, sys.executable, "-c", code], text=True, **pipes)


@pytest.mark.parametrize(
    ("code", "status"), [("raise SystemExit(7)", 7), ("import os; os.kill(os.getpid(), 9)", 128 + 9)]
)
def test_it_ends_as_its_command_ended(code, status):
    with guarded(code) as guard:
        assert guard.wait(60) == status


def test_what_the_command_leaves_behind_is_ended():
    with guarded(LEAVES_ONE) as guard:
        left = int(guard.stdout.readline())
        assert guard.wait(60) == 0
    assert not Path(f"/proc/{left}").exists()


def test_the_command_ends_when_the_endpoint_is_gone():
    with guarded("import time; print('up', flush=True); time.sleep(600)") as guard:
        assert guard.stdout.readline() == "up\n"
        guard.stdin.close()
        assert guard.wait(60) == 128 + 9


def test_the_endpoints_wish_to_stop_is_handed_on():
    with guarded("import time; print('up', flush=True); time.sleep(600)") as guard:
        assert guard.stdout.readline() == "up\n"
        guard.terminate()
        assert guard.wait(60) == 128 + 15
