"""Process ids for file names: other workers read from them if a file's writer is still running."""

from __future__ import annotations

import os
import re
import socket
from pathlib import Path

PATTERN = r"(?P<host>[A-Za-z0-9_]+)-(?P<pid>[0-9]+)-(?P<start>[0-9]+)"


def process_id() -> str:
    """Return ``<host>-<pid>-<start>``, unique to this process even if its pid is reused."""
    return f"{_host()}-{os.getpid()}-{_start_of(os.getpid()) or 0}"


def is_of_this_host(found: re.Match[str]) -> bool:
    """Return True if a match of :data:`PATTERN` names a process of this machine or container."""
    return found["host"] == _host()


def is_gone(found: re.Match[str]) -> bool:
    """Return True if that process of this host has ended."""
    start = _start_of(int(found["pid"]))
    return start is None or found["start"] not in ("0", str(start))


def _host() -> str:
    return re.sub(r"[^A-Za-z0-9_]", "_", socket.gethostname())[:32] or "host"


def _start_of(pid: int) -> int | None:
    """Return the process's start in clock ticks since boot; 0 if unknown, None if there is no such process."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
        return int(stat.rpartition(")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        pass
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return None
    except OSError:
        return 0
    return 0
