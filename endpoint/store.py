"""The jobs on disk (SQLite, WAL): what an accepted job needs to survive the end of this process, however it comes."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from endpoint.jobs import Job, State

SCHEMA = """
CREATE TABLE IF NOT EXISTS jobs (
    id TEXT PRIMARY KEY,
    facts TEXT NOT NULL,     -- Job as JSON
    request BLOB NOT NULL,   -- what the worker gets, as JSON
    output BLOB              -- what the worker returned, as JSON
);
"""


class StoreError(Exception):
    """The file cannot be used; the message names it."""


class Store:
    """One open database; every method is one transaction and on disk when it returns.

    Args:
        path: made, readable by its owner only, when it is not there (callers' inputs and S3 keys are in it).

    Raises:
        StoreError: it is not a database, or cannot be written.
    """

    def __init__(self, path: Path) -> None:
        try:
            os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
            self._db = sqlite3.connect(path, isolation_level=None)
        except (OSError, sqlite3.Error) as error:
            raise StoreError(f"{path} cannot be opened: {error}") from error
        try:
            self._db.execute("PRAGMA auto_vacuum = INCREMENTAL")
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = FULL")
            self._db.execute(SCHEMA)
        except sqlite3.Error as error:
            self._db.close()
            raise StoreError(f"{path} cannot be used: {error}. Move it away to start with an empty queue") from error

    def load(self) -> list[Job]:
        """Every job there is."""
        rows = self._db.execute("SELECT facts FROM jobs")
        return [_job(facts) for (facts,) in rows]

    def add(self, job: Job, request: bytes) -> None:
        """Take in a new job."""
        self._db.execute("INSERT INTO jobs VALUES (?, ?, ?, NULL)", (job.id, _facts(job), request))

    def update(self, job: Job, output: bytes | None = None) -> None:
        """Write down what became of a job; without ``output`` it has none."""
        self._db.execute("UPDATE jobs SET facts = ?, output = ? WHERE id = ?", (_facts(job), output, job.id))

    def update_facts(self, job: Job) -> None:
        """As :meth:`update`, and its output stays."""
        self._db.execute("UPDATE jobs SET facts = ? WHERE id = ?", (_facts(job), job.id))

    def request(self, job_id: str) -> bytes:
        """What was sent."""
        (request,) = self._db.execute("SELECT request FROM jobs WHERE id = ?", (job_id,)).fetchone()
        return bytes(request)

    def output(self, job_id: str) -> bytes | None:
        """What came back; None when nothing did."""
        row = self._db.execute("SELECT output FROM jobs WHERE id = ?", (job_id,)).fetchone()
        return bytes(row[0]) if row and row[0] is not None else None

    def forget(self, job_ids: Iterable[str]) -> None:
        """Delete jobs, and give their space back to the disk."""
        self._db.executemany("DELETE FROM jobs WHERE id = ?", [(job_id,) for job_id in job_ids])
        self._db.execute("PRAGMA incremental_vacuum").fetchall()

    def close(self) -> None:
        """End; idempotent."""
        self._db.close()


def _facts(job: Job) -> str:
    return json.dumps(asdict(job))


def _job(facts: str) -> Job:
    known = {name: value for name, value in json.loads(facts).items() if name in Job.__dataclass_fields__}
    return Job(**{**known, "state": State(known["state"])})
