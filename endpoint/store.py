"""The jobs on disk (SQLite, WAL): an accepted job survives any end of this process."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from endpoint.jobs import EndpointJob, JobState

SCHEMA = """
CREATE TABLE IF NOT EXISTS jobs (
    id TEXT PRIMARY KEY,
    facts TEXT NOT NULL,     -- EndpointJob as JSON
    request BLOB NOT NULL,   -- what the worker gets, as JSON
    output BLOB              -- what the worker returned, as JSON
);
"""


class StoreError(Exception):
    """The file cannot be used; the message names it."""


class Store:
    """One open database; every method is one transaction, and on disk when it returns.

    Args:
        path: made if missing, readable by its owner only (callers' inputs and S3 keys are in it).

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

    def load(self) -> list[EndpointJob]:
        """Return all jobs."""
        rows = self._db.execute("SELECT facts FROM jobs")
        return [_from_facts(facts) for (facts,) in rows]

    def add(self, job: EndpointJob, request: bytes) -> None:
        """Insert a new job."""
        self._db.execute("INSERT INTO jobs VALUES (?, ?, ?, NULL)", (job.id, _facts(job), request))

    def update(self, job: EndpointJob, output: bytes | None = None) -> None:
        """Replace a job and its output; without ``output`` it has none."""
        self._db.execute("UPDATE jobs SET facts = ?, output = ? WHERE id = ?", (_facts(job), output, job.id))

    def update_facts(self, job: EndpointJob) -> None:
        """Replace a job and keep its output."""
        self._db.execute("UPDATE jobs SET facts = ? WHERE id = ?", (_facts(job), job.id))

    def request(self, job_id: str) -> bytes:
        """Return what the worker gets of a job."""
        (request,) = self._db.execute("SELECT request FROM jobs WHERE id = ?", (job_id,)).fetchone()
        return bytes(request)

    def output(self, job_id: str) -> bytes | None:
        """Return what the worker returned, or None."""
        row = self._db.execute("SELECT output FROM jobs WHERE id = ?", (job_id,)).fetchone()
        return bytes(row[0]) if row and row[0] is not None else None

    def delete(self, job_ids: Iterable[str]) -> None:
        """Delete jobs, and return their space to the disk."""
        self._db.executemany("DELETE FROM jobs WHERE id = ?", [(job_id,) for job_id in job_ids])
        self._db.execute("PRAGMA incremental_vacuum").fetchall()

    def close(self) -> None:
        """Close the database; idempotent."""
        self._db.close()


def _facts(job: EndpointJob) -> str:
    return json.dumps(asdict(job))


def _from_facts(facts: str) -> EndpointJob:
    fields = EndpointJob.__dataclass_fields__
    known = {name: value for name, value in json.loads(facts).items() if name in fields}  # a newer release has more
    return EndpointJob(**{**known, "state": JobState(known["state"])})
