"""The ComfyUI child process, in a group of its own: its log is kept, its exit noticed, no descendant is left over."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import shutil
import signal
import subprocess
import threading
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path

LOG_LINES_KEPT = 200
TERMINATE_GRACE_S = 5.0  # an idle ComfyUI ends within a second; a running step is not worth waiting for
KILL_GRACE_S = 10.0  # the kernel takes seconds to free a process with tens of gigabytes
DRAIN_S = 2.0  # after its exit, for the pipe's last lines: the traceback is the best error message

comfyui_log = logging.getLogger("comfyui")


class ComfyProcess:
    """One run of ComfyUI, from its start to its exit.

    Args:
        argv: the whole command line.
        cwd: where it runs.
        on_exit: called once, from a thread of this object, when the process has ended or could not be started.
    """

    def __init__(self, argv: Sequence[str], cwd: Path, on_exit: Callable[[ComfyProcess], None]) -> None:
        self._argv = _with_parent_death_signal(argv)
        self._cwd = cwd
        self._on_exit = on_exit
        self._tail: deque[str] = deque(maxlen=LOG_LINES_KEPT)
        self._child: subprocess.Popen[bytes] | None = None
        self._spawned = threading.Event()
        self._ended = threading.Event()
        self._spawn_error: OSError | None = None
        # The thread that forks also waits for the child: the kernel sends the child its "parent died" signal when the
        # forking *thread* ends (prctl(2), PR_SET_PDEATHSIG), so that thread has to outlive the child.
        threading.Thread(target=self._run_child, name="comfyui", daemon=True).start()
        self._spawned.wait()

    @property
    def pid(self) -> int | None:
        """The process id; None if it could not be started."""
        return self._child.pid if self._child else None

    @property
    def exit_code(self) -> int | None:
        """Exit status, negative for the signal that killed it; None while it runs or if it never started."""
        return self._child.poll() if self._child else None

    def describe_exit(self) -> str:
        """Return the end in words: ``exit code 1``, ``killed by SIGKILL (often: out of memory)``."""
        if self._spawn_error:
            return f"could not be started: {self._spawn_error}"
        code = self.exit_code
        if code is None or code >= 0:
            return f"exit code {code}"
        name = signal.Signals(-code).name
        return f"killed by {name}" + (" (often: out of memory)" if -code == signal.SIGKILL else "")

    def last_lines(self, count: int = 20) -> list[str]:
        """Return the newest lines of its log, oldest first."""
        return list(self._tail)[-count:]

    def stop(self) -> bool:
        """Terminate it, then kill it if need be. Return True if it is gone. Safe to call twice."""
        self._signal_group(signal.SIGTERM)
        if not self._ended.wait(TERMINATE_GRACE_S):
            self.kill()
        return self._ended.wait(KILL_GRACE_S)

    def kill(self) -> None:
        """Kill it and every process of its group."""
        self._signal_group(signal.SIGKILL)

    def _signal_group(self, which: signal.Signals) -> None:
        if self._child and not self._ended.is_set():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._child.pid, which)

    def _run_child(self) -> None:
        try:
            self._child = subprocess.Popen(
                self._argv,
                cwd=self._cwd,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
            )
        except OSError as error:
            self._spawn_error = error
        self._spawned.set()
        if self._child:
            pump = threading.Thread(target=self._pump_log, name="comfyui-log", daemon=True)
            pump.start()
            self._child.wait()
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._child.pid, signal.SIGKILL)  # its children must not outlive it
            pump.join(DRAIN_S)
        self._ended.set()
        self._on_exit(self)

    def _pump_log(self) -> None:
        assert self._child and self._child.stdout
        pending = b""
        with self._child.stdout as pipe:
            while chunk := os.read(pipe.fileno(), 65536):
                *lines, pending = re.split(rb"(?<=[\r\n])", pending + chunk)
                for line in lines:
                    self._log_line(line)
        self._log_line(pending)

    def _log_line(self, raw: bytes) -> None:
        line = raw.decode("utf-8", "replace").rstrip()
        if not line:
            return
        is_bar_update = raw.endswith(b"\r")
        if not is_bar_update:
            self._tail.append(line)
        comfyui_log.log(logging.DEBUG if is_bar_update else logging.INFO, "%s", line)


def _with_parent_death_signal(argv: Sequence[str]) -> list[str]:
    """Return the command line under ``setpriv --pdeathsig`` (util-linux), which kills it with this process.

    The signal is set after the fork: the shell checks that this process still lives, and only then runs the command.
    """
    setpriv = shutil.which("setpriv")
    if not setpriv:
        return list(argv)
    return [setpriv, "--pdeathsig", "KILL", "--", "sh", "-c", 'test $PPID = $0 && exec "$@"', str(os.getpid()), *argv]
