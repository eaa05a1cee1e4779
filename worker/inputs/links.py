"""Downloads input files from a caller's links, without letting the caller reach our private network (SSRF).

Every hop of a redirect must be https, and its host must resolve to public addresses. The connected socket's address is
checked again before a byte is sent, so changing the DNS answer in between gains nothing. Hosts in the operator's
PRIVATE_HOSTS are exempt.
"""

from __future__ import annotations

import contextlib
import hashlib
import ipaddress
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urljoin, urlsplit

import requests

from worker.errors import Code, WorkerError
from worker.net.answers import HttpAnswer
from worker.net.connections import (
    NETWORK_ERRORS,
    AllowedPeers,
    BlockedAddressError,
    ConnectionsClosedError,
    Sockets,
    allows,
    new_session,
)
from worker.net.hosts import is_named, port_of
from worker.net.redact import redact_url
from worker.net.retry import Budget, Retry, RetryReason
from worker.stop import Stop, StoppedError

MAX_HOPS = 5
CHUNK_BYTES = 1 << 18
POLL_S = 0.1
RETRY = Retry(tries=3, longest_s=5.0, rate_tries=3)
_NEVER_V4 = ipaddress.IPv4Network("192.0.0.0/24")  # not all of it is private to every Python version
_PUBLIC_V6 = (ipaddress.IPv6Network("2000::/3"), ipaddress.IPv6Network("64:ff9b::/96"))


class _LinkError(Exception):
    def __init__(
        self, code: Code, problem: str, retry: RetryReason = RetryReason.NEVER, retry_after_s: float | None = None
    ) -> None:
        super().__init__(problem)
        self.code, self.problem, self.retry_reason, self.retry_after_s = code, problem, retry, retry_after_s


def is_public(address: str) -> bool:
    """Return True if a numeric address can be reached from anywhere on the internet."""
    address = address.partition("%")[0]
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return False
    if (
        isinstance(found, ipaddress.IPv6Address)
        and not found.ipv4_mapped
        and not any(found in net for net in _PUBLIC_V6)
    ):
        return False
    return found not in _NEVER_V4 and allows(AllowedPeers.PUBLIC, address)


def allowed_peers(url: str, private_hosts: tuple[str, ...]) -> AllowedPeers:
    """Return the addresses that a connection to ``url`` may reach. Blocks: resolves the host name.

    Raises:
        ValueError: the link is not allowed; the message gives the reason.
        OSError: the host name cannot be resolved.
    """
    parts = urlsplit(url)
    port = port_of(parts)
    if parts.username is not None or parts.password is not None:
        raise ValueError("has a user name in it")
    if not parts.hostname:
        raise ValueError("has no host")
    if is_named(private_hosts, parts):
        return AllowedPeers.ANY
    if parts.scheme != "https":
        raise ValueError(f"is {parts.scheme or 'no'}://, and only https is allowed")
    for *_, found in socket.getaddrinfo(parts.hostname, port, type=socket.SOCK_STREAM):
        if not is_public(str(found[0])):
            raise ValueError(f"leads to {found[0]}, which is not a public address")
    return AllowedPeers.PUBLIC


class InputLinks:
    """Downloads one job's links, one after the other. Use as a context manager.

    Args:
        private_hosts: hosts that need not be public.
        stop: the job's; ends a download at any moment.
        retry: number of tries, delays and timeouts.
    """

    def __init__(self, private_hosts: tuple[str, ...], stop: Stop, retry: Retry = RETRY) -> None:
        self._private_hosts, self._stop, self._retry = private_hosts, stop, retry
        self._sockets = Sockets()
        self._sessions: dict[AllowedPeers, requests.Session] = {}
        self._closed = threading.Event()
        self._watcher: threading.Thread | None = None

    def __enter__(self) -> InputLinks:
        return self

    def __exit__(self, *exception: object) -> None:
        self._closed.set()
        for session in self._sessions.values():
            session.close()

    def download(self, url: str, field: str, part: Path, limit_bytes: int) -> str:
        """Download a link into a file. Return the SHA-256 of its bytes.

        Raises:
            WorkerError: INVALID_INPUT, the link is not allowed or its file too large; DOWNLOAD_FAILED; TIMEOUT.
            StoppedError: the job was cancelled.
        """
        if self._watcher is None:
            self._watcher = threading.Thread(target=self._watch, name="input-links", daemon=True)
            self._watcher.start()
        budget = Budget(self._retry)
        while True:
            try:
                return self._download_once(url, part, limit_bytes)
            except _LinkError as error:
                failed = error
            self._check()
            delay = budget.delay_s(failed.retry_reason, failed.retry_after_s)
            if delay is None:
                raise WorkerError(
                    failed.code, f"`{field}` {redact_url(url)!r} {failed.problem}", details={"field": field}
                )
            self._stop.sleep(delay)

    def _watch(self) -> None:
        """Close the connections when the job ends: a blocking read could hold its thread for half a minute."""
        while not self._closed.wait(POLL_S):
            if self._stop.is_set() or self._stop.remaining_s() <= 0:
                self._sockets.close_all()
                return

    def _check(self) -> None:
        if self._stop.is_set():
            raise StoppedError
        if self._stop.remaining_s() <= 0:
            raise WorkerError(Code.TIMEOUT, "the job ran out of time while its input files were being downloaded")

    def _download_once(self, url: str, part: Path, limit_bytes: int) -> str:
        self._check()
        try:
            with self._follow(url) as response:
                return self._save(response, part, limit_bytes)
        except BlockedAddressError as error:
            problem = str(error).replace("the link leads", "leads")
            raise _LinkError(Code.INVALID_INPUT, problem) from None
        except ConnectionsClosedError:
            self._check()
            raise
        except NETWORK_ERRORS as error:
            if "CERTIFICATE_VERIFY_FAILED" in str(error):
                raise _LinkError(Code.DOWNLOAD_FAILED, "has a TLS certificate that cannot be verified") from None
            raise _LinkError(
                Code.DOWNLOAD_FAILED, f"could not be downloaded ({type(error).__name__})", RetryReason.SERVER
            ) from None

    @contextlib.contextmanager
    def _follow(self, url: str) -> Iterator[requests.Response]:
        """Follow redirects; yield the final answer."""
        for hop in range(MAX_HOPS + 1):
            response = self._request(url, redirected=hop > 0)
            location = response.headers.get("Location")
            if response.status_code in (301, 302, 303, 307, 308) and location:
                response.close()
                url = urljoin(url, location)
                continue
            with response:
                yield response
            return
        raise _LinkError(Code.DOWNLOAD_FAILED, f"redirects more than {MAX_HOPS} times")

    def _request(self, url: str, redirected: bool) -> requests.Response:
        try:
            peers = allowed_peers(url, self._private_hosts)
        except ValueError as error:
            problem = f"redirects to {redact_url(url)!r}, which {error}" if redirected else str(error)
            raise _LinkError(Code.INVALID_INPUT, problem) from None
        except OSError:
            raise _LinkError(Code.DOWNLOAD_FAILED, "has an unknown host name", RetryReason.SERVER) from None
        session = self._sessions.setdefault(peers, new_session(peers, self._sockets))
        timeout = (self._retry.connect_s, self._retry.read_s)
        try:
            return session.get(url, stream=True, allow_redirects=False, timeout=timeout)
        except (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema, UnicodeError):
            raise _LinkError(Code.INVALID_INPUT, "leads to an address that is not valid") from None

    def _save(self, response: requests.Response, part: Path, limit_bytes: int) -> str:
        _check_answer(response, limit_bytes)
        digest, size = hashlib.sha256(), 0
        with part.open("wb") as file:
            for chunk in response.iter_content(CHUNK_BYTES):
                self._check()
                size += len(chunk)
                if size > limit_bytes:
                    raise _LinkError(Code.INVALID_INPUT, _too_large(limit_bytes))
                digest.update(chunk)
                _write(file, chunk)
        return digest.hexdigest()


def _write(file: BinaryIO, chunk: bytes) -> None:
    try:
        file.write(chunk)
    except OSError as error:  # not caught as a network error
        raise WorkerError(Code.DISK_FULL, f"an input file could not be written ({error.strerror})") from error


def _check_answer(response: requests.Response, limit_bytes: int) -> None:
    """Raise unless the answer's body is a file of an allowed size."""
    status = response.status_code
    answer = HttpAnswer(status, response.headers)
    if status != 200:
        transient = status >= 500 or status in (408, 429)
        reason = RetryReason.RATE if status == 429 else RetryReason.SERVER if transient else RetryReason.NEVER
        raise _LinkError(Code.DOWNLOAD_FAILED, f"was answered with {status}", reason, answer.retry_after_s)
    if answer.content_type in ("text/html", "application/xhtml+xml"):
        raise _LinkError(Code.DOWNLOAD_FAILED, "was answered with a web page, not a file")
    if response.headers.get("Content-Encoding", "identity").lower() not in ("", "identity"):
        raise _LinkError(Code.DOWNLOAD_FAILED, "was answered compressed, although that was not asked for")
    length = response.headers.get("Content-Length", "")
    if length.isdigit() and int(length) > limit_bytes:
        raise _LinkError(Code.INVALID_INPUT, f"has {int(length) / 1e6:.1f} MB and {_too_large(limit_bytes)}")


def _too_large(limit_bytes: int) -> str:
    return f"is larger than the {limit_bytes / 1e6:g} MB left of this worker's INPUT_LIMIT_MB"
