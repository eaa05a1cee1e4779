"""The downloads of one job: one pool of connections over the ranges of all files, each verified before it is named.

The first request for a file is also the probe; its answer queues the file's other ranges. A thread per file hashes the
bytes as they arrive and finishes the file. The first permanent failure ends all downloads; finished files stay, and no
``.part`` is left behind.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from worker.downloads.disk import free_bytes, nearest_existing
from worker.downloads.part_files import PathTakenError
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

RESERVE_BYTES = 16 << 20
"""Stays free on the disk; ComfyUI writes its results there as well."""
CORRUPT_TRIES = 2
"""Downloads of one file before wrong contents count as the site's own fault."""

log = logging.getLogger(__name__)


@dataclass(eq=False)
class _FileDownload:
    """One file over all its attempts."""

    download: Download
    transfer: Transfer
    budget: Budget
    started: float = 0.0
    bad_downloads: int = 0
    """Downloads that ended with wrong or changed contents."""
    connections: int = 0
    """Connections that download it now."""
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
    """Download every file. Return the results in the order of ``downloads``.

    Args:
        downloads: the files and their final paths.
        new_client: makes a thread's client, whose connections are registered with the given sockets.
        stop: ends everything within a second when set.
        report: called at most twice a second, and once at the end.
        connections: over all files together.
        retry: how often and how long to try.
        network_volume: the target is on one: no preallocation, fsync at the end.
        reserve_bytes: must stay free on the disk.

    Raises:
        WorkerError: of the earliest line that failed; the first failure ends all downloads, finished files stay.
        StoppedError: ``stop`` was set.
    """
    check_free_space(downloads, reserve_bytes)
    pool = _DownloadPool(downloads, new_client, retry, network_volume)
    return pool.run(connections, stop, DownloadProgress(report))


def check_free_space(downloads: Sequence[Download], reserve_bytes: int = RESERVE_BYTES) -> None:
    """Raise DISK_FULL when the known sizes do not fit. An unknown size is checked when the server has given it."""
    needed: dict[int, int] = {}
    folders: dict[int, Path] = {}
    for download in downloads:
        folder = nearest_existing(download.path.parent)
        device = folder.stat().st_dev
        folders[device] = folder
        needed[device] = needed.get(device, 0) + (download.file.size or 0)
    for device, size in needed.items():
        free = free_bytes(folders[device])
        if size > free - reserve_bytes:
            what = f"the models need {amount(size)} and the disk has {amount(free)} free"
            raise WorkerError(Code.DISK_FULL, what, details={"needed_bytes": size, "free_bytes": free})


def path_taken_error(download: Download) -> WorkerError:
    """Return the error of a download whose path other bytes have; ``details["taken"]`` is ``<folder>/<name>``."""
    path = download.path
    what = f"another worker gave the name {path.name} to another file meanwhile"
    details = {"taken": f"{path.parent.name}/{path.name}"}
    return line_error(download.file.line, Code.DOWNLOAD_FAILED, what, "Send the job again.", details)


class _DownloadPool:
    """The queue of ranges and the threads that work on it. ``_changed`` guards all fields and every span's ``busy``."""

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
        self._changed = threading.Condition()
        self._errors: list[tuple[int, WorkerError]] = []
        self._ended = False
        self._files = [self._new_file(download) for download in downloads]

    def run(self, connections: int, stop: Stop, progress: DownloadProgress) -> list[Downloaded]:
        if self._files:
            for number in range(connections):
                self._threads.start(self._work, f"download-{number}")
            try:
                self._threads.wait(stop, lambda: progress.update(self._progress()))
            finally:
                self._end()
                progress.close_bar()
        progress.finish(self._progress())
        if self._errors:
            raise min(self._errors, key=lambda pair: pair[0])[1]
        return [file.result for file in self._files if file.result]

    def _progress(self) -> list[FileProgress]:
        return [file.progress() for file in self._files]

    def _end(self) -> None:
        with self._changed:
            self._ended = True
            self._changed.notify_all()
        for file in self._files:
            if file.result is None:
                file.transfer.abandon()
        self._threads.close()

    def _new_file(self, download: Download) -> _FileDownload:
        budget = Budget(self._retry)
        return _FileDownload(download, self._new_transfer(download, budget), budget)

    def _new_transfer(self, download: Download, budget: Budget) -> Transfer:
        return Transfer(
            download, self._retry, network_volume=self._network_volume, on_begun=self._on_begun, budget=budget
        )

    # The connections

    def _work(self) -> None:
        client = self._new_client(self._sockets)
        try:
            while picked := self._next():
                file, transfer, span = picked
                self._attempt(client, file, transfer, span)
                with self._changed:
                    span.busy = False
                    file.connections -= 1
                    self._changed.notify_all()
        finally:
            client.close()

    def _next(self) -> tuple[_FileDownload, Transfer, Span] | None:
        """Wait for a range to download and take it. Return None when the downloads have ended."""
        with self._changed:
            while not self._ended:
                now = time.monotonic()
                for file, span in self._queue():
                    if span.retry_at <= now:
                        return self._take(file, span)
                for file in self._open_files():
                    half = file.transfer.split()
                    if half:
                        return self._take(file, half)
                soonest = min((span.retry_at for _, span in self._queue()), default=now + 60)
                self._changed.wait(max(0.0, soonest - now) + 0.001)
        return None

    def _open_files(self) -> Iterator[_FileDownload]:
        """Yield the unfinished files that may use one more connection."""
        for file in self._files:
            most = file.transfer.max_connections
            if file.result is None and (most is None or file.connections < most):
                yield file

    def _queue(self) -> Iterator[tuple[_FileDownload, Span]]:
        """Yield the waiting ranges: first those of files not begun, so that all lengths are soon known."""
        for file in sorted(self._open_files(), key=lambda file: file.transfer.begun):
            for span in tuple(file.transfer.spans):
                if not span.busy and not span.is_complete:
                    yield file, span

    def _take(self, file: _FileDownload, span: Span) -> tuple[_FileDownload, Transfer, Span]:
        span.busy = True
        file.connections += 1
        file.started = file.started or time.monotonic()
        return file, file.transfer, span

    def _attempt(self, client: SiteClient, file: _FileDownload, transfer: Transfer, span: Span) -> None:
        try:
            transfer.download_span(client, span)
        except (AbandonedError, ConnectionsClosedError):
            return
        except WorkerError as error:
            self._fail(file, error)
        except RestartError as restart:
            self._restart(file, transfer, restart)
        except SiteError as error:
            self._retry_or_fail(file, transfer, span, error)
        except NETWORK_ERRORS as error:
            self._retry_or_fail(file, transfer, span, network_error(error))
        except Exception:
            self._fail_unexpectedly(file)

    def _retry_or_fail(self, file: _FileDownload, transfer: Transfer, span: Span, error: SiteError) -> None:
        """Put a refused range back into the queue; fail when it has no try left."""
        with self._changed:
            if self._ended or file.transfer is not transfer:
                return
            if error.retry_reason is RetryReason.EXPIRED and transfer.expire_location(span):
                return
            if error.retry_reason is RetryReason.RATE:
                transfer.max_connections = max(1, file.connections // 2)
            reason = RetryReason.NEVER if error.retry_reason is RetryReason.EXPIRED else error.retry_reason
            delay = span.budget.delay_s(reason, error.retry_after_s)
            if delay is not None and not transfer.can_resume and transfer.begun:
                span = self._replace(file, transfer, span.budget)
            if delay is not None:
                span.retry_at = time.monotonic() + delay
                log.info("%s: %s; again in %.1f s", file.download.path.name, error.what, delay)
                return
        details = {"status": error.status} if error.status else None
        self._fail(file, line_error(file.download.file.line, error.code, error.what, error.hint, details))

    # A file as a whole

    def _on_begun(self, transfer: Transfer) -> None:
        """Offer the other ranges of a file whose length is now known, and start its hash."""
        with self._changed:
            file = next(file for file in self._files if file.download is transfer.download)
            self._changed.notify_all()
        self._threads.start(lambda: self._hash_and_finish(file, transfer), "hash")

    def _hash_and_finish(self, file: _FileDownload, transfer: Transfer) -> None:
        try:
            sha256 = transfer.hash()
            if sha256 is not None:
                size = transfer.finish(sha256)
                self._finished(file, Downloaded(file.download.file, file.download.path, size, sha256))
        except AbandonedError:
            return
        except RestartError as restart:
            self._restart(file, transfer, restart)
        except PathTakenError:
            self._fail(file, path_taken_error(file.download))
        except WorkerError as error:
            self._fail(file, error)
        except Exception:
            self._fail_unexpectedly(file)

    def _finished(self, file: _FileDownload, result: Downloaded) -> None:
        seconds = max(0.001, time.monotonic() - file.started)
        speed = amount(int(result.size / seconds))
        log.info("%s is there: %s in %.1f s (%s/s)", result.path.name, amount(result.size), seconds, speed)
        with self._changed:
            file.result = result
            if all(file.result for file in self._files):
                self._ended = True
                self._threads.done.set()
            self._changed.notify_all()

    def _restart(self, file: _FileDownload, transfer: Transfer, restart: RestartError) -> None:
        """Download a file again from its start; fail when it has no try left."""
        with self._changed:
            if self._ended or file.transfer is not transfer:
                return
            file.bad_downloads += 1
            if file.bad_downloads < CORRUPT_TRIES:
                log.warning("%s: %s; it is downloaded once more", file.download.path.name, restart.what)
                self._replace(file, transfer, file.budget)
                self._changed.notify_all()
                return
        facts = {"sha256": file.download.file.sha256} if restart.code is Code.MODEL_CORRUPT else None
        what = f"{restart.what}, after {file.bad_downloads} downloads"
        self._fail(file, line_error(file.download.file.line, restart.code, what, details=facts))

    def _replace(self, file: _FileDownload, transfer: Transfer, budget: Budget) -> Span:
        transfer.abandon()
        file.transfer = self._new_transfer(file.download, budget)
        return file.transfer.spans[0]

    def _fail(self, file: _FileDownload, error: WorkerError) -> None:
        if error.details.get("line") is None:
            line = file.download.file.line
            error = line_error(line, error.code, error.message, error.hint, error.details)
        with self._changed:
            if not self._ended or self._errors:
                self._errors.append((file.download.file.line.number, error))
            self._ended = True
            self._threads.done.set()
            self._changed.notify_all()

    def _fail_unexpectedly(self, file: _FileDownload) -> None:
        if self._ended:
            return  # closing its socket can make a read fail in any way
        log.exception("the download of %s broke", file.download.path.name)
        self._fail(file, WorkerError(Code.INTERNAL, f"the download of {file.download.path.name} broke"))
