"""The small pictures in a job's progress: the sampler's previews, and thumbnails of what a node has saved."""

from __future__ import annotations

import asyncio
import base64
import binascii
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..jobs import RemoteJob
from ..remote_sink import log, write_once
from .events import TabEvents
from .server import LocalComfyUI, decode_small_jpeg

MAX_JPEG_CHARS = 400_000
MAX_OF_A_JOB = 256


class Previews:
    """Shows them in their nodes.

    A thumbnail lies in ComfyUI's temp folder until the saved picture replaces it. If none comes, since the job failed
    or the node only previews, the thumbnail stays: ComfyUI empties that folder when it starts.
    """

    def __init__(self, comfyui: LocalComfyUI, events: TabEvents) -> None:
        self._comfyui, self._events = comfyui, events
        self._thumbnails: dict[str, dict[str, dict[int, Path]]] = {}

    async def show(self, job: RemoteJob, progress: dict[str, Any]) -> None:
        """Show the pictures of one update; anything that is not a small JPEG is skipped."""
        preview = progress.get("preview")
        if isinstance(preview, dict) and (jpeg := _jpeg_of(preview)):
            self._comfyui.send_preview(jpeg, str(preview.get("node") or ""), job.prompt_id, job.client_id)
        nodes = self._thumbnails.setdefault(job.prompt_id, {})
        changed = set()
        for node_id, index, jpeg in _valid_thumbnails(progress.get("thumbnails"), job):
            known = nodes.setdefault(node_id, {})
            if index not in known and sum(map(len, nodes.values())) < MAX_OF_A_JOB:
                path = await asyncio.to_thread(_write, self._comfyui.folders["temp"], jpeg)
                if path is not None:
                    known[index] = path
                    changed.add(node_id)
        for node_id in changed if not job.is_over else ():  # cancelled while they were written
            paths = [path for _, path in sorted(nodes[node_id].items())]
            images = [{"filename": path.name, "subfolder": "", "type": "temp"} for path in paths]
            self._events.early_output(job, node_id, {"images": images})

    def remove_replaced(self, job: RemoteJob) -> None:
        """Remove the thumbnails of the nodes that show their saved pictures now."""
        for node_id, known in self._thumbnails.pop(job.prompt_id, {}).items():
            if node_id in job.outputs:
                for path in known.values():
                    path.unlink(missing_ok=True)


def _valid_thumbnails(entries: Any, job: RemoteJob) -> Iterator[tuple[str, int, bytes]]:
    for entry in entries if isinstance(entries, list) else ():
        if not isinstance(entry, dict):
            continue
        node_id, index, jpeg = str(entry.get("node")), entry.get("index"), _jpeg_of(entry)
        if jpeg and node_id in job.request.prompt and isinstance(index, int) and 0 <= index < MAX_OF_A_JOB:
            yield node_id, index, jpeg


def _jpeg_of(entry: dict[str, Any]) -> bytes | None:
    text = entry.get("jpeg_b64")
    if not isinstance(text, str) or len(text) > MAX_JPEG_CHARS:
        return None
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None


def _write(folder: Path, jpeg: bytes) -> Path | None:
    """Write it under a name that nobody can guess. Return None if it is not a JPEG or the disk is full."""
    path = folder / f"remote_{secrets.token_hex(16)}.jpg"
    try:
        return path if decode_small_jpeg(jpeg) is not None and write_once(path, jpeg) else None
    except OSError:
        log.debug("a thumbnail could not be written", exc_info=True)
        return None
