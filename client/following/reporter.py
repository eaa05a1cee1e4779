"""Tells people how far a job is: the line of text, the outlines and bars, by the worker's word or else by the clock."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from ..comfyui.events import Stage
from ..comfyui.previews import Pictures
from ..comfyui.server import Host
from ..jobs import RUNNING, Job, JobTable
from ..runpod import status as answers
from ..sending import estimate
from ..settings.config import Config


class Teller:
    """Shared by all jobs. ``changed`` is called when there is another line to show."""

    def __init__(
        self, *, host: Host, config: Config, table: JobTable, stage: Stage, changed: Callable[[], None]
    ) -> None:
        self._config, self._table, self._stage, self._changed = config, table, stage, changed
        self.pictures = Pictures(host, stage)

    def note(self, job: Job, state: str, phase: str, message: str, percent: float | None = None) -> None:
        """The line of text."""
        if job.cancel_wanted:
            phase, message = job.phase, "Cancelling"
        moved = (job.state, job.phase) != (state, phase)
        changed = moved or (job.message, job.percent) != (message, percent)
        job.state, job.phase, job.message, job.percent = state, phase, message, percent
        if moved:
            self._table.save(job)
            self._stage.settle(job.client_id)
        if changed:
            self._changed()

    async def running(self, job: Job, progress: dict[str, Any]) -> None:
        """A worker has the job and tells this of it, or nothing."""
        phase = str(progress.get("phase") or "")
        if phase in ("", "running") and not job.started:
            job.started = time.time()
        if not phase:
            self._estimated(job)
            return
        self.note(job, RUNNING, phase, answers.phase_message(progress), _percent(progress.get("percent")))
        if phase == "running":
            self._real(job, progress)
        await self.pictures.show(job, progress)

    def _real(self, job: Job, progress: dict[str, Any]) -> None:
        node, step, steps = progress.get("node"), progress.get("step"), progress.get("steps")
        if isinstance(progress.get("nodes"), dict) and progress["nodes"]:
            self._stage.nodes(job, progress["nodes"])
        elif node is not None and isinstance(step, (int, float)) and isinstance(steps, (int, float)):
            self._stage.running(job, str(node), step, steps)
        elif node is not None:
            self._stage.running(job, str(node), 0, 1)

    def _estimated(self, job: Job) -> None:
        """This worker tells nothing: the sampler's steps, by the clock."""
        plan = estimate.samplers(job.request.prompt, job.request.targets)
        elapsed_ms = (time.time() - job.started) * 1000
        at = estimate.position(plan, elapsed_ms, self._config.ms_per_step)
        if at is None:
            self.note(job, RUNNING, "estimated", "Running")
            return
        total = sum(sampler.steps for sampler in plan)
        percent = min(99.0, elapsed_ms / self._config.ms_per_step / total * 100)
        name = job.request.prompt[at.node_id]["class_type"]
        self.note(job, RUNNING, "estimated", f"{name}, about step {at.step} of {at.steps}", round(percent))
        self._stage.running(job, at.node_id, at.step, at.steps, at.done)


def _percent(value: Any) -> float | None:
    return max(0.0, min(100.0, float(value))) if isinstance(value, (int, float)) else None
