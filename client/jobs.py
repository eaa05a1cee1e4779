"""The jobs on disk: a row is written before the browser hears of the job, so that nothing paid for is forgotten."""

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
    """What was asked, as it was asked; never changes."""

    prompt: dict[str, Any]
    extra_data: dict[str, Any]
    targets: list[str] | None = None
    workflow_id: str = ""


@dataclass
class Job:
    """One job's life. Times are seconds since the epoch, since they outlive the process."""

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
    """Each result: where it was put, under which hash; written here before the file is."""
    outputs: dict[str, Any] = field(default_factory=dict)
    """Per node, what ComfyUI's ``executed`` event says of it."""
    shown: bool = False

    @property
    def is_over(self) -> bool:
        """Nothing more will happen to it."""
        return self.state in OVER

    def public(self) -> dict[str, Any]:
        """What a browser may know."""
        names = (
            "prompt_id", "number", "client_id", "state", "phase", "message", "percent", "created", "started", "ended",
            "cancel_wanted", "error", "error_code", "error_node", "outputs",
        )  # fmt: skip
        return {**{name: getattr(self, name) for name in names}, "workflow_id": self.request.workflow_id}


_MUTABLE = [item.name for item in fields(Job) if item.name not in ("prompt_id", "request")]


class JobTable:
    """A SQLite file. Used from ComfyUI's event loop and from the thread that saves results."""

    def __init__(self, path: Path) -> None:
        path.touch(mode=0o600)  # before SQLite makes it, and its siblings after it, readable for all
        self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute(
            "CREATE TABLE IF NOT EXISTS jobs (prompt_id TEXT PRIMARY KEY, created REAL, over INTEGER, "
            "request TEXT NOT NULL, life TEXT NOT NULL)"
        )
        self._db.execute("DELETE FROM jobs WHERE over = 1 AND created < ?", (time.time() - _KEPT_S,))

    def add(self, job: Job) -> None:
        """Write a new job."""
        self._db.execute(
            "INSERT INTO jobs VALUES (?, ?, ?, ?, ?)",
            (job.prompt_id, job.created, job.is_over, json.dumps(asdict(job.request)), _life(job)),
        )

    def save(self, job: Job) -> None:
        """Write what has changed."""
        self._db.execute(
            "UPDATE jobs SET over = ?, life = ? WHERE prompt_id = ?", (job.is_over, _life(job), job.prompt_id)
        )

    def remove(self, job: Job) -> None:
        """Forget a job that was never taken."""
        self._db.execute("DELETE FROM jobs WHERE prompt_id = ?", (job.prompt_id,))

    def load(self) -> list[Job]:
        """Every job, oldest first; a row that cannot be read is left where it is."""
        rows = self._db.execute("SELECT prompt_id, request, life FROM jobs ORDER BY created").fetchall()
        return [job for row in rows if (job := _job(*row)) is not None]

    def close(self) -> None:
        """Close the file; idempotent."""
        self._db.close()


def _life(job: Job) -> str:
    return json.dumps({name: getattr(job, name) for name in _MUTABLE})


def _job(prompt_id: str, request: str, life: str) -> Job | None:
    try:
        known = {name: value for name, value in json.loads(life).items() if name in _MUTABLE}
        return Job(prompt_id=prompt_id, request=Request(**json.loads(request)), **known)
    except (ValueError, TypeError):
        return None
