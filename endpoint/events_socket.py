"""The websocket of one job: every change as the body of its /status, the first at once, the last when it is done."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

from aiohttp import WSCloseCode, web

from endpoint import auth
from endpoint.job_queue import Desk
from endpoint.jobs import Job
from endpoint.json_http import refuse
from endpoint.subscribers import put

HEARTBEAT_S = 20.0


async def serve_events(request: web.Request, job: Job, desk: Desk, stopping: Callable[[], bool]) -> web.StreamResponse:
    """Answer a websocket's handshake and stay until the job is done, the caller has gone or the endpoint ends."""
    socket = web.WebSocketResponse(protocols=(auth.PROTOCOL,), heartbeat=HEARTBEAT_S, max_msg_size=4096, compress=False)
    if not socket.can_prepare(request).ok:
        return refuse(426, "this route is a websocket", Upgrade="websocket")
    with desk.watchers.watching(job.id) as frames:
        put(frames, desk.status(job))
        if job.is_final:
            put(frames, None)
        await socket.prepare(request)
        async with _listening(socket, frames):
            with contextlib.suppress(ConnectionError):  # the watcher has gone
                while (frame := await frames.get()) is not None:
                    await socket.send_str(frame.decode())
            await socket.close(code=WSCloseCode.GOING_AWAY if stopping() else WSCloseCode.OK)
    return socket


@contextlib.asynccontextmanager
async def _listening(socket: web.WebSocketResponse, frames: asyncio.Queue[bytes | None]) -> AsyncIterator[None]:
    """Notice, while frames go out, that the other side closes."""

    async def listen() -> None:
        async for _ in socket:
            pass  # there is nothing to say to this route
        put(frames, None)

    task = asyncio.create_task(listen())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
