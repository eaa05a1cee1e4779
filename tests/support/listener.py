"""A port on loopback that remembers what it received."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator


@contextlib.contextmanager
def listening() -> Iterator[tuple[int, list[bytes]]]:
    """Yield the port and the first bytes of each connection, empty when it sent none."""
    received: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(5)

        def listen() -> None:
            try:
                while True:
                    peer, _ = server.accept()
                    with peer:
                        peer.settimeout(1)
                        try:
                            received.append(peer.recv(100))
                        except OSError:
                            received.append(b"")
            except OSError:
                return

        threading.Thread(target=listen, daemon=True).start()
        yield server.getsockname()[1], received
