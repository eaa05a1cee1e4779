"""What Civitai's download route may answer in place of a file."""

from __future__ import annotations

import itertools

import pytest

from tests.faults.assembled.in_process import InProcess
from tests.support.civitai_server import Canned
from tests.support.prompts import image_prompt, sampler_prompt
from tests.support.safetensors_files import safetensors_bytes

fault = pytest.mark.fault
HTML = {"Content-Type": "text/html; charset=UTF-8"}
LOGIN = {"error": "Unauthorized", "message": "The creator of this asset requires you to be logged in to download it"}
EARLY = {"error": "Early Access", "deadline": "2027-01-02T03:04:05.000Z", "message": "This asset is in Early Access"}
BUSY = {"error": "Too many requests"}
TO_LOGIN = Canned(307, b"", {"Location": "/login?returnUrl=%2Fmodels&reason=download-auth"})
GATEWAY = Canned(502, b"<html>Bad gateway</html>", HTML)
_numbers = itertools.count()


@pytest.fixture
def model(worker):
    """A checkpoint that nobody has asked for yet: its name, its bytes and its line."""
    name = f"site{next(_numbers)}.safetensors"
    data = safetensors_bytes(50_000, name)
    return name, data, worker.add(name, data, "ckpt")


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        pytest.param(Canned(401, LOGIN), "CIVITAI_TOKEN", marks=fault("site-401")),
        pytest.param(Canned(403, EARLY), "early access until 2027", marks=fault("site-403")),
        pytest.param(Canned(404, {"error": "File not found"}), "Check the link", marks=fault("site-404")),
        pytest.param(Canned(410, {"error": "Archived"}), "archived", marks=fault("site-410")),
        pytest.param(Canned(429, BUSY, {"Retry-After": "3600"}), "to wait 3600 s", marks=fault("site-429-long")),
        pytest.param(Canned(429, BUSY), "Wait some minutes", marks=fault("site-429-bare")),
        pytest.param(Canned(451, {"error": "REGION_BLOCKED"}), "of another country", marks=fault("site-451")),
        pytest.param(GATEWAY, "answered 502", marks=fault("site-5xx-stays")),
        pytest.param(TO_LOGIN, "wants a login", marks=fault("site-login")),
        pytest.param(Canned(200, b"<html>Back soon</html>", HTML), "sent a web page", marks=fault("site-html")),
        pytest.param(Canned(200, {"error": "Not now"}), "Not now", marks=fault("site-json")),
    ],
)
def test_an_answer_that_stays_is_told_with_its_line(worker, case, model, answer, says):
    name, _, line = model
    worker.file(line).always = answer
    told = case.runs(worker, prompt=sampler_prompt(name, steps=1), repo_list=[worker.own, line])
    assert says in told["error"]
    assert line in told["error"]


@pytest.mark.parametrize(
    "answers",
    [
        pytest.param([Canned(429, BUSY, {"Retry-After": "7"})] * 3, marks=fault("site-429-wait")),
        pytest.param([Canned(n) for n in (500, 502, 503, 504, 520)], marks=fault("site-5xx-passes")),
    ],
)
def test_an_answer_that_passes_costs_only_time(worker, case, model, answers):
    name, data, line = model
    worker.file(line).answers = list(answers)
    brings = {f"checkpoints/{name}": data}
    case.runs(worker, prompt=sampler_prompt(name, steps=1), repo_list=[worker.own, line], brings=brings)


@fault("site-401-token")
def test_a_revoked_token_is_told_apart_from_none(tmp_path, case, closing):
    worker = closing(InProcess(tmp_path / "worker", CIVITAI_TOKEN="old-and-revoked"))
    worker.secrets.append("old-and-revoked")
    line = worker.add("gated.safetensors", safetensors_bytes(50_000), needs_token=True)
    told = case.runs(worker, prompt=image_prompt(), repo_list=[worker.own, line])
    assert "does not accept the token" in told["error"]
