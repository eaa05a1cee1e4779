"""Input files into a bucket: streamed from the disk, tried again, each content once, and a link for the worker.

Blocks; for threads. Over ``http.client``, so that a file of any size passes through a small buffer.
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

from ..s3 import UNSIGNED, Bucket

FOLDER = "comfy-inputs"
LINK_LIFE_S = 24 * 3600
"""As long as RunPod keeps a job that waits in its queue: a link that ends sooner would lose that job."""
SINGLE_PUT_BYTES = 32 << 20
PART_BYTES = 16 << 20
MAX_PARTS = 10_000  # S3's own limit
PARTS_AT_ONCE = 4
PAUSES_S = (0.5, 2.0, 5.0)
TIMEOUT_S = 60
_BUFFER = 1 << 18
_PASSING = ("SlowDown", "InternalError", "ServiceUnavailable", "RequestTimeout", "OperationAborted", "Throttling")
_KEYS = ("InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken", "ExpiredToken", "AuthFailure")


class UploadProblem(Exception):
    """A file did not get into the bucket; ``again`` tells that another try may help."""

    def __init__(self, message: str, *, again: bool = False) -> None:
        super().__init__(message)
        self.message, self.again = message, again


class Stopped(Exception):
    """Nobody waits for the upload any more."""


@dataclass(frozen=True)
class Source:
    """A file on the disk, and what it holds."""

    path: Path
    size: int
    changed_ns: int
    sha256: str

    @classmethod
    def of(cls, path: Path) -> Source:
        """Read it once, a piece at a time. Raises OSError."""
        mark, digest = _mark(path), hashlib.sha256()
        with path.open("rb") as file:
            while piece := file.read(1 << 20):
                digest.update(piece)
        return cls(path, *mark, digest.hexdigest())

    @property
    def key(self) -> str:
        """Where it belongs: by its content, so that a repeated input is there already."""
        return f"{FOLDER}/{self.sha256}{self.path.suffix.lower()}"

    @property
    def media_type(self) -> str:
        """By its name."""
        return mimetypes.guess_type(self.path.name)[0] or "application/octet-stream"


class Uploader:
    """Uploads to one bucket. ``stop`` ends it between two pieces; ``sent`` hears of every piece's bytes."""

    def __init__(self, bucket: Bucket, stop: threading.Event, sent: Callable[[int], None] = lambda _: None) -> None:
        self._bucket, self._stop, self._sent = bucket, stop, sent

    def bring(self, source: Source) -> str:
        """Have the file in the bucket; a link to it, which lives :data:`LINK_LIFE_S`.

        Raises:
            UploadProblem: it cannot be had there, in words.
            Stopped: nobody waits any more.
        """
        if self._is_there(source):
            self._sent(source.size)
        elif source.size <= SINGLE_PUT_BYTES:
            self._put(source)
        else:
            self._put_parts(source)
        return self._bucket.link(source.key, LINK_LIFE_S)

    def _is_there(self, source: Source) -> bool:
        """Where the keys may not list the bucket, S3 answers 403 for what is not there."""
        status, headers, _ = self._ask("HEAD", self._bucket.url(source.key), allowed=(403, 404))
        return status == 200 and headers.get("Content-Length") == str(source.size)

    def _put(self, source: Source) -> None:
        body = _Body(source.path, 0, source.size, self._tick)
        headers = {"Content-Type": source.media_type}
        self._ask("PUT", self._bucket.url(source.key), body, headers, payload=source.sha256)

    def _put_parts(self, source: Source) -> None:
        url = self._bucket.url(source.key)
        answer = self._ask("POST", f"{url}?uploads=", headers={"Content-Type": source.media_type})[2]
        upload = quote(_tag(answer, "UploadId"), safe="-_.~")
        if not upload:
            raise UploadProblem("The bucket began an upload without naming it. Is its address an S3-compatible one?")
        try:
            tags = self._parts(f"{url}?uploadId={upload}", source)
            if _mark(source.path) != (source.size, source.changed_ns):
                raise _changed(source.path)
            self._complete(f"{url}?uploadId={upload}", tags, source)
        except BaseException:
            with contextlib.suppress(UploadProblem, Stopped):
                self._ask_once("DELETE", f"{url}?uploadId={upload}")  # its parts would be paid for
            raise

    def _parts(self, url: str, source: Source) -> list[str]:
        length = max(PART_BYTES, math.ceil(source.size / MAX_PARTS))
        failed = threading.Event()

        def send(start: int) -> str:
            if failed.is_set():
                raise Stopped
            body = _Body(source.path, start, min(length, source.size - start), self._tick)
            try:
                return str(self._ask("PUT", f"{url}&partNumber={start // length + 1}", body)[1].get("ETag", ""))
            except BaseException:
                failed.set()
                raise

        with ThreadPoolExecutor(PARTS_AT_ONCE, thread_name_prefix="upload-part") as pool:
            futures = [pool.submit(send, start) for start in range(0, source.size, length)]
        problems = [problem for future in futures if (problem := future.exception())]
        for problem in sorted(problems, key=lambda each: isinstance(each, Stopped)):  # the cause before what it stopped
            raise problem
        return [future.result() for future in futures]

    def _complete(self, url: str, tags: list[str], source: Source) -> None:
        parts = "".join(
            f"<Part><PartNumber>{number}</PartNumber><ETag>{html.escape(tag)}</ETag></Part>"
            for number, tag in enumerate(tags, start=1)
        )
        xml = f"<CompleteMultipartUpload>{parts}</CompleteMultipartUpload>".encode()
        try:
            self._ask("POST", url, xml, {"Content-Type": "application/xml"})
        except UploadProblem:
            if not self._is_there(source):  # it was completed, and the answer was lost
                raise

    # -- one request --

    def _tick(self, count: int) -> None:
        if self._stop.is_set():
            raise Stopped
        self._sent(count)

    def _ask(
        self,
        method: str,
        url: str,
        body: _Body | bytes | None = None,
        headers: dict[str, str] | None = None,
        *,
        payload: str = UNSIGNED,
        allowed: tuple[int, ...] = (),
    ) -> tuple[int, Any, bytes]:
        """Status, headers and body of the answer, once it is the one that was asked for."""
        for pause in (*PAUSES_S, None):
            self._tick(0)
            try:
                return self._ask_once(method, url, body, headers, payload=payload, allowed=allowed)
            except UploadProblem as problem:
                if not problem.again or pause is None:
                    raise
            if isinstance(body, _Body):
                self._sent(-body.given)  # they are sent once more
            self._stop.wait(pause)
        raise AssertionError

    def _ask_once(
        self,
        method: str,
        url: str,
        body: _Body | bytes | None = None,
        headers: dict[str, str] | None = None,
        *,
        payload: str = UNSIGNED,
        allowed: tuple[int, ...] = (),
    ) -> tuple[int, Any, bytes]:
        parts = urlsplit(url)
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        connection = kind(parts.hostname or "", parts.port, timeout=TIMEOUT_S, blocksize=_BUFFER)
        sent = {**(headers or {}), **self._bucket.headers(method, url, payload)}
        sent["Content-Length"] = str(body.length if isinstance(body, _Body) else len(body or b""))
        path = parts.path + (f"?{parts.query}" if parts.query else "")
        with contextlib.closing(connection), body if isinstance(body, _Body) else contextlib.nullcontext(body) as data:
            try:
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the answer may say why
                    connection.request(method, path, data, sent)
                with connection.getresponse() as response:
                    status, said, answer = response.status, response.headers, response.read(1 << 20)
            except ssl.SSLCertVerificationError:
                raise UploadProblem("The bucket's TLS certificate is not valid. Check the bucket's address.") from None
            except (OSError, http.client.HTTPException) as error:
                raise UploadProblem(_network(error), again=True) from None
        failed_late = method == "POST" and _tag(answer, "Code")  # a long completion fails after its 200
        if status in (200, 204, *allowed) and not failed_late:
            return status, said, answer
        raise _refused(500 if status == 200 else status, answer, self._bucket.name)


class _Body:
    """A part of a file as ``http.client`` reads it: from its beginning at each try."""

    def __init__(self, path: Path, start: int, length: int, tick: Callable[[int], None]) -> None:
        self._path, self._start, self.length, self._tick = path, start, length, tick
        self.given = 0

    def __enter__(self) -> _Body:
        self._file, self.given = self._path.open("rb", buffering=0), 0
        self._file.seek(self._start)
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def read(self, size: int = _BUFFER) -> bytes:
        data = self._file.read(min(size, self.length - self.given))
        if not data and self.given < self.length:
            raise _changed(self._path)
        self.given += len(data)
        self._tick(len(data))
        return data


def check(bucket: Bucket, stop: threading.Event) -> None:
    """Put a few bytes and fetch them by a link, as a worker would.

    Raises:
        UploadProblem: what is wrong, in words.
    """
    uploader, key, data = Uploader(bucket, stop), f"{FOLDER}/test.txt", b"Comfy Remote Serverless was here.\n"
    uploader._ask("PUT", bucket.url(key), data, {"Content-Type": "text/plain"})
    parts = urlsplit(bucket.link(key, 60))
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    with contextlib.closing(kind(parts.hostname or "", parts.port, timeout=TIMEOUT_S)) as connection:
        try:
            connection.request("GET", f"{parts.path}?{parts.query}")
            with connection.getresponse() as response:
                status, found = response.status, response.read(1 << 16)
        except (OSError, http.client.HTTPException) as error:
            raise UploadProblem(_network(error)) from None
    if status != 200 or found != data:
        raise UploadProblem(f"The bucket takes files, but its links cannot be fetched ({status}). May its key read?")


def _changed(path: Path) -> UploadProblem:
    return UploadProblem(f"{path.name} was changed while it was uploaded. Queue the job again.")


def _mark(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_size, found.st_mtime_ns


def _tag(body: bytes, name: str) -> str:
    """The text of an XML element; the answers are flat, and an XML parser would be an attack surface."""
    match = re.search(rf"<{name}>\s*([^<]*?)\s*</{name}>", body[:65536].decode("utf-8", "replace"))
    return html.unescape(match[1]) if match else ""


def _network(error: BaseException) -> str:
    """Only the kind: the text of some errors repeats a whole address."""
    return f"The connection to the bucket broke ({type(error).__name__}). Check its address and the network."


def _refused(status: int, body: bytes, bucket: str) -> UploadProblem:
    code = re.sub(r"[^\w.-]", "", _tag(body, "Code"))[:60]
    said = f"{status} {code}".strip()
    if status >= 500 or status in (408, 429) or code in _PASSING:
        return UploadProblem(f"The bucket is overloaded or down ({said}). Queue the job again later.", again=True)
    if code == "RequestTimeTooSkewed":
        return UploadProblem("The bucket refuses this computer's clock. Set it right, and queue the job again.")
    if status in (401, 403) or code in _KEYS:
        return UploadProblem(f"The bucket refused its keys ({said}). Enter ones that may read and write {bucket!r}.")
    if status == 404:
        return UploadProblem(f"There is no bucket {bucket!r} at that address ({said}). Check both in Remote Config.")
    region = re.sub(r"[^\w-]", "", _tag(body, "Region"))[:40] if status in (301, 307, 400) else ""
    hint = f"It is in region {region}: enter that." if region else "Check its address, name and region."
    return UploadProblem(f"The bucket answered {said}. {hint}")
