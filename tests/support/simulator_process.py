"""Starts an engine for a test: the simulator, or a real ComfyUI checkout, each in folders of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

import requests
import websocket

from tests.support.safetensors_files import header_only
from worker.comfyui.server import free_port

SIMULATOR = Path(__file__).resolve().parents[2] / "simulator"
CHECKPOINT = "tiny_random_sd15.safetensors"


def safetensors(**metadata: str) -> bytes:
    """A sound file with one small tensor."""
    header: dict[str, Any] = {"weight": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}
    return header_only({**header, "__metadata__": metadata} if metadata else header, bytes(8))


class Engine:
    """One running process. `checkout` is a ComfyUI's folder; without one it is the simulator."""

    def __init__(
        self,
        *arguments: str,
        checkout: Path | None = None,
        python: str | None = None,
        misbehave: dict[str, Any] | None = None,
        env: dict[str, str] | None = None,
        base: Path | None = None,
        cors: bool = True,
        wait: bool = True,
    ) -> None:
        self.is_simulator = checkout is None
        self._own = tempfile.TemporaryDirectory(prefix="engine-")
        self.base = base or Path(self._own.name)
        self.output, self.input, self.temp_parent = self.base / "output", self.base / "input", self.base / "scratch"
        for folder in (self.output, self.input, self.temp_parent, self.base / "user"):
            folder.mkdir(parents=True, exist_ok=True)
        self.models = self.base / "models" if checkout is None else checkout / "models"
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._log = self.base / "engine.log"
        self._command = [*self._program(checkout, python), *self._flags(cors), *arguments]
        self._env = {**os.environ, "SIMULATOR_STEP_MS": "5", **(env or {})}
        if misbehave is not None:
            self._env["SIMULATOR_MISBEHAVE"] = json.dumps(misbehave)
        self.started_at = time.monotonic()
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                self._command, cwd=checkout or self.base, env=self._env, stdout=log, stderr=subprocess.STDOUT
            )
        if wait:
            self.wait_until_ready()

    def _program(self, checkout: Path | None, python: str | None) -> list[str]:
        if checkout is None:
            return [sys.executable, str(SIMULATOR / "main.py"), "--base-directory", str(self.base)]
        database = f"sqlite:///{self.base}/comfyui.db"
        own = ["--cpu", "--database-url", database, "--user-directory", str(self.base / "user")]
        return [python or str(checkout / ".venv/bin/python"), str(checkout / "main.py"), *own]

    def _flags(self, cors: bool) -> list[str]:
        folders = ["--output-directory", str(self.output), "--input-directory", str(self.input)]
        folders += ["--temp-directory", str(self.temp_parent)]
        address = ["--listen", "127.0.0.1", "--port", str(self.port), "--preview-method", "auto"]
        return [*address, *folders, "--disable-auto-launch", *(["--enable-cors-header"] if cors else [])]

    # -- start and end --

    def wait_until_ready(self, timeout: float = 90) -> None:
        def answers() -> bool:
            if self.process.poll() is not None:
                raise RuntimeError(f"The engine ended with {self.process.returncode}:\n{self.log_text()}")
            try:
                return requests.get(f"{self.url}/system_stats", timeout=5).ok
            except requests.ConnectionError:
                return False

        wait_for(answers, timeout)

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(5)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(5)
        self._own.cleanup()

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.stop()

    def log_text(self) -> str:
        return self._log.read_text(errors="replace")

    # -- requests --

    def get(self, path: str, **options: Any) -> requests.Response:
        return requests.get(self.url + path, timeout=20, **options)

    def post(self, path: str, **options: Any) -> requests.Response:
        return requests.post(self.url + path, timeout=20, **options)

    def misbehave(self, faults: dict[str, Any]) -> dict[str, Any]:
        response = self.post("/simulator/misbehave", json=faults)
        response.raise_for_status()
        return dict(response.json())

    def counters(self) -> dict[str, Any]:
        return dict(self.get("/simulator/log").json())

    def history(self, prompt_id: str) -> dict[str, Any] | None:
        entry = self.get(f"/history/{prompt_id}").json().get(prompt_id)
        return None if entry is None else dict(entry)

    def wait_history(self, prompt_id: str, timeout: float = 20) -> dict[str, Any]:
        wait_for(lambda: self.history(prompt_id) is not None, timeout)
        entry = self.history(prompt_id)
        assert entry is not None
        return entry

    def upload(self, name: str, data: bytes, **fields: str) -> requests.Response:
        return self.post("/upload/image", files={"image": (name, data)}, data=fields)

    def add_model(self, folder: str, name: str, data: bytes | None = None) -> Path:
        path = self.models / folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(safetensors() if data is None else data)
        return path

    def client(self, client_id: str | None = None) -> Client:
        return Client(self, client_id)

    def run(self, prompt: dict[str, Any], **more: Any) -> Run:
        with self.client() as client:
            return client.run(prompt, **more)


class Client:
    """One websocket, and prompts posted under its id."""

    def __init__(self, engine: Engine, client_id: str | None = None) -> None:
        self.engine = engine
        self.id = client_id or str(uuid.uuid4())
        self.socket = websocket.create_connection(f"ws://127.0.0.1:{engine.port}/ws?clientId={self.id}", timeout=30)
        self._raw: Any = self.socket.sock

    def __enter__(self) -> Client:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.socket.close()
        self._raw.close()  # the library leaves it open if the server closed first

    def post(self, prompt: dict[str, Any], **more: Any) -> requests.Response:
        return self.engine.post("/prompt", json={"prompt": prompt, "client_id": self.id, **more})

    def receive(self) -> Any:
        """Return the next frame: an object, or bytes."""
        frame = self.socket.recv()
        if frame == "":
            raise ConnectionError("the engine closed the socket")
        return frame if isinstance(frame, bytes) else json.loads(frame)

    def until(self, is_last: Callable[[Any], bool]) -> list[Any]:
        frames: list[Any] = []
        while not frames or not is_last(frames[-1]):
            frames.append(self.receive())
        return frames

    def run(self, prompt: dict[str, Any], **more: Any) -> Run:
        response = self.post(prompt, **more)
        if not response.ok:
            return Run(response, [], None)
        frames = self.until(is_end)
        return Run(response, frames, self.engine.history(response.json()["prompt_id"]))


class Run:
    """The results of one prompt: the answer to its post, the frames until its end, its history."""

    def __init__(self, response: requests.Response, frames: list[Any], history: dict[str, Any] | None) -> None:
        self.response = response
        self.frames = frames
        self._history = history

    @property
    def history(self) -> dict[str, Any]:
        assert self._history is not None, self.response.text
        return self._history

    @property
    def images(self) -> list[dict[str, str]]:
        return [image for output in self.history["outputs"].values() for image in output["images"]]

    @property
    def types(self) -> list[str]:
        return ["binary" if isinstance(frame, bytes) else frame["type"] for frame in self.frames]

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [frame["data"] for frame in self.frames if not isinstance(frame, bytes) and frame["type"] == kind]


def is_end(frame: Any) -> bool:
    return not isinstance(frame, bytes) and frame["type"] == "executing" and frame["data"]["node"] is None


def wait_for(condition: Callable[[], bool], timeout: float) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError("it did not happen in time")
        time.sleep(0.02)  # polled across a process boundary: there is no event to wait for
