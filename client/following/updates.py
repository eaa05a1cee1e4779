"""The statuses of one job: pushed over the endpoint's websocket where it has one, polled where it has none."""

from __future__ import annotations

import asyncio
import json
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import aiohttp

from ..runpod.client import EndpointError, RunPodClient, Target

REFUSED_S = 600.0  # RunPod has no /events route; our own endpoint answers 404 for unknown jobs too
BROKEN_S = 5.0
SILENT_S = 15.0  # an open socket without a frame for so long may be dead: the endpoint is polled
_LARGE_CHARS = 100_000  # a result, which takes long to parse; progress is smaller


class BackoffTable:
    """The endpoints that are not tried for a websocket for a while; shared by all jobs."""

    def __init__(self) -> None:
        self._paused_until: dict[Target, float] = {}

    def is_paused(self, target: Target) -> bool:
        """Return True while this endpoint should not be tried."""
        return time.monotonic() < self._paused_until.get(target, 0)

    def pause(self, target: Target, seconds: float) -> None:
        """Do not try this endpoint for a while; the same endpoint with another key is another target."""
        self._paused_until[target] = time.monotonic() + seconds


class EventSocket:
    """One job's websocket, read in a task of its own; every frame is a whole ``/status``."""

    def __init__(
        self, client: RunPodClient, backoff: BackoffTable, target: Target, job_id: str, on_update: Callable[[], None]
    ) -> None:
        self.target, self.is_open = target, False
        self._client, self._backoff, self._job_id, self._on_update = client, backoff, job_id, on_update
        self._statuses: deque[dict[str, Any]] = deque(maxlen=64)
        self._task = asyncio.get_running_loop().create_task(self._listen())

    @property
    def is_closed(self) -> bool:
        """True once no further frame can come."""
        return self._task.done()

    def pop_statuses(self) -> list[dict[str, Any]]:
        """Return the statuses received since the last call, oldest first."""
        statuses = list(self._statuses)
        self._statuses.clear()
        return statuses

    async def close(self) -> None:
        """Close the connection; idempotent."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _listen(self) -> None:
        try:
            socket = await self._client.events(self.target, self._job_id)
        except EndpointError as error:
            is_temporary = error.kind in ("network", "server", "busy")
            self._backoff.pause(self.target, BROKEN_S if is_temporary else REFUSED_S)
            return
        try:
            async for message in socket:
                status = await _parse(message)
                if status is None:
                    break
                self.is_open = True
                self._statuses.append(status)
                self._on_update()
            if socket.close_code != aiohttp.WSCloseCode.OK:
                self._backoff.pause(self.target, BROKEN_S)
        finally:
            self.is_open = False
            await socket.close()
        self._on_update()


async def _parse(message: aiohttp.WSMessage) -> dict[str, Any] | None:
    if message.type is not aiohttp.WSMsgType.TEXT:
        return None
    try:
        is_large = len(message.data) > _LARGE_CHARS
        status = await asyncio.to_thread(json.loads, message.data) if is_large else json.loads(message.data)
    except (ValueError, RecursionError):
        return None
    return status if isinstance(status, dict) else None


class JobUpdates:
    """The statuses of one job, over the websocket or by polling.

    Args:
        job_id: the endpoint's id of the job.
        on_update: called when a status has come, or when the socket has broken and it is time to poll.
    """

    def __init__(self, client: RunPodClient, backoff: BackoffTable, job_id: str, on_update: Callable[[], None]) -> None:
        self._client, self._backoff, self._job_id, self._on_update = client, backoff, job_id, on_update
        self._socket: EventSocket | None = None
        self._last_status_at = 0.0

    @property
    def is_pushed(self) -> bool:
        """True while the endpoint sends statuses by itself."""
        return self._socket is not None and self._socket.is_open

    async def next_statuses(self, target: Target) -> list[dict[str, Any]]:
        """Return the new bodies of ``/status``, oldest first; none while the socket is open and silent.

        Raises:
            EndpointError: there is no socket, and polling failed.
        """
        statuses = self._pop_pushed()
        if not statuses:
            await self._connect(target)
            if not self.is_pushed or time.monotonic() - self._last_status_at > SILENT_S:
                polled = await self._client.status(target, self._job_id)
                statuses = self._pop_pushed() or [polled]  # the first frame of a socket is newer than the poll
        if statuses:
            self._last_status_at = time.monotonic()
        return statuses

    async def close(self) -> None:
        """Close the socket; idempotent."""
        if self._socket is not None:
            await self._socket.close()
            self._socket = None

    def _pop_pushed(self) -> list[dict[str, Any]]:
        return self._socket.pop_statuses() if self._socket is not None else []

    async def _connect(self, target: Target) -> None:
        """Open a socket to this target unless it has one or is paused; close one to another target."""
        if self._socket is not None and self._socket.target != target:
            await self.close()
        if (self._socket is None or self._socket.is_closed) and not self._backoff.is_paused(target):
            self._socket = EventSocket(self._client, self._backoff, target, self._job_id, self._on_update)
