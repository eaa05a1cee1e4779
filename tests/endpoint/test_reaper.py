"""The reaper with small commands in place of a worker; test_worker_process.py has it with real ones."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

REAPER = Path(__file__).resolve().parents[2] / "endpoint" / "reaper.py"
LEAVES_ONE = "import subprocess; print(subprocess.Popen(['sleep', '600']).pid, flush=True)"


def reaped(code: str) -> subprocess.Popen[str]:
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    return subprocess.Popen([sys.executable, REAPER, sys.executable, "-c", code], text=True, **pipes)


@pytest.mark.parametrize(
    ("code", "status"), [("raise SystemExit(7)", 7), ("import os; os.kill(os.getpid(), 9)", 128 + 9)]
)
def test_it_ends_as_its_command_ended(code, status):
    with reaped(code) as reaper:
        assert reaper.wait(60) == status


def test_what_the_command_leaves_behind_is_ended():
    with reaped(LEAVES_ONE) as reaper:
        left = int(reaper.stdout.readline())
        assert reaper.wait(60) == 0
    assert not Path(f"/proc/{left}").exists()


def test_the_command_ends_when_the_endpoint_is_gone():
    with reaped("import time; print('up', flush=True); time.sleep(600)") as reaper:
        assert reaper.stdout.readline() == "up\n"
        reaper.stdin.close()
        assert reaper.wait(60) == 128 + 9


def test_a_sigterm_is_passed_on_to_the_command():
    with reaped("import time; print('up', flush=True); time.sleep(600)") as reaper:
        assert reaper.stdout.readline() == "up\n"
        reaper.terminate()
        assert reaper.wait(60) == 128 + 15
