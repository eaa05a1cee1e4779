"""What happened in a soak, as plain records: jobs with their endings, kills, what appeared and vanished on the disk."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tests.soak.generator import Plan

WORKER_KILLED, WORKER_TERMINATED, COMFYUI_KILLED = "worker -9", "worker SIGTERM", "ComfyUI -9"


@dataclass(frozen=True)
class Kill:
    """One process that was ended; ``worker`` is the id that /status shows of its worker."""

    at: float
    what: str
    worker: str


@dataclass(frozen=True)
class Ending:
    """How one job ended. Times are unix seconds; each is known to within the ``/run`` request's own time."""

    plan: Plan
    job_id: str
    asked: tuple[float, float]
    """Just before and just after the request that submitted it."""
    status: dict[str, Any]
    cancelled: bool
    """Whether its cancellation was asked for."""

    @property
    def state(self) -> str:
        return str(self.status["status"])

    @property
    def code(self) -> str | None:
        """The error's code; None when it has no error."""
        error = self.status.get("error")
        return str(error).partition(":")[0] if error else None

    @property
    def output(self) -> dict[str, Any]:
        return self.status.get("output") or {}

    @property
    def places(self) -> list[str]:
        """``<folder>/<name>`` of its listed models, as the answer names them."""
        models = self.output.get("models") or {}
        return [f"{each['folder']}/{each['name']}" for key in ("ready", "downloaded") for each in models.get(key, [])]

    @property
    def pruned(self) -> list[str]:
        models = self.output.get("models") or {}
        return [f"{each['folder']}/{each['name']}" for each in models.get("pruned", [])]

    @property
    def life(self) -> tuple[float, float]:
        """From when it was submitted until its answer was there, both generously."""
        return self.asked[0], self.asked[1] + (
            self.status.get("delayTime", 0) + self.status.get("executionTime", 0)
        ) / 1e3

    @property
    def surely_in_use(self) -> tuple[float, float] | None:
        """A time in which its prompt was certainly running, so that its models were in use; None when it never was."""
        timings = self.output.get("timings")
        if not timings or "executionTime" not in self.status:
            return None
        taken = self.asked[0] + self.status["delayTime"] / 1e3
        start = self.life[1] - timings["run_s"] - timings["collect_s"]
        end = taken + timings["total_s"]
        return (start, end) if start < end else None


@dataclass(frozen=True)
class Removal:
    """A file that was on the disk at ``seen`` and not any more at ``missed``; unix seconds."""

    place: str
    seen: float
    missed: float


@dataclass
class Ledger:
    """Everything that the checks judge."""

    endings: list[Ending] = field(default_factory=list)
    kills: list[Kill] = field(default_factory=list)
    removals: list[Removal] = field(default_factory=list)
    wrong_files: list[str] = field(default_factory=list)
    """Files under a final name whose bytes are no model's of that name."""
    downloads: dict[str, int] = field(default_factory=dict)
    """Finished downloads by published name, as the workers' logs tell them."""
    deletions: dict[str, int] = field(default_factory=dict)
    """Likewise."""
