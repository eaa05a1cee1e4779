"""One attempt at one file: its byte ranges, its ``.part``, and the hash of its bytes as they arrive.

Any number of threads may download one span each. A transfer that cannot go on as it began (other contents, no ranges)
is abandoned as a whole; :mod:`worker.downloads.pool` then starts another.
"""

from __future__ import annotations

import hashlib
import logging
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass

import requests

from worker.downloads.part_files import PartFile
from worker.downloads.safetensors import UNSAFE, SafetensorsError, check_safetensors, looks_like
from worker.errors import Code, WorkerError
from worker.net.retry import Budget, Retry, RetryReason
from worker.sites.client import SiteClient
from worker.sites.direct_link import size_of
from worker.sites.errors import SiteError
from worker.sites.file_names import SAFE_EXTENSIONS
from worker.sites.repo_list import line_error
from worker.sites.types import Download

MiB = 1 << 20
CHUNK = MiB
"""Bytes of one read and one write; 8 KiB costs 2.9 times as long (measured), and far more on a network volume."""
HASH_CHUNK = MiB
"""Small enough to still be in the processor's cache when it is hashed."""
SPLIT_ABOVE = 16 * MiB
"""An idle connection takes half of another connection's remaining range when that has at least this many bytes."""

log = logging.getLogger(__name__)


class AbandonedError(Exception):
    """This attempt is over; its threads go on to other files."""


class RestartError(Exception):
    """The file must be downloaded again from its start; ``code`` is the error when no try is left."""

    def __init__(self, what: str, code: Code = Code.DOWNLOAD_FAILED) -> None:
        super().__init__(what)
        self.what, self.code = what, code


def span_bytes(size: int | None) -> int:
    """Return the bytes of one request: 32 MiB, for files from 4 GiB on 64 MiB, for files up to 64 MiB all of it."""
    if size is None or size <= 64 * MiB:
        return 64 * MiB
    return 32 * MiB if size < 4096 * MiB else 64 * MiB


@dataclass(eq=False)
class Span:
    """A range of bytes that one connection downloads."""

    start: int
    end: int | None
    """Exclusive; None until the first answer of a server that takes no ranges has ended."""
    budget: Budget
    received: int = 0
    busy: bool = False
    retry_at: float = 0.0
    """``time.monotonic()`` before which it is not requested again."""
    location: str | None = None
    """The address of its last request."""
    requested_end: int | None = None
    """``end`` at that request: an idle connection may have taken the second half since."""

    @property
    def position(self) -> int:
        """The next missing byte."""
        return self.start + self.received

    @property
    def is_complete(self) -> bool:
        """True when no byte is missing."""
        return self.end is not None and self.position >= self.end


class Transfer:
    """One attempt at one file.

    Args:
        download: the file and its final path.
        retry: the policy for each span.
        network_volume: do not preallocate, and fsync before the file gets its name.
        on_begun: called once, when the length is known and the ``.part`` exists.
        budget: of the first span; an earlier attempt's when this one follows it.
    """

    def __init__(
        self,
        download: Download,
        retry: Retry,
        *,
        network_volume: bool,
        on_begun: Callable[[Transfer], None],
        budget: Budget | None = None,
    ) -> None:
        self.download = download
        self.file = download.file
        self.spans = [Span(0, span_bytes(self.file.size), budget or Budget(retry))]
        self.total: int | None = None
        self.begun = False
        self.max_connections: int | None = None
        """Most connections at once; None for any number."""
        self._retry = retry
        self._network_volume = network_volume
        self._on_begun = on_begun
        self._changed = threading.Condition()
        self._location_lock = threading.Lock()
        self._location: str | None = None
        self._renewed = False
        self._takes_ranges = True
        self._etag: tuple[str | None, str | None] = (None, None)
        self._part: PartFile | None = None
        self._abandoned = False
        self._front = 0
        """Number of complete spans at the start of the file, without a gap."""

    @property
    def received(self) -> int:
        """Bytes on disk."""
        return sum(span.received for span in tuple(self.spans))

    @property
    def can_resume(self) -> bool:
        """True when a broken span can go on where it stopped."""
        return self._takes_ranges

    def abandon(self) -> None:
        """Remove the ``.part``; the threads of this attempt stop at their next chunk. Idempotent."""
        with self._changed:
            self._abandoned = True
            if self._part:
                self._part.drop()
                self._part = None
            self._changed.notify_all()

    def download_span(self, client: SiteClient, span: Span) -> None:
        """Download the rest of ``span``. The file's first answer also gives its length and calls ``on_begun``.

        Raises:
            SiteError: the request was refused; its ``retry_reason`` decides what follows.
            RestartError: the contents changed, or are wrong.
            WorkerError: the disk is full or cannot be written.
            AbandonedError: the attempt was given up.
        """
        with self._open(client, span) as response:
            if self._accept(response, span):
                self._on_begun(self)
            self._receive(response, span)

    def expire_location(self, span: Span) -> bool:
        """Forget the signed address that refused ``span``. Return False if this file had a second address already."""
        with self._changed:
            if span.location is not None and span.location != self._location:
                return True  # another thread has renewed it
            self._location = None
            fresh, self._renewed = not self._renewed, True
            return fresh

    def split(self) -> Span | None:
        """Split the busy span with the most missing bytes; return its second half, or None when all are small."""
        with self._changed:
            if not self.begun or not self._takes_ranges:
                return None
            missing = [(span.end - span.position, i) for i, span in enumerate(self.spans) if span.busy and span.end]
            most, index = max(missing, default=(0, 0))
            if most < SPLIT_ABOVE:
                return None
            span = self.spans[index]
            middle = span.position + most // 2 // MiB * MiB
            new = Span(middle, span.end, Budget(self._retry))
            span.end = middle
            self.spans.insert(index + 1, new)
            return new

    def hash(self) -> str | None:
        """Hash the file while it arrives, and return its SHA-256 after the last byte; None when abandoned."""
        digest, position, buffer = hashlib.sha256(), 0, memoryview(bytearray(HASH_CHUNK))
        while True:
            with self._changed:
                while (frontier := self._frontier()) == position and not self._is_complete() and not self._abandoned:
                    self._changed.wait()
                if self._abandoned or self._part is None:
                    return None
                part = self._part
            if frontier == position:
                return digest.hexdigest()
            while position < frontier:
                count = part.read_into(buffer[: min(frontier - position, HASH_CHUNK)], position)
                if not count and self._abandoned:
                    return None
                if not count:
                    raise OSError("the .part file is shorter than what was written to it")
                digest.update(buffer[:count])
                position += count

    def finish(self, sha256: str) -> int:
        """Check the whole file, give it its final name, and return its size in bytes.

        Raises:
            RestartError: the contents are wrong (MODEL_CORRUPT).
            WorkerError: the disk is full or cannot be written.
            PathTakenError: other bytes have the name.
            AbandonedError: the attempt was given up.
        """
        part, size = self._part, self.received
        if part is None or self._abandoned:
            raise AbandonedError
        self._check_contents(part, sha256, size)
        try:
            part.move_into_place(size, sha256, self._network_volume)
        except WorkerError:
            if self._abandoned:  # the .part was removed because another download failed: that error is reported
                raise AbandonedError from None
            raise
        with self._changed:
            self._part = None  # an open descriptor would hold the model's disk space after its deletion
        return size

    def _open(self, client: SiteClient, span: Span) -> requests.Response:
        """Request the rest of ``span`` from the signed address; without one, from the site, which gives a new one."""
        span.requested_end = span.end
        requested = (span.position, (span.requested_end or 0) - 1) if self._takes_ranges else None
        with self._location_lock:  # the site counts each such request as a download, so one thread makes it
            span.location = self._location
            if span.location is None:
                final = client.follow(self.file.url, self.file.line, requested)
                span.location = self._location = final.url
                return final.response
        response = client.get(span.location, self.file.line, self.file.url, requested)
        if response.is_redirect:
            response.close()
            raise SiteError(Code.DOWNLOAD_FAILED, "the storage host redirects", RetryReason.EXPIRED)
        client.check_file(response, span.location, self.file.line)
        return response

    def _accept(self, response: requests.Response, span: Span) -> bool:
        """Check that the answer has the requested bytes. Return True if it is the first answer of this file."""
        ranged, etag = response.status_code == 206, response.headers.get("ETag")
        total = size_of(response.status_code, response.headers)
        with self._changed:
            if self._abandoned:
                raise AbandonedError
            if ranged and total is None and not self.begun:
                self._takes_ranges = False
                raise SiteError(Code.DOWNLOAD_FAILED, "the storage host gives no file length", RetryReason.SERVER)
            if ranged:
                _check_range(response, span)
            elif self._takes_ranges and span.position:
                raise SiteError(Code.DOWNLOAD_FAILED, "the storage host ignored the byte range", RetryReason.SERVER)
            if not self.begun:
                self._begin(total, ranged)
                self._etag = (span.location, etag)
                return True
        same_address = self._etag[0] == span.location
        if ranged != self._takes_ranges or total != self.total or (same_address and etag != self._etag[1]):
            raise RestartError("the file changed during its download")
        return False

    def _begin(self, total: int | None, ranged: bool) -> None:
        """Make the ``.part`` and plan the other spans. The caller holds the lock, so no thread sees half of them."""
        self._part = PartFile(self.download.path)
        try:
            self._part.reserve(total or 0, self._network_volume)
        except WorkerError:
            self._part.drop()
            raise
        first = self.spans[0]
        if ranged and total is not None:
            first.end = min(first.end or total, total)
            step = span_bytes(total)
            starts = range(first.end, total, step)
            self.spans += [Span(start, min(start + step, total), Budget(self._retry)) for start in starts]
        else:
            self._takes_ranges, first.end = False, total
        if total is not None and self.file.size not in (None, total):
            log.warning("%s has %s bytes where its site lists %s", self.file.filename, total, self.file.size)
        self.total, self.begun = total, True

    def _receive(self, response: requests.Response, span: Span) -> None:
        part = self._part
        if part is None:
            raise AbandonedError
        for chunk in response.raw.stream(CHUNK, decode_content=False):
            if self._abandoned:
                raise AbandonedError
            data = chunk if span.end is None else chunk[: max(0, span.end - span.position)]
            if span.position == 0:
                self._check_head(data)
            part.write(data, span.position)
            with self._changed:
                span.received += len(data)
                if span is self._front_span():  # only this span can unblock the hashing thread
                    self._changed.notify()
            if self._takes_ranges:
                span.budget.progressed()
            if span.is_complete:
                return
        if span.end is not None and not span.is_complete:
            raise SiteError(
                Code.DOWNLOAD_FAILED, "the connection was closed before the file was whole", RetryReason.SERVER
            )
        with self._changed:
            span.end = span.position  # no length was given: only the checks show if the server sent everything
            self._changed.notify()

    def _check_head(self, head: bytes) -> None:
        """Refuse by its first bytes what cannot be a model, before gigabytes of it are downloaded."""
        safe = self.download.path.name.lower().endswith(SAFE_EXTENSIONS)
        if len(head) < 9 or (not safe and head.lstrip()[:1] not in (b"<", b"{")):
            return
        kind = looks_like(head[:512])
        if kind in UNSAFE:
            what = f"its contents are {kind} under the name {self.download.path.name}"
            raise line_error(self.file.line, Code.MODEL_UNSAFE, what)
        if kind and head.lstrip()[:1] in (b"<", b"{"):
            raise line_error(self.file.line, Code.DOWNLOAD_FAILED, f"the host sent {kind} instead of the file")
        if kind and safe:
            raise RestartError(f"its contents are {kind}", Code.MODEL_CORRUPT)

    def _check_contents(self, part: PartFile, sha256: str, size: int) -> None:
        expected, wrong = self.file.sha256, []
        if self.download.path.name.lower().endswith(SAFE_EXTENSIONS):
            try:
                check_safetensors(part.path, size)
            except SafetensorsError as error:
                wrong.append(f"the file {error}")
        elif self.total is None and expected is None and size != self.file.size:
            wrong.append("neither a length nor a hash shows that the file is whole")
        if expected is not None and sha256 != expected:
            wrong.append(f"its SHA-256 is {sha256} where {expected} is published")
        if wrong:
            raise RestartError(", and ".join(wrong), Code.MODEL_CORRUPT)

    def _frontier(self) -> int:
        """Return the end of the bytes without a gap. Each complete span is passed once, since it stays complete."""
        while self._front < len(self.spans) and self.spans[self._front].is_complete:
            self._front += 1
        return self._front_span().position

    def _front_span(self) -> Span:
        return self.spans[min(self._front, len(self.spans) - 1)]

    def _is_complete(self) -> bool:
        return self.begun and self._front == len(self.spans)


def _check_range(response: requests.Response, span: Span) -> None:
    match = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", response.headers.get("Content-Range", "").strip())
    if match:
        start, last, total = (int(number) for number in match.groups())
        end = span.requested_end
        if start == span.position and start <= last < total and (end is None or last < end):
            return
    raise SiteError(Code.DOWNLOAD_FAILED, "the storage host sent other bytes than requested", RetryReason.SERVER)
