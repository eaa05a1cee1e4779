"""The assembled worker in this process, in a thread with a loop of its own, so that the tests of a module share it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from model_manager import ModelManager
from tests.faults.assembled.subject import Answer, Subject
from tests.support.model_rig import QUICK
from tests.support.worker_bench import WorkerBench
from worker.downloads.source import WebModelSource
from worker.settings import NETWORK_VOLUME

ANSWER_S = 100


class InProcess(Subject):
    """A Worker on a simulator. Waits between retries are a thousandth of the real ones, all else is as deployed.

    Args:
        folder: as of a Subject, like ``beside``.
        volume: where a shared network volume is mounted.
        env: further settings.
    """

    def __init__(
        self, folder: Path, *, beside: Subject | None = None, volume: Path = NETWORK_VOLUME, **env: str
    ) -> None:
        super().__init__(folder, beside)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="assembled worker")
        self._thread.start()
        self.bench = WorkerBench(folder, self.civitai, env)
        self.worker = self.bench.worker
        settings = self.worker.settings
        self.models = settings.models_dir
        sites = WebModelSource(settings, retry=QUICK)
        self.worker.models = ModelManager(settings, sites, self.worker.runner.release_models, volume=volume)
        self.settle()

    def begin(self, fields: Any, **event: Any) -> Future[Answer]:
        """Start a job without waiting for it; cancelling the future cancels the job."""
        return self._soon(self.worker.handle({"id": "test", "input": fields, **event}))

    def answer(self, fields: Any, **event: Any) -> Answer:
        """The answer of a job."""
        return self.begin(fields, **event).result(ANSWER_S)

    @property
    def comfyui(self) -> str:
        """Where its ComfyUI listens."""
        return self.worker.runner.server.url

    @property
    def generation(self) -> int:
        """How often ComfyUI was started; 0 while it is not up."""
        return self.worker.runner.server.generation if self.worker.runner.is_ready else 0

    def comfyui_pid(self) -> int:
        """The process id of its ComfyUI."""
        process = self.worker.runner.server._process
        assert process
        assert process.pid
        return process.pid

    def close(self) -> None:
        """End ComfyUI, the loop and the sites."""
        self._soon(self.worker.runner.server.api.close()).result(10)
        self.worker.stop()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()
        super().close()

    def _soon(self, work: Coroutine[Any, Any, Any]) -> Future[Any]:
        return asyncio.run_coroutine_threadsafe(work, self._loop)
