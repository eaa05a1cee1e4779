"""From what the page posts to what the endpoint gets: the prompt prepared, its files found, large ones uploaded.

A job that fits goes as one request. Of one that does not, the largest files go into the person's own bucket.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ..comfyui.server import Host
from ..jobs import Job, Request
from ..runpod.client import RUN_LIMIT_BYTES, Target, encode
from ..s3 import Bucket
from ..settings.bucket import BucketConfig
from ..settings.config import Config, ConfigError, Settings
from . import input_files as inputs
from .estimate import execution_order
from .prompt import (
    Prompt,
    PromptProblem,
    check_prompt,
    drop_local_nodes,
    take_repo_list,
    targets_of,
    without_secrets,
    workflow_of,
)
from .uploads import Source, Stopped, Uploader

UPLOADING = "uploading"
_TELL_S = 0.5
_END_S = 2.0  # an upload that stands still ends later, by itself


@dataclass(frozen=True)
class Parcel:
    """A job that is ready but for its files."""

    request: Request
    fields: dict[str, Any] = field(repr=False)
    sources: dict[str, Source]
    linked: list[str]
    """The names among ``sources`` that go by the bucket."""
    bucket: Bucket | None = None
    blamed: inputs.Input | None = None
    """The largest input: it turns red when an upload fails."""

    def with_files(self, links: dict[str, str]) -> dict[str, Any]:
        """All fields, with these links and the other files in base64. Reads files."""
        files = [
            {"name": name, "url": links[name]} if name in links else inputs.inline(name, source)
            for name, source in self.sources.items()
        ]
        return {**self.fields, "files": files}


def target_of(config: Config, endpoint: str) -> Target:
    """The endpoint with its key.

    Raises:
        PromptProblem: one of them is not set.
    """
    if not endpoint:
        raise PromptProblem("There is no endpoint yet. Enter it in Remote Config.")
    key = config.key_for(endpoint)
    if key is None:
        raise PromptProblem("There is no API key for this endpoint. Enter it in Remote Config, or set RUNPOD_API_KEY.")
    return Target(endpoint, key)


def pack(body: dict[str, Any], host: Host, settings: Settings, buckets: BucketConfig) -> Parcel:
    """Prepare what ``POST /remote/run`` brought. Reads files; for a thread.

    Raises:
        PromptProblem: it cannot be sent, and why.
    """
    extra = without_secrets(body.get("extra_data"))
    workflow = workflow_of(extra)
    prompt, repo_list = take_repo_list(check_prompt(body.get("prompt")), workflow)
    prompt = drop_local_nodes(prompt)
    targets = targets_of(body.get("partial_execution_targets"), prompt)
    needed = set(execution_order(prompt, targets))
    part = {node_id: node for node_id, node in prompt.items() if node_id in needed}
    found = inputs.find(part, host.folders, host.input_types)
    bucket, problem = _bucket(buckets)
    if bucket is None and sum({each.path: inputs.encoded_size(each.size) for each in found}.values()) > RUN_LIMIT_BYTES:
        raise inputs.too_large(found, RUN_LIMIT_BYTES, problem)
    with_names, sources = inputs.take(part, found)
    request = Request(prompt, extra, targets, str(workflow.get("id") or ""))
    fields = _fields(body, request, {**prompt, **with_names}, repo_list, settings)
    room = RUN_LIMIT_BYTES - len(encode({"input": fields}))
    linked = inputs.too_many({name: inputs.encoded_size(source.size) for name, source in sources.items()}, room)
    if room < 0:
        raise PromptProblem(
            f"The workflow alone is {(RUN_LIMIT_BYTES - room) / 1e6:.1f} MB, and RunPod takes "
            f"{RUN_LIMIT_BYTES / 1e6:.0f} MB in one job. Look for a text or a picture inside one of its nodes."
        )
    if linked and bucket is None:
        raise inputs.too_large(found, RUN_LIMIT_BYTES, problem)
    blamed = max(found, key=lambda each: each.size) if linked else None
    return Parcel(request, fields, sources, linked, bucket, blamed)


def _bucket(buckets: BucketConfig) -> tuple[Bucket | None, str]:
    try:
        return buckets.bucket(), ""
    except ConfigError as error:
        return None, f"{error} With a whole bucket the limit would be lifted."


def _fields(body: dict[str, Any], request: Request, sent: Prompt, repo_list: str, settings: Settings) -> dict[str, Any]:
    asked = body.get("remote")
    options = asked if isinstance(asked, dict) else {}
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


class Uploads:
    """The uploads that go on, each told as its job's progress. ``changed`` lets the pages know."""

    def __init__(self, changed: Callable[[], None]) -> None:
        self._changed = changed
        self._stops: dict[str, threading.Event] = {}

    async def bring(self, job: Job, parcel: Parcel) -> dict[str, str]:
        """Upload the parcel's large files; the links by name.

        Raises:
            UploadProblem: a file does not get there, and why.
            OSError: a file cannot be read.
            Stopped: the job was cancelled.
        """
        assert parcel.bucket
        stop, meter = threading.Event(), _Meter(sum(parcel.sources[name].size for name in parcel.linked))
        self._stops[job.prompt_id] = stop
        uploader = Uploader(parcel.bucket, stop, meter.add)
        sources = {name: parcel.sources[name] for name in parcel.linked}
        working = asyncio.ensure_future(
            asyncio.to_thread(lambda: {name: uploader.bring(source) for name, source in sources.items()})
        )
        try:
            while not working.done():
                if stop.is_set():
                    raise Stopped
                job.message, job.percent = meter.words(), meter.percent()
                self._changed()
                await asyncio.wait({working}, timeout=_TELL_S)
            return working.result()
        finally:
            stop.set()
            if not working.done():
                await asyncio.wait({working}, timeout=_END_S)
            working.add_done_callback(lambda done: done.cancelled() or done.exception())  # it may fail unheard
            self._stops.pop(job.prompt_id, None)

    def stop(self, job: Job) -> None:
        """End the job's upload, if one goes on."""
        if found := self._stops.get(job.prompt_id):
            found.set()


class _Meter:
    """How much is sent, counted by several threads."""

    def __init__(self, total: int) -> None:
        self._total, self._sent, self._lock = max(total, 1), 0, threading.Lock()

    def add(self, count: int) -> None:
        with self._lock:
            self._sent += count

    def percent(self) -> float:
        return min(99.0, self._sent / self._total * 100)

    def words(self) -> str:
        return f"Uploading large inputs: {self._sent / 1e6:.0f} of {self._total / 1e6:.0f} MB"
