"""Downloads results delivered by link: streamed, resumed, size-limited, from public https addresses only."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import ipaddress
import re
import socket
import ssl
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import SplitResult, urlsplit

from ..remote_sink import RejectedError
from ..runpod.client import is_loopback

MAX_LINK_BYTES = 16 * 2**30
TIMEOUT_S = 60
PAUSES_S = (0.3, 1.0, 3.0)
"""Between tries without progress; a try that received bytes resets the count."""
_CHUNK = 2**18
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


class ResultLinkError(Exception):
    """The link cannot be read now; a later try may succeed."""


@dataclass
class ResultLink:
    """One result's link and the state of its download."""

    address: SplitResult
    allow_loopback: bool
    """True if the endpoint itself is on this machine."""
    size: int | None
    received: int = 0
    digest: Any = field(default_factory=hashlib.sha256)

    @classmethod
    def of(cls, entry: dict[str, Any], endpoint: str) -> ResultLink:
        """Read an entry's address and announced size. Raises RejectedError if one is not allowed."""
        try:
            address = urlsplit(str(entry.get("url")))
            found, _ = address.hostname, address.port
        except ValueError:
            found = None
        allow_loopback = is_loopback(urlsplit(endpoint).hostname or "")
        if not found or address.scheme not in ("https", "http") or address.username or address.password:
            raise RejectedError(400, "its link is not a web address.")
        if address.scheme == "http" and not (allow_loopback and is_loopback(found)):
            raise RejectedError(400, "its link is not https.")
        size = entry.get("bytes")
        link = cls(address, allow_loopback, size if isinstance(size, int) and size >= 0 else None)
        link.check_size(link.size or 0)
        return link

    def check_size(self, size: int) -> None:
        """Raise RejectedError if the size is above the limit or the announced size."""
        if size > MAX_LINK_BYTES:
            raise RejectedError(413, f"it is larger than {MAX_LINK_BYTES // 2**30} GB.")
        if self.size is not None and size > self.size:
            raise RejectedError(502, f"it is {size} bytes, and the worker announced {self.size}.")

    def restart(self, file: BinaryIO) -> None:
        """Discard the received bytes: the server does not resume."""
        file.seek(0)
        file.truncate()
        self.received, self.digest = 0, hashlib.sha256()


def download(link: ResultLink, part: Path) -> str:
    """Download the whole file to ``part`` and return its SHA-256.

    Raises:
        RejectedError: the link expired, was refused, is of another size, or its address is not public.
        ResultLinkError: the link cannot be read now.
    """
    fruitless = 0
    with part.open("r+b") as file:
        while True:
            before = link.received
            try:
                _download_rest(link, file)
                return str(link.digest.hexdigest())
            except (ResultLinkError, OSError, http.client.HTTPException) as error:
                if isinstance(error, OSError) and not isinstance(error, _NETWORK):
                    raise
                last_error = error
            fruitless = 0 if link.received > before else fruitless + 1
            if fruitless > len(PAUSES_S):
                raise ResultLinkError(f"A result's link cannot be read now ({_reason(last_error)}).") from None
            time.sleep(PAUSES_S[max(fruitless - 1, 0)])


_NETWORK = (ConnectionError, TimeoutError, socket.timeout, socket.gaierror, ssl.SSLError)


def _reason(error: Exception) -> str:
    return str(error) if isinstance(error, ResultLinkError) else type(error).__name__


def _download_rest(link: ResultLink, file: BinaryIO) -> None:
    connection = _connect(link)
    with contextlib.closing(connection):
        headers = {"Accept-Encoding": "identity", "User-Agent": "comfy-remote-serverless"}
        if link.received:
            headers["Range"] = f"bytes={link.received}-"
        path = (link.address.path or "/") + (f"?{link.address.query}" if link.address.query else "")
        connection.request("GET", path, headers=headers)
        with connection.getresponse() as response:
            expected = _expected_size(link, response, file)
            while chunk := response.read(_CHUNK):
                link.check_size(link.received + len(chunk))
                file.write(chunk)
                link.digest.update(chunk)
                link.received += len(chunk)
    if expected is not None and link.received < expected:
        raise ResultLinkError(f"it broke off after {link.received} of {expected} bytes")
    file.flush()


def _connect(link: ResultLink) -> http.client.HTTPConnection:
    """Connect, and check the peer's address before anything is sent."""
    kind = http.client.HTTPSConnection if link.address.scheme == "https" else http.client.HTTPConnection
    connection = kind(link.address.hostname or "", link.address.port, timeout=TIMEOUT_S)
    try:
        connection.connect()
    except ssl.SSLCertVerificationError:
        raise RejectedError(502, "its link's certificate is not valid.") from None
    except OSError as error:
        raise ResultLinkError(f"no connection, {type(error).__name__}") from None
    if not is_allowed_address(str(connection.sock.getpeername()[0]), link.allow_loopback):
        connection.close()
        raise RejectedError(403, "its link leads to an address that is not public.")
    return connection


def _expected_size(link: ResultLink, response: http.client.HTTPResponse, file: BinaryIO) -> int | None:
    """Return the size of the whole file, after checking that the response is all or the rest of it."""
    _check_status(response.status)
    resumed = re.match(r"bytes ([0-9]{1,18})-", response.headers.get("Content-Range", ""))
    if link.received and not (response.status == 206 and resumed and int(resumed[1]) == link.received):
        link.restart(file)
        if response.status != 200:
            raise ResultLinkError("it cannot be resumed")
    length = response.headers.get("Content-Length", "")
    if not re.fullmatch(r"[0-9]{1,18}", length):
        return link.size
    total = link.received + int(length)
    link.check_size(total)
    if link.size is not None and total != link.size:
        raise RejectedError(502, f"it is {total} bytes, and the worker announced {link.size}.")
    return total


def _check_status(status: int) -> None:
    if status in (200, 206):
        return
    if 300 <= status < 400:
        raise RejectedError(502, f"its link redirects ({status}), and redirects are not followed.")
    if status in (401, 403, 404, 410):
        raise RejectedError(status, f"its link has expired or was refused ({status}). Queue the job again.")
    if status in (408, 416, 425, 429) or status >= 500:
        raise ResultLinkError(f"the store answers {status}")
    raise RejectedError(502, f"its link answers {status}.")


def is_allowed_address(peer: str, allow_loopback: bool) -> bool:
    """Return True for a public address, and for loopback if that is allowed."""
    address = ipaddress.ip_address(peer.split("%", maxsplit=1)[0])
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if address in _NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        address = inner or address
    if address.is_loopback:
        return allow_loopback
    return address.is_global and not address.is_multicast
