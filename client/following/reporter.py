"""The progress of a job in the page: status line, node outlines and bars, from the worker's updates or an estimate."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from ..comfyui.events import TabEvents
from ..comfyui.previews import Previews
from ..comfyui.server import LocalComfyUI
from ..jobs import RUNNING, JobTable, RemoteJob
from ..runpod import status as answers
from ..sending import estimate
from ..settings.config import Config


class ProgressReporter:
    """Shared by all jobs. ``changed`` is called when a status line has changed."""

    def __init__(
        self, *, comfyui: LocalComfyUI, config: Config, table: JobTable, events: TabEvents, changed: Callable[[], None]
    ) -> None:
        self._config, self._table, self._events, self._changed = config, table, events, changed
        self.previews = Previews(comfyui, events)

    def set_status(self, job: RemoteJob, state: str, phase: str, message: str, percent: float | None = None) -> None:
        """Set the job's state and status line."""
        if job.cancel_wanted:
            phase, message = job.phase, "Cancelling"
        moved = (job.state, job.phase) != (state, phase)
        changed = moved or (job.message, job.percent) != (message, percent)
        job.state, job.phase, job.message, job.percent = state, phase, message, percent
        if moved:
            self._table.save(job)
            self._events.refresh_front(job.client_id)
        if changed:
            self._changed()

    async def report_running(self, job: RemoteJob, progress: dict[str, Any]) -> None:
        """Show the worker's progress; estimate it when the worker sends none."""
        phase = str(progress.get("phase") or "")
        if phase in ("", "running") and not job.started:
            job.started = time.time()
        if not phase:
            self._report_estimate(job)
            return
        self.set_status(job, RUNNING, phase, answers.phase_message(progress), _percent(progress.get("percent")))
        if phase == "running":
            self._report_nodes(job, progress)
        await self.previews.show(job, progress)

    def _report_nodes(self, job: RemoteJob, progress: dict[str, Any]) -> None:
        node, step, steps = progress.get("node"), progress.get("step"), progress.get("steps")
        if isinstance(progress.get("nodes"), dict) and progress["nodes"]:
            self._events.update_nodes(job, progress["nodes"])
        elif node is not None and isinstance(step, (int, float)) and isinstance(steps, (int, float)):
            self._events.update_step(job, str(node), step, steps)
        elif node is not None:
            self._events.update_step(job, str(node), 0, 1)

    def _report_estimate(self, job: RemoteJob) -> None:
        """Estimate the sampler's step from the elapsed time."""
        plan = estimate.samplers(job.request.prompt, job.request.targets)
        elapsed_ms = (time.time() - job.started) * 1000
        at = estimate.position(plan, elapsed_ms, self._config.ms_per_step)
        if at is None:
            self.set_status(job, RUNNING, "estimated", "Running")
            return
        total = sum(sampler.steps for sampler in plan)
        percent = min(99.0, elapsed_ms / self._config.ms_per_step / total * 100)
        name = job.request.prompt[at.node_id]["class_type"]
        self.set_status(job, RUNNING, "estimated", f"{name}, about step {at.step} of {at.steps}", round(percent))
        self._events.update_step(job, at.node_id, at.step, at.steps, at.done)


def _percent(value: Any) -> float | None:
    return max(0.0, min(100.0, float(value))) if isinstance(value, (int, float)) else None
