"""Waiting for what happens in another process, which has no event to wait for."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from aiohttp import web


def wait_until(happened: Callable[[], Any], timeout_s: float = 30) -> Any:
    """Look until there is something to see; that."""
    deadline = time.monotonic() + timeout_s
    while not (found := happened()):
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.02)
    return found


async def stop_listening(*runners: web.AppRunner) -> None:
    """Accept no further connection: aiohttp leaves one open that arrives while it closes the others."""
    for site in [site for runner in runners for site in runner.sites]:
        await site.stop()
    for _ in range(5):
        await asyncio.sleep(0)  # the loop's turns from an accepted connection to its protocol
