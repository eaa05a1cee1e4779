"""Results by link: fetched whole or not at all, from a small server that cuts, lies, redirects and refuses."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from typing import Any
from urllib.parse import urlsplit

import pytest

from client.jobs import RemoteJob, Request
from client.remote_sink import RejectedError
from client.results import link_download as links
from client.results.link_download import ResultLink, ResultLinkError, _expected_size, is_allowed_address
from client.results.saver import ResultSaver
from client.runpod.client import _seconds
from tests.client.conftest import PROMPT
from tests.client.endpoint import picture, png

NEAR, FAR = "http://127.0.0.1:8000/v2/ep", "https://api.runpod.ai/v2/ep"
FILM = b"\0\0\0\x18ftypmp42" + bytes(range(256)) * 4000


class Store:
    """Serves ``body``; the next answers may be cut after so many bytes, or have another status."""

    def __init__(self) -> None:
        self.body, self.cuts, self.statuses = FILM, list[int](), list[int]()
        self.ranges_work, self.seen = True, list[dict[str, str]]()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/a.mp4?X-Signature=s"

    def entry(self, **more: Any) -> dict[str, Any]:
        names = {"filename": "film_00001_.mp4", "subfolder": "", "type": "output", "node_id": "9"}
        return {"url": self.url, "bytes": len(self.body), "media_type": "video/mp4", **names, **more}


def _handler(store: Store) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            store.seen.append(dict(self.headers))
            status = store.statuses.pop(0) if store.statuses else 200
            asked = self.headers.get("Range", "")
            start = int(asked[6:-1]) if asked and store.ranges_work else 0
            self.send_response(206 if start and status == 200 else status)
            if 300 <= status < 400:
                self.send_header("Location", store.url)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(store.body) - 1}/{len(store.body)}")
            rest = store.body[start:] if status == 200 else b""
            self.send_header("Content-Length", str(len(rest)))
            self.end_headers()
            self.wfile.write(rest[: store.cuts.pop(0)] if store.cuts else rest)

        def log_message(self, *args: Any) -> None:
            pass

    return Handler


@pytest.fixture
def store(monkeypatch) -> Iterator[Store]:
    monkeypatch.setattr(links, "PAUSES_S", (0.01, 0.01))
    store = Store()
    yield store
    store.server.shutdown()
    store.server.server_close()


@pytest.fixture
def saver(tmp_path) -> ResultSaver:
    def save_path(prefix: str, root: str, _width: int, _height: int) -> tuple[str, str, int, str, str]:
        folder, _, name = prefix.rpartition("/")
        return f"{root}/{folder}", name, 1, folder, prefix

    folders = {name: tmp_path / name for name in ("output", "temp")}
    return ResultSaver(folders, save_path, None, lambda job: None)


def job(endpoint: str = NEAR) -> RemoteJob:
    return RemoteJob("p", 1, "c", endpoint, Request(PROMPT, {}))


def files(tmp_path):
    return sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file())


def test_a_film_is_fetched_named_and_shown(store, saver, tmp_path):
    one = job()
    assert saver.save(one, {"files": [store.entry()]}) == []
    assert (tmp_path / "output/sub/mine_00001_.mp4").read_bytes() == FILM
    assert files(tmp_path) == ["output/sub/mine_00001_.mp4"]
    assert one.outputs["9"]["animated"] == [True]
    assert one.outputs["9"]["images"][0]["filename"] == "mine_00001_.mp4"
    assert not {"authorization", "cookie"} & {name.lower() for name in store.seen[0]}
    saver.save(one, {"files": [store.entry()]})
    assert len(store.seen) == 1, "what is there is not fetched again"


@pytest.mark.parametrize("ranges_work", [True, False])
def test_a_cut_connection_is_resumed(store, saver, tmp_path, ranges_work):
    store.cuts, store.ranges_work = [300_000, 400_000], ranges_work
    assert saver.save(job(), {"files": [store.entry()]}) == []
    assert (tmp_path / "output/sub/mine_00001_.mp4").read_bytes() == FILM
    assert store.seen[1]["Range"] == "bytes=300000-"


def test_a_picture_by_link_is_checked_by_its_bytes(store, saver, tmp_path):
    store.body = png()
    entry = store.entry(filename="a.png", metadata={"seed": 1}, parameters="a cat\nSteps: 4")
    assert saver.save(job(), {"images": [entry]}) == []
    assert files(tmp_path / "output/sub") == ["mine_00001_.json", "mine_00001_.png", "mine_00001_.txt"]
    store.body = b"MZ" + png()
    assert "PNG" in saver.save(job(), {"images": [store.entry(filename="a.png")]})[0]


@pytest.mark.parametrize(
    ("change", "says"),
    [({"bytes": 5}, "announced 5"), ({"bytes": 2 * len(FILM)}, "announced"), ({"bytes": 2**50}, "larger than"),
     ({"url": "ftp://127.0.0.1/a"}, "not a web address"), ({"url": "http://example.com/a"}, "not https")],
)  # fmt: skip
def test_a_wrong_size_or_address_is_refused_and_the_rest_saved(store, saver, tmp_path, change, says):
    (warning,) = saver.save(job(), {"images": [picture()], "files": [store.entry(**change)]})
    assert says in warning
    assert files(tmp_path) == ["output/sub/mine_00001_.png"]


@pytest.mark.parametrize(("status", "says"), [(403, "expired"), (404, "expired"), (302, "redirect"), (418, "418")])
def test_a_refusal_is_said(store, saver, tmp_path, status, says):
    store.statuses = [status]
    assert says in saver.save(job(), {"files": [store.entry()]})[0]
    assert len(store.seen) == 1
    assert files(tmp_path) == []


def test_a_web_page_is_no_film(store, saver, tmp_path):
    store.body = b"<!DOCTYPE html><html>Sign in</html>"
    assert "web page" in saver.save(job(), {"files": [store.entry()]})[0]
    assert files(tmp_path) == []


def test_a_store_in_trouble_is_asked_again_and_the_rest_is_kept(store, saver, tmp_path):
    store.statuses, one = [503] * 3, job()
    output = {"images": [picture()], "files": [store.entry()]}
    with pytest.raises(ResultLinkError, match="503"):
        saver.save(one, output)
    assert files(tmp_path) == ["output/sub/mine_00001_.png"]
    assert saver.save(one, output) == []
    assert files(tmp_path) == ["output/sub/mine_00001_.mp4", "output/sub/mine_00001_.png"]


def test_a_far_endpoint_cannot_lead_to_this_machine(store, saver):
    assert "not https" in saver.save(job(FAR), {"files": [store.entry()]})[0]
    https = store.url.replace("http:", "https:")
    link = ResultLink.of({"url": https}, FAR)
    assert not link.allow_loopback
    with pytest.raises(RejectedError, match="not https"):
        ResultLink.of({"url": "http://192.168.1.1/a"}, NEAR)


@pytest.mark.parametrize(
    ("peer", "far", "near"),
    [("8.8.8.8", True, True), ("127.0.0.1", False, True), ("::1", False, True), ("10.0.0.1", False, False),
     ("169.254.169.254", False, False), ("::ffff:10.0.0.1", False, False), ("64:ff9b::a00:1", False, False),
     ("2002:a00:1::1", False, False), ("fe80::1%eth0", False, False), ("100.64.0.1", False, False),
     ("224.0.0.1", False, False), ("0.0.0.0", False, False), ("2606:4700::1", True, True)],
)  # fmt: skip
def test_which_addresses_may_be_read(peer, far, near):
    assert (is_allowed_address(peer, False), is_allowed_address(peer, True)) == (far, near)


ODD_NUMBERS = ["\u00b2", "9" * 5000]


class _Socket:
    def __init__(self, data):
        self._data = data

    def makefile(self, *_):
        return BytesIO(self._data)


@pytest.mark.parametrize("text", ODD_NUMBERS)
def test_a_length_that_is_no_number_is_an_unknown_length(text):
    link = ResultLink(urlsplit("https://a.example/x"), allow_loopback=False, size=7)
    response = http.client.HTTPResponse(_Socket(f"HTTP/1.1 200 OK\r\nContent-Length: {text}\r\n\r\n".encode("latin-1")))
    response.begin()
    assert _expected_size(link, response, BytesIO()) == 7
    assert _seconds(text) is None
