"""How word of a job comes: pushed over the endpoint's websocket where it has one, asked for where it has not."""

from __future__ import annotations

import asyncio
import json
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import aiohttp

from ..runpod.client import EndpointError, RunPodClient, Target

REFUSED_S = 600.0  # RunPod has no such route; an endpoint of one's own also says so of a job that it does not know
BROKEN_S = 5.0
SILENT_S = 15.0  # an open socket that has said nothing for so long is not taken at its word
_LARGE_CHARS = 100_000  # an answer, which takes long to read; progress is smaller


class Doors:
    """Which endpoints are not to be tried for a websocket now; shared by all jobs."""

    def __init__(self) -> None:
        self._shut: dict[Target, float] = {}

    def is_shut(self, target: Target) -> bool:
        """Whether a try would be in vain."""
        return time.monotonic() < self._shut.get(target, 0)

    def shut(self, target: Target, seconds: float) -> None:
        """Do not try for a while; another key is another target."""
        self._shut[target] = time.monotonic() + seconds


class EventSocket:
    """One job's websocket in a task of its own; every frame is a whole ``/status``."""

    def __init__(self, client: RunPodClient, doors: Doors, target: Target, job_id: str, news: Callable[[], None]):
        self.target, self.is_open = target, False
        self._client, self._doors, self._job_id, self._news = client, doors, job_id, news
        self._bodies: deque[dict[str, Any]] = deque(maxlen=64)
        self._task = asyncio.get_running_loop().create_task(self._listen())

    @property
    def is_over(self) -> bool:
        """Whether nothing more will come."""
        return self._task.done()

    def take(self) -> list[dict[str, Any]]:
        """What has come since the last time, oldest first."""
        bodies = list(self._bodies)
        self._bodies.clear()
        return bodies

    async def close(self) -> None:
        """Hang up; idempotent."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _listen(self) -> None:
        try:
            socket = await self._client.events(self.target, self._job_id)
        except EndpointError as error:
            passes = error.kind in ("network", "server", "busy")
            self._doors.shut(self.target, BROKEN_S if passes else REFUSED_S)
            return
        try:
            async for message in socket:
                body = await _status(message)
                if body is None:
                    break
                self.is_open = True
                self._bodies.append(body)
                self._news()
            if socket.close_code != aiohttp.WSCloseCode.OK:
                self._doors.shut(self.target, BROKEN_S)
        finally:
            self.is_open = False
            await socket.close()
        self._news()


async def _status(message: aiohttp.WSMessage) -> dict[str, Any] | None:
    if message.type is not aiohttp.WSMsgType.TEXT:
        return None
    try:
        large = len(message.data) > _LARGE_CHARS
        body = await asyncio.to_thread(json.loads, message.data) if large else json.loads(message.data)
    except (ValueError, RecursionError):
        return None
    return body if isinstance(body, dict) else None


class Ear:
    """Hears of one job by whichever way there is.

    Args:
        job_id: the endpoint's.
        news: called when there is something to :meth:`hear`, or the socket has broken and it is time to ask.
    """

    def __init__(self, client: RunPodClient, doors: Doors, job_id: str, news: Callable[[], None]) -> None:
        self._client, self._doors, self._job_id, self._news = client, doors, job_id, news
        self._socket: EventSocket | None = None
        self._heard = 0.0

    @property
    def is_told(self) -> bool:
        """Whether news comes by itself."""
        return self._socket is not None and self._socket.is_open

    async def hear(self, target: Target) -> list[dict[str, Any]]:
        """Bodies of ``/status``, oldest first; none while the socket is open and has nothing to say.

        Raises:
            EndpointError: there is no socket, and the endpoint cannot be asked.
        """
        bodies = self._take()
        if not bodies:
            await self._tune(target)
            if not self.is_told or time.monotonic() - self._heard > SILENT_S:
                body = await self._client.status(target, self._job_id)
                bodies = self._take() or [body]  # a socket opens with the newest
        if bodies:
            self._heard = time.monotonic()
        return bodies

    async def close(self) -> None:
        """Hear no more; idempotent."""
        if self._socket is not None:
            await self._socket.close()
            self._socket = None

    def _take(self) -> list[dict[str, Any]]:
        return self._socket.take() if self._socket is not None else []

    async def _tune(self, target: Target) -> None:
        """Have the right socket, or none."""
        if self._socket is not None and self._socket.target != target:
            await self.close()
        if (self._socket is None or self._socket.is_over) and not self._doors.is_shut(target):
            self._socket = EventSocket(self._client, self._doors, target, self._job_id, self._news)
