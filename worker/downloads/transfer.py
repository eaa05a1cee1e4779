"""One attempt to bring one file: its byte ranges, its ``.part``, and the hash that follows the bytes as they come.

Any number of threads may each hold one span. A transfer that can not go on as it began (other contents, no ranges) is
abandoned as a whole; :mod:`worker.downloads.pool` then starts another.
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
"""Bytes a read and a write; 8 KiB costs 2.9 times as long (measured), and far more on a network volume."""
HASH_CHUNK = MiB
"""Small enough to be still in the processor's cache when it is hashed."""
SPLIT_ABOVE = 16 * MiB
"""An idle connection takes half of another's rest when that is at least this much."""

log = logging.getLogger(__name__)


class AbandonedError(Exception):
    """This attempt is over; its threads go on to other work."""


class RestartError(Exception):
    """The file must be begun anew; the message says why, ``code`` is the error when it may not."""

    def __init__(self, what: str, code: Code = Code.DOWNLOAD_FAILED) -> None:
        super().__init__(what)
        self.what, self.code = what, code


def span_bytes(size: int | None) -> int:
    """How much one request asks for: 32 MiB, for files above 4 GiB 64 MiB, for those up to 64 MiB everything."""
    if size is None or size <= 64 * MiB:
        return 64 * MiB
    return 32 * MiB if size < 4096 * MiB else 64 * MiB


@dataclass(eq=False)
class Span:
    """A range of bytes that one request brings."""

    start: int
    end: int | None
    """Exclusive; None until the first answer of a server that takes no ranges has ended."""
    budget: Budget
    got: int = 0
    busy: bool = False
    ready_at: float = 0.0
    """``time.monotonic()`` before which it is not tried again."""
    location: str | None = None
    """The address its last request went to."""
    asked: int | None = None
    """What ``end`` was in that request: an idle connection may have taken the latter half since."""

    @property
    def position(self) -> int:
        """The next byte that is missing."""
        return self.start + self.got

    @property
    def is_whole(self) -> bool:
        """Whether nothing is missing."""
        return self.end is not None and self.position >= self.end


class Transfer:
    """One attempt at one file.

    Args:
        download: what to bring, and the final path.
        retry: the policy for each span.
        network_volume: do not preallocate, and fsync before the file gets its name.
        on_begun: called once, when the length is known and the ``.part`` exists.
        budget: of the first span; an earlier attempt's when this one goes on after it.
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
        self.limit: int | None = None
        """Connections it may use at once; None for any number."""
        self._retry = retry
        self._network_volume = network_volume
        self._on_begun = on_begun
        self._changed = threading.Condition()
        self._resolving = threading.Lock()
        self._location: str | None = None
        self._renewed = False
        self._ranges = True
        self._etag: tuple[str | None, str | None] = (None, None)
        self._part: PartFile | None = None
        self._abandoned = False
        self._front = 0
        """How many of the first spans are whole."""

    @property
    def received(self) -> int:
        """Bytes that are on disk."""
        return sum(span.got for span in tuple(self.spans))

    @property
    def resumes(self) -> bool:
        """Whether a broken span can go on where it stopped."""
        return self._ranges

    def abandon(self) -> None:
        """Give this attempt up: its ``.part`` goes, its threads stop at their next chunk. Idempotent."""
        with self._changed:
            self._abandoned = True
            if self._part:
                self._part.drop()
                self._part = None
            self._changed.notify_all()

    def pull(self, client: SiteClient, span: Span) -> None:
        """Bring the rest of ``span``; the file's first answer also tells its length and calls ``on_begun``.

        Raises:
            Refused: the answer was another; its ``again`` says what to do.
            Restart: the contents changed, or are not what they should be.
            WorkerError: the disk is full or can not be written.
            Abandoned: nobody needs it any more.
        """
        with self._open(client, span) as response:
            if self._accept(response, span):
                self._on_begun(self)
            self._receive(response, span)

    def expire(self, span: Span) -> bool:
        """Forget the signed address that ``span`` was refused at; False when this file got a second one already."""
        with self._changed:
            if span.location is not None and span.location != self._location:
                return True  # another thread has seen to it
            self._location = None
            fresh, self._renewed = not self._renewed, True
            return fresh

    def split(self) -> Span | None:
        """A new span out of the latter half of the one with most left to bring; None when all are small."""
        with self._changed:
            if not self.begun or not self._ranges:
                return None
            rest = [(span.end - span.position, i) for i, span in enumerate(self.spans) if span.busy and span.end]
            most, index = max(rest, default=(0, 0))
            if most < SPLIT_ABOVE:
                return None
            span = self.spans[index]
            middle = span.position + most // 2 // MiB * MiB
            new = Span(middle, span.end, Budget(self._retry))
            span.end = middle
            self.spans.insert(index + 1, new)
            return new

    def hash(self) -> str | None:
        """SHA-256 of the file while it comes: waits for bytes, ends with the last one. None when abandoned."""
        digest, position, buffer = hashlib.sha256(), 0, memoryview(bytearray(HASH_CHUNK))
        while True:
            with self._changed:
                while (frontier := self._frontier()) == position and not self._is_whole() and not self._abandoned:
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
        """Check the whole file and give it its final name; its size in bytes.

        Raises:
            Restart: it is not what it should be (MODEL_CORRUPT).
            WorkerError: MODEL_UNSAFE, or the disk.
            PathTaken: other bytes hold the name.
        """
        part, size = self._part, self.received
        if part is None or self._abandoned:
            raise AbandonedError
        self._check_contents(part, sha256, size)
        try:
            part.move_into_place(size, sha256, self._network_volume)
        except WorkerError:
            if self._abandoned:  # its .part was dropped under its hands, because another file failed: that is the news
                raise AbandonedError from None
            raise
        with self._changed:
            self._part = None  # an open descriptor would hold the model's disk space after its deletion
        return size

    def _open(self, client: SiteClient, span: Span) -> requests.Response:
        """The answer to a request for the rest of ``span``, at the signed address or on a new walk through the site."""
        span.asked = span.end
        wanted = (span.position, (span.asked or 0) - 1) if self._ranges else None
        with self._resolving:  # every walk counts one download against the account, so one thread goes
            span.location = self._location
            if span.location is None:
                reached = client.follow(self.file.url, self.file.line, wanted)
                span.location = self._location = reached.url
                return reached.response
        response = client.get(span.location, self.file.line, self.file.url, wanted)
        if response.is_redirect:
            response.close()
            raise SiteError(Code.DOWNLOAD_FAILED, "the storage host redirects", RetryReason.EXPIRED)
        client.check_file(response, span.location, self.file.line)
        return response

    def _accept(self, response: requests.Response, span: Span) -> bool:
        """Check that the answer is the bytes that were asked for; True when it is the first one of this file."""
        ranged, etag = response.status_code == 206, response.headers.get("ETag")
        total = size_of(response.status_code, response.headers)
        with self._changed:
            if self._abandoned:
                raise AbandonedError
            if ranged and total is None and not self.begun:
                self._ranges = False
                raise SiteError(
                    Code.DOWNLOAD_FAILED, "the storage host does not say how long the file is", RetryReason.SERVER
                )
            if ranged:
                _check_range(response, span)
            elif self._ranges and span.position:
                raise SiteError(
                    Code.DOWNLOAD_FAILED, "the storage host ignored the range it was asked for", RetryReason.SERVER
                )
            if not self.begun:
                self._begin(total, ranged)
                self._etag = (span.location, etag)
                return True
        same_place = self._etag[0] == span.location
        if ranged != self._ranges or total != self.total or (same_place and etag != self._etag[1]):
            raise RestartError("the file changed while it was downloaded")
        return False

    def _begin(self, total: int | None, ranged: bool) -> None:
        """Make the ``.part`` and plan the other spans; under the lock, so that nobody sees half of it."""
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
            self._ranges, first.end = False, total
        if total is not None and self.file.size not in (None, total):
            log.warning("%s has %s bytes where its site says %s", self.file.filename, total, self.file.size)
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
                self._sniff(data)
            part.write(data, span.position)
            with self._changed:
                span.got += len(data)
                if span is self._front_span():  # the hash waits for no other, and waking it costs every connection time
                    self._changed.notify()
            if self._ranges:
                span.budget.progressed()
            if span.is_whole:
                return
        if span.end is not None and not span.is_whole:
            raise SiteError(
                Code.DOWNLOAD_FAILED, "the connection was closed before the file was whole", RetryReason.SERVER
            )
        with self._changed:
            span.end = span.position  # no length was given: where the server stopped, and the checks must tell
            self._changed.notify()

    def _sniff(self, head: bytes) -> None:
        """Refuse what can not be a model by its first bytes, before gigabytes of it are brought."""
        safe = self.download.path.name.lower().endswith(SAFE_EXTENSIONS)
        if len(head) < 9 or (not safe and head.lstrip()[:1] not in (b"<", b"{")):
            return
        found = looks_like(head[:512])
        if found in UNSAFE:
            what = f"its contents are {found} under the name {self.download.path.name}"
            raise line_error(self.file.line, Code.MODEL_UNSAFE, what)
        if found and head.lstrip()[:1] in (b"<", b"{"):
            raise line_error(self.file.line, Code.DOWNLOAD_FAILED, f"the host sent {found} instead of the file")
        if found and safe:
            raise RestartError(f"its contents are {found}", Code.MODEL_CORRUPT)

    def _check_contents(self, part: PartFile, sha256: str, size: int) -> None:
        expected, wrong = self.file.sha256, []
        if self.download.path.name.lower().endswith(SAFE_EXTENSIONS):
            try:
                check_safetensors(part.path, size)
            except SafetensorsError as error:
                wrong.append(f"the file {error}")
        elif self.total is None and expected is None and size != self.file.size:
            wrong.append("nothing tells whether the file is whole")
        if expected is not None and sha256 != expected:
            wrong.append(f"its SHA-256 is {sha256} where {expected} is published")
        if wrong:
            raise RestartError(", and ".join(wrong), Code.MODEL_CORRUPT)

    def _frontier(self) -> int:
        """Where the bytes end that are there without a gap; a span that is whole stays so, and is passed once."""
        while self._front < len(self.spans) and self.spans[self._front].is_whole:
            self._front += 1
        return self._front_span().position

    def _front_span(self) -> Span:
        return self.spans[min(self._front, len(self.spans) - 1)]

    def _is_whole(self) -> bool:
        return self.begun and self._front == len(self.spans)


def _check_range(response: requests.Response, span: Span) -> None:
    found = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", response.headers.get("Content-Range", "").strip())
    if found:
        start, last, total = (int(number) for number in found.groups())
        if start == span.position and start <= last < total and (span.asked is None or last < span.asked):
            return
    raise SiteError(Code.DOWNLOAD_FAILED, "the storage host sent other bytes than it was asked for", RetryReason.SERVER)
