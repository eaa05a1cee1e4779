"""The assembled endpoint: the two faces, the desk between them, the workers, and the clock that times jobs out."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import sqlite3
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from endpoint.client_api import ClientApi
from endpoint.job_queue import Desk
from endpoint.options import Options
from endpoint.store import Store, StoreError
from endpoint.webhooks import Webhooks
from endpoint.worker_api import WorkerApi
from endpoint.worker_process import WorkerSlot
from endpoint.workers import Crew

SWEEP_S = 0.25
LOOPBACK = "127.0.0.1"

log = logging.getLogger(__name__)
http_log = logging.getLogger("endpoint.http")


class _NoHeaders(logging.Filter):
    """Drops what aiohttp writes of a malformed request: it quotes the header, which may hold the key."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError))


http_log.addFilter(_NoHeaders())


class Endpoint:
    """Runs between :meth:`start` and :meth:`stop`, in the event loop that called it.

    Args:
        options: as the command line gives them; the data folder is made when it is not there.
        key: what callers must send.
        clock: unix seconds, for jobs' times and deadlines.

    Raises:
        StoreError: the jobs on disk cannot be used, or another endpoint uses them.
    """

    def __init__(self, options: Options, key: str, clock: Callable[[], float] = time.time) -> None:
        self._options = options
        options.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock = _locked(options.data_dir / "lock")
        try:
            self._store = Store(options.data_dir / "jobs.sqlite3")
        except StoreError:
            os.close(self._lock)
            raise
        self.crew = Crew()
        self.desk = Desk(self._store, max_attempts=options.max_attempts, max_queue=options.max_queue, clock=clock)
        self.desk.on_stop = self.crew.stop_job
        self._webhooks = Webhooks(self.desk)
        self._stopping = False
        client_app = ClientApi(options, key, self.desk, self.crew, lambda: self._stopping).app()
        self._client_face = web.AppRunner(client_app, access_log=None, logger=http_log, shutdown_timeout=1)
        worker_app = WorkerApi(self.desk, self.crew).app()
        self._worker_face = web.AppRunner(worker_app, access_log=None, logger=http_log, shutdown_timeout=1)
        self._slots: list[WorkerSlot] = []

    async def start(self) -> None:
        """Listen, then start the workers.

        Raises:
            OSError: the address cannot be had.
        """
        self.worker_url = f"http://{LOOPBACK}:{await _listen(self._worker_face, LOOPBACK, 0)}"
        port = await _listen(self._client_face, self._options.host, self._options.port)
        shown_host = LOOPBACK if self._options.host in ("0.0.0.0", "::", "localhost") else self._options.host  # noqa: S104
        self.url = f"http://{shown_host}:{port}/v2/{self._options.endpoint_id}"
        self._webhooks.start()
        self._clockwork = asyncio.create_task(self._sweep())
        for number in range(1, self._options.workers + 1):
            self._slots.append(WorkerSlot(number, self.desk, self.crew, self._options, self.worker_url))

    async def takes_jobs(self) -> None:
        """Wait until a worker has asked for one."""
        await self.crew.takes_jobs.wait()

    async def stop(self) -> None:
        """Take no more jobs, let the running ones finish within the grace, and end everything."""
        self._stopping = True
        self.desk.changed.give()
        await asyncio.gather(*(slot.stop() for slot in self._slots))
        self.desk.watchers.close()
        await self._client_face.cleanup()
        await self._worker_face.cleanup()
        await self._webhooks.stop()
        self._clockwork.cancel()
        self.close()

    def hurry(self) -> None:
        """Do not wait for running jobs any longer."""
        for slot in self._slots:
            slot.hurry()

    def close(self) -> None:
        """Let go of the files; idempotent."""
        self._store.close()
        with contextlib.suppress(OSError):
            os.close(self._lock)

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_S)
            try:
                self.desk.sweep()
                self.crew.dismiss_hanging()
            except sqlite3.Error:
                log.exception("the jobs could not be written down")


@contextlib.asynccontextmanager
async def running(endpoint: Endpoint) -> AsyncIterator[Endpoint]:
    """The endpoint for the length of a block."""
    await endpoint.start()
    try:
        yield endpoint
    finally:
        await endpoint.stop()


def _locked(path: Path) -> int:
    """Hold the data folder for this process: two endpoints on one queue would run jobs twice."""
    lock = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        raise StoreError(f"{path.parent} is in use by another endpoint; end it, or name another --data-dir") from None
    return lock


async def _listen(face: web.AppRunner, host: str, port: int) -> int:
    """The port it got."""
    await face.setup()
    await web.TCPSite(face, host, port).start()
    return int(face.addresses[0][1])
