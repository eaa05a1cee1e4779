"""The jobs on disk. A row is written before the job is sent, so that no paid job is lost."""

from __future__ import annotations

import json
import sqlite3
import time
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

SUBMITTING, QUEUED, RUNNING, DONE, FAILED, CANCELLED = "submitting", "queued", "running", "done", "failed", "cancelled"
OVER = (DONE, FAILED, CANCELLED)
_KEPT_S = 7 * 24 * 3600


@dataclass(frozen=True)
class Request:
    """The prompt of a job as it was queued; never changes."""

    prompt: dict[str, Any]
    extra_data: dict[str, Any]
    targets: list[str] | None = None
    workflow_id: str = ""


@dataclass
class RemoteJob:
    """One job and its state. Times are seconds since the epoch, since they outlive the process."""

    prompt_id: str
    number: float
    client_id: str
    endpoint: str
    request: Request = field(repr=False)
    state: str = SUBMITTING
    runpod_id: str = ""
    phase: str = ""
    message: str = ""
    percent: float | None = None
    created: float = field(default_factory=time.time)
    started: float = 0.0
    ended: float = 0.0
    last_seen: float = 0.0
    cancel_wanted: bool = False
    error: str = ""
    error_code: str = ""
    error_node: str = ""
    files: list[dict[str, Any]] = field(default_factory=list)
    """Path and hash of each result; stored before the file is written."""
    outputs: dict[str, Any] = field(default_factory=dict)
    """Per node, the output of ComfyUI's ``executed`` event."""
    delivered_to_tab: bool = False

    @property
    def is_over(self) -> bool:
        """True once the job has ended."""
        return self.state in OVER

    def public(self) -> dict[str, Any]:
        """Return the fields that a browser may see."""
        names = (
            "prompt_id", "number", "client_id", "state", "phase", "message", "percent", "created", "started", "ended",
            "cancel_wanted", "error", "error_code", "error_node", "outputs",
        )  # fmt: skip
        return {**{name: getattr(self, name) for name in names}, "workflow_id": self.request.workflow_id}


_STORED_NAMES = {item.name: item.name for item in fields(RemoteJob) if item.name not in ("prompt_id", "request")}
_STORED_NAMES["delivered_to_tab"] = "shown"  # the name in existing databases, which older versions read


class JobTable:
    """A SQLite file. Used from ComfyUI's event loop and from the thread that saves results."""

    def __init__(self, path: Path) -> None:
        path.touch(mode=0o600)  # SQLite would create it, and the files beside it, readable for all
        self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute(
            "CREATE TABLE IF NOT EXISTS jobs (prompt_id TEXT PRIMARY KEY, created REAL, over INTEGER, "
            "request TEXT NOT NULL, life TEXT NOT NULL)"
        )
        self._db.execute("DELETE FROM jobs WHERE over = 1 AND created < ?", (time.time() - _KEPT_S,))

    def add(self, job: RemoteJob) -> None:
        """Write a new job."""
        self._db.execute(
            "INSERT INTO jobs VALUES (?, ?, ?, ?, ?)",
            (job.prompt_id, job.created, job.is_over, json.dumps(asdict(job.request)), _state_of(job)),
        )

    def save(self, job: RemoteJob) -> None:
        """Write the job's current state."""
        self._db.execute(
            "UPDATE jobs SET over = ?, life = ? WHERE prompt_id = ?", (job.is_over, _state_of(job), job.prompt_id)
        )

    def remove(self, job: RemoteJob) -> None:
        """Remove a job that the endpoint did not accept."""
        self._db.execute("DELETE FROM jobs WHERE prompt_id = ?", (job.prompt_id,))

    def load(self) -> list[RemoteJob]:
        """Return every job, oldest first; unreadable rows are skipped and left in place."""
        rows = self._db.execute("SELECT prompt_id, request, life FROM jobs ORDER BY created").fetchall()
        return [job for row in rows if (job := _job_of(*row)) is not None]

    def close(self) -> None:
        """Close the file; idempotent."""
        self._db.close()


def _state_of(job: RemoteJob) -> str:
    return json.dumps({stored: getattr(job, name) for name, stored in _STORED_NAMES.items()})


def _job_of(prompt_id: str, request: str, state: str) -> RemoteJob | None:
    try:
        values = json.loads(state)
        known = {name: values[stored] for name, stored in _STORED_NAMES.items() if stored in values}
        return RemoteJob(prompt_id=prompt_id, request=Request(**json.loads(request)), **known)
    except (ValueError, TypeError):
        return None
