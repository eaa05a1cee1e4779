"""The server as packs use it: `PromptServer.instance`, its routes, its websockets, and `send_sync`."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import struct
import threading
import time
import uuid
from collections.abc import Awaitable, Callable
from contextlib import suppress
from io import BytesIO
from typing import Any, ClassVar

import aiohttp
from aiohttp import web
from PIL import ImageOps

import middlewares
import nodes
from comfy.cli_args import args
from comfy_execution.progress import PREVIEW_IMAGE, PREVIEW_IMAGE_WITH_METADATA, UNENCODED_PREVIEW_IMAGE
from fault_injection import DropSockets, on_prompt_start
from faults import faults
from frontend import find_web_root, get_server_features
from prompt_queue import PromptQueue

_PREVIEWS = (PREVIEW_IMAGE, UNENCODED_PREVIEW_IMAGE, PREVIEW_IMAGE_WITH_METADATA)
_SEND_ERRORS = (aiohttp.ClientError, ConnectionError, RuntimeError)


class PromptServer:
    """The server of one engine: its queue, its clients' sockets and the one stream of messages to them."""

    instance: ClassVar[PromptServer]

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        PromptServer.instance = self
        self.loop = loop
        self.prompt_queue = PromptQueue(self.queue_updated)
        self.messages: asyncio.Queue[tuple[Any, Any, str | None]] = asyncio.Queue()
        self.sockets: dict[str, web.WebSocketResponse] = {}
        self.sockets_metadata: dict[str, dict[str, Any]] = {}
        self.number = 0
        self.client_id: str | None = None
        self.last_node_id: str | None = None
        self.counters = middlewares.Counters()
        self.app = web.Application(
            client_max_size=round(args.max_upload_size * 1024 * 1024),
            middlewares=middlewares.create_all(self.counters),
        )
        self.routes = web.RouteTableDef()
        self.web_root = find_web_root()
        self._refuse_until = 0.0
        self._lost_events: Any = None
        self._frames_left = 0  # before the fault `drop_socket` drops the sockets
        self._background: set[asyncio.Task[Any]] = set()
        self.routes.get("/ws")(self._websocket)

    # -- clients ----------------------------------------------------------------------------------------------------

    async def _websocket(self, request: web.Request) -> web.StreamResponse:
        if time.monotonic() < self._refuse_until:
            return web.Response(status=503, text="The simulator refuses websockets for a while, as it was told to\n")
        ws = web.WebSocketResponse(max_msg_size=64 * 1024 * 1024)
        await ws.prepare(request)
        sid = request.query.get("clientId") or uuid.uuid4().hex
        self.sockets[sid] = ws
        self.sockets_metadata[sid] = {"feature_flags": {}}
        self.counters.sockets_opened += 1
        try:
            await self.send("status", {"status": self.get_queue_info(), "sid": sid}, sid)
            if self.client_id == sid and self.last_node_id is not None:
                await self.send("executing", {"node": self.last_node_id}, sid)
            await self._listen(ws, sid)
        finally:
            # A client that reconnected under its id has a newer socket here.
            if self.sockets.get(sid) is ws:
                del self.sockets[sid]
                self.sockets_metadata.pop(sid, None)
        return ws

    async def _listen(self, ws: web.WebSocketResponse, sid: str) -> None:
        first = True
        async for message in ws:
            if message.type != aiohttp.WSMsgType.TEXT:
                continue
            try:
                data = json.loads(message.data)
            except json.JSONDecodeError:
                logging.warning("Invalid JSON received from client %s: %s", sid, message.data)
                continue
            if first and isinstance(data, dict) and data.get("type") == "feature_flags":
                self.sockets_metadata[sid]["feature_flags"] = data.get("data", {})
                await self.send("feature_flags", get_server_features(), sid)
            first = False

    def supports_feature(self, sid: str | None, feature: str) -> bool:
        flags = self.sockets_metadata.get(sid or "", {}).get("feature_flags", {})
        return flags.get(feature, False) is True

    # -- messages ---------------------------------------------------------------------------------------------------

    def send_sync(self, event: Any, data: Any, sid: str | None = None) -> None:
        """Queue a message to one client, or to all. Call it from any thread."""
        if self._lost_events is not None and self._is_lost(event):
            return
        with suppress(RuntimeError):  # the loop is closed
            self.loop.call_soon_threadsafe(self.messages.put_nowait, (event, data, sid))

    def queue_updated(self) -> None:
        self.send_sync("status", {"status": self.get_queue_info()})

    def get_queue_info(self) -> dict[str, Any]:
        return {"exec_info": {"queue_remaining": self.prompt_queue.get_tasks_remaining()}}

    def flush(self, timeout: float) -> None:
        """Wait until all queued messages are sent. Do not call it from the loop's own thread."""
        written = threading.Event()
        self.loop.call_soon_threadsafe(self.messages.put_nowait, (written, None, None))
        written.wait(timeout)

    async def publish_loop(self) -> None:
        while True:
            event, data, sid = await self.messages.get()
            try:
                await self._publish(event, data, sid)
            except Exception:
                logging.exception("Could not send %s", event)

    async def _publish(self, event: Any, data: Any, sid: str | None) -> None:
        if isinstance(event, threading.Event):
            event.set()
        elif isinstance(event, DropSockets):
            self._drop_sockets(event)
        else:
            await self.send(event, data, sid)
            self._count_frame(event)

    async def send(self, event: Any, data: Any, sid: str | None = None) -> None:
        if event == UNENCODED_PREVIEW_IMAGE:
            await self._send_to(_encode_bytes(PREVIEW_IMAGE, _legacy_preview(data)), sid)
        elif event == PREVIEW_IMAGE_WITH_METADATA:
            await self._send_to(_encode_bytes(event, _preview_with_metadata(*data)), sid)
        elif isinstance(data, bytes | bytearray):
            await self._send_to(_encode_bytes(event, data), sid)
        else:
            await self._send_to(json.dumps({"type": event, "data": data}), sid)

    async def _send_to(self, message: str | bytes, sid: str | None) -> None:
        receivers = list(self.sockets.values()) if sid is None else [self.sockets[sid]] if sid in self.sockets else []
        for ws in receivers:
            send: Callable[[Any], Awaitable[None]] = ws.send_str if isinstance(message, str) else ws.send_bytes
            try:
                await send(message)
            except _SEND_ERRORS as error:
                logging.warning("send error: %s", error)

    # -- faults -----------------------------------------------------------------------------------------------------

    def begin_prompt(self, prompt_id: str) -> None:
        self.counters.prompts_executed += 1
        setting = faults.take("lose_events")
        self._lost_events = setting["types"] if setting else None
        on_prompt_start(lambda: any(item[1] == prompt_id for item in self.prompt_queue.get_current_queue()[0]))

    def _count_frame(self, event: Any) -> None:
        setting = faults.peek("drop_socket") or {}
        if event == "execution_start":
            self._frames_left = int(setting.get("after_frames", 0))
        if self._frames_left <= 0:
            return
        self._frames_left -= 1
        if self._frames_left == 0 and faults.take("drop_socket"):
            self._drop_sockets(DropSockets(setting.get("how", "fin"), float(setting.get("refuse_s", 0))))

    def _is_lost(self, event: Any) -> bool:
        if not isinstance(event, str | int):
            return False
        name = "preview" if event in _PREVIEWS else event
        return self._lost_events == "all" or name in self._lost_events

    def _drop_sockets(self, drop: DropSockets) -> None:
        logging.warning("Dropping %d sockets by %s, as told", len(self.sockets), drop.how)
        self._refuse_until = time.monotonic() + drop.refuse_s
        for sid, ws in list(self.sockets.items()):
            del self.sockets[sid]
            if drop.how == "close_frame":
                self.in_background(ws.close(code=1001, message=b"told to"))
            else:
                _close_transport(ws, reset=drop.how == "rst")

    def in_background(self, work: Any) -> asyncio.Task[Any]:
        task: asyncio.Task[Any] = asyncio.ensure_future(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)
        return task

    # -- life -------------------------------------------------------------------------------------------------------

    def add_routes(self) -> None:
        """Add every route, once as it is and once under /api, then the packs' files and the frontend."""
        under_api = web.RouteTableDef()
        for route in self.routes:
            if isinstance(route, web.RouteDef):
                under_api.route(route.method, "/api" + route.path)(route.handler, **route.kwargs)
        self.app.add_routes([*under_api, *self.routes])
        for name, folder in nodes.EXTENSION_WEB_DIRS.items():
            self.app.add_routes([web.static(f"/extensions/{name}", folder)])
        # Last, since it takes every GET that is left.
        rest = web.static("/", self.web_root) if self.web_root else web.get("/{rest:.*}", _not_found)
        self.app.add_routes([rest])

    async def start(self, addresses: str, port: int) -> web.AppRunner:
        runner = web.AppRunner(self.app, access_log=None, handle_signals=False, shutdown_timeout=1.0)
        await runner.setup()
        logging.info("Starting server\n")
        for address in addresses.split(","):
            await web.TCPSite(runner, address, port).start()
            shown = f"[{address}]" if ":" in address else address
            logging.info("To see the GUI go to: http://%s:%d", shown, port)
        return runner


async def _not_found(_: web.Request) -> web.Response:
    return web.Response(status=404)


def _close_transport(ws: web.WebSocketResponse, reset: bool) -> None:
    transport = ws._req.transport if ws._req else None
    if transport is None:
        return
    if reset:
        connection = transport.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport.abort()
    else:
        transport.close()


def _encode_bytes(event: int, data: bytes | bytearray) -> bytes:
    return struct.pack(">I", event) + data


def _encode(preview: tuple[str, Any, int | None]) -> bytes:
    kind, image, size = preview
    if size is not None:
        image = ImageOps.contain(image, (size, size))
    buffer = BytesIO()
    image.save(buffer, format=kind, quality=95, compress_level=1)
    return buffer.getvalue()


def _legacy_preview(preview: tuple[str, Any, int | None]) -> bytes:
    return struct.pack(">I", 2 if preview[0] == "PNG" else 1) + _encode(preview)


def _preview_with_metadata(preview: tuple[str, Any, int | None], metadata: dict[str, Any]) -> bytes:
    kind = "image/png" if preview[0] == "PNG" else "image/jpeg"
    header = json.dumps({**metadata, "image_type": kind}).encode()
    return struct.pack(">I", len(header)) + header + _encode(preview)
