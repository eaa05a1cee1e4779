"""The face that the SDK's loop in a worker talks to: on loopback, with the secret of that one process."""

from __future__ import annotations

import asyncio
from typing import Any

from aiohttp import web

from endpoint.job_queue import Desk
from endpoint.jobs import Job
from endpoint.json_http import answer, read_limited, refuse
from endpoint.submission import BadRequest, parse_json
from endpoint.workers import STOP_AGAIN_S, Crew, Member

POLL_S = 20.0  # the SDK gives up after 90 s, and anything answered at once makes it spin
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

    def __init__(self, desk: Desk, crew: Crew) -> None:
        self._desk, self._crew = desk, crew

    def app(self) -> web.Application:
        """The routes."""
        app = web.Application(client_max_size=2**30)
        add = app.router.add_route
        add("GET", "/job-take/{worker}", self._take)
        add("GET", "/job-take-batch/{worker}", self._take_batch)
        add("GET", "/job-stop/{worker}", self._stop)
        add("GET", "/ping/{worker}", self._ping)
        add("POST", "/job-done/{worker}/{job}", self._done)
        add("POST", "/job-stream/{worker}/{job}", self._chunk)
        return app

    def _member(self, request: web.Request) -> Member:
        secret = request.query.get("secret", request.headers.get("Authorization", ""))
        member = self._crew.find(request.match_info["worker"], secret)
        if member is None:
            raise web.HTTPUnauthorized
        return member

    async def _take(self, request: web.Request) -> web.Response:
        return await self._give(request, batch_size=None)

    async def _take_batch(self, request: web.Request) -> web.Response:
        size = request.query.get("batch_size", "1")
        return await self._give(request, int(size) if size.isdecimal() else 1)

    async def _give(self, request: web.Request, batch_size: int | None) -> web.Response:
        member = self._member(request)
        self._crew.asked(member)
        if request.query.get("job_in_progress") == "0":
            member.is_idle()
            self._desk.lose(member.id, "its worker let it fall without an answer")

        def look() -> list[bytes] | None:
            if member.is_leaving or request.transport is None or request.transport.is_closing():
                return []
            first = self._desk.take(member.id)
            return None if first is None else [first, *self._more(member, (batch_size or 1) - 1)]

        given = await self._desk.changed.until(look, POLL_S)
        if not given:
            return await self._nothing(member)
        return answer(given[0] if batch_size is None else b"[" + b",".join(given) + b"]")

    def _more(self, member: Member, count: int) -> list[bytes]:
        found = (self._desk.take(member.id) for _ in range(count))
        return [job for job in found if job is not None]

    async def _nothing(self, member: Member) -> web.Response:
        if member.is_leaving:
            await asyncio.sleep(LEAVING_PAUSE_S)  # it asks again until it has noticed its SIGTERM
        return web.Response(status=204)

    async def _stop(self, request: web.Request) -> web.Response:
        member = self._member(request)
        ids = await self._desk.changed.until(lambda: [] if member.is_leaving else member.jobs_to_stop() or None, POLL_S)
        if not ids:
            return await self._nothing(member)
        asyncio.get_running_loop().call_later(STOP_AGAIN_S, self._desk.changed.give)
        return answer({"jobsToStop": ids})

    async def _ping(self, request: web.Request) -> web.Response:
        self._member(request)
        return answer({})

    async def _done(self, request: web.Request) -> web.Response:
        member = self._member(request)
        job = self._desk.owned(member.id, request.match_info["job"])
        limit = RESULT_LIMIT_SYNC if job and job.sync else RESULT_LIMIT
        raw = await read_limited(request, limit)
        job = self._desk.owned(member.id, request.match_info["job"])  # reading took a while
        if raw is None:
            return self._fail(job, TOO_LARGE.format(mb=limit / 1e6), 413)
        try:
            body = parse_json(raw)
        except BadRequest as error:
            return self._fail(job, NOT_JSON.format(problem=error), 400)
        if not isinstance(body, dict):
            return self._fail(job, NOT_JSON.format(problem="it is not an object"), 400)
        self._note(member, job, body)
        return answer({})

    def _note(self, member: Member, job: Job | None, body: dict[str, Any]) -> None:
        if body.get("status") == "IN_PROGRESS":
            if job:
                self._desk.progressed(job, body.get("output"))
            return
        if job:
            self._desk.answered(job, body)
        if body.get("stopPod"):
            member.dismiss("it asked to be replaced")
            self._desk.changed.give()

    def _fail(self, job: Job | None, error: str, status: int) -> web.Response:
        """Settle a job whose answer is of no use: the SDK does not send it again after a 4xx."""
        if job:
            self._desk.answered(job, {"error": error})
        return refuse(status, error)

    async def _chunk(self, request: web.Request) -> web.Response:
        member = self._member(request)
        raw = await read_limited(request, RESULT_LIMIT)
        job = self._desk.owned(member.id, request.match_info["job"])
        if raw is None:
            return refuse(413, "the chunk is too large")
        try:
            body = parse_json(raw)
        except BadRequest as error:
            return refuse(400, str(error))
        if job:
            self._desk.yielded(job, body)
        return answer({})
