"""Webhooks of finished jobs, with retries; a job's submission checks that its webhook's host is allowed."""

from __future__ import annotations

import asyncio
import logging

import aiohttp

from endpoint.job_queue import JobQueue
from endpoint.jobs import EndpointJob

log = logging.getLogger(__name__)

WAITS_S = (0.0, 10.0, 10.0)  # RunPod tries twice more, ten seconds apart (docs: send-requests, webhooks)
TIMEOUT_S = 30.0


class Webhooks:
    """Posts in the background; a post that was still due when the endpoint stopped is sent after its next start."""

    def __init__(self, queue: JobQueue, waits_s: tuple[float, ...] = WAITS_S) -> None:
        self._queue, self._waits_s = queue, waits_s
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        """Send the webhooks that are due, and those of all jobs that finish from now on."""
        self._queue.on_final = self._send
        for job in self._queue.webhooks_due():
            self._send(job)

    async def stop(self) -> None:
        """Leave the rest for the next start."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _send(self, job: EndpointJob) -> None:
        if job.webhook:
            task = asyncio.get_running_loop().create_task(self._post(job, job.webhook))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _post(self, job: EndpointJob, url: str) -> None:
        body = self._queue.status(job)
        headers = {"Content-Type": "application/json"}
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
        async with aiohttp.ClientSession(timeout=timeout, headers=headers) as session:
            for wait_s in self._waits_s:
                await asyncio.sleep(wait_s)
                try:
                    # A redirect could lead to a host that is not allowed.
                    async with session.post(url, data=body, allow_redirects=False) as response:
                        if response.status < 300:
                            break
                        problem = f"it answered {response.status}"
                except (aiohttp.ClientError, asyncio.TimeoutError, ValueError) as error:
                    problem = type(error).__name__
                log.warning("the webhook of job %s failed: %s", job.id, problem)
        self._queue.webhook_done(job)
