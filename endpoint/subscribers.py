"""Who watches which job: each watcher has a short queue of its own, so that a slow one delays nobody."""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import Iterator

QUEUE_LENGTH = 64  # half a minute of progress; every frame is a whole status, so that the oldest can be spared


class Watchers:
    """Hands frames to those who watch a job."""

    def __init__(self) -> None:
        self._queues: defaultdict[str, set[asyncio.Queue[bytes | None]]] = defaultdict(set)

    @contextlib.contextmanager
    def watching(self, job_id: str) -> Iterator[asyncio.Queue[bytes | None]]:
        """The frames of a job from now on; None means that no more will come."""
        queue: asyncio.Queue[bytes | None] = asyncio.Queue(QUEUE_LENGTH)
        self._queues[job_id].add(queue)
        try:
            yield queue
        finally:
            self._queues[job_id].discard(queue)
            if not self._queues[job_id]:
                del self._queues[job_id]

    def watched(self, job_id: str) -> bool:
        """Whether anybody watches it: a frame costs time to make."""
        return job_id in self._queues

    def tell(self, job_id: str, frame: bytes | None) -> None:
        """Give everyone a frame; one who is far behind loses the oldest."""
        for queue in self._queues.get(job_id, ()):
            put(queue, frame)

    def close(self) -> None:
        """Tell everyone that the endpoint ends."""
        for job_id in list(self._queues):
            self.tell(job_id, None)


def put(queue: asyncio.Queue[bytes | None], frame: bytes | None) -> None:
    """Add a frame, at the cost of the oldest when the queue is full."""
    if queue.full():
        queue.get_nowait()
    queue.put_nowait(frame)
