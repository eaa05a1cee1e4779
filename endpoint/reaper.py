"""A process between the endpoint and one worker that kills all the worker's processes when either of the two ends.

The endpoint's end, however it comes, closes the pipe on standard input. Without this process the SDK's ping process
would outlive a killed worker for ever. A script without imports from this package: it stays small in memory.

    python reaper.py COMMAND...
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

PR_SET_CHILD_SUBREAPER = 36  # prctl(2)


def main(argv: list[str]) -> int:
    """Run a command until it or the endpoint ends. Return its exit status, 128 + n if signal n ended it."""
    adopt_orphans()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # The main thread forks and waits: the kernel ends the child when the thread that forked it ends (pdeathsig).
    child = subprocess.Popen(tied_to_this_process(argv), stdin=subprocess.DEVNULL)
    signal.signal(signal.SIGTERM, lambda *_: child.terminate())
    threading.Thread(target=kill_when_endpoint_ends, args=(child,), daemon=True).start()
    status = child.wait()
    kill_descendants()
    return status if status >= 0 else 128 - status


def adopt_orphans() -> None:
    """Become the parent of processes that the worker leaves behind (Linux), so that they can be found."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def tied_to_this_process(argv: list[str]) -> list[str]:
    """Return the command under ``setpriv --pdeathsig`` (util-linux): it dies with this process, even of SIGKILL.

    The shell runs the command only if this process is still its parent, since the tie cannot see an earlier death.
    """
    setpriv = shutil.which("setpriv")
    if not setpriv:
        return argv
    return [setpriv, "--pdeathsig", "KILL", "--", "sh", "-c", 'test $PPID = $0 && exec "$@"', str(os.getpid()), *argv]


def kill_when_endpoint_ends(child: subprocess.Popen[bytes]) -> None:
    """Wait for the end of standard input, then kill the child; the main thread does the rest."""
    with contextlib.suppress(OSError):
        while os.read(0, 64):
            pass
    child.kill()


def kill_descendants() -> None:
    """Kill all descendants. Children of a killed process become ours, so repeat until there are none."""
    while left := list(descendants(os.getpid())):
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        time.sleep(0.01)


def descendants(pid: int) -> Iterator[int]:
    """Yield the ids of all processes below one."""
    for task in Path(f"/proc/{pid}/task").glob("*"):
        with contextlib.suppress(OSError):
            for child in (task / "children").read_text().split():
                yield int(child)
                yield from descendants(int(child))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
