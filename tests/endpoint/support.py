"""The endpoint under test: in a thread of this process with the test as its worker, or as the process it really is."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import requests

from endpoint.app import Endpoint, running
from endpoint.options import Options
from endpoint.workers import WorkerHandle
from tests.support.prompts import image_prompt, node, sampler_prompt
from tests.support.runpod_platform import REPO_ROOT, descendants, is_running
from tests.support.safetensors_files import safetensors_bytes
from tests.support.waiting import abort, stop_listening, wait_until

KEY = "test-client-key"
STALL_1S = json.dumps({"stall": {"s": 1, "class": "ImageInvert"}})
FINAL = {"COMPLETED", "FAILED", "CANCELLED", "TIMED_OUT"}


class Client:
    """A caller with the key."""

    def __init__(self, url: str, key: str = KEY) -> None:
        self.url, self.key = url, key

    def call(self, method: str, path: str, **more: Any) -> requests.Response:
        """Any request."""
        headers = {"Authorization": f"Bearer {self.key}", **more.pop("headers", {})}
        return requests.request(method, self.url + path, headers=headers, timeout=30, **more)

    def ask(self, method: str, path: str, **more: Any) -> dict[str, Any]:
        """A request that must succeed; its answer."""
        response = self.call(method, path, **more)
        assert response.status_code == 200, response.text
        return dict(response.json())

    def submit(self, fields: Any, **extra: Any) -> str:
        """POST /run; the job's id."""
        answer = self.ask("POST", "/run", json={"input": fields, **extra})
        assert answer["status"] == "IN_QUEUE"
        return str(answer["id"])

    def status(self, job_id: str) -> dict[str, Any]:
        """GET /status."""
        return self.ask("GET", f"/status/{job_id}")

    def wait(self, job_id: str, until: set[str] = FINAL, timeout_s: float = 40) -> dict[str, Any]:
        """Ask /status until the job is in one of these states."""
        found: dict[str, Any] = wait_until(
            lambda: status if (status := self.status(job_id))["status"] in until else None, timeout_s
        )
        return found

    def health(self) -> dict[str, Any]:
        """GET /health."""
        return self.ask("GET", "/health")


class Clock:
    """Unix seconds that go on only when a test says so."""

    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


class EndpointThread:
    """The endpoint without worker processes."""

    def __init__(self, data_dir: Path, clock: Callable[[], float] = time.time, **options: Any) -> None:
        self._options = Options(port=0, workers=0, data_dir=data_dir, **options)
        self._clock = clock
        self._ready: Future[Endpoint] = Future()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)
        self._thread.start()
        self.endpoint = self._ready.result(10)
        self.client = Client(self.endpoint.url)

    def __enter__(self) -> EndpointThread:
        return self

    def __exit__(self, *exc: object) -> None:
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stopping.set)
            self._thread.join(10)

    async def _serve(self) -> None:
        self._loop, self._stopping = asyncio.get_running_loop(), asyncio.Event()
        try:
            async with running(Endpoint(self._options, KEY, self._clock)) as endpoint:
                self._ready.set_result(endpoint)
                await self._stopping.wait()
                connections = await stop_listening(endpoint._client_api, endpoint._worker_api)
            await abort(connections)
        except BaseException as error:
            if self._ready.done():
                raise
            self._ready.set_exception(error)

    def do(self, action: Callable[[], Any]) -> Any:
        """Run something in the endpoint's own loop."""

        async def run() -> Any:
            return action()

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result(10)

    def worker(self) -> FakeWorker:
        """A worker that does what the test says."""
        return FakeWorker(self, self.do(lambda: self.endpoint.pool.add(1)))


class FakeWorker:
    """Speaks as the SDK 1.12 does."""

    def __init__(self, host: EndpointThread, handle: WorkerHandle) -> None:
        self.host, self.handle, self.id = host, handle, handle.id

    def call(self, method: str, path: str, **more: Any) -> requests.Response:
        """Any request to the worker API."""
        headers = {"Authorization": self.handle.secret, **more.pop("headers", {})}
        return requests.request(method, self.host.endpoint.worker_url + path, headers=headers, timeout=30, **more)

    def take(self, in_progress: int = 0) -> dict[str, Any]:
        """The next job."""
        response = self.call("GET", f"/job-take/{self.id}?gpu=local&job_in_progress={in_progress}")
        assert response.status_code == 200, response.status_code
        return dict(response.json())

    def post(self, job_id: str, body: Any, kind: str = "job-done") -> requests.Response:
        """A result, progress or chunk."""
        return self.call("POST", f"/{kind}/{self.id}/{job_id}?gpu=local&isStream=false", json=body)

    def to_stop(self) -> list[str]:
        """What it is told to stop."""
        response = self.call("GET", f"/job-stop/{self.id}?gpu=local")
        return list(response.json()["jobsToStop"]) if response.status_code == 200 else []

    def serve(self, failing_every: int = 0) -> None:
        """Answer every job at once with its own input, or every nth with an error, until the endpoint ends."""

        def loop() -> None:
            with contextlib.suppress(requests.RequestException, AssertionError):
                for number in itertools.count(1):
                    job, fails = self.take(), failing_every and number % failing_every == 0
                    self.post(job["id"], {"error": "fails"} if fails else {"output": {"echo": job["input"]}})

        threading.Thread(target=loop, daemon=True).start()


def simulator_env(base: Path, **env: str) -> dict[str, str]:
    """The environment of a worker on the simulator, all of whose files lie in ``base``; it has one tiny checkpoint."""
    folder = base / "models" / "checkpoints"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tiny.safetensors").write_bytes(safetensors_bytes())
    return {
        "COMFYUI_PATH": str(REPO_ROOT / "simulator"),
        "COMFYUI_ARGS": f"--base-directory '{base}'",
        "MODELS_DIR": str(base / "models"),
        **env,
    }


def is_in_progress(client: Client, job_id: str) -> bool:
    """Return True if a job that is not done yet has begun."""
    status = client.status(job_id)["status"]
    assert status in ("IN_QUEUE", "IN_PROGRESS")
    return bool(status == "IN_PROGRESS")


def long_prompt() -> dict[str, Any]:
    """A sampler that goes on for minutes, and can be interrupted at every step."""
    return sampler_prompt("tiny.safetensors", steps=5000)


def stalling_prompt(color: int = 9) -> dict[str, Any]:
    """One whose ImageInvert a simulator stalls in when it is told to misbehave so."""
    return {
        **image_prompt(color),
        "3": node("ImageInvert", image=["1", 0]),
        "4": node("SaveImage", images=["3", 0], filename_prefix="slow"),
    }


class EndpointProcess:
    """``python -m endpoint`` on a free port, with a real worker on the simulator."""

    def __init__(self, base: Path, *args: str, key: str | None = KEY, name: str = "endpoint", **env: str) -> None:
        self._base, self.data_dir = base, base / "data"
        self.log_path, self.out_path = base / f"{name}.log", base / f"{name}.out"
        own = {k: v for k, v in os.environ.items() if not k.startswith(("RUNPOD_", "COMFYUI_", "SIMULATOR_"))}
        own |= simulator_env(base / "comfyui", **env) | ({"RUNPOD_API_KEY": key} if key else {})
        argv = [sys.executable, "-m", "endpoint", "--port", "0", "--data-dir", str(self.data_dir), *args]
        with self.log_path.open("wb") as log, self.out_path.open("wb") as out:
            self.process = subprocess.Popen(argv, cwd=REPO_ROOT, env=own, stdout=out, stderr=log)
        self._key = key

    def __enter__(self) -> EndpointProcess:
        return self

    def __exit__(self, *exc: object) -> None:
        self.kill()

    def ready(self) -> Client:
        """Wait until it says that it takes jobs."""

        def said() -> list[str]:
            assert self.process.poll() is None, self.log
            lines = self.out.splitlines()
            return lines if lines and lines[-1].startswith("http") else []

        self.url = wait_until(said)[-1]
        return Client(self.url, self._key or (self.data_dir / "api_key").read_text().strip())

    @property
    def log(self) -> str:
        """What it and its worker wrote to standard error."""
        return self.log_path.read_text(errors="replace")

    @property
    def out(self) -> str:
        """What it wrote to standard output."""
        return self.out_path.read_text(errors="replace")

    def kill(self) -> None:
        """SIGKILL, as a crash or the OOM killer would."""
        self.process.kill()
        self.process.wait()

    def terminate(self) -> int:
        """SIGTERM; its exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(40)

    def family(self) -> dict[int, str]:
        """Everything it started, by process id: the reaper, the worker, the SDK's ping process, ComfyUI."""
        return {pid: _command(pid) for pid in descendants(self.process.pid)}

    def pid_of(self, part: str) -> int:
        """The first process whose command line has this in it, parents before children."""
        return next(pid for pid, command in self.family().items() if part in command)


def _command(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    return ""


def all_gone(pids: Any) -> bool:
    """Return True if none of these processes runs any more."""
    return not any(is_running(pid) for pid in pids)
