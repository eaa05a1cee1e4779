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
import json
import re
import sys
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

from worker.cancel import Stop
from worker.model_types import Download, Downloaded, ModelFile, Report
from worker.repo_list import parse_repo_list
from worker.retry import Retry
from worker.settings import Settings
from worker.sites import ModelSites

QUICK = Retry(scale=0.001, connect_s=2.0, read_s=0.5)
"""A policy for tests: every try of the real one, hardly any waiting."""

BROWSERS = ("mozilla", "chrome", "safari", "firefox", "opera", "edge")
COMMIT = "0123456789abcdef0123456789abcdef01234567"
LOGIN_PAGE = b"<!DOCTYPE html><html><head><title>Sign in | Civitai</title></head><body>Login</body></html>"


@dataclass
class Canned:
    """An answer that is sent in place of the usual one."""

    status: int
    body: bytes | dict[str, Any] = b""
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class Request:
    """One request as it came; ``sent`` is how many bytes of body went out."""

    host: str
    method: str
    path: str
    headers: dict[str, str]
    status: int = 0
    sent: int = 0


@dataclass(eq=False)
class FakeFile:
    """One file and how it misbehaves; change the fields while the server runs."""

    id: int
    name: str
    data: bytes
    type: str = "Model"
    metadata: dict[str, str] = field(default_factory=lambda: {"format": "SafeTensor", "size": "pruned", "fp": "fp16"})
    primary: bool = True
    sha256: str | None = None
    """What the API publishes."""
    size_kb: float | None = None
    pickle_scan: str | None = "Success"
    virus_scan: str | None = "Success"
    needs_token: bool = False
    disposition: str | None = None
    """The storage's Content-Disposition; by the name when None."""
    answers: list[Canned] = field(default_factory=list)
    """The download route's next answers, one a request, before it behaves."""
    storage_answers: list[Canned] = field(default_factory=list)
    always: Canned | None = None
    """The download route's answer to every request."""
    ignore_range: bool = False
    send_length: bool = True
    send_disposition: bool = True
    content_type: str = "application/octet-stream"
    cut_after: list[int] = field(default_factory=list)
    """The next bodies are cut after so many bytes, one a request."""
    stall_after: list[int] = field(default_factory=list)
    """The next bodies fall silent after so many bytes, one a request."""
    wrong_times: int = 0
    """So many of the next answers that hold the file's first byte carry other bytes."""
    link_requests: int | None = None
    """A signed link works for so many requests only; the one after the first expiry works for good."""
    bytes_per_s: float | None = None
    """Of each connection."""

    def described(self, url: str) -> dict[str, Any]:
        """The file as ``/api/v1/model-versions`` lists it."""
        hashes = {"SHA256": self.sha256.upper()} if self.sha256 else {}
        return {
            "id": self.id,
            "name": self.name,
            "type": self.type,
            "sizeKB": len(self.data) / 1024 if self.size_kb is None else self.size_kb,
            "metadata": self.metadata,
            "primary": self.primary,
            "pickleScanResult": self.pickle_scan,
            "virusScanResult": self.virus_scan,
            "hashes": hashes,
            "downloadUrl": url,
        }


@dataclass(eq=False)
class FakeVersion:
    """One version of one model."""

    id: int
    model_id: int
    model: dict[str, Any]
    base_model: str | None
    files: list[FakeFile]
    metadata_answers: list[Canned] = field(default_factory=list)
    metadata_always: Canned | None = None


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


def _serve(fake: CivitaiServer, host: str, handler: type[_Handler]) -> _Server:
    server = _Server(("127.0.0.1", 0), type(handler.__name__, (handler,), {"fake": fake, "host": host}))
    server.fake = fake  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    return server


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    fake: CivitaiServer
    host: str

    def do_GET(self) -> None:
        self.seen = Request(self.host, self.command, self.path, dict(self.headers))
        with self.fake.lock:
            self.fake.requests.append(self.seen)
        self.parts = urlsplit(self.path)
        self.query = {name: values[-1] for name, values in parse_qs(self.parts.query).items()}
        self.answer()

    def do_HEAD(self) -> None:
        self.fake.unexpected.append(f"HEAD {self.path}: the real one hangs or answers 401")
        self.send(Canned(405))

    do_POST = do_PUT = do_HEAD  # noqa: N815

    def log_message(self, *args: object) -> None:
        pass

    def answer(self) -> None:
        raise NotImplementedError

    def send(self, canned: Canned) -> None:
        body, headers = canned.body, dict(canned.headers)
        if isinstance(body, dict):
            body = json.dumps(body).encode()
            headers.setdefault("Content-Type", "application/json; charset=utf-8")
        self.seen.status = canned.status
        self.send_response(canned.status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def unknown(self) -> None:
        self.fake.unexpected.append(f"{self.host}: {self.command} {self.path}")
        self.send(Canned(404, {"error": "Not Found"}))

    def authorized(self, token: str) -> bool:
        return self.headers.get("Authorization") == f"Bearer {token}"


class _Api(_Handler):
    def answer(self) -> None:
        if re.fullmatch(r"/api/v1/model-versions/\d+", self.parts.path):
            self.version_metadata(self.number())
        elif re.fullmatch(r"/api/v1/models/\d+", self.parts.path):
            self.model_metadata(self.number())
        elif re.fullmatch(r"/api/download/models/\d+", self.parts.path):
            self.download(self.number())
        elif self.parts.path == "/login":
            self.send(Canned(200, LOGIN_PAGE, {"Content-Type": "text/html; charset=utf-8"}))
        else:
            self.unknown()

    def number(self) -> int:
        return int(self.parts.path.rpartition("/")[2])

    def described(self, version: FakeVersion) -> dict[str, Any]:
        url = f"https://civitai.com/api/download/models/{version.id}"
        return {
            "id": version.id,
            "modelId": version.model_id,
            "name": "v1.0",
            "baseModel": version.base_model,
            "model": version.model,
            "files": [file.described(url) for file in version.files],
            "downloadUrl": url,
        }

    def version_metadata(self, number: int) -> None:
        version = self.fake.versions.get(number)
        if version is None:
            return self.send(Canned(404, {"error": f"No model version with id {number}"}))
        if version.metadata_answers:
            return self.send(version.metadata_answers.pop(0))
        return self.send(version.metadata_always or Canned(200, self.described(version)))

    def model_metadata(self, number: int) -> None:
        versions = sorted((v for v in self.fake.versions.values() if v.model_id == number), key=lambda v: -v.id)
        if not versions:
            return self.send(Canned(404, {"error": f"No model with id {number}"}))
        if versions[0].metadata_answers:
            return self.send(versions[0].metadata_answers.pop(0))
        listed = [{k: v for k, v in self.described(version).items() if k != "model"} for version in versions]
        body = {"id": number, "modelVersions": listed, **versions[0].model}
        return self.send(versions[0].metadata_always or Canned(200, body))

    def download(self, number: int) -> None:
        version = self.fake.versions.get(number)
        file = self.chosen(version) if version else None
        if file is None:
            return self.send(Canned(404, {"error": "File not found"}, {"Cache-Control": "no-store"}))
        if file.answers:
            return self.send(file.answers.pop(0))
        if file.always:
            return self.send(file.always)
        if file.needs_token and not self.authorized(self.fake.token):
            return self.gate()
        return self.send(Canned(307, b"", {"Location": self.fake.sign(file), "Cache-Control": "no-store"}))

    def chosen(self, version: FakeVersion) -> FakeFile | None:
        if "fileId" in self.query:
            return next((file for file in version.files if str(file.id) == self.query["fileId"]), None)
        return next((file for file in version.files if file.primary), version.files[0] if version.files else None)

    def gate(self) -> None:
        if any(name in self.headers.get("User-Agent", "").lower() for name in BROWSERS):
            return self.send(Canned(307, b"", {"Location": "/login?returnUrl=/&reason=download-auth"}))
        message = "The creator of this asset requires you to be logged in to download it"
        return self.send(Canned(401, {"error": "Unauthorized", "message": message}))


class _Hub(_Handler):
    def answer(self) -> None:
        found = re.fullmatch(r"/(.+?)/resolve/([^/]+)/(.+)", unquote(self.parts.path))
        if not found:
            return self.unknown()
        repo, _, path = found.groups()
        if repo in self.fake.hub_renamed:
            new = self.fake.hub_renamed[repo]
            return self.send(Canned(307, b"", {"Location": self.path.replace(repo, new, 1)}))
        file = self.fake.hub.get(f"{repo}/{path}")
        if file is None:
            error = {"X-Error-Code": "EntryNotFound", "X-Error-Message": "Entry not found"}
            return self.send(Canned(404, b"Entry not found", {**error, "Content-Type": "text/plain"}))
        return self.send(file.answers.pop(0) if file.answers else file.always or self.linked(repo, file))

    def linked(self, repo: str, file: FakeFile) -> Canned:
        if file.needs_token and not self.authorized(self.fake.hf_token):
            message = f"Access to model {repo} is restricted. You must have access to it and be authenticated."
            return Canned(401, b"", {"X-Error-Code": "GatedRepo", "X-Error-Message": message})
        headers = {
            "Location": self.fake.sign(file),
            "X-Repo-Commit": COMMIT,
            "X-Linked-Size": str(len(file.data)),
            "X-Linked-ETag": f'"{file.sha256}"' if file.sha256 else '"40hexdigits"',
        }
        return Canned(302, b"Found. Redirecting to storage", headers)


class _Storage(_Handler):
    def answer(self) -> None:
        if "Authorization" in self.headers:
            self.fake.unexpected.append(f"storage got an Authorization header: {self.path}")
            return self.send(Canned(400, b"<Error><Code>InvalidRequest</Code></Error>", {"Content-Type": "text/xml"}))
        link = self.fake.links.get(self.query.get("X-Amz-Signature", ""))
        if link is None:
            return self.unknown()
        file, left = link
        with self.fake.lock:
            expired = left[0] == 0
            if left[0]:
                left[0] -= 1
        if expired:
            body = b"<Error><Code>AccessDenied</Code><Message>Request has expired</Message></Error>"
            return self.send(Canned(403, body, {"Content-Type": "application/xml"}))
        if file.storage_answers:
            return self.send(file.storage_answers.pop(0))
        return self.body(file)

    def body(self, file: FakeFile) -> None:
        size = len(file.data)
        found = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        start, end = 0, size
        if found and not file.ignore_range:
            start = int(found[1])
            end = min(size, int(found[2] or size) + 1)
            if start >= size:
                return self.send(Canned(416, b"", {"Content-Range": f"bytes */{size}"}))
        self.seen.status = 206 if found and not file.ignore_range else 200
        self.send_response(self.seen.status)
        self.send_header("Content-Type", file.content_type)
        self.send_header("ETag", f'"{hashlib.md5(file.data[:1000] + str(size).encode()).hexdigest()}"')
        if file.send_disposition:
            disposition = file.disposition or f'attachment; filename="{file.name}"'
            self.send_header("Content-Disposition", disposition.encode().decode("latin-1"))
        if self.seen.status == 206:
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{size}")
        if file.send_length:
            self.send_header("Content-Length", str(end - start))
        else:
            self.close_connection = True
            self.send_header("Connection", "close")
        self.end_headers()
        return self.stream(file, start, end)

    def stream(self, file: FakeFile, start: int, end: int) -> None:
        data = memoryview(file.data)[start:end]
        with self.fake.lock:
            if start == 0 and file.wrong_times > 0 and len(data) > 1:
                file.wrong_times -= 1
                data = memoryview(bytes(data[:-1]) + bytes([data[-1] ^ 0xFF]))
            cut = file.cut_after.pop(0) if file.cut_after else None
            stall = file.stall_after.pop(0) if file.stall_after else None
        for offset in range(0, len(data), 1 << 16):
            piece = data[offset : offset + (1 << 16)]
            for limit in (cut, stall):
                if limit is not None:
                    piece = piece[: max(0, limit - offset)]
            self.wfile.write(piece)
            self.seen.sent += len(piece)
            if cut is not None and self.seen.sent >= min(cut, len(data)):
                self.close_connection = True
                return
            if stall is not None and self.seen.sent >= min(stall, len(data)):
                self.fake.stopping.wait(60)
                self.close_connection = True
                return
            if file.bytes_per_s:
                time.sleep(len(piece) / file.bytes_per_s)


HANDLERS: dict[str, type[_Handler]] = {"api": _Api, "hf": _Hub, "storage": _Storage}


class Rig:
    """A worker's model sites that talk to a fake, as the model manager drives them."""

    def __init__(self, server: CivitaiServer, models_dir: Path, retry: Retry = QUICK, **environ: str) -> None:
        self.models_dir = models_dir
        named = {**server.env(), "MODELS_DIR": str(models_dir), **environ}
        self.settings = Settings.from_environ(named)
        self.sites = ModelSites(self.settings, retry=retry)

    def resolve(self, text: str, stop: Stop | None = None) -> list[ModelFile]:
        lines = parse_repo_list(text, hosts=self.settings.model_hosts, allow_pickle=self.settings.allow_pickle)
        return self.sites.resolve(lines, stop or Stop())

    def downloads(self, files: list[ModelFile]) -> list[Download]:
        return [Download(file, self.models_dir / file.folder / file.filename) for file in files]

    def fetch(self, text: str, stop: Stop | None = None, report: Report = lambda files: None) -> list[Downloaded]:
        return self.sites.fetch(self.downloads(self.resolve(text, stop)), stop or Stop(), report)

    def files(self) -> list[str]:
        """Every file under the models folder, unfinished ones too."""
        return sorted(str(p.relative_to(self.models_dir)) for p in self.models_dir.rglob("*") if not p.is_dir())
