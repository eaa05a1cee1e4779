"""A loopback RunPod with both its faces: clients call run/status/cancel, the real SDK's loop takes and returns jobs.

The worker's calls (job-take, job-done, job-stop, ping) have the shape the SDK 1.12 uses; what RunPod itself decides
(late updates, what /status shows beside an error, size refusals) is an assumption, written down where it is made.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import requests
from aiohttp import web

from tests.support.waiting import end_server

TERMINAL = {"COMPLETED", "FAILED", "CANCELLED", "TIMED_OUT"}
LONG_POLL_S = 3.0
MAX_RESULT_BYTES = 20 * 2**20
CLIENT_KEY, WORKER_KEY = "loopback-client", "loopback-worker"
REPO_ROOT = Path(__file__).resolve().parents[2]


class RunPodPlatform:
    """Runs in a thread of its own until :meth:`stop`; ``log`` has everything the worker sent, in order."""

    def __init__(self) -> None:
        self.jobs: dict[str, dict[str, Any]] = {}
        self.log: list[tuple[str, dict[str, Any]]] = []
        self.refuse_results_with: list[int] = []
        """The next answers are refused with these statuses; progress posts, which go the same way, are not."""
        self.progress_fault: int | str | None = None
        """A status that progress posts are answered with, or ``hang``."""
        self._queue: list[str] = []
        self._to_stop: list[str] = []
        started = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve(started)), daemon=True)
        self._thread.start()
        started.wait()

    def __enter__(self) -> RunPodPlatform:
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    # ------------------------------------------------------------ for tests

    def submit(self, fields: Any, **extra: Any) -> str:
        """POST /run; the job's id."""
        answer = requests.post(f"{self.base}/run", json={"input": fields, **extra}, headers=self._auth, timeout=30)
        answer.raise_for_status()
        return str(answer.json()["id"])

    def status(self, job_id: str) -> dict[str, Any]:
        """GET /status."""
        return dict(requests.get(f"{self.base}/status/{job_id}", headers=self._auth, timeout=30).json())

    def cancel(self, job_id: str) -> None:
        """POST /cancel."""
        requests.post(f"{self.base}/cancel/{job_id}", headers=self._auth, timeout=30).raise_for_status()

    def wait(self, job_id: str, timeout_s: float = 60, until: set[str] = TERMINAL) -> dict[str, Any]:
        """Poll /status until the job is in one of the states."""
        deadline = time.monotonic() + timeout_s
        while (status := self.status(job_id))["status"] not in until:
            assert time.monotonic() < deadline, f"job still {status['status']} after {timeout_s} s"
            time.sleep(0.02)
        return status

    def run(self, fields: Any, timeout_s: float = 60, **extra: Any) -> dict[str, Any]:
        """Submit and wait; the final status."""
        return self.wait(self.submit(fields, **extra), timeout_s)

    def stop(self) -> None:
        """End the server; idempotent."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stopping.set)
            self._thread.join(10)

    def worker_env(self, **extra: str) -> dict[str, str]:
        """The environment that makes the real SDK work for this platform."""
        env = {k: v for k, v in os.environ.items() if not k.startswith(("RUNPOD_", "COMFYUI_", "SIMULATOR_"))}
        return {
            **env,
            "RUNPOD_POD_ID": "worker1",
            "RUNPOD_ENDPOINT_ID": "ep",
            "RUNPOD_AI_API_KEY": WORKER_KEY,
            "RUNPOD_PING_INTERVAL": "1000",
            "RUNPOD_WEBHOOK_GET_JOB": f"{self.base}/job-take/$ID?gpu=TEST",
            "RUNPOD_WEBHOOK_POST_OUTPUT": f"{self.base}/job-done/$RUNPOD_POD_ID/$ID?gpu=TEST",
            "RUNPOD_WEBHOOK_POST_STREAM": f"{self.base}/job-stream/$RUNPOD_POD_ID/$ID?gpu=TEST",
            "RUNPOD_WEBHOOK_PING": f"{self.base}/ping/$RUNPOD_POD_ID?gpu=TEST",
            "RUNPOD_SKIP_AUTO_SYSTEM_CHECKS": "true",  # they dial 8.8.8.8, and tests stay on this machine
            "RUNPOD_SKIP_GPU_CHECK": "true",
            "PYTHONUNBUFFERED": "1",
            **extra,
        }

    @property
    def _auth(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {CLIENT_KEY}"}

    # ------------------------------------------------------------ the server

    async def _serve(self, started: threading.Event) -> None:
        self._loop, self._changed, self._stopping = asyncio.get_running_loop(), asyncio.Condition(), asyncio.Event()
        runner = web.AppRunner(self._app(), access_log=None, shutdown_timeout=0.2)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.base = f"http://127.0.0.1:{runner.addresses[0][1]}/v2/ep"
        started.set()
        await self._stopping.wait()
        await end_server(runner)

    def _app(self) -> web.Application:
        app = web.Application(client_max_size=2**30)
        add = app.router.add_route
        add("GET", "/v2/ep/job-take/{worker}", self._job_take)
        add("POST", "/v2/ep/job-done/{worker}/{job}", self._job_done)
        add("GET", "/v2/ep/job-stop/{worker}", self._job_stop)
        add("GET", "/v2/ep/ping/{worker}", self._ping)
        add("POST", "/v2/ep/run", self._run)
        add("GET", "/v2/ep/status/{job}", self._status)
        add("POST", "/v2/ep/cancel/{job}", self._cancel)
        return app

    async def _until(self, ready: Any) -> bool:
        """Hold a long poll open until there is something to say (an instant 204 makes the SDK spin)."""
        async with self._changed:
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._changed.wait_for(ready), LONG_POLL_S)
        return bool(ready())

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def _job_take(self, request: web.Request) -> web.Response:
        self.log.append(("job-take", dict(request.query)))
        if not await self._until(lambda: self._queue):
            return web.Response(status=204)
        job = self.jobs[self._queue.pop(0)]
        job["status"] = "IN_PROGRESS"
        self._loop.call_later(job["timeout_s"], self._expire, job["id"])
        return web.json_response({"id": job["id"], "input": job["input"]})

    def _expire(self, job_id: str) -> None:
        if self.jobs[job_id]["status"] not in TERMINAL:
            self.jobs[job_id].update(status="TIMED_OUT")
            self._to_stop.append(job_id)
            self._loop.create_task(self._notify())

    async def _job_done(self, request: web.Request) -> web.Response:
        raw = await request.read()
        body = json.loads(raw)
        if self.refuse_results_with and body.get("status") != "IN_PROGRESS":
            return web.Response(status=self.refuse_results_with.pop(0))
        if request.headers.get("Authorization") != WORKER_KEY:
            return web.Response(status=401)
        if len(raw) > MAX_RESULT_BYTES:
            return web.Response(status=400)  # as reported by users: job-done answers 400 when a result is too large
        job = self.jobs[request.match_info["job"]]
        self.log.append(("job-done", {"job": job["id"], "body": body, "bytes": len(raw)}))
        if body.get("status") == "IN_PROGRESS":
            if self.progress_fault == "hang":
                await asyncio.sleep(60)
            if self.progress_fault:
                return web.Response(status=int(self.progress_fault))
            if job["status"] not in TERMINAL:
                job["output"] = body.get("output")
            return web.json_response({})
        if job["status"] not in TERMINAL:
            job.update(output=body.get("output"), error=body.get("error"), stop_pod=bool(body.get("stopPod")))
            job["status"] = "FAILED" if body.get("error") else "COMPLETED"
        return web.json_response({})

    async def _job_stop(self, request: web.Request) -> web.Response:
        if not await self._until(lambda: self._to_stop):
            return web.Response(status=204)
        ids, self._to_stop = self._to_stop, []
        return web.json_response({"jobsToStop": ids})

    async def _ping(self, request: web.Request) -> web.Response:
        self.log.append(("ping", dict(request.query)))
        return web.json_response({})

    async def _run(self, request: web.Request) -> web.Response:
        if request.headers.get("Authorization") != f"Bearer {CLIENT_KEY}":
            return web.Response(status=401)
        body = await request.json()
        job_id = f"{uuid.uuid4()}-e1"
        timeout_s = (body.get("policy") or {}).get("executionTimeout", 600_000) / 1000
        self.jobs[job_id] = {"id": job_id, "input": body["input"], "status": "IN_QUEUE", "timeout_s": timeout_s}
        self._queue.append(job_id)
        await self._notify()
        return web.json_response({"id": job_id, "status": "IN_QUEUE"})

    async def _status(self, request: web.Request) -> web.Response:
        job = self.jobs.get(request.match_info["job"])
        if job is None:
            return web.json_response({"error": "not found"}, status=404)
        shown = {key: job[key] for key in ("id", "status", "output", "error", "stop_pod") if job.get(key) is not None}
        return web.json_response(shown)

    async def _cancel(self, request: web.Request) -> web.Response:
        job = self.jobs[request.match_info["job"]]
        if job["status"] == "IN_QUEUE":
            self._queue.remove(job["id"])
        elif job["status"] == "IN_PROGRESS":
            self._to_stop.append(job["id"])
        if job["status"] not in TERMINAL:
            job["status"] = "CANCELLED"
        await self._notify()
        return web.json_response({"id": job["id"], "status": job["status"]})


class WorkerProcess:
    """The real handler.py under the real SDK loop, as a process of its own group."""

    def __init__(
        self, platform: RunPodPlatform, log_path: Path, *, command: list[str] | None = None, **env: str
    ) -> None:
        self._log_path = log_path
        with log_path.open("wb") as log:
            self.process = subprocess.Popen(
                command or [sys.executable, str(REPO_ROOT / "handler.py")],
                env=platform.worker_env(**env),
                cwd=REPO_ROOT,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def __enter__(self) -> WorkerProcess:
        return self

    def __exit__(self, *exc: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)  # the SDK's ping process would go on for ever
        self.process.wait()

    @property
    def log(self) -> str:
        """What it has printed so far."""
        return self._log_path.read_text(errors="replace")

    def descendants(self) -> list[int]:
        """The process ids of everything it started, ComfyUI among them."""
        return list(descendants(self.process.pid))

    def comfyui_pid(self) -> int:
        """The ComfyUI of this worker."""
        for pid in self.descendants():
            with contextlib.suppress(OSError):
                if b"main.py" in Path(f"/proc/{pid}/cmdline").read_bytes():
                    return pid
        raise AssertionError("the worker has no ComfyUI")


def descendants(pid: int) -> Iterator[int]:
    """Everything below a process, parents before children."""
    for task in Path(f"/proc/{pid}/task").glob("*"):
        with contextlib.suppress(OSError):
            for child in (task / "children").read_text().split():
                yield int(child)
                yield from descendants(int(child))


def is_running(pid: int) -> bool:
    """Whether a process exists and is not just waiting to be reaped."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
