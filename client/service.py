"""The remote jobs of this ComfyUI: taken from its pages, sent, followed, and told about."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from typing import Any

from . import inputs
from .answers import Failure
from .config import Config, check_key, parse_endpoint
from .estimate import execution_order
from .guards import Answer
from .host import Host, spawn
from .jobs import QUEUED, SUBMITTING, Job, JobTable, Request
from .native_events import Stage
from .poller import Follower
from .prompt_prep import (
    Prompt,
    PromptProblem,
    check_prompt,
    drop_local_nodes,
    take_repo_list,
    targets_of,
    without_secrets,
    workflow_of,
)
from .remote_sink import log
from .runpod_client import RUN_LIMIT_BYTES, EndpointError, RunPodClient, Target, encode

EVENT = "remote_serverless.jobs"
_SHOWN_JOBS = 50
_GIVE_UP_S = 15  # a second Cancel after so long ends a job here that the endpoint cannot be told about


class RemoteService:
    """Lives as long as ComfyUI."""

    def __init__(self, host: Host, config: Config, table: JobTable) -> None:
        self.host, self.config, self.table = host, config, table
        self.client = RunPodClient()
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
                text = "ComfyUI was stopped while the job was being sent. RunPod's console shows whether it was taken."
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
            target = self._target(self.config.settings.endpoint)
            request, sent, repo_list, files = await self._prepare(body)
            fields = self._fields(body, request, sent, repo_list, files)
            size = len(await asyncio.to_thread(encode, {"input": fields}))
            if size > RUN_LIMIT_BYTES:
                raise PromptProblem(
                    f"The job is {size / 1e6:.1f} MB, and RunPod takes {RUN_LIMIT_BYTES / 1e6:.0f} MB. "
                    "Most of it is usually the input pictures: make them smaller."
                )
            job = await self._submit(body, target, request, fields)
        except PromptProblem as problem:
            raise Answer(400, problem.body()) from None
        spawn(self._follow_soon(job), self._tasks)
        return {"prompt_id": job.prompt_id, "number": job.number, "node_errors": {}}

    def _target(self, endpoint: str) -> Target:
        if not endpoint:
            raise PromptProblem("There is no endpoint yet. Enter it in Remote Config.")
        key = self.config.key_for(endpoint)
        if key is None:
            raise PromptProblem(
                "There is no API key for this endpoint. Enter it in Remote Config, or set RUNPOD_API_KEY."
            )
        return Target(endpoint, key)

    async def _prepare(self, body: dict[str, Any]) -> tuple[Request, Prompt, str, list[dict[str, str]]]:
        extra = without_secrets(body.get("extra_data"))
        workflow = workflow_of(extra)
        prompt, repo_list = take_repo_list(check_prompt(body.get("prompt")), workflow)
        prompt = drop_local_nodes(prompt)
        targets = targets_of(body.get("partial_execution_targets"), prompt)
        needed = set(execution_order(prompt, targets))
        part = {node_id: node for node_id, node in prompt.items() if node_id in needed}
        with_files, files = await asyncio.to_thread(
            inputs.attach, part, self.host.folders, self.host.input_types, RUN_LIMIT_BYTES
        )
        request = Request(prompt, extra, targets, str(workflow.get("id") or ""))
        return request, {**prompt, **with_files}, repo_list, files

    def _fields(
        self, body: dict[str, Any], request: Request, sent: Prompt, repo_list: str, files: list[dict[str, str]]
    ) -> dict[str, Any]:
        options = body.get("remote") if isinstance(body.get("remote"), dict) else {}
        fields: dict[str, Any] = {
            "action": "run",
            "repo_list": repo_list,
            "prompt": sent,
            "extra_data": request.extra_data,
            "skip_repo_list": options.get("skip_repo_list") is True,
            "files": files,
        }
        if request.targets is not None:
            fields["partial_execution_targets"] = request.targets
        if self.config.settings.previews:
            fields["preview"] = True
        return fields

    async def _submit(self, body: dict[str, Any], target: Target, request: Request, fields: dict[str, Any]) -> Job:
        job = Job(
            prompt_id=str(uuid.uuid4()),
            number=self.host.next_number(),
            client_id=str(body.get("client_id") or ""),
            endpoint=target.base,
            request=request,
        )
        self.table.add(job)
        try:
            job.runpod_id = await self.client.run(target, fields)
        except EndpointError as error:
            self.table.remove(job)
            raise PromptProblem(error.message) from None
        job.state, job.message = QUEUED, "Waiting for a worker"
        self.table.save(job)
        self._jobs[job.prompt_id] = job
        return job

    async def _follow_soon(self, job: Job) -> None:
        self.host.queue_changed()
        self._tell()
        await asyncio.sleep(0.1)  # the page must know the id before it hears of it
        await self.follower.follow(job)

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
        """``GET /remote/config``: everything but the key."""
        settings = self.config.settings
        source = self.config.key_source(settings.endpoint)
        return {
            "endpoint": settings.endpoint,
            "ms_per_step": settings.ms_per_step,
            "learned_ms_per_step": settings.learned_ms_per_step,
            "previews": settings.previews,
            "keep_copy": settings.keep_copy,
            "key": {"configured": source is not None, "source": source},
        }

    async def set_config(self, body: dict[str, Any]) -> dict[str, Any]:
        """``POST /remote/config``: changes; ``api_key`` sets the key, ``forget_key`` removes it."""
        changes = dict(body)
        key, forget = changes.pop("api_key", None), changes.pop("forget_key", False)
        try:
            self.config.change(changes)
            if forget is True:
                self.config.forget_key()
            if isinstance(key, str) and key.strip():
                self.config.set_key(key, self.config.settings.endpoint)
        except ValueError as error:
            raise Answer(400, {"error": str(error)}) from None
        for job in self.active:
            self.follower.poke(job)
        return await self.get_config({})

    async def test(self, body: dict[str, Any]) -> dict[str, Any]:
        """``POST /remote/test``: whether what is in the dialog would work, in words; nothing is kept."""
        try:
            health = await self.client.health(self._target_to_test(body))
        except (PromptProblem, EndpointError) as problem:
            return {"ok": False, "message": problem.message}
        except ValueError as error:
            return {"ok": False, "message": str(error)}
        return {"ok": True, "message": health_message(health)}

    def _target_to_test(self, body: dict[str, Any]) -> Target:
        endpoint = parse_endpoint(str(body.get("endpoint") or "")) or self.config.settings.endpoint
        typed = str(body.get("api_key") or "")
        return Target(endpoint, check_key(typed)) if typed and endpoint else self._target(endpoint)

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


def health_message(health: dict[str, Any]) -> str:
    """RunPod's ``/health`` as a sentence."""
    workers, jobs = health.get("workers"), health.get("jobs")
    if not isinstance(workers, dict):
        return "The endpoint answers."
    ready = sum(_count(workers, name) for name in ("idle", "ready", "running")) - min(
        _count(workers, "idle"), _count(workers, "ready")
    )
    starting, throttled = _count(workers, "initializing"), _count(workers, "throttled")
    waiting = _count(jobs, "inQueue") if isinstance(jobs, dict) else 0
    parts = [f"{ready} worker{'s' if ready != 1 else ''} ready"]
    parts += [f"{starting} starting"] if starting else []
    parts += [f"{throttled} waiting for a GPU"] if throttled else []
    parts += [f"{waiting} job{'s' if waiting != 1 else ''} in the queue"] if waiting else []
    cold = "" if ready else " The first job will wait for a cold start."
    return f"The endpoint answers: {', '.join(parts)}.{cold}"


def _count(counts: dict[str, Any], name: str) -> int:
    value = counts.get(name)
    return value if isinstance(value, int) else 0
