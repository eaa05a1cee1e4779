"""The remote jobs of this ComfyUI: accepted from its pages, sent, followed, and listed."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from typing import Any

from .comfyui.access import HttpError
from .comfyui.events import TabEvents
from .comfyui.server import LocalComfyUI, start_task
from .config_routes import ConfigRoutes
from .following.follower import Follower
from .jobs import QUEUED, SUBMITTING, JobTable, RemoteJob
from .remote_sink import log
from .runpod.client import EndpointError, RunPodClient, Target
from .runpod.status import Failure
from .sending.prompt import PromptError
from .sending.submission import UPLOADING, JobUploads, PreparedJob, prepare, target_of
from .sending.uploads import UploadError, UploadStoppedError
from .settings.bucket import BucketConfig
from .settings.config import Config

EVENT = "remote_serverless.jobs"
_LISTED_JOBS = 50
_SENDING_STOPPED = "ComfyUI was stopped while the job was being sent. RunPod's console shows whether it arrived."
_UPLOAD_STOPPED = (
    "ComfyUI was stopped while the job's inputs were being uploaded, so nothing was sent. Queue it again: "
    "files that are already in the bucket are not uploaded twice."
)
_GIVEN_UP = "Cancelled here, but the endpoint could not be reached and may still run the job."
_GIVE_UP_S = 15  # a second Cancel after so long ends the job here though the endpoint cannot be reached


class RemoteService:
    """The pack's state and route handlers, as long as ComfyUI runs."""

    def __init__(self, comfyui: LocalComfyUI, config: Config, table: JobTable) -> None:
        self.comfyui, self.config, self.table = comfyui, config, table
        self.client = RunPodClient()
        self.buckets = BucketConfig(config.folder)
        self.config_routes = ConfigRoutes(config, self.buckets, self.client)
        self.uploads = JobUploads(self._broadcast)
        self.events = TabEvents(comfyui)
        self.follower = Follower(
            comfyui=comfyui, config=config, table=table, client=self.client, events=self.events, changed=self._broadcast
        )
        self._jobs: dict[str, RemoteJob] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._cancel_asked: dict[str, float] = {}
        self._last_sent, self._seq = "", time.time() * 1000
        comfyui.include_in_queue_count(lambda: len(self.active))

    # -- life --

    async def start(self, _app: Any = None) -> None:
        """Follow the jobs that had not ended when ComfyUI was stopped."""
        for job in self.table.load():
            self._jobs[job.prompt_id] = job
            if job.state == SUBMITTING:
                text = _UPLOAD_STOPPED if job.phase == UPLOADING else _SENDING_STOPPED
                self.follower.fail(job, Failure(text, "INTERRUPTED"))
            elif not job.is_over:
                log.info("Following remote job %s again", job.prompt_id)
                start_task(self.follower.follow(job), self._tasks)

    async def close(self, _app: Any = None) -> None:
        """Stop following. The jobs go on at the endpoint and are followed again at the next start."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.client.close()
        self.table.close()

    # -- run --

    async def run(self, body: dict[str, Any]) -> dict[str, Any]:
        """Answer ``POST /remote/run``, whose body is that of ``/prompt`` with ``remote`` options."""
        try:
            target = target_of(self.config, self.config.settings.endpoint)
            prepared = await asyncio.to_thread(prepare, body, self.comfyui, self.config.settings, self.buckets)
        except PromptError as error:
            raise HttpError(400, error.body()) from None
        job = self._accept(body, target, prepared)
        try:
            if not prepared.linked:
                await self._send(job, target, prepared, {})
        except (EndpointError, OSError) as error:
            self.table.remove(job)
            raise HttpError(400, PromptError(_message(error)).body()) from None
        self._jobs[job.prompt_id] = job
        start_task(self._upload(job, target, prepared) if prepared.linked else self._follow_soon(job), self._tasks)
        return {"prompt_id": job.prompt_id, "number": job.number, "node_errors": {}}

    def _accept(self, body: dict[str, Any], target: Target, prepared: PreparedJob) -> RemoteJob:
        """Store the job before it is sent, so that it survives a crash."""
        job = RemoteJob(
            prompt_id=str(uuid.uuid4()),
            number=self.comfyui.next_number(),
            client_id=str(body.get("client_id") or ""),
            endpoint=target.base,
            request=prepared.request,
            phase=UPLOADING if prepared.linked else "",
        )
        self.table.add(job)
        return job

    async def _send(self, job: RemoteJob, target: Target, prepared: PreparedJob, links: dict[str, str]) -> None:
        job.runpod_id = await self.client.run(target, await asyncio.to_thread(prepared.with_files, links))
        job.state, job.message = QUEUED, "Waiting for a worker"
        self.table.save(job)

    async def _upload(self, job: RemoteJob, target: Target, prepared: PreparedJob) -> None:
        """Upload the inputs and send the job; the page shows the upload as the job's progress."""
        await self._announce()
        try:
            links = await self.uploads.upload(job, prepared)
            if job.cancel_wanted:
                raise UploadStoppedError
            job.phase, job.percent, job.message = "", None, "Sending"
            self.table.save(job)
            await self._send(job, target, prepared, links)
        except UploadStoppedError:
            self.follower.mark_cancelled(job)
        except (UploadError, EndpointError, OSError) as error:
            largest = prepared.largest_input
            node = (largest.node_id, largest.class_type) if largest else ("", "")
            self.follower.fail(job, Failure(_message(error), "UPLOAD_FAILED", *node))
        else:
            await self.follower.follow(job)

    async def _follow_soon(self, job: RemoteJob) -> None:
        await self._announce()
        await self.follower.follow(job)

    async def _announce(self) -> None:
        self.comfyui.send_queue_count()
        self._broadcast()
        await asyncio.sleep(0.1)  # the page must receive the id before events of this job

    # -- the others --

    async def cancel(self, body: dict[str, Any]) -> dict[str, Any]:
        """Answer ``POST /remote/cancel``: ``prompt_ids``, ``all``, or the ``front`` job of a ``client_id``."""
        chosen = self._chosen(body)
        now = time.monotonic()
        for job in chosen:
            asked = self._cancel_asked.setdefault(job.prompt_id, now)
            if job.phase != "cancelling" and now - asked > _GIVE_UP_S:
                self.follower.mark_cancelled(job, _GIVEN_UP)
            else:
                job.cancel_wanted, job.message = True, "Cancelling"
                self.table.save(job)
            self.uploads.stop(job)
            self.follower.wake(job)
        self._broadcast()
        return {"cancelled": [job.prompt_id for job in chosen]}

    def _chosen(self, body: dict[str, Any]) -> list[RemoteJob]:
        active, client_id = self.active, body.get("client_id")
        ids = body.get("prompt_ids")
        if isinstance(ids, list):
            return [job for job in active if job.prompt_id in ids]
        if body.get("all") is True:
            return active
        if body.get("front") is True:
            of_tab = [job for job in active if job.client_id == client_id]
            return sorted(of_tab, key=lambda job: (job.state == QUEUED, job.number))[:1]
        raise HttpError(400, {"error": "Name `prompt_ids`, or `front` with a `client_id`, or `all`."})

    async def attach(self, body: dict[str, Any]) -> dict[str, Any]:
        """Answer ``POST /remote/attach``: give a loaded page its jobs, and those of closed tabs."""
        sid, workflow_id = str(body.get("client_id") or ""), str(body.get("workflow_id") or "")
        for job in self.active:
            if job.client_id != sid and not self.comfyui.is_connected(job.client_id):
                job.client_id = sid
                self.table.save(job)
        self.events.refresh_front(sid)
        self.events.replay(sid)
        for job in self._jobs.values():
            if job.outputs and not job.delivered_to_tab and workflow_id and job.request.workflow_id == workflow_id:
                job.client_id, job.delivered_to_tab = sid, True
                self.events.send_outputs(job)
                self.table.save(job)
        return self._list()

    async def jobs(self, _query: dict[str, Any]) -> dict[str, Any]:
        """Answer ``GET /remote/jobs``."""
        return self._list()

    async def get_config(self, _query: dict[str, Any]) -> dict[str, Any]:
        """Answer ``GET /remote/config``."""
        return self.config_routes.public()

    async def set_config(self, body: dict[str, Any]) -> dict[str, Any]:
        """Answer ``POST /remote/config``."""
        settings = self.config_routes.change(body)
        for job in self.active:
            self.follower.wake(job)
        return settings

    # -- the job list --

    @property
    def active(self) -> list[RemoteJob]:
        """The jobs that have not ended."""
        return [job for job in self._jobs.values() if not job.is_over]

    def _list(self) -> dict[str, Any]:
        over = [job for job in self._jobs.values() if job.is_over]
        return {"seq": self._seq, "jobs": [job.public() for job in [*self.active, *over[-_LISTED_JOBS:]]]}

    def _broadcast(self) -> None:
        """Send the job list to every page if it has changed."""
        recent = [job for job in self._jobs.values() if job.is_over][-5:]
        data = {"jobs": [{**job.public(), "outputs": {}} for job in [*self.active, *recent]]}
        text = json.dumps(data)
        if text != self._last_sent:
            self._last_sent = text
            self._seq = max(self._seq + 1, time.time() * 1000)  # from the clock: it must also grow across a restart
            self.comfyui.send(EVENT, {"seq": self._seq, **data}, None)


def _message(error: Exception) -> str:
    if isinstance(error, OSError):
        return f"An input file cannot be read ({error.strerror}). Queue the job again."
    return str(error)
