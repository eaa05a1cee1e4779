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

from tests.support.waiting import end_server

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


BREAK = object()
"""In place of a frame: the connection is torn."""


class Endpoint:
    """Runs in a thread; ``statuses`` are given in turn, the last one again and again.

    With ``frames`` (dicts, or text as it is) it has a websocket of events, which gives what is pushed.
    """

    def __init__(self) -> None:
        self.statuses: list[Any] = [{"status": "IN_QUEUE"}]
        self.frames: list[Any] | None = None
        self.keys = {KEY}
        self.addresses: list[str] = []
        self.refuse: dict[str, list[tuple[int, dict[str, str], str]]] = {}
        self.seen: list[tuple[str, str, dict[str, str], Any]] = []
        started = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve(started)), daemon=True)
        self._thread.start()
        started.wait()

    def __enter__(self) -> Endpoint:
        return self

    def __exit__(self, *_: object) -> None:
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._end)
            self._thread.join(10)

    def _end(self) -> None:
        self._stop.set()
        self._pushed.set()

    def push(self, *frames: Any) -> None:
        """Send frames to whoever listens, or will."""
        if self.frames is None:
            self.frames = []
        self.frames.extend(frames)
        self._loop.call_soon_threadsafe(self._pushed.set)

    def paths(self, name: str) -> list[Any]:
        """The bodies that came to a path."""
        return [body for _, path, _, body in self.seen if path == name]

    async def _serve(self, started: threading.Event) -> None:
        self._loop, self._stop, self._pushed = asyncio.get_running_loop(), asyncio.Event(), asyncio.Event()
        app = web.Application(client_max_size=2**30)
        app.router.add_route("*", "/v2/ep/{rest:.*}", self._answer)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.2)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.base = f"http://127.0.0.1:{runner.addresses[0][1]}/v2/ep"
        started.set()
        await self._stop.wait()
        await end_server(runner)

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        raw = await request.read()
        name = request.match_info["rest"].split("/")[0]
        self.addresses.append(request.path_qs)
        self.seen.append((request.method, name, dict(request.headers), json.loads(raw) if raw else None))
        if self.refuse.get(name):
            status, headers, text = self.refuse[name].pop(0)
            return web.Response(status=status, headers=headers, text=text)
        if request.headers.get("Authorization") not in {f"Bearer {key}" for key in self.keys}:
            return web.Response(status=401)
        return await self._events(request) if name == "events" else web.json_response(self._said(name))

    def _said(self, name: str) -> dict[str, Any]:
        if name == "run":
            return {"id": f"job-{len(self.paths('run'))}-e1", "status": "IN_QUEUE"}
        if name == "health":
            return {"workers": {"idle": 0, "initializing": 1}, "jobs": {"inQueue": 2}}
        if name == "cancel":
            self.statuses = [{"status": "CANCELLED"}]
            if self.frames is not None:
                self.push(*self.statuses)
            return {"status": "CANCELLED"}
        return dict(self.statuses.pop(0) if len(self.statuses) > 1 else self.statuses[0])

    async def _events(self, request: web.Request) -> web.StreamResponse:
        """Each connection gets what is left to be sent."""
        if self.frames is None:
            return web.Response(status=404)
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        while not self._stop.is_set() and not socket.closed:
            self._pushed.clear()
            while self.frames:
                frame = self.frames.pop(0)
                if frame is BREAK:
                    assert request.transport is not None
                    request.transport.abort()
                    return socket
                await socket.send_str(frame if isinstance(frame, str) else json.dumps(frame))
                if isinstance(frame, dict) and frame["status"] not in ("IN_QUEUE", "IN_PROGRESS"):
                    await socket.close()
                    return socket
            listening = asyncio.ensure_future(socket.receive())
            await asyncio.wait(
                {listening, waiting := asyncio.ensure_future(self._pushed.wait())}, return_when="FIRST_COMPLETED"
            )
            listening.cancel()
            waiting.cancel()
        return socket
