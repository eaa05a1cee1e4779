"""From the page's request to the endpoint's: prepares the prompt, finds its files, and uploads large ones.

A job that fits is sent as one request. Of a larger one, the largest files go into the user's own bucket.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ..comfyui.server import LocalComfyUI
from ..jobs import RemoteJob, Request
from ..runpod.client import RUN_LIMIT_BYTES, Target, encode
from ..s3 import SignedBucket
from ..settings.bucket import BucketConfig
from ..settings.config import ClientSettings, Config, ConfigError
from . import input_files as inputs
from .estimate import execution_order
from .prompt import (
    Prompt,
    PromptError,
    check_prompt,
    drop_local_nodes,
    take_repo_list,
    targets_of,
    without_secrets,
    workflow_of,
)
from .uploads import Uploader, UploadSource, UploadStoppedError

UPLOADING = "uploading"
_PROGRESS_S = 0.5
_END_S = 2.0  # a stalled upload ends later, at its own timeout


@dataclass(frozen=True)
class PreparedJob:
    """A job that is ready to send, except for its files."""

    request: Request
    fields: dict[str, Any] = field(repr=False)
    sources: dict[str, UploadSource]
    linked: list[str]
    """The names among ``sources`` that are uploaded to the bucket."""
    bucket: SignedBucket | None = None
    largest_input: inputs.FileInput | None = None
    """Its node turns red when an upload fails."""

    def with_files(self, links: dict[str, str]) -> dict[str, Any]:
        """Return all fields, with these links and the other files in base64. Reads the files."""
        files = [
            {"name": name, "url": links[name]} if name in links else inputs.inline(name, source)
            for name, source in self.sources.items()
        ]
        return {**self.fields, "files": files}


def target_of(config: Config, endpoint: str) -> Target:
    """Return the endpoint with its key.

    Raises:
        PromptError: one of them is not set.
    """
    if not endpoint:
        raise PromptError("There is no endpoint yet. Enter it in Remote Config.")
    key = config.key_for(endpoint)
    if key is None:
        raise PromptError("There is no API key for this endpoint. Enter it in Remote Config, or set RUNPOD_API_KEY.")
    return Target(endpoint, key)


def prepare(
    body: dict[str, Any], comfyui: LocalComfyUI, settings: ClientSettings, buckets: BucketConfig
) -> PreparedJob:
    """Prepare the job of a ``POST /remote/run``. Reads files, so call it in a thread.

    Raises:
        PromptError: the job cannot be sent.
    """
    extra = without_secrets(body.get("extra_data"))
    workflow = workflow_of(extra)
    prompt, repo_list = take_repo_list(check_prompt(body.get("prompt")), workflow)
    prompt = drop_local_nodes(prompt)
    targets = targets_of(body.get("partial_execution_targets"), prompt)
    needed = set(execution_order(prompt, targets))
    part = {node_id: node for node_id, node in prompt.items() if node_id in needed}
    found = inputs.find(part, comfyui.folders, comfyui.input_types)
    bucket, problem = _bucket(buckets)
    if bucket is None and sum({each.path: inputs.encoded_size(each.size) for each in found}.values()) > RUN_LIMIT_BYTES:
        raise inputs.too_large(found, RUN_LIMIT_BYTES, problem)
    with_names, sources = inputs.name_by_content(part, found)
    request = Request(prompt, extra, targets, str(workflow.get("id") or ""))
    fields = _fields(body, request, {**prompt, **with_names}, repo_list, settings)
    room = RUN_LIMIT_BYTES - len(encode({"input": fields}))
    linked = inputs.choose_linked({name: inputs.encoded_size(source.size) for name, source in sources.items()}, room)
    if room < 0:
        raise PromptError(
            f"The workflow alone is {(RUN_LIMIT_BYTES - room) / 1e6:.1f} MB, and RunPod accepts "
            f"{RUN_LIMIT_BYTES / 1e6:.0f} MB in one job. Look for a long text or a picture inside one of its nodes."
        )
    if linked and bucket is None:
        raise inputs.too_large(found, RUN_LIMIT_BYTES, problem)
    largest_input = max(found, key=lambda each: each.size) if linked else None
    return PreparedJob(request, fields, sources, linked, bucket, largest_input)


def _bucket(buckets: BucketConfig) -> tuple[SignedBucket | None, str]:
    try:
        return buckets.bucket(), ""
    except ConfigError as error:
        return None, f"{error} With a complete bucket larger inputs can be sent."


def _fields(
    body: dict[str, Any], request: Request, sent: Prompt, repo_list: str, settings: ClientSettings
) -> dict[str, Any]:
    remote = body.get("remote")
    options = remote if isinstance(remote, dict) else {}
    fields: dict[str, Any] = {
        "action": "run",
        "repo_list": repo_list,
        "prompt": sent,
        "extra_data": request.extra_data,
        "skip_repo_list": options.get("skip_repo_list") is True,
        "files": [],
    }
    if request.targets is not None:
        fields["partial_execution_targets"] = request.targets
    if settings.previews:
        fields["preview"] = True
    if settings.sidecars:
        fields["metadata"] = True
    if settings.result_format != "original":
        fields["result"] = {"format": settings.result_format}
    return fields


class JobUploads:
    """The uploads in progress. ``changed`` is called when a job's status line has changed."""

    def __init__(self, changed: Callable[[], None]) -> None:
        self._changed = changed
        self._stops: dict[str, threading.Event] = {}

    async def upload(self, job: RemoteJob, prepared: PreparedJob) -> dict[str, str]:
        """Upload the job's large files and return their links by name.

        Raises:
            UploadError: a file could not be uploaded.
            OSError: a file cannot be read.
            UploadStoppedError: the job was cancelled.
        """
        assert prepared.bucket
        stop, meter = threading.Event(), _UploadProgress(sum(prepared.sources[name].size for name in prepared.linked))
        self._stops[job.prompt_id] = stop
        uploader = Uploader(prepared.bucket, stop, meter.add)
        sources = {name: prepared.sources[name] for name in prepared.linked}
        working = asyncio.ensure_future(
            asyncio.to_thread(lambda: {name: uploader.upload(source) for name, source in sources.items()})
        )
        try:
            while not working.done():
                if stop.is_set():
                    raise UploadStoppedError
                job.message, job.percent = meter.message(), meter.percent()
                self._changed()
                await asyncio.wait({working}, timeout=_PROGRESS_S)
            return working.result()
        finally:
            stop.set()
            if not working.done():
                await asyncio.wait({working}, timeout=_END_S)
            working.add_done_callback(lambda done: done.cancelled() or done.exception())  # else asyncio logs it
            self._stops.pop(job.prompt_id, None)

    def stop(self, job: RemoteJob) -> None:
        """Stop the job's upload, if there is one."""
        if found := self._stops.get(job.prompt_id):
            found.set()


class _UploadProgress:
    """The bytes sent so far, counted by several threads."""

    def __init__(self, total: int) -> None:
        self._total, self._sent, self._lock = max(total, 1), 0, threading.Lock()

    def add(self, count: int) -> None:
        with self._lock:
            self._sent += count

    def percent(self) -> float:
        return min(99.0, self._sent / self._total * 100)

    def message(self) -> str:
        return f"Uploading large inputs: {self._sent / 1e6:.0f} of {self._total / 1e6:.0f} MB"
