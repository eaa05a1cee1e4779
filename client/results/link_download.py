"""Fetches results that the worker delivered by link: streamed, resumed, bounded, from public https addresses only."""

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

from ..remote_sink import Refused

MAX_LINK_BYTES = 16 * 2**30
TIMEOUT_S = 60
PAUSES_S = (0.3, 1.0, 3.0)
"""Between the tries that bring nothing new; one that brought bytes starts the count again."""
_CHUNK = 2**18
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


class LinkTrouble(Exception):
    """The link could not be read now; it may later."""


@dataclass
class Link:
    """One result's link, and what has come of it so far."""

    address: SplitResult
    near: bool
    """Links to this very machine are allowed, since the endpoint itself is on it."""
    size: int | None
    got: int = 0
    digest: Any = field(default_factory=hashlib.sha256)

    @classmethod
    def of(cls, entry: dict[str, Any], endpoint: str) -> Link:
        """Check the address and the announced size of an entry."""
        try:
            address = urlsplit(str(entry.get("url")))
            found, _ = address.hostname, address.port
        except ValueError:
            found = None
        near = _is_loopback_name(urlsplit(endpoint).hostname)
        if not found or address.scheme not in ("https", "http") or address.username or address.password:
            raise Refused(400, "its link is not a web address.")
        if address.scheme == "http" and not (near and _is_loopback_name(found)):
            raise Refused(400, "its link is not https.")
        size = entry.get("bytes")
        link = cls(address, near, size if isinstance(size, int) and size >= 0 else None)
        link.check_size(link.size or 0)
        return link

    def check_size(self, size: int) -> None:
        """Refuse more than was announced, or than can be meant."""
        if size > MAX_LINK_BYTES:
            raise Refused(413, f"it is larger than {MAX_LINK_BYTES // 2**30} GB.")
        if self.size is not None and size > self.size:
            raise Refused(502, f"it is {size} bytes, and the worker announced {self.size}.")

    def begin_again(self, file: BinaryIO) -> None:
        """Forget what came: the server cannot go on where it broke."""
        file.seek(0)
        file.truncate()
        self.got, self.digest = 0, hashlib.sha256()


def fetch(link: Link, part: Path) -> str:
    """Bring the whole file to ``part``; its SHA-256.

    Raises:
        Refused: it will not come: expired, refused, another size, an address that is not public.
        LinkTrouble: not now.
    """
    fruitless = 0
    with part.open("r+b") as file:
        while True:
            before = link.got
            try:
                _read_on(link, file)
                return str(link.digest.hexdigest())
            except (LinkTrouble, OSError, http.client.HTTPException) as error:
                if isinstance(error, OSError) and not isinstance(error, _NETWORK):
                    raise
                trouble = error
            fruitless = 0 if link.got > before else fruitless + 1
            if fruitless > len(PAUSES_S):
                raise LinkTrouble(f"A result's link cannot be read now ({_words(trouble)}).") from None
            time.sleep(PAUSES_S[max(fruitless - 1, 0)])


_NETWORK = (ConnectionError, TimeoutError, socket.timeout, socket.gaierror, ssl.SSLError)


def _words(error: Exception) -> str:
    return str(error) if isinstance(error, LinkTrouble) else type(error).__name__


def _read_on(link: Link, file: BinaryIO) -> None:
    connection = _connect(link)
    with contextlib.closing(connection):
        headers = {"Accept-Encoding": "identity", "User-Agent": "comfy-remote-serverless"}
        if link.got:
            headers["Range"] = f"bytes={link.got}-"
        path = (link.address.path or "/") + (f"?{link.address.query}" if link.address.query else "")
        connection.request("GET", path, headers=headers)
        with connection.getresponse() as response:
            expected = _expected(link, response, file)
            while chunk := response.read(_CHUNK):
                link.check_size(link.got + len(chunk))
                file.write(chunk)
                link.digest.update(chunk)
                link.got += len(chunk)
    if expected is not None and link.got < expected:
        raise LinkTrouble(f"it broke off after {link.got} of {expected} bytes")
    file.flush()


def _connect(link: Link) -> http.client.HTTPConnection:
    """A connection whose other end has been looked at, before anything is said to it."""
    kind = http.client.HTTPSConnection if link.address.scheme == "https" else http.client.HTTPConnection
    connection = kind(link.address.hostname or "", link.address.port, timeout=TIMEOUT_S)
    try:
        connection.connect()
    except ssl.SSLCertVerificationError:
        raise Refused(502, "its link's certificate is not valid.") from None
    except OSError as error:
        raise LinkTrouble(f"no connection, {type(error).__name__}") from None
    if not may_be_read(str(connection.sock.getpeername()[0]), link.near):
        connection.close()
        raise Refused(403, "its link leads to an address that is not public.")
    return connection


def _expected(link: Link, response: http.client.HTTPResponse, file: BinaryIO) -> int | None:
    """The size of the whole file, once the answer is known to be (the rest of) it."""
    _check_status(response.status)
    resumed = re.match(r"bytes ([0-9]{1,18})-", response.headers.get("Content-Range", ""))
    if link.got and not (response.status == 206 and resumed and int(resumed[1]) == link.got):
        link.begin_again(file)
        if response.status != 200:
            raise LinkTrouble("it cannot be resumed")
    length = response.headers.get("Content-Length", "")
    if not re.fullmatch(r"[0-9]{1,18}", length):
        return link.size
    total = link.got + int(length)
    link.check_size(total)
    if link.size is not None and total != link.size:
        raise Refused(502, f"it is {total} bytes, and the worker announced {link.size}.")
    return total


def _check_status(status: int) -> None:
    if status in (200, 206):
        return
    if 300 <= status < 400:
        raise Refused(502, f"its link answers with a redirect ({status}), which is not followed.")
    if status in (401, 403, 404, 410):
        raise Refused(status, f"its link has expired or is refused ({status}); queue the job again.")
    if status in (408, 416, 425, 429) or status >= 500:
        raise LinkTrouble(f"the store answers {status}")
    raise Refused(502, f"its link answers {status}.")


def may_be_read(peer: str, near: bool) -> bool:
    """Whether a result may be fetched from this address: a public one, or this machine beside a near endpoint."""
    address = ipaddress.ip_address(peer.split("%", maxsplit=1)[0])
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if address in _NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        address = inner or address
    if address.is_loopback:
        return near
    return address.is_global and not address.is_multicast


def _is_loopback_name(host: str | None) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host or "").is_loopback
    except ValueError:
        return False
