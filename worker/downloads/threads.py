"""Threads that work for one job and can be told to stop at any moment, also while they read from a socket."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

from worker.net.connections import Sockets
from worker.stop import Stop

POLL_S = 0.1
LET_GO_S = 0.8
"""How long a stopped thread may take. One that is still in a name lookup or a connect then is left behind: it is a
daemon, and finds its work abandoned when it wakes."""


class JobThreads:
    """Runs functions in daemon threads and waits for a sign that the work is done.

    Args:
        sockets: what the threads' connections are registered with.
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
        """Wait until :attr:`done` is set, calling ``tick`` ten times a second. Raises what ``stop.check`` raises."""
        while not self.done.wait(min(POLL_S, stop.remaining_s())):
            stop.check()
            tick()
        stop.check()

    def dismiss(self) -> Sequence[threading.Thread]:
        """End every connection and wait a moment for the threads; those that are still busy are returned."""
        self._sockets.close_all()
        until = time.monotonic() + LET_GO_S
        for thread in tuple(self._threads):
            thread.join(max(0.0, until - time.monotonic()))
        return [thread for thread in self._threads if thread.is_alive()]
