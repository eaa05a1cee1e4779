"""An S3 of a hundred lines whose objects lie on the disk: moto keeps them in memory, and 2 GB must pass with little.

It speaks what uploads and downloads need (PUT, multipart, HEAD, GET with Range) and looks at no signature, which is
moto's part. Over TLS with a certificate of its own authority where that is asked for.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import socket
import ssl
import struct
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

BUCKET = "pics"
PIECE = 1 << 18


@dataclass
class DiskS3:
    """The server. ``cut_after``: the next GET's body ends after so many bytes with a reset connection."""

    root: Path
    certificate: tuple[Path, Path] | None = None
    """Certificate chain and key, in PEM."""
    cut_after: list[int] = field(default_factory=list)
    seen: list[tuple[str, str, str]] = field(default_factory=list)
    """Method, path and Range of every request."""
    open: threading.Event = field(default_factory=threading.Event)
    """While it is not set, bodies wait; ``waiting`` is set once one does."""
    waiting: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.open.set()

    def __enter__(self) -> DiskS3:
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self._server.handle_error = lambda *_: None  # type: ignore[method-assign] - cut connections are meant
        if self.certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*self.certificate)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        scheme, host = ("https", "localhost") if self.certificate else ("http", "127.0.0.1")
        self.url = f"{scheme}://{host}:{self._server.server_address[1]}"
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def env(self) -> dict[str, str]:
        """RunPod's variables for this bucket."""
        return {
            "BUCKET_ENDPOINT_URL": self.url,
            "BUCKET_NAME": BUCKET,
            "BUCKET_ACCESS_KEY_ID": "disk-access",
            "BUCKET_SECRET_ACCESS_KEY": "disk-secret",
        }

    def path(self, key: str) -> Path:
        """Where an object's bytes lie."""
        return self.root / key.replace("/", "__")

    def count(self, method: str) -> int:
        """How many requests of a method came."""
        return sum(1 for seen, _, _ in self.seen if seen == method)


def _handler(s3: DiskS3) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _begin(self) -> None:
            parts = urlsplit(self.path)
            self.query = {k: v[0] for k, v in parse_qs(parts.query, keep_blank_values=True).items()}
            self.file = s3.path(unquote(parts.path).removeprefix(f"/{BUCKET}/"))
            s3.seen.append((self.command, parts.path, self.headers.get("Range", "")))

        def do_PUT(self) -> None:
            self._begin()
            number = self.query.get("partNumber")
            target = Path(f"{self.file}.{number}.mpart") if number else self.file
            left = int(self.headers["Content-Length"])
            if not s3.open.is_set():
                s3.waiting.set()
                s3.open.wait(60)
            with target.open("wb") as file:
                while left and (piece := self.rfile.read(min(PIECE, left))):
                    left -= file.write(piece)
            self._answer(200, headers={"ETag": '"tag"'})

        def do_POST(self) -> None:
            self._begin()
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if "uploads" in self.query:
                self._answer(200, b"<R><UploadId>the-only-one</UploadId></R>")
                return
            with self.file.open("wb") as whole:
                for number in re.findall(rb"<PartNumber>(\d+)<", body):
                    part = Path(f"{self.file}.{int(number)}.mpart")
                    with part.open("rb") as file:
                        shutil.copyfileobj(file, whole, PIECE)
                    part.unlink()
            self._answer(200, b"<R/>")

        def do_DELETE(self) -> None:
            self._begin()
            self._answer(204)

        def do_HEAD(self) -> None:
            self._begin()
            there = self.file.is_file()
            length = {"Content-Length": str(self.file.stat().st_size)} if there else {}
            self._answer(200 if there else 404, headers=length)

        def do_GET(self) -> None:
            self._begin()
            if not self.file.is_file():
                self._answer(404, b"<Error><Code>NoSuchKey</Code></Error>")
                return
            size = self.file.stat().st_size
            asked = re.match(r"bytes=(\d+)-", self.headers.get("Range", ""))
            start = int(asked[1]) if asked else 0
            more = {"Content-Range": f"bytes {start}-{size - 1}/{size}"} if asked else {}
            self._answer(206 if asked else 200, headers={"Content-Length": str(size - start), **more})
            until = start + s3.cut_after.pop(0) if s3.cut_after else size
            with self.file.open("rb") as file, contextlib.suppress(OSError):
                file.seek(start)
                while (here := file.tell()) < until and (piece := file.read(min(PIECE, until - here))):
                    self.wfile.write(piece)
            if until < size:
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.close_connection = True

        def _answer(self, status: int, body: bytes = b"", headers: dict[str, str] | None = None) -> None:
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: Any) -> None:
            pass

    return Handler
