"""Thumbnails of the images that a prompt has just saved: the caller sees them long before the answer.

They are best-effort, like all progress: made one at a time in a thread, left out on any error, and never waited for.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import logging
from collections.abc import Awaitable, Callable
from pathlib import PurePosixPath
from typing import Any

from worker.comfyui.api import NoAnswerError
from worker.comfyui.progress import PREVIEW_LIMIT_BYTES, JobProgress
from worker.results.convert import opaque
from worker.results.outputs import Output, OutputFile, outputs_of

SIDE = 512
MAX_PIXELS = 40_000_000  # a larger one takes over a second to decode, on a CPU that the job may need
TRIES = ((SIDE, 80), (SIDE, 50), (SIDE // 2, 50))  # side and quality: the first that fits; pure noise needs the last
MOST_OF_A_PROMPT = 64
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
HEAD_START_S = 0.1  # no thumbnail is needed of a prompt that ends right after its last image

Find = Callable[[Output], Awaitable[OutputFile | None]]

log = logging.getLogger(__name__)


def thumbnail(file: OutputFile) -> bytes | None:
    """Return an image as a JPEG of at most ``SIDE`` pixels and PREVIEW_LIMIT_BYTES; None if impossible. For threads."""
    from PIL import Image  # noqa: PLC0415 - only for jobs that ask: else every start takes 50 ms longer

    try:
        with Image.open(io.BytesIO(file.read())) as image:
            if image.width * image.height > MAX_PIXELS or image.mode.startswith(("I", "F")):
                return None
            image.draft("RGB", (SIDE, SIDE))
            image.thumbnail((SIDE, SIDE))
            small = opaque(image).convert("RGB")
        for side, quality in TRIES:
            out = io.BytesIO()
            small.thumbnail((side, side))
            small.save(out, "JPEG", quality=quality)
            if out.tell() <= PREVIEW_LIMIT_BYTES:
                return out.getvalue()
    except Exception:  # Pillow's readers raise anything on a broken file
        log.debug("no thumbnail of %s", file.output.filename, exc_info=True)
    return None


class Thumbnails:
    """Async context manager around one prompt; does nothing for a job that has not asked for previews.

    Args:
        progress: receives the thumbnails.
        find: returns the file of an output; None if it is gone.
    """

    def __init__(self, progress: JobProgress | None, find: Find) -> None:
        self._progress, self._find = progress, find
        self._waiting: asyncio.Queue[tuple[int, Output]] = asyncio.Queue()
        self._left = MOST_OF_A_PROMPT
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Thumbnails:
        """Start the task that makes them."""
        if self._progress and self._progress.with_previews:
            self._task = asyncio.create_task(self._make(self._progress))
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Stop making them. A thread under way ends by itself, and its thumbnail is dropped."""
        if self._task:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def on_executed(self, data: dict[str, Any]) -> None:
        """Queue the images of ComfyUI's ``executed`` event."""
        if self._task is None:
            return
        node_id = str(data.get("display_node") or data.get("node"))
        images = [
            output
            for output in outputs_of({"outputs": {node_id: data.get("output")}})
            if output.type in ("output", "temp") and PurePosixPath(output.filename).suffix.lower() in SUFFIXES
        ]
        for index, output in enumerate(images[: self._left]):
            self._left -= 1
            self._waiting.put_nowait((index, output))

    async def _make(self, progress: JobProgress) -> None:
        while True:
            index, output = await self._waiting.get()
            await asyncio.sleep(HEAD_START_S)
            with contextlib.suppress(NoAnswerError):
                file = await self._find(output)
                if file and (jpeg := await asyncio.to_thread(thumbnail, file)):
                    progress.add_thumbnail(output.node_id, index, jpeg)
