"""What a link, a redirect or a server may not make the worker do: reach inside, leak a token, or say one aloud."""

from __future__ import annotations

import io
import logging
import socket
import threading
from pathlib import Path

import pytest
import requests

from tests.support.civitai_server import QUICK, Canned, CivitaiServer, Rig
from tests.support.safetensors_files import safetensors_bytes
from worker.answers import Refused
from worker.errors import Code, WorkerError
from worker.fetching import Client, Sites
from worker.model_types import RepoLine
from worker.redact import RedactingFilter
from worker.repo_list import parse_repo_list
from worker.wire import USER_AGENT, VERSION, BlockedAddress, Ended, Peers, Sockets, allows, new_session

DATA = safetensors_bytes(200_000)
LINE = parse_repo_list("lora https://civitai.com/api/download/models/5")[0]
HF_LINE = parse_repo_list("lora https://huggingface.co/a/b/resolve/main/x.safetensors")[0]
PUBLIC = "https://civitai.com/api/download/models/5"


@pytest.fixture
def server():
    with CivitaiServer() as server:
        yield server


@pytest.fixture
def listener():
    """A port on loopback that remembers whether anybody said anything to it."""
    heard: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(5)

        def listen() -> None:
            try:
                while True:
                    peer, _ = server.accept()
                    with peer:
                        peer.settimeout(1)
                        try:
                            heard.append(peer.recv(100))
                        except OSError:
                            heard.append(b"")
            except OSError:
                return

        threading.Thread(target=listen, daemon=True).start()
        yield server.getsockname()[1], heard


# Where a connection may go


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
    assert not allows(Peers.PUBLIC, address)
    assert allows(Peers.ANY, address)
    assert allows(Peers.LOOPBACK, address) == (
        address in ("127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1")
        or (address in ("2002:7f00:1::", "64:ff9b::7f00:1"))
    )


@pytest.mark.parametrize("address", ["1.1.1.1", "104.18.0.1", "2606:4700::1111", "::ffff:1.1.1.1", "64:ff9b::101:101"])
def test_public_addresses_are_peers(address):
    assert allows(Peers.PUBLIC, address)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "2130706433", "0x7f000001", "127.1", "[::ffff:127.0.0.1]"])
def test_a_connection_that_arrives_inside_is_dropped_before_a_word_is_said(listener, host):
    port, heard = listener
    for scheme in ("http", "https"):
        with new_session(Peers.PUBLIC, Sockets()) as session, pytest.raises(BlockedAddress):
            session.get(f"{scheme}://{host}:{port}/", timeout=2)
    assert not any(heard)


def test_a_name_that_resolves_to_the_inside_is_refused_for_a_public_site(listener, monkeypatch):
    port, heard = listener
    real = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, _, *more: real("127.0.0.1", port, *more))
    client = Client(Sites(civitai_token="secret"), QUICK, Sockets())
    with pytest.raises(Refused, match="not a public address"):
        client.follow(PUBLIC, LINE)
    client.close()
    assert not any(heard)


class Redirecting(Client):
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
    port, heard = listener
    client = Redirecting(Sites(model_hosts=hosts, civitai_token="secret"), location.format(port=port))
    with pytest.raises(Refused) as caught:
        client.follow(PUBLIC, LINE)
    client.close()
    assert caught.value.code is Code.DOWNLOAD_FAILED
    assert "pass@" not in caught.value.what
    assert not any(heard)


def test_a_configured_loopback_site_may_send_us_to_loopback_storage_but_not_further():
    sites = Sites(civitai_url="http://127.0.0.1:5000", model_hosts=("models.lan:8443",))
    base = "http://127.0.0.1:5000/api/download/models/5"
    assert sites.peers(base, base) is Peers.ANY
    assert sites.peers("http://127.0.0.1:6000/x", base) is Peers.LOOPBACK
    assert sites.peers("https://storage.example/x", base) is Peers.LOOPBACK
    for url in ("http://192.168.0.1/x", "http://storage.example/x"):
        with pytest.raises(Refused):
            sites.peers(url, base)
    assert not allows(Peers.LOOPBACK, "192.168.0.1")
    lan = "https://models.lan:8443/x"
    assert sites.peers(lan, lan) is Peers.ANY
    assert sites.peers("https://elsewhere.lan/x", lan) is Peers.PUBLIC


def test_redirects_end(server, tmp_path):
    version = server.add_model("x.safetensors", DATA)
    server.file(version).always = Canned(302, b"", {"Location": f"/api/download/models/{version}?again=1"})
    with pytest.raises(WorkerError, match="redirects more than 5 times"):
        Rig(server, tmp_path).fetch(f"ckpt https://civitai.com/api/download/models/{version}")
    assert len([r for r in server.requests if "download" in r.path]) == 6


# Where a token may go


@pytest.mark.parametrize(
    ("url", "line", "token"),
    [
        ("https://civitai.com/api/download/models/5", LINE, "C"),
        ("https://www.civitai.com/x", LINE, "C"),
        ("https://civitai.red/x", LINE, "C"),
        ("https://civitai.green/x", LINE, "C"),
        ("https://huggingface.co/x", HF_LINE, "H"),
        ("https://b2.civitai.com/file/x", LINE, None),
        ("https://civitai.com.evil.example/x", LINE, None),
        ("https://evilcivitai.com/x", LINE, None),
        ("https://civitai.com:8443/x", LINE, None),
        ("http://civitai.com/x", LINE, None),
        ("https://cdn-lfs.huggingface.co/x", HF_LINE, None),
        ("https://huggingface.co/x", LINE, None),
        ("https://civitai.com/x", HF_LINE, None),
        ("https://acct.r2.cloudflarestorage.com/x", LINE, None),
    ],
)
def test_the_token_goes_to_the_sites_own_hosts_only(url, line, token):
    assert Sites(civitai_token="C", hf_token="H").token(url, line) == token


def test_a_mirror_gets_the_token_over_https_or_loopback_only():
    for mirror, token in (
        ("https://mirror.example", "C"),
        ("http://127.0.0.1:5000", "C"),
        ("http://mirror.lan:5000", None),
    ):
        assert Sites(civitai_url=mirror, civitai_token="C").token(f"{mirror}/api", LINE) == token
    sites = Sites(model_hosts=("models.example",), civitai_token="C", hf_token="H")
    direct = parse_repo_list("lora https://models.example/x.safetensors", hosts=["models.example"])[0]
    assert sites.token(direct.url, direct) is None
    pasted = parse_repo_list("lora https://models.example/x.safetensors?token=P", hosts=["models.example"])[0]
    assert sites.token(pasted.url, pasted) == "P"


SECRET, PASTED = "5ecret-of-the-endpoint", "5ecret-pasted-into-the-link"


def shown(caplog, *texts: object) -> str:
    return "\n".join([caplog.text, *(repr(record.args) for record in caplog.records), *(f"{t} {t!r}" for t in texts)])


@pytest.mark.parametrize("pasted", [False, True])
def test_the_token_is_in_no_log_message_progress_or_request_but_its_own(server, tmp_path, caplog, pasted):
    caplog.set_level(logging.DEBUG)
    caplog.handler.addFilter(RedactingFilter([SECRET]))
    server.token = PASTED if pasted else SECRET
    version = server.add_model("x.safetensors", DATA, needs_token=True)
    server.file(version).cut_after = [1000]
    rig = Rig(server, tmp_path, CIVITAI_TOKEN=SECRET)
    reports: list[object] = []
    query = f"?token={PASTED}" if pasted else ""
    done = rig.fetch(f"lora https://civitai.com/api/download/models/{version}{query}", report=reports.append)
    downloads = [request for request in server.seen("api") if "/download/" in request.path]
    assert [request.headers["Authorization"] for request in downloads] == [f"Bearer {server.token}"]
    everything = shown(caplog, done, reports, rig.settings, [request.path for request in server.requests])
    assert SECRET not in everything
    assert PASTED not in everything
    assert "X-Amz-Signature=sig" not in caplog.text
    for request in server.seen("storage"):
        assert not {"authorization", "cookie", "referer"} & {name.lower() for name in request.headers}


@pytest.mark.parametrize("status", [401, 403, 404, 429, 500])
def test_the_token_is_in_no_error_even_when_the_server_repeats_it(server, tmp_path, caplog, status):
    caplog.set_level(logging.DEBUG)
    caplog.handler.addFilter(RedactingFilter([SECRET]))
    version = server.add_model("x.safetensors", DATA)
    message = f"bad request https://civitai.com/x?token={PASTED} with Authorization: Bearer {PASTED}"
    server.file(version).always = Canned(status, {"error": message})
    with pytest.raises(WorkerError) as caught:
        Rig(server, tmp_path, CIVITAI_TOKEN=SECRET).fetch(
            f"lora https://civitai.com/api/download/models/{version}?token={PASTED}"
        )
    everything = shown(caplog, caught.value, caught.value.answer())
    assert SECRET not in everything
    assert PASTED not in everything


def test_a_netrc_and_proxies_of_the_environment_are_not_used(server, tmp_path, monkeypatch):
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login evil password evil\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    version = server.add_model("x.safetensors", DATA, needs_token=True)
    Rig(server, tmp_path / "models", CIVITAI_TOKEN=server.token).fetch(
        f"lora https://civitai.com/api/download/models/{version}"
    )


def test_cookies_are_not_kept(server, tmp_path):
    version = server.add_model("x.safetensors", DATA)
    cookie = {"Set-Cookie": "session=abc; Path=/", "Retry-After": "0"}
    server.versions[version].metadata_answers = [Canned(503, b"", cookie)]
    server.file(version).answers = [Canned(503, b"", cookie)]
    Rig(server, tmp_path).fetch(f"lora https://civitai.com/api/download/models/{version}")
    assert not any("Cookie" in request.headers for request in server.requests)


def test_a_redirects_own_body_is_not_read(server, tmp_path):
    version = server.add_model("x.safetensors", DATA)
    file = server.file(version)
    file.answers = [Canned(307, bytes(100 << 20), {"Location": server.sign(file)})]
    (done,) = Rig(server, tmp_path).fetch(f"lora https://civitai.com/api/download/models/{version}")
    assert done.path.read_bytes() == DATA


def test_sockets_can_be_ended_from_another_thread():
    sockets = Sockets()
    with socket.create_server(("127.0.0.1", 0)) as silent, new_session(Peers.ANY, sockets) as session:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        threading.Timer(0.1, sockets.end).start()
        with pytest.raises(requests.ConnectionError):
            session.get(url, timeout=5)
        assert sockets.ended
        with pytest.raises(Ended):
            session.get(url, timeout=5)


def test_a_line_never_prints_its_token():
    line = RepoLine(1, "x", "k", "civitai", "u", None, None, token=PASTED)
    assert PASTED not in repr(line)


def test_the_user_agent_names_this_version_and_no_browser():
    project = Path(__file__).resolve().parents[2] / "pyproject.toml"
    assert f'\nversion = "{VERSION}"\n' in project.read_text()
    assert f"comfy-remote-serverless/{VERSION}" == USER_AGENT
