"""The remote jobs of this ComfyUI: taken from its pages, sent, followed, and told about."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from typing import Any

from .comfyui.access import Answer
from .comfyui.events import Stage
from .comfyui.server import Host, spawn
from .config_routes import Dialog
from .following.follower import Follower
from .jobs import QUEUED, SUBMITTING, Job, JobTable
from .remote_sink import log
from .runpod.client import EndpointError, RunPodClient, Target
from .runpod.status import Failure
from .sending.prompt import PromptProblem
from .sending.submission import UPLOADING, Parcel, Uploads, pack, target_of
from .sending.uploads import Stopped, UploadProblem
from .settings.bucket import BucketConfig
from .settings.config import Config

EVENT = "remote_serverless.jobs"
_SHOWN_JOBS = 50
_SENDING_STOPPED = "ComfyUI was stopped while the job was being sent. RunPod's console shows whether it was taken."
_UPLOAD_STOPPED = (
    "ComfyUI was stopped while the job's inputs were uploaded; nothing was sent. Queue it again: "
    "files that are in the bucket already are not uploaded again."
)
_GIVE_UP_S = 15  # a second Cancel after so long ends a job here that the endpoint cannot be told about


class RemoteService:
    """Lives as long as ComfyUI."""

    def __init__(self, host: Host, config: Config, table: JobTable) -> None:
        self.host, self.config, self.table = host, config, table
        self.client = RunPodClient()
        self.buckets = BucketConfig(config.folder)
        self.dialog = Dialog(config, self.buckets, self.client)
        self.uploads = Uploads(self._tell)
        self.stage = Stage(host)
        self.follower = Follower(
            host=host, config=config, table=table, client=self.client, stage=self.stage, changed=self._tell
        )
        self._jobs: dict[str, Job] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._cancel_asked: dict[str, float] = {}
        self._told, self._seq = "", time.time() * 1000
        host.count(self._remaining)

    # -- life --

    async def start(self, _app: Any = None) -> None:
        """Pick up what was out when ComfyUI ended."""
        for job in self.table.load():
            self._jobs[job.prompt_id] = job
            if job.state == SUBMITTING:
                text = _UPLOAD_STOPPED if job.phase == UPLOADING else _SENDING_STOPPED
                self.follower.fail(job, Failure(text, "INTERRUPTED"))
            elif not job.is_over:
                log.info("Remote job %s is followed again", job.prompt_id)
                spawn(self.follower.follow(job), self._tasks)

    async def close(self, _app: Any = None) -> None:
        """Stop following; the jobs go on at the endpoint and are picked up at the next start."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.client.close()
        self.table.close()

    # -- run --

    async def run(self, body: dict[str, Any]) -> dict[str, Any]:
        """``POST /remote/run``: what the UI would post to ``/prompt``, with ``remote`` options beside it."""
        try:
            target = target_of(self.config, self.config.settings.endpoint)
            parcel = await asyncio.to_thread(pack, body, self.host, self.config.settings, self.buckets)
        except PromptProblem as problem:
            raise Answer(400, problem.body()) from None
        job = self._accept(body, target, parcel)
        try:
            if not parcel.linked:
                await self._send(job, target, parcel, {})
        except (EndpointError, OSError) as error:
            self.table.remove(job)
            raise Answer(400, PromptProblem(_words(error)).body()) from None
        self._jobs[job.prompt_id] = job
        spawn(self._upload(job, target, parcel) if parcel.linked else self._follow_soon(job), self._tasks)
        return {"prompt_id": job.prompt_id, "number": job.number, "node_errors": {}}

    def _accept(self, body: dict[str, Any], target: Target, parcel: Parcel) -> Job:
        """The job as it is on disk before the endpoint can have it."""
        job = Job(
            prompt_id=str(uuid.uuid4()),
            number=self.host.next_number(),
            client_id=str(body.get("client_id") or ""),
            endpoint=target.base,
            request=parcel.request,
            phase=UPLOADING if parcel.linked else "",
        )
        self.table.add(job)
        return job

    async def _send(self, job: Job, target: Target, parcel: Parcel, links: dict[str, str]) -> None:
        job.runpod_id = await self.client.run(target, await asyncio.to_thread(parcel.with_files, links))
        job.state, job.message = QUEUED, "Waiting for a worker"
        self.table.save(job)

    async def _upload(self, job: Job, target: Target, parcel: Parcel) -> None:
        """What takes minutes is not waited for by the page: it hears of it as of the job's progress."""
        await self._begin()
        try:
            links = await self.uploads.bring(job, parcel)
            if job.cancel_wanted:
                raise Stopped
            job.phase, job.percent, job.message = "", None, "Sending"
            self.table.save(job)
            await self._send(job, target, parcel, links)
        except Stopped:
            self.follower.cancelled(job)
        except (UploadProblem, EndpointError, OSError) as problem:
            blamed = (parcel.blamed.node_id, parcel.blamed.class_type) if parcel.blamed else ("", "")
            self.follower.fail(job, Failure(_words(problem), "UPLOAD_FAILED", *blamed))
        else:
            await self.follower.follow(job)

    async def _follow_soon(self, job: Job) -> None:
        await self._begin()
        await self.follower.follow(job)

    async def _begin(self) -> None:
        self.host.queue_changed()
        self._tell()
        await asyncio.sleep(0.1)  # the page must know the id before it hears of it

    # -- the others --

    async def cancel(self, body: dict[str, Any]) -> dict[str, Any]:
        """``POST /remote/cancel``: ``prompt_ids``, or ``all`` or the ``front`` job of a ``client_id``."""
        chosen = self._chosen(body)
        now = time.monotonic()
        for job in chosen:
            asked = self._cancel_asked.setdefault(job.prompt_id, now)
            if job.phase != "cancelling" and now - asked > _GIVE_UP_S:
                self.follower.cancelled(job, "Given up here; the endpoint could not be told and may still run it.")
            else:
                job.cancel_wanted, job.message = True, "Cancelling"
                self.table.save(job)
            self.uploads.stop(job)
            self.follower.poke(job)
        self._tell()
        return {"cancelled": [job.prompt_id for job in chosen]}

    def _chosen(self, body: dict[str, Any]) -> list[Job]:
        active, client_id = self.active, body.get("client_id")
        ids = body.get("prompt_ids")
        if isinstance(ids, list):
            return [job for job in active if job.prompt_id in ids]
        if body.get("all") is True:
            return active
        if body.get("front") is True:
            mine = [job for job in active if job.client_id == client_id]
            return sorted(mine, key=lambda job: (job.state == QUEUED, job.number))[:1]
        raise Answer(400, {"error": "Name `prompt_ids`, or `front` with a `client_id`, or `all`."})

    async def attach(self, body: dict[str, Any]) -> dict[str, Any]:
        """``POST /remote/attach``: a page was loaded: hand it its jobs, and those of tabs that are gone."""
        sid, workflow_id = str(body.get("client_id") or ""), str(body.get("workflow_id") or "")
        for job in self.active:
            if job.client_id != sid and not self.host.is_connected(job.client_id):
                job.client_id = sid
                self.table.save(job)
        self.stage.settle(sid)
        self.stage.show(sid)
        for job in self._jobs.values():
            if job.outputs and not job.shown and workflow_id and job.request.workflow_id == workflow_id:
                job.client_id, job.shown = sid, True
                self.stage.executed(job)
                self.table.save(job)
        return self._list()

    async def jobs(self, _query: dict[str, Any]) -> dict[str, Any]:
        """``GET /remote/jobs``."""
        return self._list()

    async def get_config(self, _query: dict[str, Any]) -> dict[str, Any]:
        """``GET /remote/config``."""
        return self.dialog.told()

    async def set_config(self, body: dict[str, Any]) -> dict[str, Any]:
        """``POST /remote/config``."""
        told = self.dialog.change(body)
        for job in self.active:
            self.follower.poke(job)
        return told

    # -- telling --

    @property
    def active(self) -> list[Job]:
        """The jobs that are not over."""
        return [job for job in self._jobs.values() if not job.is_over]

    def _remaining(self) -> int:
        return len(self.active)

    def _list(self) -> dict[str, Any]:
        over = [job for job in self._jobs.values() if job.is_over]
        return {"seq": self._seq, "jobs": [job.public() for job in [*self.active, *over[-_SHOWN_JOBS:]]]}

    def _tell(self) -> None:
        """Every page hears of every change, and of nothing else."""
        recent = [job for job in self._jobs.values() if job.is_over][-5:]
        data = {"jobs": [{**job.public(), "outputs": {}} for job in [*self.active, *recent]]}
        text = json.dumps(data)
        if text != self._told:
            self._told = text
            self._seq = max(self._seq + 1, time.time() * 1000)  # by the clock, so that it also grows over a restart
            self.host.send(EVENT, {"seq": self._seq, **data}, None)


def _words(problem: Exception) -> str:
    if isinstance(problem, OSError):
        return f"An input file cannot be read ({problem.strerror}). Queue the job again."
    return str(problem)
