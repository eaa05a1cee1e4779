"""The simulator's own routes, which ComfyUI does not have: setting faults, and reading the counters."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from aiohttp import web

from faults import faults

if TYPE_CHECKING:
    from server import PromptServer


def add_routes(server: PromptServer) -> None:
    @server.routes.get("/simulator/misbehave")
    async def current(_: web.Request) -> web.Response:
        return web.json_response(faults.current())

    @server.routes.post("/simulator/misbehave")
    async def change(request: web.Request) -> web.Response:
        try:
            faults.set(await request.json())
        except ValueError as error:
            return web.json_response({"error": str(error)}, status=400)
        return web.json_response(faults.current())

    @server.routes.get("/simulator/log")
    async def log(_: web.Request) -> web.Response:
        counters = server.counters
        return web.json_response(
            {
                "requests": dict(counters.requests),
                "sockets_open": len(server.sockets),
                "sockets_opened": counters.sockets_opened,
                "prompts_executed": counters.prompts_executed,
            }
        )


async def make_noise(server: PromptServer) -> None:
    """Broadcast hardware figures to all clients, as monitoring packs do, while the fault `noisy` is in force."""
    while True:
        if faults.peek("noisy"):
            server.send_sync("crystools.monitor", {"cpu_utilization": 7.0, "ram_used_percent": 42.0}, None)
        await asyncio.sleep(0.2)
