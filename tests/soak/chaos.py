"""Who is killed when: decided by the seed, carried out on the real processes of a running endpoint."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.soak.ledger import COMFYUI_KILLED, WORKER_KILLED, WORKER_TERMINATED, Kill

PAUSE_S = (2.5, 7.0)
WEIGHTS = {COMFYUI_KILLED: 5, WORKER_KILLED: 3, WORKER_TERMINATED: 2}
SPARED = "worker1-"
"""This worker's processes live through the last two thirds, so that a slow leak has time to show."""
SPARED_AFTER = 1 / 3


@dataclass(frozen=True)
class WorkerProcesses:
    """One worker: its id at the endpoint, its handler and its ComfyUI (None while it has none)."""

    worker: str
    handler: int
    comfyui: int | None


def find_workers(family: Mapping[int, str]) -> list[WorkerProcesses]:
    """The workers among an endpoint's processes (id and command line, parents before children)."""
    handlers: dict[str, int] = {}
    comfyuis: dict[str, int] = {}
    for pid, command in family.items():
        worker = worker_of(pid)
        if worker and "handler.py" in command and "reaper.py" not in command:
            handlers.setdefault(worker, pid)  # the SDK's ping process is a fork of it, and comes later
        elif worker and "main.py" in command:
            comfyuis[worker] = pid
    return [WorkerProcesses(worker, pid, comfyuis.get(worker)) for worker, pid in handlers.items()]


def worker_of(pid: int) -> str | None:
    """The id of the worker that a process belongs to; None when it is gone or belongs to none."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
            if line.startswith(b"RUNPOD_POD_ID="):
                return line.partition(b"=")[2].decode()
    return None


class Chaos:
    """Kills at random moments.

    Args:
        seed: equal seeds make equal decisions; whom they meet depends on who lives then.
        family: the endpoint's processes now.
    """

    def __init__(self, seed: int, family: Callable[[], Mapping[int, str]]) -> None:
        self._rng = random.Random(f"chaos {seed}")
        self._family = family

    def pause_s(self) -> float:
        """How long until the next kill."""
        return self._rng.uniform(*PAUSE_S)

    def strike(self, progress: float) -> Kill | None:
        """Kill somebody; None when the one who was chosen is not there.

        Args:
            progress: how much of the soak is over, from 0 to 1.
        """
        what = self._rng.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
        lot = self._rng.random()
        victims = [each for each in find_workers(self._family()) if may_strike(what, each, progress)]
        if not victims:
            return None
        victim = victims[int(lot * len(victims))]
        pid = victim.comfyui if what == COMFYUI_KILLED else victim.handler
        assert pid is not None
        kill = Kill(time.time(), what, victim.worker)
        try:
            os.kill(pid, signal.SIGTERM if what == WORKER_TERMINATED else signal.SIGKILL)
        except ProcessLookupError:
            return None
        return kill


def may_strike(what: str, victim: WorkerProcesses, progress: float) -> bool:
    """Whether this worker's handler or ComfyUI may be ended at this point of the soak."""
    if victim.worker.startswith(SPARED) and (what != COMFYUI_KILLED or progress > SPARED_AFTER):
        return False
    return what != COMFYUI_KILLED or victim.comfyui is not None
