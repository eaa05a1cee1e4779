"""A link or a redirect leads a download only to public addresses, and to what the operator named."""

from __future__ import annotations

import io
import socket

import pytest
import requests

from tests.support.civitai_server import Canned, CivitaiServer
from tests.support.listener import listening
from tests.support.model_rig import QUICK, Rig
from tests.support.safetensors_files import safetensors_bytes
from worker.errors import Code, WorkerError
from worker.net.connections import AllowedPeers, Sockets, allows
from worker.sites.client import SiteClient, Sites
from worker.sites.errors import SiteError
from worker.sites.repo_list import parse_repo_list

DATA = safetensors_bytes(200_000)
LINE = parse_repo_list("lora https://civitai.com/api/download/models/5")[0]
PUBLIC = "https://civitai.com/api/download/models/5"


@pytest.fixture
def server():
    with CivitaiServer() as server:
        yield server


@pytest.fixture
def listener():
    with listening() as found:
        yield found


def test_a_name_that_resolves_to_the_inside_is_refused_for_a_public_site(listener, monkeypatch):
    port, received = listener
    real = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, _, *more: real("127.0.0.1", port, *more))
    client = SiteClient(Sites(civitai_token="secret"), QUICK, Sockets())
    with pytest.raises(SiteError, match="not a public address"):
        client.follow(PUBLIC, LINE)
    client.close()
    assert not any(received)


class Redirecting(SiteClient):
    """A client whose first answer is a redirect, as if the public site had sent it; further hops are real."""

    def __init__(self, sites: Sites, location: str) -> None:
        super().__init__(sites, QUICK, Sockets())
        self.location = location

    def get(self, url, line, base, span=None):
        self.sites.peers(url, base)
        if url != base:
            return super().get(url, line, base, span)
        response = requests.Response()
        response.status_code, response.raw = 307, io.BytesIO()
        response.headers["Location"] = self.location
        response.request = requests.Request("GET", url).prepare()
        return response


@pytest.mark.parametrize(
    "location",
    [
        "http://127.0.0.1:{port}/x",
        "https://127.0.0.1:{port}/x",
        "https://localhost:{port}/x",
        "https://%6cocalhost:{port}/x",
        "https://2130706433:{port}/x",
        "https://0x7f.1:{port}/x",
        "https://[::ffff:127.0.0.1]:{port}/x",
        "https://[::1]:{port}/x",
        "https://169.254.169.254/latest/meta-data/",
        "http://169.254.169.254/latest/meta-data/",
        "https://[fe80::1]/x",
        "https://user:pass@civitai.com/x",
        "http://civitai.com/api/download/models/5",
        "file:///etc/passwd",
        "ftp://example.com/x",
        "//127.0.0.1:{port}/x",
    ],
)
@pytest.mark.parametrize("hosts", [(), ("127.0.0.1", "localhost")])
def test_a_public_site_can_not_send_us_inside(listener, location, hosts):
    port, received = listener
    client = Redirecting(Sites(model_hosts=hosts, civitai_token="secret"), location.format(port=port))
    with pytest.raises(SiteError) as caught:
        client.follow(PUBLIC, LINE)
    client.close()
    assert caught.value.code is Code.DOWNLOAD_FAILED
    assert "pass@" not in caught.value.what
    assert not any(received)


def test_a_configured_loopback_site_may_send_us_to_loopback_storage_but_not_further():
    sites = Sites(civitai_url="http://127.0.0.1:5000", model_hosts=("models.lan:8443",))
    base = "http://127.0.0.1:5000/api/download/models/5"
    assert sites.peers(base, base) is AllowedPeers.ANY
    assert sites.peers("http://127.0.0.1:6000/x", base) is AllowedPeers.LOOPBACK
    assert sites.peers("https://storage.example/x", base) is AllowedPeers.LOOPBACK
    for url in ("http://192.168.0.1/x", "http://storage.example/x"):
        with pytest.raises(SiteError):
            sites.peers(url, base)
    assert not allows(AllowedPeers.LOOPBACK, "192.168.0.1")
    lan = "https://models.lan:8443/x"
    assert sites.peers(lan, lan) is AllowedPeers.ANY
    assert sites.peers("https://elsewhere.lan/x", lan) is AllowedPeers.PUBLIC


def test_redirects_end(server, tmp_path):
    version = server.add_model("x.safetensors", DATA)
    server.file(version).always = Canned(302, b"", {"Location": f"/api/download/models/{version}?again=1"})
    with pytest.raises(WorkerError, match="redirects more than 5 times"):
        Rig(server, tmp_path).fetch(f"ckpt https://civitai.com/api/download/models/{version}")
    assert len([r for r in server.requests if "download" in r.path]) == 6


def test_a_redirects_own_body_is_not_read(server, tmp_path):
    version = server.add_model("x.safetensors", DATA)
    file = server.file(version)
    file.answers = [Canned(307, bytes(100 << 20), {"Location": server.sign(file)})]
    (done,) = Rig(server, tmp_path).fetch(f"lora https://civitai.com/api/download/models/{version}")
    assert done.path.read_bytes() == DATA
