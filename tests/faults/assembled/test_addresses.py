"""Links and redirects that lead inside, and a token that must not go along."""

from __future__ import annotations

import logging
import socket

import pytest

from tests.faults.assembled.in_process import InProcess
from tests.support.civitai_server import Canned
from tests.support.prompts import image_prompt, node
from tests.support.safetensors_files import safetensors_bytes

fault = pytest.mark.fault
METADATA = "http://169.254.169.254/latest/meta-data/"
LOAD = {"1": node("LoadImage", image="in.png"), "2": node("SaveImage", images=["1", 0], filename_prefix="x")}


@pytest.fixture(scope="module")
def worker(tmp_path_factory):
    """A worker whose operator allows jobs to fetch inputs from 127.0.0.1, under that name only; with a token."""
    token = "tok-civitai-5ecret"
    subject = InProcess(tmp_path_factory.mktemp("worker"), PRIVATE_HOSTS="127.0.0.1", CIVITAI_TOKEN=token)
    assert subject.secrets == [token]
    yield subject
    subject.close()


def port(worker) -> str:
    return worker.civitai.url.rpartition(":")[2]


def with_input(url: str) -> dict:
    return {"prompt": LOAD, "files": [{"name": "in.png", "url": url}]}


@fault("input-private")
def test_an_input_from_a_private_address_is_not_asked_for(worker, case):
    asked = len(worker.civitai.requests)
    told = case.meets(worker, with_input(f"https://localhost:{port(worker)}/in.png"))
    assert "not a public address" in told["error"]
    assert len(worker.civitai.requests) == asked
    case.next_job(worker)


@fault("input-rebinds")
def test_a_host_that_turns_private_between_two_look_ups_is_dropped_unasked(worker, case, monkeypatch):
    real, answers = socket.getaddrinfo, ["1.1.1.1", "127.0.0.1"]

    def changing(host, *more, **named):
        if host != "rebinding.example.com":
            return real(host, *more, **named)
        address = answers.pop(0) if len(answers) > 1 else answers[0]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, int(port(worker))))]

    monkeypatch.setattr(socket, "getaddrinfo", changing)
    asked = len(worker.civitai.requests)
    told = case.meets(worker, with_input(f"https://rebinding.example.com:{port(worker)}/in.png"))
    assert "leads to 127.0.0.1, which is not a public address" in told["error"]
    assert len(worker.civitai.requests) == asked
    case.next_job(worker)


@fault("input-redirects")
def test_an_allowed_host_cannot_send_an_input_inside(worker, case):
    line = worker.add("redirects.safetensors", b"")
    worker.file(line).always = Canned(302, b"", {"Location": METADATA})
    told = case.meets(worker, with_input(f"{worker.civitai.url}/api/download/models/{line.rpartition('/')[2]}"))
    assert f"redirects to '{METADATA}', which is http://" in told["error"]
    case.next_job(worker)


@fault("site-redirects")
def test_a_model_site_cannot_send_a_download_inside(worker, case):
    line = worker.add("inside.safetensors", safetensors_bytes(5000, "inside"))
    worker.file(line).always = Canned(302, b"", {"Location": METADATA})
    told = case.runs(worker, prompt=image_prompt(0xABC801), repo_list=[worker.own, line])
    assert "only https is followed" in told["error"]


@fault("bucket-private")
def test_a_jobs_own_bucket_at_a_private_address_is_not_spoken_to(worker, case):
    bucket = {"accessId": "AK", "accessSecret": "5ecret-of-the-job", "bucketName": "pics"}
    worker.secrets.append("5ecret-of-the-job")
    asked = len(worker.civitai.requests)
    event = {"s3Config": {**bucket, "endpointUrl": f"https://localhost:{port(worker)}"}}
    case.meets(worker, {"prompt": image_prompt(0xABC802), "result": {"to": "s3"}}, **event)
    assert len(worker.civitai.requests) == asked
    case.next_job(worker)


@fault("token-leaks")
def test_a_token_opens_its_site_and_goes_no_further(worker, case, caplog):
    caplog.set_level(logging.DEBUG)
    data = safetensors_bytes(50_000, "gated")
    line = worker.add("gated.safetensors", data, needs_token=True)
    asked = len(worker.civitai.requests)
    brings = {"loras/gated.safetensors": data}
    case.runs(worker, prompt=image_prompt(0xABC803), repo_list=[worker.own, line], brings=brings)
    requests = worker.civitai.requests[asked:]
    carried = {request.host for request in requests if "Authorization" in request.headers}
    assert carried == {"api"}
    assert worker.civitai.token not in caplog.text + "".join(request.path for request in requests)
