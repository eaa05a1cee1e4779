"""The worker as it is deployed: a process with RunPod's own SDK loop, on a loopback RunPod."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from pathlib import Path
from typing import Any

from tests.faults.assembled.subject import Answer, Subject
from tests.support.runpod_platform import TERMINAL, RunPodPlatform, WorkerProcess, is_running
from tests.support.waiting import wait_until
from worker.settings import SIMULATOR_PATH

ENDED_BY_RUNPOD = ("CANCELLED", "TIMED_OUT")
ON_A_VOLUME = """
import os, pathlib, worker.settings
worker.settings.NETWORK_VOLUME = pathlib.Path(os.environ["TEST_VOLUME"])
import handler
handler.main()
"""


class OnPlatform(Subject):
    """One worker on one RunPod; :meth:`start` starts the next one where it has ended.

    Args:
        folder: as of a Subject, like ``beside``.
        volume: a folder that passes for the network volume; the models lie on it then.
        env: further variables of the worker.
    """

    def __init__(self, folder: Path, *, beside: Subject | None = None, volume: Path | None = None, **env: str) -> None:
        super().__init__(folder, beside)
        self.platform = RunPodPlatform()
        self._env = {
            "COMFYUI_PATH": str(SIMULATOR_PATH),
            "COMFYUI_ARGS": f"--base-directory '{folder}'",
            "MODELS_DIR": str(self.models),
            **self.civitai.env(),
            **env,
        }
        self._command = None
        if volume:
            self.models = volume / "models"
            self._env |= {"MODELS_DIR": str(self.models), "TEST_VOLUME": str(volume)}
            self._command = [sys.executable, "-c", ON_A_VOLUME]
        folder.mkdir(parents=True, exist_ok=True)
        self.process = self._started()

    def start(self, **env: str) -> None:
        """Start a worker where one has ended, and end what that one's SDK left behind: a process that pings on."""
        self.process.__exit__()
        self.process = self._started(**env)

    def _started(self, **env: str) -> WorkerProcess:
        log = self.folder / "worker.log"
        return WorkerProcess(self.platform, log, command=self._command, **{**self._env, **env})

    def begin(self, fields: Any, **event: Any) -> str:
        """Hand in a job; its id."""
        return self.platform.submit(fields, **event)

    def answer(self, fields: Any, **event: Any) -> Answer:
        """The job's answer, as /status shows it at its end."""
        return self.answer_of(self.begin(fields, **event))

    def answer_of(self, job: str) -> Answer:
        """The same of a job that was handed in."""
        status = self.platform.wait(job, until=TERMINAL)
        if status["status"] in ENDED_BY_RUNPOD:
            return {"status": status["status"]}
        error = {"error": status["error"]} if "error" in status else {}
        return {**status["output"], **error}

    @property
    def comfyui(self) -> str:
        """Where its ComfyUI listens, by its flags."""
        flags = Path(f"/proc/{self.process.comfyui_pid()}/cmdline").read_text().split("\0")
        return f"http://127.0.0.1:{flags[flags.index('--port') + 1]}"

    @property
    def generation(self) -> int:
        """The process id of ComfyUI; 0 while there is none."""
        try:
            return self.process.comfyui_pid()
        except AssertionError:
            return 0

    def close(self) -> None:
        """End everything."""
        self.process.__exit__()
        self.platform.stop()
        super().close()

    def ended(self, started: list[int]) -> str:
        """Wait for the worker's own end, and say how it was and what is left of the processes it had started."""
        status = self.process.process.wait(30)
        with contextlib.suppress(AssertionError):  # the worker sends its ping process SIGTERM and does not wait for it
            wait_until(lambda: not any(map(is_running, started)), timeout_s=5)
        left = sum(map(is_running, started))
        return f"the worker ended with {status}, {left} of its {len(started)} processes are left"

    def kill(self) -> None:
        """As the kernel does it, and RunPod: without a word."""
        os.kill(self.process.process.pid, signal.SIGKILL)
        self.process.process.wait()
