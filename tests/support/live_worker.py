"""One assembled worker for a whole test module, on the simulator or on a real ComfyUI, which takes seconds to start."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

from tests.support.worker_bench import WorkerBench

T = TypeVar("T")
START_S = 120


class LiveWorker:
    """A WorkerBench with an event loop of its own, for plain tests. Context manager.

    Args:
        base: ComfyUI's base directory; nothing is written elsewhere.
        checkout: of a real ComfyUI; the simulator without.
    """

    def __init__(self, base: Path, checkout: Path | None = None, **env: str) -> None:
        self.base, self.real = base, checkout is not None
        if checkout:
            for folder in ("input", "models", "custom_nodes"):
                (base / folder).mkdir(parents=True, exist_ok=True)
            env = {"COMFYUI_PATH": str(checkout), "COMFYUI_ARGS": f"--cpu --base-directory '{base}'", **env}
            if python := os.environ.get("COMFYUI_PYTHON"):
                env["COMFYUI_PYTHON"] = python
        self._env = env

    def __enter__(self) -> LiveWorker:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.bench = self._wait(self._made())
        return self

    def __exit__(self, *exc: object) -> None:
        self._wait(self.bench.worker.runner.server.api.close())
        self.bench.worker.stop()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    @property
    def python(self) -> str:
        """The interpreter that runs ComfyUI, which has its libraries."""
        return str(self.bench.worker.settings.comfyui_python)

    def run(self, **fields: Any) -> dict[str, Any]:
        """The answer of a job that must succeed."""
        return self._wait(self.bench.run(**fields))

    def fail(self, **fields: Any) -> dict[str, Any]:
        """The answer of a job that must fail."""
        return self._wait(self.bench.fail(**fields))

    async def _made(self) -> WorkerBench:
        return WorkerBench(self.base, None, self._env)

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(START_S)
