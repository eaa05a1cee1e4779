"""Each answer that Civitai's download route is known to give, and the error a caller then reads."""

from __future__ import annotations

import pytest

from tests.support.civitai_server import LOGIN_PAGE, Canned
from tests.support.model_rig import Rig
from tests.support.safetensors_files import safetensors_bytes
from worker.errors import Code, WorkerError
from worker.net.answers import HttpAnswer
from worker.sites.errors import is_login, site_error

DATA = safetensors_bytes(70_000)
NEEDS_LOGIN = {
    "error": "Unauthorized",
    "message": "The creator of this asset requires you to be logged in to download it",
}
DISABLED = {"error": "Unauthorized", "message": "The creator has disabled downloads on this file"}
EARLY = {"error": "Early Access", "deadline": "2027-01-02T03:04:05.000Z", "message": "This asset is in Early Access"}
NO_ACCESS = {"error": "You do not have access to this file"}
HTML = {"Content-Type": "text/html; charset=UTF-8"}
WAF = Canned(403, b"<!DOCTYPE html><html><title>Attention Required! | Cloudflare</title></html>", HTML)
LOGIN = Canned(307, b"", {"Location": "/login?returnUrl=%2Fmodels&reason=download-auth"})


@pytest.fixture
def version(server):
    return server.add_model("x.safetensors", DATA, type="LORA")


def fetch(rig: Rig, version: int):
    return rig.fetch(f"lora https://civitai.com/api/download/models/{version}")


def refusal(rig: Rig, version: int) -> WorkerError:
    with pytest.raises(WorkerError) as caught:
        fetch(rig, version)
    assert "repo_list line 1 (`lora https://civitai.com/api/download/models/" in caught.value.message
    assert rig.files() == []
    return caught.value


TABLE = [
    # answer, requests it takes, code, words of the message, words of the hint
    (Canned(401, NEEDS_LOGIN), 1, Code.MODEL_AUTH, "wants a token", "CIVITAI_TOKEN"),
    (Canned(401, b""), 1, Code.MODEL_AUTH, "wants a token", "CIVITAI_TOKEN"),
    (Canned(401, DISABLED), 1, Code.MODEL_FORBIDDEN, "disabled downloads", "no token opens"),
    (Canned(403, EARLY), 1, Code.MODEL_FORBIDDEN, "early access until 2027-01-02T03:04:05.000Z", "Buy access"),
    (Canned(403, NO_ACCESS), 1, Code.MODEL_FORBIDDEN, "You do not have access", "account that owns the token"),
    (Canned(403, {"error": "Forbidden"}), 1, Code.MODEL_FORBIDDEN, "Forbidden", "account"),
    (WAF, 1, Code.MODEL_FORBIDDEN, "web page (403 text/html)", "addresses may be blocked"),
    (Canned(404, {"error": "File not found"}), 3, Code.MODEL_NOT_FOUND, "File not found", "Check the link"),
    (Canned(410, {"error": "Archived"}), 1, Code.MODEL_NOT_FOUND, "archived", "Check the link"),
    (Canned(429, {"error": "Too many"}), 4, Code.MODEL_RATE_LIMITED, "limits how much", "Wait some minutes"),
    (Canned(429, b"", {"Retry-After": "7"}), 4, Code.MODEL_RATE_LIMITED, "asks to wait 7 s", "Wait"),
    (Canned(429, b"", {"Retry-After": "3600"}), 1, Code.MODEL_RATE_LIMITED, "asks to wait 3600 s", "Wait"),
    (Canned(451, {"error": "REGION_BLOCKED"}), 1, Code.MODEL_REGION_BLOCKED, "blocks the country", "data centre"),
    (Canned(500, b""), 6, Code.DOWNLOAD_FAILED, "answered 500", "Send the job again"),
    (Canned(502, b"<html>Bad gateway</html>", HTML), 6, Code.DOWNLOAD_FAILED, "answered 502", "again"),
    (Canned(503, b"", {"Retry-After": "1"}), 6, Code.DOWNLOAD_FAILED, "answered 503", "again"),
    (Canned(418, b"short and stout", {"Content-Type": "text/plain"}), 1, Code.DOWNLOAD_FAILED, "short and", "again"),
    (LOGIN, 1, Code.MODEL_AUTH, "wants a login", "CIVITAI_TOKEN"),
    (Canned(200, LOGIN_PAGE, HTML), 1, Code.MODEL_AUTH, "its login page", "CIVITAI_TOKEN"),
    (Canned(200, b"<html>We will be back</html>", HTML), 1, Code.DOWNLOAD_FAILED, "sent a web page", "again"),
    (Canned(200, {"error": "Not now"}), 1, Code.DOWNLOAD_FAILED, "application/json instead of the file: “Not now”", ""),
    (Canned(200, b"<html></html>"), 1, Code.DOWNLOAD_FAILED, "a web page or XML", "again"),
    (Canned(200, b'{"error": 1}', {"Content-Type": "application/octet-stream"}), 1, Code.DOWNLOAD_FAILED, "JSON", ""),
    (Canned(307, b""), 1, Code.DOWNLOAD_FAILED, "answered 307", ""),
    (Canned(302, b"", {"Location": "https://[bad"}), 1, Code.DOWNLOAD_FAILED, "cannot be read", "another"),
    (Canned(200, DATA, {"Content-Encoding": "gzip"}), 1, Code.DOWNLOAD_FAILED, "compressed (gzip)", ""),
]


@pytest.mark.parametrize("row", TABLE, ids=lambda row: f"{row[0].status}-{row[2].value}-{row[3][:20]}")
def test_an_answer_that_stays(server, version, tmp_path, row):
    answer, requests, code, message, hint = row
    server.file(version).always = answer
    error = refusal(Rig(server, tmp_path), version)
    assert error.code is code
    assert message in error.message
    assert hint in error.hint
    downloads = [request for request in server.seen("api") if request.path.startswith("/api/download/")]
    assert len(downloads) == requests
    assert not server.seen("storage")


@pytest.mark.parametrize(
    "answers",
    [
        [Canned(404), Canned(404)],
        [Canned(429, b"", {"Retry-After": "2"}), Canned(429), Canned(429)],
        [Canned(500), Canned(502), Canned(503), Canned(504), Canned(520)],
        [Canned(404), Canned(500), Canned(429)],
    ],
    ids=["404", "429", "5xx", "mixed"],
)
def test_an_answer_that_passes_does_no_harm(server, version, tmp_path, answers):
    server.file(version).answers = answers
    (done,) = fetch(Rig(server, tmp_path), version)
    assert done.path.read_bytes() == DATA


def test_a_wrong_token_is_told_apart_from_none(server, version, tmp_path):
    server.file(version).needs_token = True
    error = refusal(Rig(server, tmp_path, CIVITAI_TOKEN="old-and-revoked"), version)
    assert error.code is Code.MODEL_AUTH
    assert "does not accept the token" in error.message
    assert "make a new one" in error.hint
    assert "old-and-revoked" not in f"{error} {error.details}"


def test_the_right_token_opens_the_file(server, version, tmp_path):
    server.file(version).needs_token = True
    (done,) = fetch(Rig(server, tmp_path, CIVITAI_TOKEN=server.token), version)
    assert done.path.read_bytes() == DATA


def test_what_the_site_says_is_quoted_without_control_characters(server, version, tmp_path):
    server.file(version).always = Canned(403, {"error": "no\x1b[31m\r\nway\u202e " + "x" * 1000})
    error = refusal(Rig(server, tmp_path), version)
    assert "“no [31m way xxx" in error.message
    assert len(error.message) < 500


def test_a_browser_like_name_would_have_brought_the_login_page(server, version, tmp_path, monkeypatch):
    server.file(version).needs_token = True
    monkeypatch.setattr("worker.net.connections.USER_AGENT", "Mozilla/5.0 (X11; Linux x86_64)")
    assert "wants a login" in refusal(Rig(server, tmp_path), version).message
    monkeypatch.undo()
    assert "wants a token" in refusal(Rig(server, tmp_path), version).message
    assert server.requests[-1].headers["User-Agent"].startswith("comfy-remote-serverless/")


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (Canned(404), Code.MODEL_NOT_FOUND),
        (Canned(500), Code.DOWNLOAD_FAILED),
        (Canned(429), Code.MODEL_RATE_LIMITED),
        (Canned(403, b"<Error>AccessDenied</Error>", {"Content-Type": "application/xml"}), Code.DOWNLOAD_FAILED),
        (Canned(400, b"<Error>InvalidRequest</Error>", {"Content-Type": "application/xml"}), Code.DOWNLOAD_FAILED),
        (Canned(200, b"<html>", HTML), Code.DOWNLOAD_FAILED),
        (Canned(302, b"", {"Location": "/elsewhere"}), Code.MODEL_NOT_FOUND),
    ],
)
def test_the_storage_hosts_refusals(server, version, tmp_path, answer, code):
    server.file(version).storage_answers = [answer] * 20
    assert refusal(Rig(server, tmp_path), version).code is code
    server.unexpected.clear()  # the redirect of the last row leads nowhere


def test_a_content_type_is_shown_without_control_characters():
    error = site_error("http", HttpAnswer(200, {"Content-Type": "a\x1b[31mb"}))
    assert error.what == "the host sent a [31mb instead of the file"


@pytest.mark.parametrize(
    ("url", "login"),
    [
        ("https://civitai.com/login", True),
        ("https://civitai.com/login/?returnUrl=%2Fmodels", True),
        ("https://civitai.com/?reason=download-auth", True),
        ("https://civitai.com/models/5?next=/login", False),
        ("https://civitai.com/blogin", False),
    ],
)
def test_a_login_page_is_known_by_its_address(url, login):
    assert is_login(url) is login
