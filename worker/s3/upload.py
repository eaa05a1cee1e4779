"""Files into an S3 bucket: streamed from the disk in parallel, tried again, and a link for each. Blocks; for threads.

Uses the worker's own HTTP connections (:mod:`worker.net.connections`), not boto3: a job may name the server, so every
connection's peer must be checked before a byte is sent, and a cancelled job must be able to close them all.
"""

from __future__ import annotations

import contextlib
import io
import math
import re
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote, urlsplit
from xml.sax.saxutils import escape

import requests
import urllib3

from worker.errors import Code, WorkerError
from worker.net.connections import AllowedPeers, BlockedAddressError, ConnectionsClosedError, Sockets, new_session
from worker.net.hosts import is_ip, is_named
from worker.net.redact import redact_url
from worker.net.retry import Budget, Retry, RetryReason
from worker.s3.address import BucketAddress
from worker.s3.errors import BucketError, refused, tag
from worker.s3.signature import presigned, signed_headers
from worker.stop import Stop, StoppedError

FILES_AT_ONCE = 4
PARTS_AT_ONCE = 4
PART_BYTES = 16 << 20
MAX_PARTS = 10_000  # S3's own limit
SINGLE_PUT_BYTES = 32 << 20
POLL_S = 0.1
RETRY = Retry(tries=5, longest_s=10.0, read_s=60.0)


@dataclass(frozen=True)
class Body:
    """What is uploaded: a file on the disk, or bytes that were made here."""

    size: int
    path: Path | None = None
    data: bytes | None = None

    def read(self) -> bytes:
        """All of it."""
        if self.data is not None:
            return self.data
        assert self.path
        return self.path.read_bytes()

    def part(self, start: int, length: int) -> _Slice | io.BytesIO:
        """A stream of ``length`` bytes from ``start``, whose length is known before it is read."""
        if self.path is None:
            assert self.data is not None
            return io.BytesIO(self.data if length == self.size else self.data[start : start + length])
        return _Slice(self.path, start, length)


class _Slice:
    """Part of a file as a stream of its own. No ``io`` class: requests would ask it where it stands."""

    def __init__(self, path: Path, start: int, length: int) -> None:
        self._file = path.open("rb", buffering=0)
        self._file.seek(start)
        self._left = self._length = length

    def __len__(self) -> int:
        return self._length

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(self._left if size < 0 else min(size, self._left))
        self._left -= len(data)
        return data

    def close(self) -> None:
        self._file.close()


class Link(NamedTuple):
    """Where an uploaded file can be fetched; ``expires_s`` is None for a public address."""

    url: str
    expires_s: int | None


class Bucket:
    """One bucket to upload to.

    Args:
        address: where it is.
        peers: whom its connections may reach.
        retry: how often and how long to try.
    """

    def __init__(self, address: BucketAddress, peers: AllowedPeers = AllowedPeers.ANY, retry: Retry = RETRY) -> None:
        self.address, self.peers, self.retry = address, peers, retry

    @classmethod
    def of_a_job(cls, address: BucketAddress, private_hosts: tuple[str, ...], retry: Retry = RETRY) -> Bucket:
        """A bucket that a job named: https and public, unless the operator's PRIVATE_HOSTS names its host.

        Raises:
            WorkerError: INVALID_INPUT, it must not be asked.
        """
        parts = urlsplit(address.base)
        if is_named(private_hosts, parts):
            return cls(address, AllowedPeers.ANY, retry)
        if parts.scheme != "https" or is_ip(parts.hostname or ""):
            raise WorkerError(
                Code.INVALID_INPUT,
                f"`s3Config.endpointUrl` is {redact_url(address.base)!r}, which is not an https address with a name",
                "Use the store's https address, or let the operator name its host in PRIVATE_HOSTS.",
                details={"field": "s3Config.endpointUrl"},
            )
        return cls(address, AllowedPeers.PUBLIC, retry)

    def key(self, job_id: str, subfolder: str, filename: str) -> str:
        """The key of a job's file: prefix, job, subfolder, name; no part of it can climb out of the job's own."""
        parts = [self.address.prefix.strip("/"), _plain(job_id), *map(_plain, subfolder.split("/")), _plain(filename)]
        return "/".join(part for part in parts if part)

    def link(self, key: str) -> Link:
        """The address that the caller gets for an uploaded file."""
        address = self.address
        if public := address.public_link(key):
            return Link(public, None)
        now = datetime.now(timezone.utc)
        url = presigned(address.url(key), address.keys, address.region, address.link_life_s, now)
        return Link(url, address.link_life_s)

    @contextlib.contextmanager
    def uploads(self, stop: Stop) -> Iterator[Uploads]:
        """Uploads of one job; at the block's end every one of them is done, or none goes on."""
        running = Uploads(self, stop)
        try:
            yield running
            running.finish()
        finally:
            running.close()


def _plain(part: str) -> str:
    return "" if part in (".", "..") else re.sub(r"[\x00-\x1f\x7f/\\]", "_", part)


class Uploads:
    """The uploads of one job, a few files at a time. Build with :meth:`Bucket.uploads`."""

    def __init__(self, bucket: Bucket, stop: Stop) -> None:
        self._bucket, self._stop = bucket, stop
        self._sockets = Sockets()
        self._local = threading.local()
        self._sessions: list[requests.Session] = []
        self._files = ThreadPoolExecutor(FILES_AT_ONCE, thread_name_prefix="upload")
        self._pending: set[Future[None]] = set()

    def put(self, key: str, body: Body, media_type: str) -> None:
        """Begin an upload; waits while as many as may run do. Raises what one of them failed with."""
        while len(self._pending) >= FILES_AT_ONCE:
            self._wait_for_some()
        self._pending.add(self._files.submit(self._put, key, body, media_type))

    def finish(self) -> None:
        """Wait until all are done. Raises what the first failed with."""
        while self._pending:
            self._wait_for_some()

    def close(self) -> None:
        """End whatever still goes on, and every connection."""
        self._sockets.close_all()
        self._files.shutdown(wait=True, cancel_futures=True)
        for session in self._sessions:
            session.close()

    def _wait_for_some(self) -> None:
        done, self._pending = wait(self._pending, POLL_S, FIRST_COMPLETED)
        for future in done:
            try:
                future.result()
            except BucketError as problem:
                raise problem.error(self._bucket.address.bucket) from None
        self._check()

    def _check(self) -> None:
        if self._stop.is_set() or self._sockets.ended:
            raise StoppedError
        if self._stop.remaining_s() <= 0:
            raise WorkerError(Code.TIMEOUT, "the job's time was over while its results were uploaded")

    # ------------------------------------------------------------------ one file

    def _put(self, key: str, body: Body, media_type: str) -> None:
        url = self._bucket.address.url(key)
        if body.size <= SINGLE_PUT_BYTES:
            self._ask("PUT", url, lambda: body.part(0, body.size), body.size, headers={"Content-Type": media_type})
            return
        answer = self._ask("POST", f"{url}?uploads=", headers={"Content-Type": media_type})
        upload = quote(tag(answer.content, "UploadId") or "", safe="-_.~")
        if not upload:
            raise BucketError("the bucket began an upload without naming it", "Is this an S3-compatible address?")
        try:
            tags = self._put_parts(f"{url}?uploadId={upload}", body)
            self._complete(f"{url}?uploadId={upload}", tags)
        except BaseException:
            with contextlib.suppress(BucketError, StoppedError, WorkerError):
                self._ask("DELETE", f"{url}?uploadId={upload}", tries=1)  # its parts would be paid for
            raise

    def _put_parts(self, url: str, body: Body) -> list[str]:
        """Send every part; their ETags, in order."""
        length = max(PART_BYTES, math.ceil(body.size / MAX_PARTS))
        starts = range(0, body.size, length)

        def send(number: int) -> str:
            start = starts[number - 1]
            size = min(length, body.size - start)
            answer = self._ask("PUT", f"{url}&partNumber={number}", lambda: body.part(start, size), size)
            return answer.headers.get("ETag", "")

        with ThreadPoolExecutor(PARTS_AT_ONCE, thread_name_prefix="upload-part") as pool:
            futures = [pool.submit(send, number) for number in range(1, len(starts) + 1)]
            try:
                return [future.result() for future in futures]
            finally:
                pool.shutdown(wait=True, cancel_futures=True)

    def _complete(self, url: str, tags: list[str]) -> None:
        parts = "".join(
            f"<Part><PartNumber>{number}</PartNumber><ETag>{escape(etag)}</ETag></Part>"
            for number, etag in enumerate(tags, start=1)
        )
        xml = f"<CompleteMultipartUpload>{parts}</CompleteMultipartUpload>".encode()
        self._ask("POST", url, lambda: io.BytesIO(xml), len(xml), headers={"Content-Type": "application/xml"})

    # ------------------------------------------------------------------ one request

    def _ask(
        self,
        method: str,
        url: str,
        body: Callable[[], _Slice | io.BytesIO] | None = None,
        size: int = 0,
        *,
        headers: dict[str, str] | None = None,
        tries: int | None = None,
    ) -> requests.Response:
        """One request with its retries; the answer that was asked for, read to its end."""
        retry = self._bucket.retry
        budget = Budget(retry if tries is None else retry.only(tries, not_found=False))
        while True:
            self._check()
            try:
                return self._ask_once(method, url, body, size, headers or {})
            except BucketError as error:
                problem = error
            delay = budget.delay_s(problem.again)
            if delay is None:
                raise problem
            self._sleep(delay)

    def _ask_once(
        self, method: str, url: str, body: Callable[[], _Slice | io.BytesIO] | None, size: int, headers: dict[str, str]
    ) -> requests.Response:
        bucket = self._bucket
        signed = signed_headers(method, url, bucket.address.keys, bucket.address.region, datetime.now(timezone.utc))
        timeout = (bucket.retry.connect_s, bucket.retry.read_s)
        with contextlib.closing(body()) if body and size else contextlib.nullcontext(b"") as data:
            try:
                answer = self._session().request(
                    method, url, data=data, headers={**headers, **signed}, timeout=timeout, allow_redirects=False
                )
            except BlockedAddressError as error:
                raise BucketError(
                    str(error).replace("the link leads", "the bucket's name leads"),
                    "Use a public address, or let the operator name its host in PRIVATE_HOSTS.",
                ) from None
            except (requests.RequestException, urllib3.exceptions.HTTPError, OSError, ConnectionsClosedError) as error:
                self._check()
                raise _network_problem(error) from None
        failed_late = method == "POST" and tag(answer.content, "Code")  # a long completion fails after its 200
        if answer.ok and not failed_late:
            return answer
        raise refused(500 if answer.ok else answer.status_code, answer.content, bucket.address.bucket)

    def _session(self) -> requests.Session:
        """This thread's own: requests' are not for several at once."""
        session: requests.Session | None = getattr(self._local, "session", None)
        if session is None:
            session = self._local.session = new_session(self._bucket.peers, self._sockets)
            self._sessions.append(session)
        return session

    def _sleep(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            self._check()
            time.sleep(min(POLL_S, left))


def _network_problem(error: BaseException) -> BucketError:
    if isinstance(error, FileNotFoundError):
        return BucketError("a result file was gone before it was uploaded", "Send the job again.")
    if "CERTIFICATE_VERIFY_FAILED" in str(error):
        return BucketError("the bucket's TLS certificate cannot be verified", "Check BUCKET_ENDPOINT_URL.")
    if "NameResolutionError" in str(error):
        return BucketError("the bucket's host name is not known", "Check BUCKET_ENDPOINT_URL.", RetryReason.SERVER)
    kind = "did not answer in time" if isinstance(error, requests.Timeout) else f"broke ({type(error).__name__})"
    hint = "Check BUCKET_ENDPOINT_URL and the network; then send the job again."
    return BucketError(f"the connection to the bucket {kind}", hint, RetryReason.SERVER)
