"""How a job tells its threads to stop: a flag that threads poll or wait on, with the job's deadline in it."""

from __future__ import annotations

import threading
import time

from worker.errors import Code, WorkerError


class StoppedError(Exception):
    """The job was cancelled while a thread worked for it."""


class Stop:
    """One job's stop sign, shared by all its threads.

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
        """Whether the job was cancelled (a passed deadline does not count)."""
        return self._event.is_set()

    def remaining_s(self) -> float:
        """Seconds until the deadline; infinity without one, 0 when it has passed."""
        return float("inf") if self.deadline is None else max(0.0, self.deadline - time.monotonic())

    def check(self) -> None:
        """Raise :class:`StoppedError` when cancelled, ``WorkerError(TIMEOUT)`` when the deadline has passed."""
        if self._event.is_set():
            raise StoppedError
        if self.remaining_s() <= 0:
            raise WorkerError(Code.TIMEOUT, "the job's time was over while its models were being fetched")

    def sleep(self, seconds: float) -> None:
        """Sleep, but wake at once on :meth:`set` and at the deadline; then :meth:`check`."""
        self._event.wait(min(seconds, self.remaining_s()))
        self.check()
