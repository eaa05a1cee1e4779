"""The assembled worker in this process: handler, models, runner, on the simulator, with a loopback Civitai."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from handler import Worker
from tests.support.civitai_server import CivitaiServer
from worker.settings import SIMULATOR_PATH, Settings


class WorkerBench:
    """A Worker whose models lie in ``base/models``."""

    def __init__(self, base: Path, civitai: CivitaiServer | None, env: dict[str, str]) -> None:
        self.models_dir = base / "models"
        self.worker = Worker(
            Settings.from_environ(
                {
                    "COMFYUI_PATH": str(SIMULATOR_PATH),
                    "COMFYUI_ARGS": f"--base-directory '{base}'",
                    "MODELS_DIR": str(self.models_dir),
                    **(civitai.env() if civitai else {}),
                    **env,
                }
            )
        )

    async def answer(self, **fields: Any) -> dict[str, Any]:
        """The answer of a job, good or bad."""
        return await self.worker.handle({"id": "test", "input": fields})

    async def run(self, **fields: Any) -> dict[str, Any]:
        """The answer of a job that must succeed."""
        answer = await self.answer(**fields)
        assert "error" not in answer, answer["error"]
        return answer

    async def fail(self, **fields: Any) -> dict[str, Any]:
        """The answer of a job that must fail."""
        answer = await self.answer(**fields)
        assert "error" in answer, "should have failed"
        return answer

    def on_disk(self) -> set[str]:
        """Every model file, relative to the models folder."""
        return {str(path.relative_to(self.models_dir)) for path in self.models_dir.rglob("*.safetensors")}


def on_worker(
    base: Path,
    civitai: CivitaiServer | None,
    scenario: Callable[[WorkerBench], Awaitable[None]],
    **env: str,
) -> None:
    """Run a scenario on a fresh worker and end everything after it."""

    async def whole() -> None:
        bench = WorkerBench(base, civitai, env)
        try:
            await scenario(bench)
        finally:
            await bench.worker.runner.server.api.close()
            await asyncio.to_thread(bench.worker.stop)

    asyncio.run(whole())
