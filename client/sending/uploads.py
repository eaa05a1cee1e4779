"""Uploads input files to a bucket: streamed, retried, each content once, and returns links for the worker.

It blocks, so call it in threads. With ``http.client`` a file of any size passes through a small buffer.
"""

from __future__ import annotations

import contextlib
import hashlib
import html
import http.client
import math
import mimetypes
import re
import ssl
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from ..s3 import UNSIGNED, SignedBucket

FOLDER = "comfy-inputs"
LINK_LIFE_S = 24 * 3600
"""RunPod keeps a queued job this long; with a link that expired sooner the job would fail."""
SINGLE_PUT_BYTES = 32 << 20
PART_BYTES = 16 << 20
MAX_PARTS = 10_000  # S3's own limit
PARTS_AT_ONCE = 4
PAUSES_S = (0.5, 2.0, 5.0)
TIMEOUT_S = 60
_BUFFER = 1 << 18
_RETRYABLE = ("SlowDown", "InternalError", "ServiceUnavailable", "RequestTimeout", "OperationAborted", "Throttling")
_KEY_CODES = ("InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken", "ExpiredToken", "AuthFailure")
_Answer = tuple[int, Any, bytes]
"""Status, headers and body."""


class UploadError(Exception):
    """A file could not be uploaded; ``retryable`` if another try may succeed."""

    def __init__(self, message: str, *, retryable: bool = False) -> None:
        super().__init__(message)
        self.message, self.retryable = message, retryable


class UploadStoppedError(Exception):
    """The upload was stopped."""


@dataclass(frozen=True)
class UploadSource:
    """A file on the disk and its hash."""

    path: Path
    size: int
    changed_ns: int
    sha256: str

    @classmethod
    def of(cls, path: Path) -> UploadSource:
        """Read the file once, in pieces, and hash it. Raises OSError."""
        version, digest = _version(path), hashlib.sha256()
        with path.open("rb") as file:
            while piece := file.read(1 << 20):
                digest.update(piece)
        return cls(path, *version, digest.hexdigest())

    @property
    def key(self) -> str:
        """The object's key, by content, so that the same input is uploaded once."""
        return f"{FOLDER}/{self.sha256}{self.path.suffix.lower()}"

    @property
    def media_type(self) -> str:
        """The media type by the file's extension."""
        return mimetypes.guess_type(self.path.name)[0] or "application/octet-stream"


class Uploader:
    """Uploads to one bucket. ``stop`` ends it between two pieces; ``on_sent`` is called with each piece's bytes."""

    def __init__(
        self, bucket: SignedBucket, stop: threading.Event, on_sent: Callable[[int], None] = lambda _: None
    ) -> None:
        self._bucket, self._stop, self._on_sent = bucket, stop, on_sent

    def upload(self, source: UploadSource) -> str:
        """Upload the file unless it is there. Return a link to it that works for :data:`LINK_LIFE_S`.

        Raises:
            UploadError: the file could not be uploaded.
            UploadStoppedError: ``stop`` was set.
        """
        if self._is_there(source):
            self._on_sent(source.size)
        elif source.size <= SINGLE_PUT_BYTES:
            self._put(source)
        else:
            self._put_parts(source)
        return self._bucket.link(source.key, LINK_LIFE_S)

    def _is_there(self, source: UploadSource) -> bool:
        """Return True if the object exists. Without permission to list, S3 answers 403 for a missing one."""
        status, headers, _ = self._ask("HEAD", self._bucket.url(source.key), allowed=(403, 404))
        return status == 200 and headers.get("Content-Length") == str(source.size)

    def _put(self, source: UploadSource) -> None:
        body = _FilePart(source.path, 0, source.size, self._count_sent)
        headers = {"Content-Type": source.media_type}
        self._ask("PUT", self._bucket.url(source.key), body, headers=headers, payload=source.sha256)

    def _put_parts(self, source: UploadSource) -> None:
        url = self._bucket.url(source.key)
        answer = self._ask("POST", f"{url}?uploads=", headers={"Content-Type": source.media_type})[2]
        upload = quote(_tag(answer, "UploadId"), safe="-_.~")
        if not upload:
            raise UploadError("The bucket's answer has no upload id. Is this the address of an S3-compatible store?")
        try:
            tags = self._parts(f"{url}?uploadId={upload}", source)
            if _version(source.path) != (source.size, source.changed_ns):
                raise _changed(source.path)
            self._complete(f"{url}?uploadId={upload}", tags, source)
        except BaseException:
            with contextlib.suppress(UploadError, UploadStoppedError):
                self._ask_once("DELETE", f"{url}?uploadId={upload}")  # stored parts cost money
            raise

    def _parts(self, url: str, source: UploadSource) -> list[str]:
        length = max(PART_BYTES, math.ceil(source.size / MAX_PARTS))
        failed = threading.Event()

        def send(start: int) -> str:
            if failed.is_set():
                raise UploadStoppedError
            body = _FilePart(source.path, start, min(length, source.size - start), self._count_sent)
            try:
                return str(self._ask("PUT", f"{url}&partNumber={start // length + 1}", body)[1].get("ETag", ""))
            except BaseException:
                failed.set()
                raise

        with ThreadPoolExecutor(PARTS_AT_ONCE, thread_name_prefix="upload-part") as pool:
            futures = [pool.submit(send, start) for start in range(0, source.size, length)]
        errors = [error for future in futures if (error := future.exception())]
        for error in sorted(errors, key=lambda each: isinstance(each, UploadStoppedError)):  # the cause, not its effect
            raise error
        return [future.result() for future in futures]

    def _complete(self, url: str, tags: list[str], source: UploadSource) -> None:
        parts = "".join(
            f"<Part><PartNumber>{number}</PartNumber><ETag>{html.escape(tag)}</ETag></Part>"
            for number, tag in enumerate(tags, start=1)
        )
        xml = f"<CompleteMultipartUpload>{parts}</CompleteMultipartUpload>".encode()
        try:
            self._ask("POST", url, xml, headers={"Content-Type": "application/xml"})
        except UploadError:
            if not self._is_there(source):  # else it was completed and only the answer was lost
                raise

    # -- one request --

    def _count_sent(self, count: int) -> None:
        if self._stop.is_set():
            raise UploadStoppedError
        self._on_sent(count)

    def _ask(self, method: str, url: str, body: _FilePart | bytes | None = None, **options: Any) -> _Answer:
        """Send a signed request, with retries."""
        for pause in (*PAUSES_S, None):
            self._count_sent(0)
            try:
                return self._ask_once(method, url, body, **options)
            except UploadError as error:
                if not error.retryable or pause is None:
                    raise
            if isinstance(body, _FilePart):
                self._on_sent(-body.bytes_read)  # they will be sent again
            self._stop.wait(pause)
        raise AssertionError

    def _ask_once(
        self,
        method: str,
        url: str,
        body: _FilePart | bytes | None = None,
        headers: dict[str, str] | None = None,
        *,
        payload: str = UNSIGNED,
        allowed: tuple[int, ...] = (),
    ) -> _Answer:
        signed = {**(headers or {}), **self._bucket.headers(method, url, payload)}
        signed["Content-Length"] = str(body.length if isinstance(body, _FilePart) else len(body or b""))
        with body if isinstance(body, _FilePart) else contextlib.nullcontext(body) as data:
            status, answer_headers, answer = _exchange(method, url, data, signed)
        failed_late = method == "POST" and _tag(answer, "Code")  # S3 may send 200 first and the error in the body
        if status in (200, 204, *allowed) and not failed_late:
            return status, answer_headers, answer
        raise _status_error(500 if status == 200 else status, answer, self._bucket.name)


class _FilePart:
    """A part of a file as the body of a request; each try reads it from its start."""

    def __init__(self, path: Path, start: int, length: int, on_read: Callable[[int], None]) -> None:
        self._path, self._start, self.length, self._on_read = path, start, length, on_read
        self.bytes_read = 0

    def __enter__(self) -> _FilePart:
        self._file, self.bytes_read = self._path.open("rb", buffering=0), 0
        self._file.seek(self._start)
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def read(self, size: int = _BUFFER) -> bytes:
        data = self._file.read(min(size, self.length - self.bytes_read))
        if not data and self.bytes_read < self.length:
            raise _changed(self._path)
        self.bytes_read += len(data)
        self._on_read(len(data))
        return data


def check_bucket(bucket: SignedBucket, stop: threading.Event) -> None:
    """Upload a few bytes and download them by a link, as a worker would.

    Raises:
        UploadError: one of the two failed.
    """
    uploader, key, data = Uploader(bucket, stop), f"{FOLDER}/test.txt", b"Comfy Remote Serverless was here.\n"
    uploader._ask("PUT", bucket.url(key), data, headers={"Content-Type": "text/plain"})
    status, _, found = _exchange("GET", bucket.link(key, 60))
    if status != 200 or found != data:
        raise UploadError(f"Uploads work, but the signed link returned {status}. Does the key have read permission?")


def _changed(path: Path) -> UploadError:
    return UploadError(f"{path.name} was changed during its upload. Queue the job again.")


def _version(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_size, found.st_mtime_ns


def _tag(body: bytes, name: str) -> str:
    """Return the text of an XML element. The answers are flat, and an XML parser would be an attack surface."""
    match = re.search(rf"<{name}>\s*([^<]*?)\s*</{name}>", body[:65536].decode("utf-8", "replace"))
    return html.unescape(match[1]) if match else ""


def _exchange(
    method: str, url: str, body: _FilePart | bytes | None = None, headers: dict[str, str] | None = None
) -> _Answer:
    """Send a request over a connection of its own. Raises UploadError if the connection breaks."""
    parts = urlsplit(url)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(parts.hostname or "", parts.port, timeout=TIMEOUT_S, blocksize=_BUFFER)
    path = parts.path + (f"?{parts.query}" if parts.query else "")
    with contextlib.closing(connection):
        try:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the response may give the reason
                connection.request(method, path, body, headers or {})
            with connection.getresponse() as response:
                return response.status, response.headers, response.read(1 << 20)
        except ssl.SSLCertVerificationError:
            raise UploadError("The bucket's TLS certificate is not valid. Check the bucket's address.") from None
        except (OSError, http.client.HTTPException) as error:
            # Only the type: the text of some errors repeats a signed address.
            message = f"The connection to the bucket broke ({type(error).__name__}). Check its address and the network."
            raise UploadError(message, retryable=True) from None


def _status_error(status: int, body: bytes, bucket: str) -> UploadError:
    code = re.sub(r"[^\w.-]", "", _tag(body, "Code"))[:60]
    answer = f"{status} {code}".strip()
    if status >= 500 or status in (408, 429) or code in _RETRYABLE:
        return UploadError(f"The bucket is overloaded or down ({answer}). Queue the job again later.", retryable=True)
    if code == "RequestTimeTooSkewed":
        return UploadError("The bucket rejects this computer's clock. Set the clock, and queue the job again.")
    if status in (401, 403) or code in _KEY_CODES:
        return UploadError(f"The bucket refused the keys ({answer}). Enter keys that may read and write {bucket!r}.")
    if status == 404:
        return UploadError(f"There is no bucket {bucket!r} at that address ({answer}). Check both in Remote Config.")
    region = re.sub(r"[^\w-]", "", _tag(body, "Region"))[:40] if status in (301, 307, 400) else ""
    hint = f"It is in region {region}: enter that region." if region else "Check its address, name and region."
    return UploadError(f"The bucket answered {answer}. {hint}")
