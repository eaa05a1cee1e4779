"""The worker processes: ``handler.py`` under the real SDK, started, replaced, and ended with all their children."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
import time
from asyncio.subprocess import Process
from collections.abc import Mapping
from pathlib import Path

from endpoint.job_queue import JobQueue
from endpoint.options import Options
from endpoint.workers import WorkerHandle, WorkerPool

REPO_ROOT = Path(__file__).resolve().parent.parent
REAPER = Path(__file__).with_name("reaper.py")
COMMAND = (sys.executable, str(REPO_ROOT / "handler.py"))
SDK_CONFIG = Path("~/.runpod/config.toml")
BACK_OFF_S = (0.5, 30.0)  # the first wait before a worker is started again, and the longest
STEADY_S = 30.0  # a worker that lived this long did not fail to start
REPLACE_GRACE_S = 5.0  # a worker that is replaced ends by itself, and runs no job any more
KILL_GRACE_S = 5.0

log = logging.getLogger(__name__)


def worker_environment(environ: Mapping[str, str], worker: WorkerHandle, url: str, endpoint_id: str) -> dict[str, str]:
    """Return the user's environment, with RunPod's variables replaced by ones that lead the SDK to this endpoint."""
    users = {name: value for name, value in environ.items() if not name.startswith("RUNPOD_")}
    # If the SDK has a configuration file, it sends the key in it and ignores the environment's.
    query = f"gpu=local&secret={worker.secret}" if SDK_CONFIG.expanduser().exists() else "gpu=local"
    return {
        "RUNPOD_LOG_LEVEL": "INFO",
        **users,
        "RUNPOD_POD_ID": worker.id,
        "RUNPOD_ENDPOINT_ID": endpoint_id,
        "RUNPOD_AI_API_KEY": worker.secret,
        "RUNPOD_WEBHOOK_GET_JOB": f"{url}/job-take/$ID?{query}",
        "RUNPOD_WEBHOOK_POST_OUTPUT": f"{url}/job-done/$RUNPOD_POD_ID/$ID?{query}",
        "RUNPOD_WEBHOOK_POST_STREAM": f"{url}/job-stream/$RUNPOD_POD_ID/$ID?{query}",
        "RUNPOD_WEBHOOK_PING": f"{url}/ping/$RUNPOD_POD_ID?{query}",
        "RUNPOD_SKIP_AUTO_SYSTEM_CHECKS": "true",  # made for RunPod's machines; they dial 8.8.8.8
        "RUNPOD_SKIP_GPU_CHECK": "true",
        "PYTHONUNBUFFERED": "1",
    }


class WorkerSlot:
    """Keeps one worker process running until :meth:`stop`.

    Args:
        number: from 1; part of the worker's id.
        url: of the worker API.
    """

    def __init__(self, number: int, queue: JobQueue, pool: WorkerPool, options: Options, url: str) -> None:
        self._number, self._queue, self._pool = number, queue, pool
        self._url, self._endpoint_id, self._grace_s = url, options.endpoint_id, options.grace_s
        self._worker: WorkerHandle | None = None
        self._stopping = asyncio.Event()
        self._hurry = asyncio.Event()
        pool.size += 1
        self._task = asyncio.create_task(self._keep_running())

    async def stop(self) -> None:
        """Let the running job finish within the grace, then end the worker."""
        self._stopping.set()
        if self._worker:
            self._worker.replace("the endpoint is being stopped")
            self._queue.changed.notify()
        await self._task

    def hurry(self) -> None:
        """End the grace now."""
        self._hurry.set()

    async def _keep_running(self) -> None:
        shortest, longest = BACK_OFF_S
        wait_s = shortest
        while not self._stopping.is_set():
            started = time.monotonic()
            try:
                replaced = await self._run_one()
            except OSError as error:
                log.error("worker %d could not be started: %s", self._number, error)
                replaced = False
            wait_s = shortest if replaced or time.monotonic() - started > STEADY_S else min(2 * wait_s, longest)
            if not replaced and not self._stopping.is_set():
                log.warning("worker %d is started again in %.1f s", self._number, wait_s)
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(self._stopping.wait(), wait_s)

    async def _run_one(self) -> bool:
        """Run one process from its start to its end. Return True if it was to be replaced."""
        worker = self._worker = self._pool.add(self._number)
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-ES", str(REAPER), *COMMAND,
            stdin=asyncio.subprocess.PIPE,
            stdout=2,  # standard output is for the endpoint's own lines
            env=worker_environment(os.environ, worker, self._url, self._endpoint_id),
            cwd=REPO_ROOT,
            start_new_session=True,
        )  # fmt: skip
        log.info("%s started (process %d)", worker.id, process.pid)
        ended = asyncio.create_task(process.wait())
        leaving = asyncio.create_task(worker.replace_requested.wait())
        await asyncio.wait({ended, leaving}, return_when=asyncio.FIRST_COMPLETED)
        leaving.cancel()
        if not ended.done():
            await self._end(process, ended)
        _kill_group(process.pid)
        reason, how = worker.replace_reason, _describe_exit(ended.result())
        log.info("%s ended (%s)%s", worker.id, how, f": {reason}" if reason else "")
        self._pool.remove(worker)
        self._queue.lose_jobs(worker.id, f"{worker.id} ended ({reason or how})")
        return worker.replace_requested.is_set()

    async def _end(self, process: Process, ended: asyncio.Task[int]) -> None:
        """End a process: SIGTERM, a grace, then SIGKILL for all that is left."""
        process.terminate()
        hurry = asyncio.create_task(self._hurry.wait())
        grace_s = self._grace_s if self._stopping.is_set() else REPLACE_GRACE_S
        await asyncio.wait({ended, hurry}, timeout=grace_s, return_when=asyncio.FIRST_COMPLETED)
        hurry.cancel()
        assert process.stdin
        process.stdin.close()  # the reaper kills all that is left
        await asyncio.wait({ended}, timeout=KILL_GRACE_S)
        if not ended.done():
            _kill_group(process.pid)
            await ended


def _kill_group(pid: int) -> None:
    """Kill what may be left of a reaper that was itself killed."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def _describe_exit(status: int) -> str:
    number = -status if status < 0 else status - 128
    try:
        return f"killed by {signal.Signals(number).name}"
    except ValueError:
        return f"exit code {status}"
