"""The HTTP API for callers: RunPod's routes, shapes and limits."""

from __future__ import annotations

import json
import logging
import sqlite3
from collections.abc import Awaitable, Callable
from functools import cache
from pathlib import Path
from typing import Any

from aiohttp import web

from endpoint import auth
from endpoint.events_socket import serve_events
from endpoint.job_queue import JobQueue, QueueFullError
from endpoint.jobs import EndpointJob, JobState
from endpoint.json_http import answer, read_limited, refuse
from endpoint.options import Options
from endpoint.run_request import BadRequestError, ForbiddenError, parse_run_request
from endpoint.workers import WorkerPool

RUN_LIMIT = 10_000_000  # bytes (docs: operation-reference)
RUNSYNC_LIMIT = 20_000_000
WAIT_MS = (1_000, 300_000)
DEFAULT_WAIT_MS = 90_000
RETRYABLE = (JobState.FAILED, JobState.TIMED_OUT)
OPENAPI_FILE = Path(__file__).with_name("openapi.json")

log = logging.getLogger(__name__)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
JobHandler = Callable[[web.Request, EndpointJob], Awaitable[web.StreamResponse]]


@cache
def openapi() -> bytes:
    """Return the OpenAPI description of these routes."""
    return OPENAPI_FILE.read_bytes()


class ClientApi:
    """The routes under ``/v2/<id>``, and their description.

    Args:
        key: required by every route but the description.
        is_stopping: True while the endpoint stops and takes no more jobs.
    """

    def __init__(
        self, options: Options, key: str, queue: JobQueue, pool: WorkerPool, is_stopping: Callable[[], bool]
    ) -> None:
        self._options, self._key, self._queue, self._pool, self._is_stopping = options, key, queue, pool, is_stopping

    def app(self) -> web.Application:
        """Return the routes, with every error as JSON."""
        app = web.Application(middlewares=[self._cors, self._json_errors, self._authorized])
        base = f"/v2/{self._options.endpoint_id}"
        routes: list[tuple[str, str, Handler]] = [
            ("POST", "/run", self._run),
            ("POST", "/runsync", self._runsync),
            ("GET", "/status/{job}", self._of_job(self._status)),
            ("POST", "/status/{job}", self._of_job(self._status)),
            ("GET", "/stream/{job}", self._of_job(self._stream)),
            ("POST", "/stream/{job}", self._of_job(self._stream)),
            ("POST", "/cancel/{job}", self._of_job(self._cancel)),
            ("POST", "/retry/{job}", self._of_job(self._retry)),
            ("POST", "/purge-queue", self._purge),
            ("GET", "/health", self._health),
            ("GET", "/events/{job}", self._of_job(self._events)),
            ("GET", "/openapi.json", self._openapi),
        ]
        for method, path, handler in routes:
            app.router.add_route(method, base + path, handler)
        app.router.add_route("GET", "/openapi.json", self._openapi)
        return app

    # ------------------------------------------------------------ around every request

    @web.middleware
    async def _cors(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Let pages of the allowed origins read the answers; none is allowed by default."""
        origin = request.headers.get("Origin", "")
        if origin not in self._options.cors_origins:
            return await handler(request)
        allow = {"Access-Control-Allow-Origin": origin, "Vary": "Origin"}
        if request.method == "OPTIONS":
            allow["Access-Control-Allow-Methods"] = "GET, POST"
            allow["Access-Control-Allow-Headers"] = "Authorization, Content-Type"
            return web.Response(status=204, headers=allow)
        response = await handler(request)
        if not response.prepared:
            response.headers.update(allow)
        return response

    @web.middleware
    async def _json_errors(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            return await handler(request)
        except web.HTTPException as error:
            headers = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else {}
            return refuse(error.status, error.reason.lower(), **headers)
        except BadRequestError as error:
            return refuse(400, str(error))
        except ForbiddenError as error:
            return refuse(403, str(error))
        except QueueFullError:
            message = f"{self._options.max_queue} jobs wait already; send it again later"
            return refuse(429, message, **{"Retry-After": "5"})
        except sqlite3.Error as error:
            log.exception("the job could not be saved")
            return refuse(503, f"the endpoint cannot save the job: {error}")

    @web.middleware
    async def _authorized(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.path.endswith("/openapi.json") or self._has_key(request):
            return await handler(request)
        return refuse(401, "send the key as `Authorization: Bearer <key>`", **{"WWW-Authenticate": "Bearer"})

    def _has_key(self, request: web.Request) -> bool:
        if "Authorization" in request.headers:
            return auth.has_bearer(request.headers["Authorization"], self._key)
        if "/events/" in request.path:
            return auth.has_protocol_key(request.headers.get("Sec-WebSocket-Protocol", ""), self._key)
        return False

    def _of_job(self, handler: JobHandler) -> Handler:
        async def handle(request: web.Request) -> web.StreamResponse:
            job = self._queue.find(request.match_info["job"])
            if job is None:
                return refuse(404, "there is no such job, or its result has expired")
            return await handler(request, job)

        return handle

    # ------------------------------------------------------------ jobs

    async def _submit(self, request: web.Request, limit: int, *, sync: bool) -> EndpointJob | web.Response:
        raw = await read_limited(request, limit)
        if raw is None:
            return refuse(413, f"the body is larger than {limit / 1e6:.0f} MB")
        run_request = parse_run_request(raw, self._options.execution_timeout_s, self._options.webhook_hosts)
        if self._is_stopping():
            return refuse(503, "the endpoint is being stopped")
        return self._queue.submit(run_request, sync=sync)

    async def _run(self, request: web.Request) -> web.Response:
        job = await self._submit(request, RUN_LIMIT, sync=False)
        return job if isinstance(job, web.Response) else _id_and_status(job)

    async def _runsync(self, request: web.Request) -> web.Response:
        wait_ms = _wait_ms(request)
        job = await self._submit(request, RUNSYNC_LIMIT, sync=True)
        if isinstance(job, web.Response):
            return job
        job_id = job.id

        def final() -> EndpointJob | None:
            current = self._queue.find(job_id)
            return current if current and current.is_final else None

        done = await self._queue.changed.wait_for(lambda: final() or self._is_stopping() or None, wait_ms / 1000)
        if isinstance(done, EndpointJob):
            return answer(self._queue.status(done))
        return _id_and_status(self._queue.find(job_id) or job)

    async def _status(self, request: web.Request, job: EndpointJob) -> web.Response:
        return answer(self._queue.status(job))

    async def _stream(self, request: web.Request, job: EndpointJob) -> web.Response:
        return answer(self._queue.stream(job))

    async def _cancel(self, request: web.Request, job: EndpointJob) -> web.Response:
        return _id_and_status(self._queue.cancel(job))

    async def _retry(self, request: web.Request, job: EndpointJob) -> web.Response:
        if job.state not in RETRYABLE:
            return refuse(409, f"the job is {job.state.value}; only FAILED and TIMED_OUT jobs can be sent again")
        return _id_and_status(self._queue.retry(job))

    # ------------------------------------------------------------ the endpoint

    async def _purge(self, request: web.Request) -> web.Response:
        return answer({"removed": self._queue.purge(), "status": "completed"})

    async def _health(self, request: web.Request) -> web.Response:
        return answer({"jobs": self._queue.counts(), "workers": self._pool.counts(self._queue.busy_workers())})

    async def _openapi(self, request: web.Request) -> web.Response:
        document: dict[str, Any] = json.loads(openapi())
        document["servers"] = [{"url": f"/v2/{self._options.endpoint_id}"}]
        return answer(document)

    async def _events(self, request: web.Request, job: EndpointJob) -> web.StreamResponse:
        return await serve_events(request, job, self._queue, self._is_stopping)


def _id_and_status(job: EndpointJob) -> web.Response:
    return answer({"id": job.id, "status": job.state.value})


def _wait_ms(request: web.Request) -> int:
    given = request.query.getall("wait", [])
    if not given:
        return DEFAULT_WAIT_MS
    text, (low, high) = given[-1], WAIT_MS
    if len(given) > 1 or not (text.isascii() and text.isdigit() and low <= int(text[:9]) <= high):
        raise BadRequestError(f"`wait` must be a whole number of milliseconds from {low} to {high}")
    return int(text)
