"""The client of the model sites: its token goes to its own site and into no log, error, progress or other host."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import requests

from tests.support.civitai_server import Canned
from tests.support.model_rig import QUICK, Rig
from tests.support.safetensors_files import safetensors_bytes
from worker import __version__
from worker.errors import Code, WorkerError
from worker.net.connections import USER_AGENT
from worker.net.redact import RedactingFilter
from worker.net.retry import Budget, RetryReason
from worker.sites.client import Sites, network_error, with_retries
from worker.sites.errors import SiteError
from worker.sites.repo_list import parse_repo_list
from worker.stop import Stop

DATA = safetensors_bytes(200_000)
LINE = parse_repo_list("lora https://civitai.com/api/download/models/5")[0]
HF_LINE = parse_repo_list("lora https://huggingface.co/a/b/resolve/main/x.safetensors")[0]


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


def test_a_token_that_no_header_can_hold_is_not_shown(server, tmp_path):
    version = server.add_model("x.safetensors", DATA)
    rig = Rig(server, tmp_path, CIVITAI_TOKEN="two\nlines")
    with pytest.raises(WorkerError) as caught:
        rig.fetch(f"lora https://civitai.com/api/download/models/{version}")
    assert caught.value.code is Code.MODEL_AUTH
    assert "lines" not in str(caught.value)


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


def test_the_user_agent_names_this_version_and_no_browser():
    project = Path(__file__).resolve().parents[2] / "pyproject.toml"
    assert f'\nversion = "{__version__}"\n' in project.read_text()
    assert f"comfy-remote-serverless/{__version__}" == USER_AGENT


def test_what_a_site_does_not_have_is_asked_for_once_and_trouble_as_often_as_the_budget_allows(monkeypatch):
    reasons = [RetryReason.SERVER, RetryReason.SERVER, RetryReason.NEVER]
    stop, slept = Stop(), []
    monkeypatch.setattr(stop, "sleep", slept.append)

    def attempt() -> None:
        raise SiteError(Code.DOWNLOAD_FAILED, f"{len(reasons)} left", reasons.pop(0))

    with pytest.raises(SiteError, match="1 left"):
        with_retries(attempt, Budget(QUICK), stop)
    assert len(slept) == 2
    assert with_retries(lambda: "found", Budget(QUICK), stop) == "found"


def test_a_failure_below_http_is_tried_again_unless_the_certificate_is_wrong():
    assert network_error(requests.ReadTimeout("read")).retry_reason is RetryReason.SERVER
    assert "stalled" in network_error(requests.ReadTimeout("read")).what
    assert network_error(requests.ConnectionError("https://civitai.com/x?token=P")).retry_reason is RetryReason.SERVER
    assert "token" not in network_error(requests.ConnectionError("https://civitai.com/x?token=P")).what
    certificate = network_error(requests.exceptions.SSLError("CERTIFICATE_VERIFY_FAILED"))
    assert certificate.retry_reason is RetryReason.NEVER
    assert "certificate" in certificate.what
