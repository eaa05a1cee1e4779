"""The subscribers to jobs' changes: each has a short queue of its own, so that a slow one delays nobody."""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import Iterator

QUEUE_LENGTH = 64  # half a minute of progress; each frame is a complete status, so the oldest can be dropped


class Subscribers:
    """Delivers frames to the subscribers of each job."""

    def __init__(self) -> None:
        self._queues: defaultdict[str, set[asyncio.Queue[bytes | None]]] = defaultdict(set)

    @contextlib.contextmanager
    def subscribe(self, job_id: str) -> Iterator[asyncio.Queue[bytes | None]]:
        """Yield the queue of a job's frames from now on; None in it means that no more will come."""
        queue: asyncio.Queue[bytes | None] = asyncio.Queue(QUEUE_LENGTH)
        self._queues[job_id].add(queue)
        try:
            yield queue
        finally:
            self._queues[job_id].discard(queue)
            if not self._queues[job_id]:
                del self._queues[job_id]

    def has_any(self, job_id: str) -> bool:
        """Return True if the job has subscribers: without them no frame need be made."""
        return job_id in self._queues

    def publish(self, job_id: str, frame: bytes | None) -> None:
        """Send a frame to all subscribers of a job; one that is far behind loses its oldest frame."""
        for queue in self._queues.get(job_id, ()):
            put_dropping_oldest(queue, frame)

    def close(self) -> None:
        """End every subscription: the endpoint is stopping."""
        for job_id in list(self._queues):
            self.publish(job_id, None)


def put_dropping_oldest(queue: asyncio.Queue[bytes | None], frame: bytes | None) -> None:
    """Add a frame; a full queue drops its oldest for it."""
    if queue.full():
        queue.get_nowait()
    queue.put_nowait(frame)
