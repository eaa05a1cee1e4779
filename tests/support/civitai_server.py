"""A Civitai and a Hugging Face on loopback, with the storage host that both send their downloads to.

It behaves as the research says the real ones do: an API that redirects to signed links on another origin, a storage
that serves ranges and answers 400 when a token comes along, a 401 as JSON or, for browsers, a login page. Faults are
switched on per file. A request that no part of it expects is remembered, and :meth:`CivitaiServer.check` fails on it.

    with CivitaiServer() as server:
        version = server.add_model("style.safetensors", safetensors_bytes(), type="LORA")
        settings = Settings.from_environ({**server.env(), "MODELS_DIR": str(tmp_path)})
        text = f"lora https://civitai.com/api/download/models/{version}"
"""

from __future__ import annotations

import hashlib
import itertools
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import quote

from tests.support.civitai_files import Canned, FakeFile, FakeVersion, Request
from tests.support.civitai_hosts import HANDLERS, LOGIN_PAGE

__all__ = ["LOGIN_PAGE", "Canned", "CivitaiServer", "FakeFile"]


class CivitaiServer:
    """The three hosts. Use it as a context manager; leaving it checks for unexpected requests."""

    def __init__(self, token: str = "tok-civitai-5ecret", hf_token: str = "hf_5ecretsecret") -> None:
        self.token, self.hf_token = token, hf_token
        self.versions: dict[int, FakeVersion] = {}
        self.hub: dict[str, FakeFile] = {}
        """``<repo>/<path>`` -> the file."""
        self.hub_renamed: dict[str, str] = {}
        self.requests: list[Request] = []
        self.unexpected: list[str] = []
        self.links: dict[str, tuple[FakeFile, list[int | None]]] = {}
        """Signature -> its file and how many requests it is still good for."""
        self.stopping = threading.Event()
        self.lock = threading.Lock()
        self._ids = itertools.count(1001)
        self._servers = {host: _serve(self, host, handler) for host, handler in HANDLERS.items()}

    url = property(lambda self: self.address("api"), doc="Civitai's address.")
    hf_url = property(lambda self: self.address("hf"), doc="Hugging Face's address.")
    storage_url = property(lambda self: self.address("storage"), doc="The storage host's address.")

    def __enter__(self) -> CivitaiServer:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self.close()
        if kind is None:
            self.check()

    def address(self, host: str) -> str:
        return f"http://127.0.0.1:{self._servers[host].server_address[1]}"

    def env(self) -> dict[str, str]:
        """The variables that point a worker here."""
        return {"CIVITAI_URL": self.url, "HF_URL": self.hf_url}

    def close(self) -> None:
        self.stopping.set()
        for server in self._servers.values():
            server.shutdown()
            server.server_close()

    def check(self) -> None:
        """Fail on anything that no well-behaved client would have asked."""
        assert not self.unexpected, self.unexpected

    def seen(self, host: str) -> list[Request]:
        return [request for request in self.requests if request.host == host]

    def add_model(self, name: str, data: bytes, *, type: str = "Checkpoint", **file: Any) -> int:  # noqa: A002
        """A model with one version of one file; its version id. ``file`` sets fields of the FakeFile."""
        base_model = file.pop("base_model", "SDXL 1.0")
        return self.add_version([self.new_file(name, data, **file)], type=type, base_model=base_model).id

    def new_file(self, name: str, data: bytes, **fields: Any) -> FakeFile:
        fields.setdefault("sha256", hashlib.sha256(data).hexdigest())
        return FakeFile(next(self._ids), name, data, **fields)

    def add_version(
        self,
        files: list[FakeFile],
        *,
        type: str = "Checkpoint",  # noqa: A002
        base_model: str | None = "SDXL 1.0",
        model_id: int | None = None,
    ) -> FakeVersion:
        model = {"name": "A model", "type": type, "nsfw": False, "poi": False}
        version = FakeVersion(next(self._ids), model_id or next(self._ids), model, base_model, files)
        self.versions[version.id] = version
        return version

    def add_hub_file(self, repo: str, path: str, data: bytes, **fields: Any) -> FakeFile:
        file = self.new_file(path.rpartition("/")[2], data, **fields)
        self.hub[f"{repo}/{path}"] = file
        return file

    def file(self, version: int) -> FakeFile:
        """The first file of a version, to switch its faults."""
        return self.versions[version].files[0]

    def sign(self, file: FakeFile) -> str:
        """A new signed link."""
        with self.lock:
            signature = f"sig{next(self._ids):08x}"
            spent = any(known is file for known, _ in self.links.values())
            self.links[signature] = (file, [None if spent else file.link_requests])
        query = f"X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Expires=86400&X-Amz-Signature={signature}"
        return f"{self.storage_url}/bucket/{file.id}/{quote(file.name)}?{query}"


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def handle_error(self, request: Any, client_address: Any) -> None:
        error = sys.exc_info()[1]
        if not isinstance(error, (ConnectionError, TimeoutError)):
            self.fake.unexpected.append(f"the fake itself broke: {error!r}")  # type: ignore[attr-defined]


def _serve(fake: CivitaiServer, host: str, handler: type[BaseHTTPRequestHandler]) -> _Server:
    server = _Server(("127.0.0.1", 0), type(handler.__name__, (handler,), {"fake": fake, "host": host}))
    server.fake = fake  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    return server
