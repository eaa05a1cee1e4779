"""The worker processes as the worker API sees them: their secrets, the jobs each must stop, and which are leaving."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable

from endpoint import auth

STOP_AGAIN_S = 1.0  # the SDK drops a stop for a job that it has taken but not begun, so the stop is repeated
STOP_GRACE_S = 60.0  # a worker still busy this long after a stop hangs; a sampler's slowest step takes less


class WorkerHandle:
    """One worker process, from its start to its end; the next start gets another handle with another secret."""

    def __init__(self, number: int, clock: Callable[[], float]) -> None:
        self.id = f"worker{number}-{secrets.token_hex(4)}"
        self.secret = secrets.token_urlsafe(32)
        self.has_polled = False
        """True once the SDK's loop has asked for a job."""
        self.replace_requested = asyncio.Event()
        self.replace_reason = ""
        self._clock = clock
        self._stops: dict[str, tuple[float, float]] = {}

    @property
    def is_leaving(self) -> bool:
        """True once the worker is to be replaced: it gets no more jobs."""
        return self.replace_requested.is_set()

    def replace(self, reason: str) -> None:
        """Have the worker's slot end the process and start another; the first reason is the one that is logged."""
        self.replace_reason = self.replace_reason or reason
        self.replace_requested.set()

    def stop_job(self, job_id: str) -> None:
        """Send the worker stops for this job until it is idle."""
        now = self._clock()
        self._stops.setdefault(job_id, (now, now))

    def jobs_to_stop(self) -> list[str]:
        """Return the ids of jobs whose stop is to be sent now."""
        now = self._clock()
        due = [job_id for job_id, (_, next_time) in self._stops.items() if now >= next_time]
        for job_id in due:
            self._stops[job_id] = (self._stops[job_id][0], now + STOP_AGAIN_S)
        return due

    def clear_stops(self) -> None:
        """Forget all stops: the worker runs nothing."""
        self._stops.clear()

    def is_hung(self) -> bool:
        """Return True if the worker still runs a job long after its stop."""
        return any(self._clock() - since > STOP_GRACE_S for since, _ in self._stops.values())


class WorkerPool:
    """All live workers."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._workers: dict[str, WorkerHandle] = {}
        self.ready = asyncio.Event()
        """Set once any worker has asked for a job."""
        self.size = 0
        """Number of workers there should be; missing ones are starting, or wait to be started again."""

    def add(self, number: int) -> WorkerHandle:
        """Return the handle of a process about to be started."""
        worker = WorkerHandle(number, self._clock)
        self._workers[worker.id] = worker
        return worker

    def remove(self, worker: WorkerHandle) -> None:
        """Refuse the worker's requests from now on: its process has ended."""
        self._workers.pop(worker.id, None)

    def authenticate(self, worker_id: str, secret: str) -> WorkerHandle | None:
        """Return the worker of this id if the secret is its own, else None."""
        worker = self._workers.get(worker_id)
        return worker if worker and auth.is_same(secret, worker.secret) else None

    def mark_ready(self, worker: WorkerHandle) -> None:
        """Mark the worker ready: its SDK loop has polled for a job."""
        worker.has_polled = True
        self.ready.set()

    def stop_job(self, worker_id: str, job_id: str) -> None:
        """Have a worker stop a job, if it still lives."""
        if worker := self._workers.get(worker_id):
            worker.stop_job(job_id)

    def replace_hung(self) -> None:
        """Replace workers that do not stop their jobs."""
        for worker in self._workers.values():
            if not worker.is_leaving and worker.is_hung():
                worker.replace(f"it went on for {STOP_GRACE_S:g} s with a job it was told to stop")

    def counts(self, busy: set[str]) -> dict[str, int]:
        """Return the worker counts of /health; ``busy`` holds the ids of workers that run a job."""
        present = [worker for worker in self._workers.values() if worker.has_polled and not worker.is_leaving]
        running = sum(worker.id in busy for worker in present)
        initializing = sum(not worker.has_polled for worker in self._workers.values())
        return {
            "idle": len(present) - running,
            "initializing": initializing,
            "ready": len(present) - running,
            "running": running,
            "throttled": 0,
            "unhealthy": max(0, self.size - len(self._workers)),
        }
