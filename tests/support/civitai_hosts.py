"""The three hosts of the fake Civitai, request by request: the site's API, the Hub, and the storage behind both."""

from __future__ import annotations

import hashlib
import json
import re
import time
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, unquote, urlsplit

from tests.support.civitai_files import Canned, FakeFile, FakeVersion, Request

if TYPE_CHECKING:
    from tests.support.civitai_server import CivitaiServer

BROWSERS = ("mozilla", "chrome", "safari", "firefox", "opera", "edge")
COMMIT = "0123456789abcdef0123456789abcdef01234567"
LOGIN_PAGE = b"<!DOCTYPE html><html><head><title>Sign in | Civitai</title></head><body>Login</body></html>"


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
