"""An S3 server on loopback (moto's, in a process of its own) that checks signatures, behind a proxy that makes faults.

with S3Server() as s3:
    s3.answers.append(Canned(503, "SlowDown"))         # the next request is answered so, in place of the server
    s3.cut_after.append(1000)                          # the next body is cut after so many bytes
    settings = Settings.from_environ(s3.env())
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import struct
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import boto3
import botocore.config
import requests

from worker.comfyui.server import free_port

BUCKET = "pics"
START_S = 60
PIECE = 1 << 16


@dataclass
class Canned:
    """An answer in S3's words, in place of the server's."""

    status: int
    code: str
    more: str = ""

    @property
    def body(self) -> bytes:
        """As S3 writes it."""
        return f"<?xml version='1.0'?><Error><Code>{self.code}</Code>{self.more}</Error>".encode()


@dataclass
class Seen:
    """One request as it came."""

    method: str
    path: str
    headers: dict[str, str]
    status: int = 0


@dataclass(eq=False)
class S3Server:
    """The server, its proxy and one bucket."""

    answers: list[Canned] = field(default_factory=list)
    cut_after: list[int] = field(default_factory=list)
    stall: list[float] = field(default_factory=list)
    """The next requests are answered so many seconds late."""
    seen: list[Seen] = field(default_factory=list)
    _cleared: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> S3Server:
        port = free_port()
        self._moto = f"http://127.0.0.1:{port}"
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
            env={**os.environ, "INITIAL_NO_AUTH_ACTION_COUNT": "1000000"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            self._wait()
            self.access, self.secret = self._make_user()
            self._proxy = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
            self._proxy.daemon_threads = True
            self._proxy.handle_error = lambda *_: None  # type: ignore[method-assign] - cut connections are meant
            threading.Thread(target=self._proxy.serve_forever, daemon=True).start()
        except BaseException:
            self._end()
            raise
        self.url = f"http://127.0.0.1:{self._proxy.server_address[1]}"
        return self

    def __exit__(self, *exception: object) -> None:
        self._proxy.shutdown()
        self._proxy.server_close()
        self._end()

    def _end(self) -> None:
        self._process.kill()
        self._process.wait()

    def _wait(self) -> None:
        until = time.monotonic() + START_S
        while True:
            with contextlib.suppress(requests.RequestException):
                requests.get(f"{self._moto}/moto-api/", timeout=1)
                return
            assert self._process.poll() is None, "moto ended; is moto[server] installed?"
            assert time.monotonic() < until, "moto did not start"
            time.sleep(0.05)

    def _make_user(self) -> tuple[str, str]:
        iam = self._client("iam")
        iam.create_user(UserName="worker")
        allow = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]}
        iam.put_user_policy(UserName="worker", PolicyName="all", PolicyDocument=json.dumps(allow))
        self._client("s3").create_bucket(Bucket=BUCKET)
        key = iam.create_access_key(UserName="worker")["AccessKey"]
        return key["AccessKeyId"], key["SecretAccessKey"]

    def _client(self, service: str) -> Any:
        config = botocore.config.Config(signature_version="v4" if service == "iam" else "s3v4")
        keys = {"aws_access_key_id": "test", "aws_secret_access_key": "test"}
        return boto3.client(service, endpoint_url=self._moto, region_name="us-east-1", config=config, **keys)

    # ------------------------------------------------------------------ for tests

    def clear(self) -> None:
        """No faults, nothing seen, an empty bucket, signatures not checked."""
        for each in (self.answers, self.cut_after, self.stall, self.seen):
            each.clear()
        self._cleared.set()
        self._cleared = threading.Event()
        self.check_signatures(False)
        for key in self.keys():
            self._client("s3").delete_object(Bucket=BUCKET, Key=key)

    def check_signatures(self, on: bool = True) -> None:
        """Refuse what is not signed with the user's keys. moto cannot check a presigned link: off while one is used."""
        count = "0" if on else "1000000"
        requests.post(f"{self._moto}/moto-api/reset-auth", data=count, timeout=10).raise_for_status()

    def env(self, **more: str) -> dict[str, str]:
        """The worker's variables for this bucket."""
        return {
            "BUCKET_ENDPOINT_URL": self.url,
            "BUCKET_ACCESS_KEY_ID": self.access,
            "BUCKET_SECRET_ACCESS_KEY": self.secret,
            "BUCKET_NAME": BUCKET,
            **more,
        }

    def s3_config(self, **more: str) -> dict[str, str]:
        """The same as RunPod's ``s3Config``."""
        config = {"accessId": self.access, "accessSecret": self.secret, "bucketName": BUCKET, "endpointUrl": self.url}
        return {**config, **more}

    def keys(self) -> list[str]:
        """Of all objects."""
        self._allow()
        listed = self._client("s3").list_objects_v2(Bucket=BUCKET)
        return [item["Key"] for item in listed.get("Contents", [])]

    def unfinished(self) -> int:
        """How many multipart uploads were begun and neither completed nor aborted."""
        return len(self._client("s3").list_multipart_uploads(Bucket=BUCKET).get("Uploads", []))

    def object(self, key: str) -> tuple[bytes, str]:
        """An object's bytes and its content type."""
        found = self._client("s3").get_object(Bucket=BUCKET, Key=key)
        with contextlib.closing(found["Body"]) as body:
            return body.read(), found["ContentType"]

    def _allow(self) -> None:
        self.check_signatures(False)


def _handler(server: S3Server) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def _any(self) -> None:
            seen = Seen(self.command, self.path, dict(self.headers))
            server.seen.append(seen)
            length = int(self.headers.get("Content-Length") or 0)
            if server.cut_after and length:
                self._cut(min(server.cut_after.pop(0), length))
                return
            body = self.rfile.read(length)
            if server.stall:
                server._cleared.wait(server.stall.pop(0))
                if not any(each is seen for each in server.seen):
                    return  # cleared meanwhile: of a test that has ended, and its object must not turn up in the next
            if server.answers:
                canned = server.answers.pop(0)
                seen.status = canned.status
                self._answer(canned.status, canned.body, {"Content-Type": "application/xml"})
                return
            headers = {k: v for k, v in self.headers.items() if k.lower() not in ("connection", "accept-encoding")}
            answer = requests.request(
                self.command, server._moto + self.path, data=body, headers=headers, timeout=120, allow_redirects=False
            )
            seen.status = answer.status_code
            kept = {k: v for k, v in answer.headers.items() if k.lower() in ("etag", "content-type", "location")}
            if self.command == "HEAD" and answer.ok:
                kept["Content-Length"] = answer.headers["Content-Length"]  # the object's, not that of the empty body
            self._answer(answer.status_code, answer.content, kept)

        do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _any  # noqa: N815 - http.server's names

        def _cut(self, after: int) -> None:
            left = after
            while left > 0 and (piece := self.rfile.read(min(PIECE, left))):
                left -= len(piece)
            self.rfile.close()
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # RST, not FIN
            self.close_connection = True

        def _answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
            with contextlib.suppress(OSError):
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                if "Content-Length" not in headers:
                    self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

        def log_message(self, *args: Any) -> None:
            pass

    return Handler
