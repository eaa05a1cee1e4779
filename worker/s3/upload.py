"""Uploads to an S3 bucket: streamed from the disk, in parallel, with retries, and a link for each. Blocks; for threads.

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
from worker.s3.errors import BucketError, bucket_error, tag
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
    """The content of an upload: a file on the disk, or bytes in memory."""

    size: int
    path: Path | None = None
    data: bytes | None = None

    def read(self) -> bytes:
        """Return the whole content."""
        if self.data is not None:
            return self.data
        assert self.path
        return self.path.read_bytes()

    def part(self, start: int, length: int) -> _Slice | io.BytesIO:
        """Return a stream of ``length`` bytes from ``start``, which supports ``len``."""
        if self.path is None:
            assert self.data is not None
            return io.BytesIO(self.data if length == self.size else self.data[start : start + length])
        return _Slice(self.path, start, length)


class _Slice:
    """Part of a file as a stream. Not an ``io`` class, because requests would call its ``tell``."""

    def __init__(self, path: Path, start: int, length: int) -> None:
        self._file = path.open("rb", buffering=0)
        self._file.seek(start)
        self._remaining = self._length = length

    def __len__(self) -> int:
        return self._length

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(self._remaining if size < 0 else min(size, self._remaining))
        self._remaining -= len(data)
        return data

    def close(self) -> None:
        self._file.close()


class Link(NamedTuple):
    """The address of an uploaded file; ``expires_s`` is None if it is public and does not expire."""

    url: str
    expires_s: int | None


class Bucket:
    """One bucket to upload to.

    Args:
        address: where it is.
        peers: the addresses that its connections may reach.
        retry: number of tries, delays and timeouts.
    """

    def __init__(self, address: BucketAddress, peers: AllowedPeers = AllowedPeers.ANY, retry: Retry = RETRY) -> None:
        self.address, self.peers, self.retry = address, peers, retry

    @classmethod
    def of_a_job(cls, address: BucketAddress, private_hosts: tuple[str, ...], retry: Retry = RETRY) -> Bucket:
        """Return the bucket of a job's ``s3Config``: https and public, unless PRIVATE_HOSTS names its host.

        Raises:
            WorkerError: INVALID_INPUT, the address is not allowed.
        """
        parts = urlsplit(address.base)
        if is_named(private_hosts, parts):
            return cls(address, AllowedPeers.ANY, retry)
        if parts.scheme != "https" or is_ip(parts.hostname or ""):
            raise WorkerError(
                Code.INVALID_INPUT,
                f"`s3Config.endpointUrl` is {redact_url(address.base)!r}, not an https address with a host name",
                "Use the store's https address, or ask the operator to add its host to PRIVATE_HOSTS.",
                details={"field": "s3Config.endpointUrl"},
            )
        return cls(address, AllowedPeers.PUBLIC, retry)

    def key(self, job_id: str, subfolder: str, filename: str) -> str:
        """Return a file's key: prefix, job, subfolder, name. No part of it can lead out of the job's folder."""
        names = [job_id, *subfolder.split("/"), filename]
        parts = [self.address.prefix.strip("/"), *map(_safe_part, names)]
        return "/".join(part for part in parts if part)

    def link(self, key: str) -> Link:
        """Return the link to an uploaded file: public if the operator published the bucket, else presigned."""
        address = self.address
        if public := address.public_link(key):
            return Link(public, None)
        now = datetime.now(timezone.utc)
        url = presigned(address.url(key), address.keys, address.region, address.link_life_s, now)
        return Link(url, address.link_life_s)

    @contextlib.contextmanager
    def uploads(self, stop: Stop) -> Iterator[Uploads]:
        """Run one job's uploads. When the block ends, all have finished or have been stopped."""
        uploads = Uploads(self, stop)
        try:
            yield uploads
            uploads.finish()
        finally:
            uploads.close()


def _safe_part(part: str) -> str:
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
        """Start an upload; wait while FILES_AT_ONCE of them run. Raises the error of any that failed."""
        while len(self._pending) >= FILES_AT_ONCE:
            self._wait_for_some()
        self._pending.add(self._files.submit(self._put, key, body, media_type))

    def finish(self) -> None:
        """Wait for all uploads. Raises the error of the first that failed."""
        while self._pending:
            self._wait_for_some()

    def close(self) -> None:
        """Stop all uploads and close all connections."""
        self._sockets.close_all()
        self._files.shutdown(wait=True, cancel_futures=True)
        for session in self._sessions:
            session.close()

    def _wait_for_some(self) -> None:
        done, self._pending = wait(self._pending, POLL_S, FIRST_COMPLETED)
        for future in done:
            try:
                future.result()
            except BucketError as error:
                raise error.worker_error(self._bucket.address.bucket) from None
        self._check()

    def _check(self) -> None:
        if self._stop.is_set() or self._sockets.closed:
            raise StoppedError
        if self._stop.remaining_s() <= 0:
            raise WorkerError(Code.TIMEOUT, "the job ran out of time while its results were being uploaded")

    # ------------------------------------------------------------------ one file

    def _put(self, key: str, body: Body, media_type: str) -> None:
        url = self._bucket.address.url(key)
        if body.size <= SINGLE_PUT_BYTES:
            self._request("PUT", url, lambda: body.part(0, body.size), body.size, headers={"Content-Type": media_type})
            return
        answer = self._request("POST", f"{url}?uploads=", headers={"Content-Type": media_type})
        upload = quote(tag(answer.content, "UploadId") or "", safe="-_.~")
        if not upload:
            raise BucketError("the bucket answered without an upload id", "Check that it is S3-compatible.")
        try:
            tags = self._put_parts(f"{url}?uploadId={upload}", body)
            self._complete(f"{url}?uploadId={upload}", tags)
        except BaseException:
            with contextlib.suppress(BucketError, StoppedError, WorkerError):
                self._request("DELETE", f"{url}?uploadId={upload}", tries=1)  # the bucket would charge for the parts
            raise

    def _put_parts(self, url: str, body: Body) -> list[str]:
        """Send every part. Return their ETags in order."""
        length = max(PART_BYTES, math.ceil(body.size / MAX_PARTS))
        starts = range(0, body.size, length)

        def send(number: int) -> str:
            start = starts[number - 1]
            size = min(length, body.size - start)
            answer = self._request("PUT", f"{url}&partNumber={number}", lambda: body.part(start, size), size)
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
        self._request("POST", url, lambda: io.BytesIO(xml), len(xml), headers={"Content-Type": "application/xml"})

    # ------------------------------------------------------------------ one request

    def _request(
        self,
        method: str,
        url: str,
        body: Callable[[], _Slice | io.BytesIO] | None = None,
        size: int = 0,
        *,
        headers: dict[str, str] | None = None,
        tries: int | None = None,
    ) -> requests.Response:
        """Send a request, with retries. Return its successful answer, read to the end."""
        retry = self._bucket.retry
        budget = Budget(retry if tries is None else retry.only(tries, not_found=False))
        while True:
            self._check()
            try:
                return self._request_once(method, url, body, size, headers or {})
            except BucketError as error:
                failure = error
            delay = budget.delay_s(failure.retry_reason)
            if delay is None:
                raise failure
            self._sleep(delay)

    def _request_once(
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
                    str(error).replace("the link leads", "the bucket's host name leads"),
                    "Use a public address, or ask the operator to add its host to PRIVATE_HOSTS.",
                ) from None
            except (requests.RequestException, urllib3.exceptions.HTTPError, OSError, ConnectionsClosedError) as error:
                self._check()
                raise _network_error(error) from None
        failed_late = method == "POST" and tag(answer.content, "Code")  # CompleteMultipartUpload may fail after its 200
        if answer.ok and not failed_late:
            return answer
        raise bucket_error(500 if answer.ok else answer.status_code, answer.content, bucket.address.bucket)

    def _session(self) -> requests.Session:
        """Return this thread's session; those of requests are not thread-safe."""
        session: requests.Session | None = getattr(self._local, "session", None)
        if session is None:
            session = self._local.session = new_session(self._bucket.peers, self._sockets)
            self._sessions.append(session)
        return session

    def _sleep(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while (remaining := until - time.monotonic()) > 0:
            self._check()
            time.sleep(min(POLL_S, remaining))


def _network_error(error: BaseException) -> BucketError:
    if isinstance(error, FileNotFoundError):
        return BucketError("a result file was deleted before it was uploaded", "Send the job again.")
    if "CERTIFICATE_VERIFY_FAILED" in str(error):
        return BucketError("the bucket's TLS certificate cannot be verified", "Check BUCKET_ENDPOINT_URL.")
    if "NameResolutionError" in str(error):
        return BucketError("the bucket's host name is unknown", "Check BUCKET_ENDPOINT_URL.", RetryReason.SERVER)
    kind = "did not answer in time" if isinstance(error, requests.Timeout) else f"broke ({type(error).__name__})"
    hint = "Check BUCKET_ENDPOINT_URL and the network; then send the job again."
    return BucketError(f"the connection to the bucket {kind}", hint, RetryReason.SERVER)
