"""HTTP connections that check the peer's address before they send a byte, and that can all be closed at once."""

from __future__ import annotations

import ipaddress
import socket
import threading
import weakref
from collections.abc import Callable
from enum import Enum
from http.cookiejar import DefaultCookiePolicy
from typing import Any

import requests
import urllib3
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from worker import __version__

USER_AGENT = f"comfy-remote-serverless/{__version__}"
"""Never a browser's: Civitai answers those with an HTML login page in place of a 401."""
NETWORK_ERRORS = (requests.RequestException, urllib3.exceptions.HTTPError, OSError)


class AllowedPeers(Enum):
    """The addresses that a connection may reach."""

    PUBLIC = "only globally routable addresses"
    LOOPBACK = "public addresses and this machine itself"
    ANY = "any address, because the operator configured the host"


class BlockedAddressError(Exception):
    """A host name resolved to an address that a link must not reach."""


class ConnectionsClosedError(Exception):
    """The connections were closed because the job no longer needs them."""


def allows(peers: AllowedPeers, address: str) -> bool:
    """Return True if a socket connected to ``address`` (numeric, as ``getpeername`` returns it) may be used."""
    if peers is AllowedPeers.ANY:
        return True
    found = ipaddress.ip_address(address)
    if isinstance(found, ipaddress.IPv6Address):
        inside = found.ipv4_mapped or found.sixtofour or _nat64(found)
        found = inside or found
    if peers is AllowedPeers.LOOPBACK and found.is_loopback:
        return True
    return found.is_global and not found.is_multicast


def _nat64(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    """Return the IPv4 address inside 64:ff9b::/96 (RFC 6052), through which an IPv6-only network reaches IPv4."""
    if address in ipaddress.IPv6Network("64:ff9b::/96"):
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return None


class Sockets:
    """The open sockets of one job's transfers, so that :meth:`close_all` can end blocking reads in other threads."""

    def __init__(self) -> None:
        self._open: weakref.WeakSet[socket.socket] = weakref.WeakSet()
        self._lock = threading.Lock()
        self.closed = False

    def add(self, sock: socket.socket) -> None:
        """Register a connected socket. Raises :class:`ConnectionsClosedError` after :meth:`close_all`."""
        with self._lock:
            if self.closed:
                raise ConnectionsClosedError
            self._open.add(sock)

    def close_all(self) -> None:
        """Shut every socket down, and refuse new ones; reads in other threads end at once."""
        with self._lock:
            self.closed = True
            sockets = list(self._open)
        for sock in sockets:
            try:
                # SSLSocket.shutdown drops the TLS state first, and a reader would then see ciphertext.
                socket.socket.shutdown(sock, socket.SHUT_RDWR)
            except OSError:
                continue  # already closed


def new_session(peers: AllowedPeers, sockets: Sockets) -> requests.Session:
    """Return a session without cookies, proxies, netrc or retries, which only connects to ``peers``."""
    session = _Session()
    session.trust_env = False  # a netrc entry would replace our token, and a proxy would hide the peer's address
    session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
    session.headers.clear()
    session.headers.update({"User-Agent": USER_AGENT, "Accept": "*/*", "Accept-Encoding": "identity"})
    adapter = _Adapter(peers, sockets)
    session.mount("https://", adapter)
    session.mount("http://", adapter)
    return session


class _Session(requests.Session):
    def get_redirect_target(self, resp: requests.Response) -> None:
        """Return None: even with ``allow_redirects=False`` requests would read a redirect's whole body."""


class _Adapter(HTTPAdapter):
    def __init__(self, peers: AllowedPeers, sockets: Sockets) -> None:
        self._peers, self._sockets = peers, sockets
        super().__init__(pool_connections=4, pool_maxsize=2, max_retries=0)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = {
            "http": _pool(HTTPConnectionPool, HTTPConnection, self._check_peer, self._sockets.add),
            "https": _pool(HTTPSConnectionPool, HTTPSConnection, self._check_peer, self._sockets.add),
        }

    def _check_peer(self, sock: socket.socket) -> None:
        address = sock.getpeername()[0]
        if not allows(self._peers, address):
            raise BlockedAddressError(f"the link leads to {address}, which is not a public address")


def _pool(pool: Any, connection: Any, check_peer: Callable[[Any], None], register: Callable[[Any], None]) -> Any:
    """Return urllib3's pool class with ``check_peer`` called before TLS and ``register`` with the final socket."""

    class Connection(connection):  # type: ignore[misc]
        def _new_conn(self) -> Any:
            sock = super()._new_conn()
            try:
                check_peer(sock)
            except BaseException:
                sock.close()
                raise
            return sock

        def connect(self) -> None:
            super().connect()
            try:
                register(self.sock)
            except ConnectionsClosedError:
                self.close()
                raise

    return type(pool.__name__, (pool,), {"ConnectionCls": Connection})
