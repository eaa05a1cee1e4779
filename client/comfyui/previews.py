"""The small pictures inside a job's progress: latent previews, and what a node has saved, before the job's end."""

from __future__ import annotations

import asyncio
import base64
import binascii
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..jobs import Job
from ..remote_sink import log, write_once
from .events import Stage
from .server import Host, small_jpeg

MAX_JPEG_CHARS = 400_000
MAX_OF_A_JOB = 256


class Pictures:
    """Shows them in their nodes.

    What a node has saved lies in ComfyUI's temp folder until the real picture takes its place. Where none comes, since
    the job failed or the node only previews, it goes on being shown: ComfyUI empties that folder when it starts.
    """

    def __init__(self, host: Host, stage: Stage) -> None:
        self._host, self._stage = host, stage
        self._early: dict[str, dict[str, dict[int, Path]]] = {}

    async def show(self, job: Job, progress: dict[str, Any]) -> None:
        """Take in what a worker tells; whatever is no small JPEG is passed over."""
        preview = progress.get("preview")
        if isinstance(preview, dict) and (jpeg := _bytes(preview)):
            self._host.send_preview(jpeg, str(preview.get("node") or ""), job.prompt_id, job.client_id)
        nodes = self._early.setdefault(job.prompt_id, {})
        changed = set()
        for node_id, index, jpeg in _saved(progress.get("thumbnails"), job):
            known = nodes.setdefault(node_id, {})
            if index not in known and sum(map(len, nodes.values())) < MAX_OF_A_JOB:
                path = await asyncio.to_thread(_kept, self._host.folders["temp"], jpeg)
                if path is not None:
                    known[index] = path
                    changed.add(node_id)
        for node_id in changed if not job.is_over else ():  # given up while they were written
            images = [
                {"filename": nodes[node_id][index].name, "subfolder": "", "type": "temp"}
                for index in sorted(nodes[node_id])
            ]
            self._stage.early(job, node_id, {"images": images})

    def over(self, job: Job) -> None:
        """Remove those whose node shows its real picture by now."""
        for node_id, known in self._early.pop(job.prompt_id, {}).items():
            if node_id in job.outputs:
                for path in known.values():
                    path.unlink(missing_ok=True)


def _saved(entries: Any, job: Job) -> Iterator[tuple[str, int, bytes]]:
    for entry in entries if isinstance(entries, list) else ():
        if not isinstance(entry, dict):
            continue
        node_id, index, jpeg = str(entry.get("node")), entry.get("index"), _bytes(entry)
        if jpeg and node_id in job.request.prompt and isinstance(index, int) and 0 <= index < MAX_OF_A_JOB:
            yield node_id, index, jpeg


def _bytes(entry: dict[str, Any]) -> bytes | None:
    text = entry.get("jpeg_b64")
    if not isinstance(text, str) or len(text) > MAX_JPEG_CHARS:
        return None
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None


def _kept(folder: Path, jpeg: bytes) -> Path | None:
    """Write it under a name that nobody can guess; None when it is no JPEG, or the disk is full."""
    path = folder / f"remote_{secrets.token_hex(16)}.jpg"
    try:
        return path if small_jpeg(jpeg) is not None and write_once(path, jpeg) else None
    except OSError:
        log.debug("an early picture could not be kept", exc_info=True)
        return None
