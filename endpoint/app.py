"""The assembled endpoint: the client API, the worker API, the job queue between them, the workers and the sweeper."""

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
from endpoint.job_queue import JobQueue
from endpoint.options import Options
from endpoint.store import Store, StoreError
from endpoint.webhooks import Webhooks
from endpoint.worker_api import WorkerApi
from endpoint.worker_process import WorkerSlot
from endpoint.workers import WorkerPool

SWEEP_S = 0.25
LOOPBACK = "127.0.0.1"

log = logging.getLogger(__name__)
http_log = logging.getLogger("endpoint.http")


class _NoHeaders(logging.Filter):
    """Drops aiohttp's log of malformed requests: it quotes the header, which may hold the key."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError))


http_log.addFilter(_NoHeaders())


class Endpoint:
    """Runs between :meth:`start` and :meth:`stop`, in the event loop that called it.

    Args:
        options: the command line; the data folder is made if missing.
        key: callers must send it.
        clock: unix seconds, for jobs' times and deadlines.

    Raises:
        StoreError: the jobs on disk cannot be used, or another endpoint uses them.
    """

    def __init__(self, options: Options, key: str, clock: Callable[[], float] = time.time) -> None:
        self._options = options
        options.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock = _lock_folder(options.data_dir / "lock")
        try:
            self._store = Store(options.data_dir / "jobs.sqlite3")
        except StoreError:
            os.close(self._lock)
            raise
        self.pool = WorkerPool()
        self.queue = JobQueue(self._store, max_attempts=options.max_attempts, max_queue=options.max_queue, clock=clock)
        self.queue.on_stop = self.pool.stop_job
        self._webhooks = Webhooks(self.queue)
        self._is_stopping = False
        client_app = ClientApi(options, key, self.queue, self.pool, lambda: self._is_stopping).app()
        self._client_api = web.AppRunner(client_app, access_log=None, logger=http_log, shutdown_timeout=1)
        worker_app = WorkerApi(self.queue, self.pool).app()
        self._worker_api = web.AppRunner(worker_app, access_log=None, logger=http_log, shutdown_timeout=1)
        self._slots: list[WorkerSlot] = []

    async def start(self) -> None:
        """Listen, then start the workers.

        Raises:
            OSError: the address is in use, or not this machine's.
        """
        self.worker_url = f"http://{LOOPBACK}:{await _listen(self._worker_api, LOOPBACK, 0)}"
        port = await _listen(self._client_api, self._options.host, self._options.port)
        shown_host = LOOPBACK if self._options.host in ("0.0.0.0", "::", "localhost") else self._options.host  # noqa: S104
        self.url = f"http://{shown_host}:{port}/v2/{self._options.endpoint_id}"
        self._webhooks.start()
        self._sweeper = asyncio.create_task(self._sweep())
        for number in range(1, self._options.workers + 1):
            self._slots.append(WorkerSlot(number, self.queue, self.pool, self._options, self.worker_url))

    async def stop(self) -> None:
        """Take no more jobs, let the running ones finish within the grace, and end everything."""
        self._is_stopping = True
        self.queue.changed.notify()
        await asyncio.gather(*(slot.stop() for slot in self._slots))
        self.queue.subscribers.close()
        await self._client_api.cleanup()
        await self._worker_api.cleanup()
        await self._webhooks.stop()
        self._sweeper.cancel()
        self.close()

    def hurry(self) -> None:
        """End the grace of running jobs now."""
        for slot in self._slots:
            slot.hurry()

    def close(self) -> None:
        """Close the database and release the data folder; idempotent."""
        self._store.close()
        with contextlib.suppress(OSError):
            os.close(self._lock)

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_S)
            try:
                self.queue.sweep()
                self.pool.replace_hung()
            except sqlite3.Error:
                log.exception("the jobs could not be saved")


@contextlib.asynccontextmanager
async def running(endpoint: Endpoint) -> AsyncIterator[Endpoint]:
    """Run the endpoint for the length of a block."""
    await endpoint.start()
    try:
        yield endpoint
    finally:
        await endpoint.stop()


def _lock_folder(path: Path) -> int:
    """Lock the data folder for this process: two endpoints on one queue would run jobs twice."""
    lock = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        raise StoreError(f"{path.parent} is in use by another endpoint; end it, or name another --data-dir") from None
    return lock


async def _listen(api: web.AppRunner, host: str, port: int) -> int:
    """Open an API and return its port."""
    await api.setup()
    await web.TCPSite(api, host, port).start()
    return int(api.addresses[0][1])
