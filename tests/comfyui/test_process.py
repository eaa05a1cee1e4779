"""The child process: its log is kept, its exit noticed, no descendant left over."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.support.runpod_platform import is_running
from tests.support.waiting import wait_until
from worker.comfyui.process import ComfyProcess

HERE = Path(__file__).parent


def start(code: str, on_exit=lambda process: None) -> ComfyProcess:
    return ComfyProcess([sys.executable, "-c", code], HERE, on_exit)


def ended(code: str) -> ComfyProcess:
    done = threading.Event()
    process = start(code, lambda _: done.set())
    assert done.wait(10)
    return process


def test_the_last_lines_are_kept_and_the_progress_bar_is_not():
    process = ended("import sys; print('a\\nb'); sys.stderr.write('10%\\r20%\\r'); print('c')")
    assert process.last_lines(2) == ["b", "c"]
    assert process.describe_exit() == "exit code 0"


def test_a_traceback_on_the_way_out_is_not_lost():
    process = ended("raise RuntimeError('why it died')")
    assert process.last_lines()[-1] == "RuntimeError: why it died"
    assert process.exit_code == 1


def test_a_kill_is_told_by_its_name():
    process = ended("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    assert process.describe_exit() == "killed by SIGKILL (often: out of memory)"


def test_one_that_cannot_start_says_so():
    done = threading.Event()
    process = ComfyProcess(["/nonexistent/python"], HERE, lambda _: done.set())
    assert done.wait(10)
    assert "exit code" in process.describe_exit() or "could not be started" in process.describe_exit()


@pytest.mark.parametrize("stubborn", [False, True])
def test_stop_ends_the_whole_group_even_a_stubborn_one(stubborn, monkeypatch):
    monkeypatch.setattr("worker.comfyui.process.TERMINATE_GRACE_S", 1.0)
    ignore = "signal.signal(signal.SIGTERM, signal.SIG_IGN);" if stubborn else ""
    code = (
        f"import signal, subprocess, sys, time;{ignore}"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']);"
        "print(child.pid, flush=True); time.sleep(60)"
    )
    process = start(code)
    wait_until(process.last_lines)
    grandchild = int(process.last_lines()[0])
    assert process.stop()
    assert process.exit_code is not None
    assert process.stop()  # twice is fine
    wait_until(lambda: not is_running(grandchild))  # killed by then, but the kernel may still be taking it apart


PARENT = """
import sys, time
from pathlib import Path
from worker.comfyui.process import ComfyProcess
process = ComfyProcess([sys.executable, "-c", "import time; time.sleep(60)"], Path("."), lambda _: None)
print(process.pid, flush=True)
time.sleep(60)
"""


def kill_a_worker(**environ: str) -> int:
    """Start a worker with a ComfyUI and kill it with -9; the ComfyUI's process id."""
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT], stdout=subprocess.PIPE, cwd=HERE.parents[1], env={**os.environ, **environ}
    )
    assert parent.stdout
    with parent.stdout as pipe:
        child = int(pipe.readline())
    assert is_running(child)
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    return child


def test_a_worker_killed_with_9_takes_its_comfyui_along():
    child = kill_a_worker()
    wait_until(lambda: not is_running(child))


def test_a_comfyui_whose_worker_is_killed_before_the_two_are_tied_does_not_start(tmp_path):
    setpriv, gate = shutil.which("setpriv"), tmp_path / "gate"
    assert setpriv, "it comes with util-linux"
    late = tmp_path / "setpriv"
    late.write_text(f'#!/bin/sh\nwhile ! [ -e {gate} ]; do sleep 0.01; done\nexec {setpriv} "$@"\n')
    late.chmod(0o755)
    child = kill_a_worker(PATH=f"{tmp_path}:{os.environ['PATH']}")
    gate.touch()
    wait_until(lambda: not is_running(child))
