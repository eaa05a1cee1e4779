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


async def stop_listening(*runners: web.AppRunner) -> list[asyncio.Transport]:
    """Accept no further connection, and return the open ones.

    aiohttp would leave a connection open that arrives while it closes the others, and asyncio one that it has accepted
    and not yet handed on when its server closes.
    """
    sites = [site for runner in runners for site in runner.sites]
    for listening in [each for site in sites if site._server for each in site._server.sockets]:
        asyncio.get_running_loop().remove_reader(listening.fileno())
    for _ in range(5):
        await asyncio.sleep(0)  # the loop's turns from an accepted connection to its protocol
    for site in sites:
        await site.stop()
    protocols = [protocol for runner in runners if runner.server for protocol in runner.server.connections]
    return [protocol.transport for protocol in protocols if protocol.transport]


async def end_server(runner: web.AppRunner) -> None:
    """Close a server and all its connections, those included whose client does not read any more."""
    connections = await stop_listening(runner)
    await runner.cleanup()
    await abort(connections)


async def abort(connections: list[asyncio.Transport]) -> None:
    """Close connections now: one that still has bytes to send stays open until its client has read them."""
    for connection in connections:
        connection.abort()
    await asyncio.sleep(0)  # the turn in which the loop closes their sockets
