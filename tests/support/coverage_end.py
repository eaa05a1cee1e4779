"""Let processes under ``make coverage`` write what they covered: before a test kills one, this plugin asks it to end.

What a process has covered is written when it ends, and a killed one writes nothing. Only the tidying up after a test
is changed; a test that kills a process to see what follows still does.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from contextlib import suppress

import pytest

from tests.endpoint.support import EndpointProcess
from tests.support.runpod_platform import WorkerProcess

PATIENCE_S = 5.0


def pytest_configure(config: pytest.Config) -> None:
    """Put a question before each kill."""
    for kind in (WorkerProcess, EndpointProcess):
        kind.__exit__ = _politely(kind.__exit__)  # type: ignore[method-assign]


def _politely(leave: Callable[..., None]) -> Callable[..., None]:
    def ask_first(self: WorkerProcess | EndpointProcess, *exc: object) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(PATIENCE_S)
        leave(self, *exc)

    return ask_first
