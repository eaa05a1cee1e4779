"""The one ComfyUI of this worker as a service: started, waited for, restarted once, stopped. Unaware of prompts."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import socket
import threading
import time
import uuid
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import Any

from worker.comfyui.api import ComfyApi
from worker.comfyui.extra_model_paths import extra_model_paths
from worker.comfyui.output_folder import OutputFolder
from worker.comfyui.process import ComfyProcess
from worker.errors import Code, WorkerError
from worker.settings import Settings, simulator_home

RESTARTS = 1  # after a second death without a finished job between them, the worker is not trusted any more

PORTS = range(20_000, 32_768)
"""Below the ports that Linux gives to outgoing connections: ComfyUI binds its own after seconds, and a connection that
got it meanwhile (a model's download has many) would end both starts."""

log = logging.getLogger(__name__)


class State(Enum):
    """State of ComfyUI. IDLE: not started yet; LOST: died once more than it is restarted; STOPPED: stopped for good."""

    IDLE = "idle"
    STARTING = "starting"
    READY = "ready"
    LOST = "lost"
    STOPPED = "stopped"


class ComfyServer:
    """ComfyUI's process, address and output folder; with COMFYUI_URL, only the address of somebody else's ComfyUI.

    Args:
        settings: where ComfyUI is and how it is started.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lock = threading.RLock()
        self._process: ComfyProcess | None = None
        self._deaths = 0
        self._launched = 0.0
        self.state = State.IDLE
        self.generation = 0
        """Grows with every start: a prompt submitted to one generation is lost in the next."""
        self.was_ready = False
        """It has answered at least once in this worker's life."""
        self.external = settings.comfyui_url is not None
        self.url = settings.comfyui_url or f"http://127.0.0.1:{free_port()}"
        self.folder = None if self.external else OutputFolder()
        self.api = ComfyApi(self.url, uuid.uuid4().hex)
        self.on_exit: Callable[[], None] | None = None
        """Called from a thread when ComfyUI has exited by itself; by then it is restarted, or LOST."""

    @property
    def trusted(self) -> bool:
        """False once ComfyUI has died more often than it is restarted: this worker should get no further job."""
        return self._deaths <= RESTARTS

    @property
    def running(self) -> bool:
        """True if there is a ComfyUI, ready or still starting."""
        return self.state in (State.STARTING, State.READY)

    def launch(self) -> None:
        """Start ComfyUI without waiting for it. Does nothing if it runs, is lost or was stopped."""
        with self._lock:
            if self.state is not State.IDLE:
                return
            self.state = State.STARTING
            self._launched = time.monotonic()
            self.generation += 1
            if not self.external:
                self._process = ComfyProcess(self._command(), self._settings.comfyui_path, self._on_process_exit)

    async def ready(self, deadline: float) -> None:
        """Start it if it does not run, and wait until it answers.

        Args:
            deadline: ``time.monotonic()`` value; COMFYUI_START_TIMEOUT_S, since ComfyUI's start, bounds the wait too.

        Raises:
            WorkerError: COMFYUI_START_FAILED, with ComfyUI's last log lines; TIMEOUT, the job ran out of time first.
        """
        self.launch()
        asked = time.monotonic()
        while self.state is not State.READY:
            if not self.running:
                raise self.died_error("could not be kept running", Code.COMFYUI_START_FAILED)
            generation = self.generation
            started = asked if self.external else self._launched
            if await self.api.is_up():
                with self._lock:
                    if self.state is State.STARTING and self.generation == generation:
                        self.state = State.READY
                        self.was_ready = True
                        self.api.follow_events()
            elif time.monotonic() > started + self._settings.comfyui_start_timeout_s:
                raise self._start_timeout_error(time.monotonic() - started)
            elif time.monotonic() > deadline:
                what = "the job ran out of time while ComfyUI was starting"
                raise WorkerError(Code.TIMEOUT, what, details=self.log_details())
            else:
                await asyncio.sleep(0.05)

    def job_finished(self) -> None:
        """Forget earlier deaths: a job has finished."""
        with self._lock:
            if self.state is not State.LOST:
                self._deaths = 0

    def restart(self) -> None:
        """Kill a ComfyUI that hangs and start another. Does not count as a death."""
        with self._lock:
            hung, self._process = self._process, None
            if hung and self.state is not State.STOPPED:
                hung.kill()
                self.state = State.IDLE
                self.launch()

    def stop(self) -> None:
        """Stop ComfyUI for good and delete its output folder; idempotent, also in the middle of a prompt."""
        with self._lock:
            self.state = State.STOPPED
        if self._process and not self._process.stop():
            log.error("ComfyUI (pid %s) did not end", self._process.pid)
        if self.folder:
            self.folder.remove()

    def died_error(self, what: str, code: Code = Code.COMFYUI_DIED) -> WorkerError:
        """Return the error for a ComfyUI that has died, with its exit and its last log lines."""
        return WorkerError(
            code, f"ComfyUI {what}{self._last_exit}", details=self.log_details(), refresh_worker=not self.trusted
        )

    def log_details(self) -> dict[str, Any]:
        """Return ComfyUI's last log lines as error details; empty if there is no log."""
        lines = self._process.last_lines() if self._process else []
        return {"comfyui_log": lines or self._last_lines} if lines or self._last_lines else {}

    _last_exit = ""
    _last_lines: list[str] = []  # noqa: RUF012 - replaced, never changed in place

    def _on_process_exit(self, process: ComfyProcess) -> None:
        with self._lock:
            if self.state is State.STOPPED or process is not self._process:
                return
            self._deaths += 1
            self._last_exit, self._last_lines = f" ({process.describe_exit()})", process.last_lines()
            log.error("ComfyUI ended%s", self._last_exit)
            self.state = State.IDLE if self.trusted else State.LOST
            self.launch()
        if self.on_exit:
            self.on_exit()

    def _command(self) -> list[str]:
        assert self.folder
        address = ["--listen", "127.0.0.1", "--port", self.url.rpartition(":")[2]]
        flags = [*address, "--enable-cors-header", "--disable-auto-launch", *self.folder.flags]
        flags += ["--preview-method", "auto", "--preview-size", "256"]  # cheap; passed on only to a job that asks
        if self._settings.simulated:
            flags += ["--base-directory", str(simulator_home())]
        return [
            self._settings.comfyui_python,
            "main.py",
            *flags,
            *self._model_flags(self.folder.root),
            *self._settings.comfyui_args,
        ]

    def _model_flags(self, scratch: Path) -> list[str]:
        """Return the flags for a MODELS_DIR that ComfyUI does not search by itself."""
        models_dir = self._settings.models_dir
        own = simulator_home() if self._settings.simulated else self._settings.comfyui_path
        if models_dir == own / "models":
            return []
        config = scratch / "extra_model_paths.yaml"
        config.write_text(extra_model_paths(models_dir))
        return ["--extra-model-paths-config", str(config)]

    def _start_timeout_error(self, waited_s: float) -> WorkerError:
        where = f" at {self.url}" if self.external else ""
        return WorkerError(
            Code.COMFYUI_START_FAILED,
            f"ComfyUI{where} did not answer within {waited_s:.0f} s",
            "Raise COMFYUI_START_TIMEOUT_S if it only needs longer. Its last log lines, if any, are in details.",
            details=self.log_details(),
            refresh_worker=not self.external,
        )


def free_port() -> int:
    """Return one of PORTS that nothing on this machine uses."""
    while True:
        port = secrets.choice(PORTS)
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port
