"""The HTTP API for the SDK's loop in a worker: on loopback, with the secret of that one process."""

from __future__ import annotations

import asyncio
from itertools import islice
from typing import Any

from aiohttp import web

from endpoint.job_queue import JobQueue
from endpoint.jobs import EndpointJob
from endpoint.json_http import answer, read_limited, refuse
from endpoint.run_request import BadRequestError, parse_json
from endpoint.workers import STOP_AGAIN_S, WorkerHandle, WorkerPool

POLL_S = 20.0  # the SDK times out after 90 s, and polls again at once after each answer
LEAVING_PAUSE_S = 0.2
RESULT_LIMIT = 10_000_000  # bytes, as RunPod's for /run and /runsync (docs: send-requests)
RESULT_LIMIT_SYNC = 20_000_000
TOO_LARGE = (
    "RESULT_TOO_LARGE: the worker's answer is larger than {mb:.0f} MB. Ask for fewer or smaller images, configure S3, "
    "or keep RESULT_LIMIT_MB below it."
)
NOT_JSON = "INTERNAL: the worker's answer could not be read ({problem}). Please report it."


class WorkerApi:
    """job-take, job-done, job-stream, job-stop and ping, as the SDK 1.12 calls them."""

    def __init__(self, queue: JobQueue, pool: WorkerPool) -> None:
        self._queue, self._pool = queue, pool

    def app(self) -> web.Application:
        """Return the routes."""
        app = web.Application(client_max_size=2**30)
        add = app.router.add_route
        add("GET", "/job-take/{worker}", self._take)
        add("GET", "/job-take-batch/{worker}", self._take_batch)
        add("GET", "/job-stop/{worker}", self._stop)
        add("GET", "/ping/{worker}", self._ping)
        add("POST", "/job-done/{worker}/{job}", self._done)
        add("POST", "/job-stream/{worker}/{job}", self._chunk)
        return app

    def _worker(self, request: web.Request) -> WorkerHandle:
        secret = request.query.get("secret", request.headers.get("Authorization", ""))
        worker = self._pool.authenticate(request.match_info["worker"], secret)
        if worker is None:
            raise web.HTTPUnauthorized
        return worker

    async def _take(self, request: web.Request) -> web.Response:
        return await self._next_jobs(request, batch_size=None)

    async def _take_batch(self, request: web.Request) -> web.Response:
        size = request.query.get("batch_size", "1")
        return await self._next_jobs(request, int(size) if size.isdecimal() else 1)

    async def _next_jobs(self, request: web.Request, batch_size: int | None) -> web.Response:
        worker = self._worker(request)
        self._pool.mark_ready(worker)
        if request.query.get("job_in_progress") == "0":
            worker.clear_stops()
            self._queue.lose_jobs(worker.id, "its worker dropped the job without answering")

        def take() -> list[bytes] | None:
            if worker.is_leaving or request.transport is None or request.transport.is_closing():
                return []
            waiting = iter(lambda: self._queue.take(worker.id), None)
            return list(islice(waiting, batch_size or 1)) or None

        jobs = await self._queue.changed.wait_for(take, POLL_S)
        if not jobs:
            return await self._no_content(worker)
        return answer(jobs[0] if batch_size is None else b"[" + b",".join(jobs) + b"]")

    async def _no_content(self, worker: WorkerHandle) -> web.Response:
        if worker.is_leaving:
            await asyncio.sleep(LEAVING_PAUSE_S)  # it polls on until it handles its SIGTERM
        return web.Response(status=204)

    async def _stop(self, request: web.Request) -> web.Response:
        worker = self._worker(request)
        ids = await self._queue.changed.wait_for(
            lambda: [] if worker.is_leaving else worker.jobs_to_stop() or None, POLL_S
        )
        if not ids:
            return await self._no_content(worker)
        asyncio.get_running_loop().call_later(STOP_AGAIN_S, self._queue.changed.notify)
        return answer({"jobsToStop": ids})

    async def _ping(self, request: web.Request) -> web.Response:
        self._worker(request)
        return answer({})

    async def _done(self, request: web.Request) -> web.Response:
        worker = self._worker(request)
        job = self._queue.running_job(worker.id, request.match_info["job"])
        limit = RESULT_LIMIT_SYNC if job and job.sync else RESULT_LIMIT
        raw = await read_limited(request, limit)
        job = self._queue.running_job(worker.id, request.match_info["job"])  # it may have ended during the read
        if raw is None:
            return self._reject(job, TOO_LARGE.format(mb=limit / 1e6), 413)
        try:
            body = parse_json(raw)
        except BadRequestError as error:
            return self._reject(job, NOT_JSON.format(problem=error), 400)
        if not isinstance(body, dict):
            return self._reject(job, NOT_JSON.format(problem="it is not an object"), 400)
        self._record(worker, job, body)
        return answer({})

    def _record(self, worker: WorkerHandle, job: EndpointJob | None, body: dict[str, Any]) -> None:
        if body.get("status") == "IN_PROGRESS":
            if job:
                self._queue.set_progress(job, body.get("output"))
            return
        if job:
            self._queue.finish(job, body)
        if body.get("stopPod"):
            worker.replace("it asked to be replaced")
            self._queue.changed.notify()

    def _reject(self, job: EndpointJob | None, error: str, status: int) -> web.Response:
        """Fail a job whose answer cannot be used: the SDK does not send it again after a 4xx."""
        if job:
            self._queue.finish(job, {"error": error})
        return refuse(status, error)

    async def _chunk(self, request: web.Request) -> web.Response:
        worker = self._worker(request)
        raw = await read_limited(request, RESULT_LIMIT)
        job = self._queue.running_job(worker.id, request.match_info["job"])
        if raw is None:
            return refuse(413, "the chunk is too large")
        try:
            body = parse_json(raw)
        except BadRequestError as error:
            return refuse(400, str(error))
        if job:
            self._queue.add_chunk(job, body)
        return answer({})
