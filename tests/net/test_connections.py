"""A connection reaches only allowed addresses, sends nothing to others, and can be closed from another thread."""

from __future__ import annotations

import socket
import threading

import pytest
import requests

from tests.support.listener import listening
from worker.net.connections import (
    AllowedPeers,
    BlockedAddressError,
    ConnectionsClosedError,
    Sockets,
    allows,
    new_session,
)


@pytest.fixture
def listener():
    with listening() as found:
        yield found


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "127.9.9.9",
        "0.0.0.0",
        "10.0.0.1",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "224.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "fe80::1",
        "fd00::1",
        "ff02::1",
        "::ffff:127.0.0.1",
        "::ffff:169.254.169.254",
        "2002:7f00:1::",
        "64:ff9b::7f00:1",
        "64:ff9b::a9fe:a9fe",
    ],
)
def test_private_addresses_are_no_peers(address):
    assert not allows(AllowedPeers.PUBLIC, address)
    assert allows(AllowedPeers.ANY, address)
    assert allows(AllowedPeers.LOOPBACK, address) == (
        address in ("127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1")
        or (address in ("2002:7f00:1::", "64:ff9b::7f00:1"))
    )


@pytest.mark.parametrize("address", ["1.1.1.1", "104.18.0.1", "2606:4700::1111", "::ffff:1.1.1.1", "64:ff9b::101:101"])
def test_public_addresses_are_peers(address):
    assert allows(AllowedPeers.PUBLIC, address)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "2130706433", "0x7f000001", "127.1", "[::ffff:127.0.0.1]"])
def test_a_connection_that_arrives_inside_is_dropped_before_a_word_is_said(listener, host):
    port, received = listener
    for scheme in ("http", "https"):
        with new_session(AllowedPeers.PUBLIC, Sockets()) as session, pytest.raises(BlockedAddressError):
            session.get(f"{scheme}://{host}:{port}/", timeout=2)
    assert not any(received)


def test_sockets_can_be_ended_from_another_thread():
    sockets = Sockets()
    with socket.create_server(("127.0.0.1", 0)) as silent, new_session(AllowedPeers.ANY, sockets) as session:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/"

        def close_once_asked() -> None:
            peer, _ = silent.accept()
            with peer:
                peer.recv(1)
                sockets.close_all()

        threading.Thread(target=close_once_asked, daemon=True).start()
        with pytest.raises(requests.ConnectionError):
            session.get(url, timeout=5)
        assert sockets.closed
        with pytest.raises(ConnectionsClosedError):
            session.get(url, timeout=5)
