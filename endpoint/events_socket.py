"""The websocket of one job: each change as the body of its /status, the first at once, the last when it is done."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

from aiohttp import WSCloseCode, web

from endpoint import auth
from endpoint.job_queue import JobQueue
from endpoint.jobs import EndpointJob
from endpoint.json_http import refuse
from endpoint.subscribers import put_dropping_oldest

HEARTBEAT_S = 20.0


async def serve_events(
    request: web.Request, job: EndpointJob, queue: JobQueue, is_stopping: Callable[[], bool]
) -> web.StreamResponse:
    """Answer the handshake, then send frames until the job is done, the caller disconnects or the endpoint stops."""
    socket = web.WebSocketResponse(protocols=(auth.PROTOCOL,), heartbeat=HEARTBEAT_S, max_msg_size=4096, compress=False)
    if not socket.can_prepare(request).ok:
        return refuse(426, "this route is a websocket", Upgrade="websocket")
    with queue.subscribers.subscribe(job.id) as frames:
        put_dropping_oldest(frames, queue.status(job))
        if job.is_final:
            put_dropping_oldest(frames, None)
        await socket.prepare(request)
        async with _end_on_disconnect(socket, frames):
            with contextlib.suppress(ConnectionError):  # the caller disconnected
                while (frame := await frames.get()) is not None:
                    await socket.send_str(frame.decode())
            await socket.close(code=WSCloseCode.GOING_AWAY if is_stopping() else WSCloseCode.OK)
    return socket


@contextlib.asynccontextmanager
async def _end_on_disconnect(socket: web.WebSocketResponse, frames: asyncio.Queue[bytes | None]) -> AsyncIterator[None]:
    """Read from the socket during the block, since only reading notices a disconnect; end ``frames`` then."""

    async def read() -> None:
        async for _ in socket:
            pass  # this route takes no messages
        put_dropping_oldest(frames, None)

    task = asyncio.create_task(read())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
