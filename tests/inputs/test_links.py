"""The SSRF page: a job's links reach nothing that the internet could not reach, however they are dressed."""

from __future__ import annotations

import dataclasses
import hashlib
import http.server
import socket
import threading
from dataclasses import dataclass, field

import pytest

from tests.support.waiting import wait_until
from worker.errors import Code, WorkerError
from worker.inputs.links import InputLinks, allowed_peers, is_public
from worker.net.retry import Retry
from worker.stop import Stop, StoppedError

FOREVER_S = 600.0  # past pytest's timeout
QUICK = Retry(tries=3, scale=0.001, connect_s=2.0, read_s=2.0)
PRIVATE = [
    "127.0.0.1",
    "127.8.9.10",
    "0.0.0.0",
    "10.0.0.1",
    "172.16.0.1",
    "192.168.1.1",
    "169.254.169.254",
    "100.64.0.1",
    "192.0.0.8",
    "198.18.0.1",
    "224.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::127.0.0.1",
    "::ffff:127.0.0.1",
    "::ffff:a9fe:a9fe",
    "fe80::1",
    "fe80::1%eth0",
    "fc00::1",
    "fd00:ec2::254",
    "ff02::1",
    "64:ff9b::7f00:1",
    "64:ff9b:1::7f00:1",
    "2002:7f00:1::",
    "2001:0:7f00:1::",
    "100::1",
]


@dataclass
class Web:
    """A loopback web server: path -> (status, headers, body)."""

    pages: dict = field(default_factory=dict)
    seen: list = field(default_factory=list)
    url: str = ""
    over: threading.Event = field(default_factory=threading.Event)


@pytest.fixture
def web():
    found = Web()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            found.seen.append(self.path)
            pages = found.pages.get(self.path, (404, {}, b""))
            status, headers, body = pages.pop(0) if isinstance(pages, list) else pages
            if headers.get("X-Stall"):
                found.over.wait()
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.handle_error = lambda *args: None  # type: ignore[method-assign]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    found.url = f"http://127.0.0.1:{server.server_address[1]}"
    yield found
    found.over.set()
    server.shutdown()
    server.server_close()


def fetch(url, tmp_path, *, allowed=(), limit=1000, stop=None, retry=QUICK):
    part = tmp_path / "part"
    with InputLinks(tuple(allowed), stop or Stop(), retry) as links:
        return links.download(url, "files[0].url", part, limit)


def refused(url, tmp_path, **options) -> WorkerError:
    with pytest.raises(WorkerError) as caught:
        fetch(url, tmp_path, **options)
    assert caught.value.details["field"] == "files[0].url"
    return caught.value


def resolve_to(monkeypatch, *answers):
    """Let every name lead to these addresses, one lookup after the other; the last stays."""
    left = list(answers)

    def getaddrinfo(host, port, *args, **kwargs):
        address = left.pop(0) if len(left) > 1 else left[0]
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        return [(family, socket.SOCK_STREAM, 6, "", (address, port))]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


@pytest.mark.parametrize("address", PRIVATE)
def test_no_form_of_a_private_address_counts_as_public(address):
    assert not is_public(address)


@pytest.mark.parametrize("address", ["1.1.1.1", "2606:4700::1111", "64:ff9b::101:101", "::ffff:1.1.1.1"])
def test_public_ones_do(address):
    assert is_public(address)


@pytest.mark.parametrize("address", PRIVATE)
def test_a_name_that_leads_there_is_refused_before_anything_is_asked(tmp_path, monkeypatch, address):
    resolve_to(monkeypatch, address)
    error = refused("https://pictures.example.com/a.png", tmp_path)
    assert error.code is Code.INVALID_INPUT
    assert "not a public address" in str(error)


@pytest.mark.parametrize(
    "url",
    [
        "https://127.0.0.1/a.png",
        "https://[::1]/a.png",
        "https://[::ffff:127.0.0.1]/a.png",
        "https://2130706433/a.png",
        "https://0x7f000001/a.png",
        "https://0177.0.0.1/a.png",
        "https://127.1/a.png",
        "https://localhost/a.png",
        "https://localhost:8188/a.png",
        "https://user:pass@example.com/a.png",
        "http://example.com/a.png",
        "https://",
    ],
)
def test_addresses_that_are_never_asked(tmp_path, url):
    error = refused(url, tmp_path)
    assert error.code in (Code.INVALID_INPUT, Code.DOWNLOAD_FAILED)
    assert "pass" not in str(error).replace("password", "")


def test_one_private_address_among_public_ones_is_enough_to_refuse(monkeypatch):
    both = [(socket.AF_INET, 1, 6, "", (address, 443)) for address in ("1.1.1.1", "10.0.0.1")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: both)
    with pytest.raises(ValueError, match=r"10\.0\.0\.1"):
        allowed_peers("https://example.com/a", ())


def test_a_name_that_changes_its_answer_is_caught_at_the_connected_socket(web, tmp_path, monkeypatch):
    resolve_to(monkeypatch, "1.1.1.1", "127.0.0.1")
    port = web.url.rpartition(":")[2]
    error = refused(f"https://rebinding.example.com:{port}/a.png", tmp_path)
    assert "leads to 127.0.0.1, which is not a public address" in str(error)
    assert error.code is Code.INVALID_INPUT
    assert web.seen == []


@pytest.mark.parametrize(
    "target",
    [
        "http://169.254.169.254/latest/meta-data/",
        "https://169.254.169.254/",
        "https://[::1]:8188/",
        "http://example.com/a.png",
        "file:///etc/passwd",
        "gopher://127.0.0.1/",
        "//127.0.0.1:1/x",
    ],
)
def test_a_redirect_to_any_of_them_is_refused(web, tmp_path, target):
    web.pages["/a.png"] = (302, {"Location": target}, b"")
    error = refused(f"{web.url}/a.png", tmp_path, allowed=[web.url.removeprefix("http://")])
    assert error.code in (Code.INVALID_INPUT, Code.DOWNLOAD_FAILED)
    assert web.seen == ["/a.png"]


def test_an_endless_redirect_ends(web, tmp_path):
    web.pages["/a.png"] = (302, {"Location": "/a.png"}, b"")
    assert "redirects more than 5 times" in str(refused(f"{web.url}/a.png", tmp_path, allowed=["127.0.0.1"]))


def test_an_allowed_host_is_fetched_also_after_a_redirect_and_a_bad_moment(web, tmp_path):
    web.pages["/a.png"] = [(503, {}, b""), (302, {"Location": "/b.png?sig=secret"}, b"")]
    web.pages["/b.png?sig=secret"] = (200, {"Content-Type": "image/png"}, b"picture")
    sha256 = fetch(f"{web.url}/a.png", tmp_path, allowed=["127.0.0.1"])
    assert sha256 == hashlib.sha256(b"picture").hexdigest()
    assert (tmp_path / "part").read_bytes() == b"picture"


@pytest.mark.parametrize(
    ("page", "said", "code"),
    [
        ((404, {}, b""), "answered with 404", Code.DOWNLOAD_FAILED),
        ((200, {"Content-Type": "text/html; charset=utf-8"}, b"<html>"), "a web page", Code.DOWNLOAD_FAILED),
        ((200, {"Content-Encoding": "gzip"}, b"x"), "compressed", Code.DOWNLOAD_FAILED),
        ((200, {"Content-Length": "99999999999"}, b"x"), "INPUT_LIMIT_MB", Code.INVALID_INPUT),
        ((200, {"Transfer-Encoding": "x", "Content-Length": ""}, b"x" * 5000), "INPUT_LIMIT_MB", Code.INVALID_INPUT),
        ((200, {"Content-Length": "5000"}, b"x" * 20), "could not be downloaded", Code.DOWNLOAD_FAILED),
    ],
)
def test_what_comes_is_bounded_and_looked_at(web, tmp_path, page, said, code):
    web.pages["/a.png"] = page
    limit = 10_000 if "downloaded" in said else 1000
    error = refused(f"{web.url}/a.png", tmp_path, allowed=["127.0.0.1"], limit=limit)
    assert said in str(error)
    assert error.code is code


def test_a_signature_in_a_link_is_not_shown(web, tmp_path):
    error = refused(f"{web.url}/gone.png?X-Amz-Signature=abcdef", tmp_path, allowed=["127.0.0.1"])
    assert "abcdef" not in str(error)


def test_a_cancelled_job_ends_its_fetch_at_once(web, tmp_path):
    web.pages["/a.png"] = (200, {"X-Stall": "yes"}, b"x")
    stop = Stop()
    canceller = threading.Thread(target=lambda: wait_until(lambda: web.seen) and stop.set())
    canceller.start()
    patient = dataclasses.replace(QUICK, read_s=FOREVER_S)  # no read timeout could end it in a test's time
    with pytest.raises(StoppedError):
        fetch(f"{web.url}/a.png", tmp_path, allowed=["127.0.0.1"], stop=stop, retry=patient)
    canceller.join()
