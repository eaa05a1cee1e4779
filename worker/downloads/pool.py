"""Brings files: one pool of connections over the ranges of all of them, each verified before it gets its name.

The first request for a file is also the probe; with its answer the file's other ranges join the queue. A thread per
file hashes the bytes as they come and finishes the file. The first failure that nothing can mend ends all of it, what
is finished stays, and no ``.part`` is left behind.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from worker.downloads.disk import existing, free_bytes
from worker.downloads.part_files import PathTakenError, sweep_parts
from worker.downloads.progress import DownloadProgress
from worker.downloads.threads import JobThreads
from worker.downloads.transfer import AbandonedError, RestartError, Span, Transfer
from worker.errors import Code, WorkerError
from worker.net.connections import NETWORK_ERRORS, ConnectionsClosedError, Sockets
from worker.net.retry import Budget, Retry, RetryReason
from worker.sites.client import SiteClient, network_error
from worker.sites.errors import SiteError
from worker.sites.repo_list import line_error
from worker.sites.types import Download, Downloaded, FileProgress, Report
from worker.stop import Stop
from worker.text import amount

__all__ = ["download_all", "sweep_parts"]

RESERVE_BYTES = 16 << 20
"""Stays free on the disk; ComfyUI writes its results there as well."""
CORRUPT_TRIES = 2
"""Downloads of one file before wrong contents count as the site's own fault."""

log = logging.getLogger(__name__)


@dataclass(eq=False)
class _Job:
    """One file through all its attempts."""

    download: Download
    transfer: Transfer
    budget: Budget
    started: float = 0.0
    corrupt: int = 0
    active: int = 0
    """Connections that bring its bytes now."""
    result: Downloaded | None = None

    def progress(self) -> FileProgress:
        total = self.transfer.total if self.transfer.begun else self.download.file.size
        return FileProgress(self.download.path.name, self.transfer.received, total)


def download_all(
    downloads: Sequence[Download],
    new_client: Callable[[Sockets], SiteClient],
    stop: Stop,
    report: Report,
    *,
    connections: int,
    retry: Retry,
    network_volume: bool = False,
    reserve_bytes: int = RESERVE_BYTES,
) -> list[Downloaded]:
    """Bring every file; the results in the order of ``downloads``.

    Args:
        downloads: what to bring, and where to.
        new_client: makes a thread's connections, registered with the given sockets.
        stop: ends everything within a second when set.
        report: called at most twice a second, and once at the end.
        connections: over all files together.
        retry: how often and how long to try.
        network_volume: the target is on one: no preallocation, fsync at the end.
        reserve_bytes: must stay free on the disk.

    Raises:
        WorkerError: the failure of the earliest line that failed; finished files stay.
        Stopped: ``stop`` was set.
    """
    check_room(downloads, reserve_bytes)
    pool = _Pool(downloads, new_client, retry, network_volume)
    return pool.run(connections, stop, DownloadProgress(report))


def check_room(downloads: Sequence[Download], reserve_bytes: int = RESERVE_BYTES) -> None:
    """Raise DISK_FULL when the known sizes do not fit; an unknown one is checked once its server has told it."""
    needed: dict[int, int] = {}
    folders: dict[int, Path] = {}
    for download in downloads:
        folder = existing(download.path.parent)
        device = folder.stat().st_dev
        folders[device] = folder
        needed[device] = needed.get(device, 0) + (download.file.size or 0)
    for device, size in needed.items():
        free = free_bytes(folders[device])
        if size > free - reserve_bytes:
            what = f"the models need {amount(size)} and the disk has {amount(free)} free"
            raise WorkerError(Code.DISK_FULL, what, details={"needed_bytes": size, "free_bytes": free})


def taken_error(download: Download) -> WorkerError:
    """The error of a download whose path other bytes took meanwhile; ``details["taken"]`` is ``<folder>/<name>``."""
    path = download.path
    what = f"another worker gave the name {path.name} to another file meanwhile"
    details = {"taken": f"{path.parent.name}/{path.name}"}
    return line_error(download.file.line, Code.DOWNLOAD_FAILED, what, "Send the job again.", details)


class _Pool:
    """The queue of ranges and the threads that work on it. ``_turn`` guards all fields and every span's ``busy``."""

    def __init__(
        self,
        downloads: Sequence[Download],
        new_client: Callable[[Sockets], SiteClient],
        retry: Retry,
        network_volume: bool,
    ) -> None:
        self._retry, self._network_volume = retry, network_volume
        self._sockets = Sockets()
        self._threads = JobThreads(self._sockets)
        self._new_client = new_client
        self._turn = threading.Condition()
        self._errors: list[tuple[int, WorkerError]] = []
        self._over = False
        self._jobs = [self._new_job(download) for download in downloads]

    def run(self, connections: int, stop: Stop, progress: DownloadProgress) -> list[Downloaded]:
        if self._jobs:
            for number in range(connections):
                self._threads.start(self._work, f"download-{number}")
            try:
                self._threads.wait(stop, lambda: progress.tick(self._progress()))
            finally:
                self._end()
                progress.hide()
        progress.close(self._progress())
        if self._errors:
            raise min(self._errors, key=lambda pair: pair[0])[1]
        return [job.result for job in self._jobs if job.result]

    def _progress(self) -> list[FileProgress]:
        return [job.progress() for job in self._jobs]

    def _end(self) -> None:
        with self._turn:
            self._over = True
            self._turn.notify_all()
        for job in self._jobs:
            if job.result is None:
                job.transfer.abandon()
        self._threads.dismiss()

    def _new_job(self, download: Download) -> _Job:
        budget = Budget(self._retry)
        return _Job(download, self._new_transfer(download, budget), budget)

    def _new_transfer(self, download: Download, budget: Budget) -> Transfer:
        return Transfer(download, self._retry, network_volume=self._network_volume, on_begun=self._begun, budget=budget)

    # The connections

    def _work(self) -> None:
        client = self._new_client(self._sockets)
        try:
            while picked := self._next():
                job, transfer, span = picked
                self._attempt(client, job, transfer, span)
                with self._turn:
                    span.busy = False
                    job.active -= 1
                    self._turn.notify_all()
        finally:
            client.close()

    def _next(self) -> tuple[_Job, Transfer, Span] | None:
        """Wait for a range to bring; None when there will be none any more."""
        with self._turn:
            while not self._over:
                now = time.monotonic()
                for job, span in self._queue():
                    if span.ready_at <= now:
                        return self._take(job, span)
                for job in self._open_jobs():
                    half = job.transfer.split()
                    if half:
                        return self._take(job, half)
                soonest = min((span.ready_at for _, span in self._queue()), default=now + 60)
                self._turn.wait(max(0.0, soonest - now) + 0.001)
        return None

    def _open_jobs(self) -> Iterator[_Job]:
        for job in self._jobs:
            limit = job.transfer.limit
            if job.result is None and (limit is None or job.active < limit):
                yield job

    def _queue(self) -> Iterator[tuple[_Job, Span]]:
        """Ranges that nobody brings: first those of files not begun, so that all lengths are soon known."""
        jobs = list(self._open_jobs())
        for job in [*(j for j in jobs if not j.transfer.begun), *(j for j in jobs if j.transfer.begun)]:
            for span in tuple(job.transfer.spans):
                if not span.busy and not span.is_whole:
                    yield job, span

    def _take(self, job: _Job, span: Span) -> tuple[_Job, Transfer, Span]:
        span.busy = True
        job.active += 1
        job.started = job.started or time.monotonic()
        return job, job.transfer, span

    def _attempt(self, client: SiteClient, job: _Job, transfer: Transfer, span: Span) -> None:
        try:
            transfer.pull(client, span)
        except (AbandonedError, ConnectionsClosedError):
            return
        except WorkerError as error:
            self._fail(job, error)
        except RestartError as restart:
            self._restart(job, transfer, restart)
        except SiteError as refused:
            self._again(job, transfer, span, refused)
        except NETWORK_ERRORS as error:
            self._again(job, transfer, span, network_error(error))
        except Exception:
            self._crashed(job)

    def _again(self, job: _Job, transfer: Transfer, span: Span, refused: SiteError) -> None:
        """Put a refused range back into the queue, or fail with what refused it."""
        with self._turn:
            if self._over or job.transfer is not transfer:
                return
            if refused.again is RetryReason.EXPIRED and transfer.expire(span):
                return
            if refused.again is RetryReason.RATE:
                transfer.limit = max(1, job.active // 2)
            again = RetryReason.NEVER if refused.again is RetryReason.EXPIRED else refused.again
            delay = span.budget.delay_s(again, refused.retry_after_s)
            if delay is not None and not transfer.resumes and transfer.begun:
                span = self._replace(job, transfer, span.budget)
            if delay is not None:
                span.ready_at = time.monotonic() + delay
                log.info("%s: %s; again in %.1f s", job.download.path.name, refused.what, delay)
                return
        details = {"status": refused.status} if refused.status else None
        self._fail(job, line_error(job.download.file.line, refused.code, refused.what, refused.hint, details))

    # A file as a whole

    def _begun(self, transfer: Transfer) -> None:
        """A file's length is known: its other ranges can be taken, and its hash can begin."""
        with self._turn:
            job = next(job for job in self._jobs if job.download is transfer.download)
            self._turn.notify_all()
        self._threads.start(lambda: self._follow(job, transfer), "hash")

    def _follow(self, job: _Job, transfer: Transfer) -> None:
        try:
            sha256 = transfer.hash()
            if sha256 is not None:
                size = transfer.finish(sha256)
                self._finished(job, Downloaded(job.download.file, job.download.path, size, sha256))
        except AbandonedError:
            return
        except RestartError as restart:
            self._restart(job, transfer, restart)
        except PathTakenError:
            self._fail(job, taken_error(job.download))
        except WorkerError as error:
            self._fail(job, error)
        except Exception:
            self._crashed(job)

    def _finished(self, job: _Job, result: Downloaded) -> None:
        seconds = max(0.001, time.monotonic() - job.started)
        speed = amount(int(result.size / seconds))
        log.info("%s is there: %s in %.1f s (%s/s)", result.path.name, amount(result.size), seconds, speed)
        with self._turn:
            job.result = result
            if all(job.result for job in self._jobs):
                self._over = True
                self._threads.done.set()
            self._turn.notify_all()

    def _restart(self, job: _Job, transfer: Transfer, restart: RestartError) -> None:
        """Begin a file anew, once for wrong contents and a few times for contents that changed."""
        with self._turn:
            if self._over or job.transfer is not transfer:
                return
            job.corrupt += 1
            if job.corrupt < CORRUPT_TRIES:
                log.warning("%s: %s; it is downloaded once more", job.download.path.name, restart.what)
                self._replace(job, transfer, job.budget)
                self._turn.notify_all()
                return
        facts = {"sha256": job.download.file.sha256} if restart.code is Code.MODEL_CORRUPT else None
        what = f"{restart.what}, after {job.corrupt} downloads"
        self._fail(job, line_error(job.download.file.line, restart.code, what, details=facts))

    def _replace(self, job: _Job, transfer: Transfer, budget: Budget) -> Span:
        transfer.abandon()
        job.transfer = self._new_transfer(job.download, budget)
        return job.transfer.spans[0]

    def _fail(self, job: _Job, error: WorkerError) -> None:
        if error.details.get("line") is None:
            line = job.download.file.line
            error = line_error(line, error.code, error.message, error.hint, error.details)
        with self._turn:
            if not self._over or self._errors:
                self._errors.append((job.download.file.line.number, error))
            self._over = True
            self._threads.done.set()
            self._turn.notify_all()

    def _crashed(self, job: _Job) -> None:
        if self._over:
            return  # a connection that was ended under a reader's hands may break in any way
        log.exception("the download of %s broke", job.download.path.name)
        self._fail(job, WorkerError(Code.INTERNAL, f"the download of {job.download.path.name} broke"))
