"""An endpoint that says what a test tells it to say."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import threading
from typing import Any

from aiohttp import web
from PIL import Image

KEY = "rpa_TESTTESTTEST"


def png(color: tuple[int, int, int] = (255, 0, 0), size: tuple[int, int] = (8, 8)) -> bytes:
    """A small picture."""
    buffer = io.BytesIO()
    Image.new("RGB", size, color).save(buffer, "PNG")
    return buffer.getvalue()


def b64(data: bytes) -> str:
    """Bytes as they travel."""
    return base64.b64encode(data).decode()


def completed(*entries: dict[str, Any], **more: Any) -> dict[str, Any]:
    """A finished job's status."""
    return {"status": "COMPLETED", "output": {"images": list(entries), "warnings": [], **more}}


def picture(node_id: str = "9", color: tuple[int, int, int] = (255, 0, 0), **more: Any) -> dict[str, Any]:
    """One entry of an answer."""
    names = {"filename": "far_00001_.png", "subfolder": "", "type": "output"}
    return {"b64": b64(png(color)), "node_id": node_id, "media_type": "image/png", **names, **more}


class Endpoint:
    """Runs in a thread; ``statuses`` are given in turn, the last one again and again."""

    def __init__(self) -> None:
        self.statuses: list[Any] = [{"status": "IN_QUEUE"}]
        self.refuse: dict[str, list[tuple[int, dict[str, str], str]]] = {}
        self.seen: list[tuple[str, str, dict[str, str], Any]] = []
        started = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve(started)), daemon=True)
        self._thread.start()
        started.wait()

    def __enter__(self) -> Endpoint:
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)

    def paths(self, name: str) -> list[Any]:
        """The bodies that came to a path."""
        return [body for _, path, _, body in self.seen if path == name]

    async def _serve(self, started: threading.Event) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        app = web.Application(client_max_size=2**30)
        app.router.add_route("*", "/v2/ep/{rest:.*}", self._answer)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.2)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.base = f"http://127.0.0.1:{runner.addresses[0][1]}/v2/ep"
        started.set()
        await self._stop.wait()
        await runner.cleanup()

    async def _answer(self, request: web.Request) -> web.Response:
        raw = await request.read()
        name = request.match_info["rest"].split("/")[0]
        self.seen.append((request.method, name, dict(request.headers), json.loads(raw) if raw else None))
        if self.refuse.get(name):
            status, headers, text = self.refuse[name].pop(0)
            return web.Response(status=status, headers=headers, text=text)
        if request.headers.get("Authorization") != f"Bearer {KEY}":
            return web.Response(status=401)
        if name == "run":
            return web.json_response({"id": f"job-{len(self.paths('run'))}-e1", "status": "IN_QUEUE"})
        if name == "health":
            return web.json_response({"workers": {"idle": 0, "initializing": 1}, "jobs": {"inQueue": 2}})
        if name == "cancel":
            self.statuses = [{"status": "CANCELLED"}]
            return web.json_response({"status": "CANCELLED"})
        return web.json_response(self.statuses.pop(0) if len(self.statuses) > 1 else self.statuses[0])
