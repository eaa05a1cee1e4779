"""Waiting for what happens in another process, which has no event to wait for."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any


def wait_until(happened: Callable[[], Any], timeout_s: float = 30) -> Any:
    """Look until there is something to see; that."""
    deadline = time.monotonic() + timeout_s
    while not (found := happened()):
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.02)
    return found
