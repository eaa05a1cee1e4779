"""Threads that work for one job and can be stopped at any moment, also while they read from a socket."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

from worker.net.connections import Sockets
from worker.stop import Stop

POLL_S = 0.1
JOIN_TIMEOUT_S = 0.8
"""Most seconds for stopped threads to end. One that is still in a DNS lookup or a connect is then left behind: it is a
daemon, and finds its work abandoned when it returns."""


class JobThreads:
    """Daemon threads that work for one job, and the event that ends the wait for them.

    Args:
        sockets: the registry of the threads' connections.
    """

    def __init__(self, sockets: Sockets) -> None:
        self._sockets = sockets
        self._threads: list[threading.Thread] = []
        self.done = threading.Event()

    def start(self, work: Callable[[], None], name: str) -> None:
        """Run ``work`` in a thread of its own; it must not raise."""
        thread = threading.Thread(target=work, name=name, daemon=True)
        self._threads.append(thread)
        thread.start()

    def wait(self, stop: Stop, tick: Callable[[], None] = lambda: None) -> None:
        """Wait until :attr:`done` is set, calling ``tick`` ten times a second. Raise what ``stop.check`` raises."""
        while not self.done.wait(min(POLL_S, stop.remaining_s())):
            stop.check()
            tick()
        stop.check()

    def close(self) -> Sequence[threading.Thread]:
        """Close every connection and join the threads. Return those that are still busy after JOIN_TIMEOUT_S."""
        self._sockets.close_all()
        until = time.monotonic() + JOIN_TIMEOUT_S
        for thread in tuple(self._threads):
            thread.join(max(0.0, until - time.monotonic()))
        return [thread for thread in self._threads if thread.is_alive()]
