"""The stop flag of a job, which its threads poll or wait on, with the job's deadline."""

from __future__ import annotations

import threading
import time

from worker.errors import Code, WorkerError


class StoppedError(Exception):
    """The job was cancelled; raised in its threads."""


class Stop:
    """One job's stop flag, shared by all its threads.

    Args:
        deadline: ``time.monotonic()`` value after which :meth:`check` raises TIMEOUT; None for no deadline.
    """

    def __init__(self, deadline: float | None = None) -> None:
        self.deadline = deadline
        self._event = threading.Event()

    def set(self) -> None:
        """Ask every thread of the job to stop; idempotent."""
        self._event.set()

    def is_set(self) -> bool:
        """Return True if the job was cancelled (a passed deadline does not count)."""
        return self._event.is_set()

    def remaining_s(self) -> float:
        """Return the seconds until the deadline: infinity without one, 0 if it has passed."""
        return float("inf") if self.deadline is None else max(0.0, self.deadline - time.monotonic())

    def check(self) -> None:
        """Raise :class:`StoppedError` if cancelled, ``WorkerError(TIMEOUT)`` if the deadline has passed."""
        if self._event.is_set():
            raise StoppedError
        if self.remaining_s() <= 0:
            raise WorkerError(Code.TIMEOUT, "the job ran out of time while its models were being downloaded")

    def sleep(self, seconds: float) -> None:
        """Sleep until the time is over, :meth:`set` is called or the deadline passes; then :meth:`check`."""
        self._event.wait(min(seconds, self.remaining_s()))
        self.check()
