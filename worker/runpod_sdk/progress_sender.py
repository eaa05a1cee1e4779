"""Sends a job's progress to RunPod: in order, at most two a second, and never after the answer.

The SDK's own ``progress_update`` starts a thread for each call. They overtake one another, and an update that arrives
after the answer leaves the job IN_PROGRESS for ever (runpod-python#250; measured with 1.12). Here one task sends the
newest state, one post at a time, and the answer waits for a running post. After a few failures it stops sending:
progress is best-effort and must never delay or fail the job.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import sys
from collections.abc import Mapping
from typing import Any

import aiohttp
from tqdm import tqdm

from worker.comfyui.progress import JobProgress

EVERY_S = 0.5
DRAW_EVERY_S = 0.1
POST_TIMEOUT_S = 1.0  # the longest that a hanging platform can delay the answer
FAILURES_ALLOWED = 3

log = logging.getLogger(__name__)


class ProgressSender:
    """Async context manager around one job; inside it, changes of ``progress`` are sent.

    Args:
        job_id: RunPod's id of the job.
        prompt: for the percentage.
        with_previews: send latent previews too.
        environ: has the SDK's addresses; without them (a local run) nothing is sent.
    """

    def __init__(
        self,
        job_id: str,
        prompt: Mapping[str, Any],
        *,
        with_previews: bool = False,
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        template = environ.get("RUNPOD_WEBHOOK_POST_OUTPUT", "")
        # Address and headers as the SDK 1.12 sends them (rp_http.py): the id in the path, the key without "Bearer".
        address = template.replace("$RUNPOD_POD_ID", environ.get("RUNPOD_POD_ID", "")).replace("$ID", job_id)
        self._url = f"{address}&isStream=false" if template else None
        self._headers = {
            "Authorization": environ.get("RUNPOD_AI_API_KEY", ""),
            "Content-Type": "application/x-www-form-urlencoded",
            "X-Request-ID": job_id,
        }
        self._changed = asyncio.Event()
        self._post: asyncio.Task[bool] | None = None
        self._task: asyncio.Task[None] | None = None
        self.progress = JobProgress(prompt, with_previews=with_previews, changed=self._changed.set)

    async def __aenter__(self) -> JobProgress:
        """Start to send; in a local run on a terminal, to draw a bar."""
        if self._url:
            self._task = asyncio.create_task(self._send_updates())
        elif sys.stderr.isatty():
            self._task = asyncio.create_task(self._draw_updates())
        return self.progress

    async def __aexit__(self, *exc: object) -> None:
        """Stop sending, and wait for a running post: its bytes may already be at the platform."""
        if self._task is None:
            return
        self._task.cancel()
        if self._post:
            await asyncio.wait({self._post})  # at most POST_TIMEOUT_S
        await asyncio.gather(self._task, return_exceptions=True)

    async def _send_updates(self) -> None:
        failures, clock = 0, asyncio.get_running_loop().time
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=POST_TIMEOUT_S)) as session:
            while failures < FAILURES_ALLOWED:
                await self._changed.wait()
                self._changed.clear()
                started = clock()
                self._post = asyncio.create_task(self._send(session))
                failures = 0 if await asyncio.shield(self._post) else failures + 1
                await asyncio.sleep(started + EVERY_S - clock())
        log.warning("RunPod rejects progress updates; the job goes on without them")

    async def _draw_updates(self) -> None:
        with tqdm(total=100, bar_format="{desc} |{bar}| {percentage:3.0f}%", leave=False) as bar:
            while True:
                await self._changed.wait()
                self._changed.clear()
                update = self.progress.pop_update()
                if update["phase"] != "models":  # downloads have their own bar, with bytes
                    bar.n = update["percent"] or 0
                    bar.set_description_str(update["message"])
                await asyncio.sleep(DRAW_EVERY_S)

    async def _send(self, session: aiohttp.ClientSession) -> bool:
        body = json.dumps({"status": "IN_PROGRESS", "output": self.progress.pop_update()}, ensure_ascii=False)
        assert self._url
        with contextlib.suppress(aiohttp.ClientError, asyncio.TimeoutError, OSError):
            async with session.post(self._url, data=body.encode(), headers=self._headers) as response:
                return response.status < 400
        return False
