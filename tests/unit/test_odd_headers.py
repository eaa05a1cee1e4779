"""Headers and metadata that no honest site sends: each would have ended a look-up as a fault of the worker."""

from __future__ import annotations

import json

import pytest
from requests.structures import CaseInsensitiveDict

from tests.support.civitai_files import Canned
from tests.support.civitai_server import CivitaiServer
from tests.support.model_rig import Rig
from tests.support.safetensors_files import safetensors_bytes
from worker.net.answers import HttpAnswer
from worker.sites.direct_link import size_of
from worker.sites.errors import site_error

NOT_SIZES = ["\u00b2", "9" * 5000, "-1", "1e3", ""]


@pytest.mark.parametrize("text", NOT_SIZES)
def test_what_is_no_size_is_an_unknown_size(text):
    assert size_of(200, CaseInsensitiveDict({"Content-Length": text})) is None
    assert size_of(206, CaseInsensitiveDict({"Content-Range": f"bytes 0-0/{text}"})) is None


@pytest.mark.parametrize("text", ["\u00b2", "9" * 5000, "1 Jan 1 0:0:0 +99999999999", "Mon, 99 Jan 2026"])
def test_an_odd_time_to_wait_is_none(text):
    assert HttpAnswer(429, {"Retry-After": text}).retry_after_s is None


def test_a_content_type_is_shown_without_control_characters():
    said = site_error("http", HttpAnswer(200, {"Content-Type": "a\x1b[31mb"})).what
    assert said == "the host sent a [31mb instead of the file"


@pytest.mark.parametrize("size", NOT_SIZES[:-1])
def test_an_odd_size_of_the_hub_does_not_end_the_look_up(tmp_path, size):
    with CivitaiServer() as server:
        server.add_hub_file("org/repo", "a.safetensors", safetensors_bytes(200))
        headers = {"X-Linked-Size": size.encode("latin-1").decode("latin-1"), "Location": f"{server.hf_url}/x"}
        server.hub["org/repo/a.safetensors"].always = Canned(302, b"", headers)
        (file,) = Rig(server, tmp_path).resolve("vae https://huggingface.co/org/repo/resolve/main/a.safetensors")
    assert file.size is None


def test_half_a_character_in_a_published_name_can_still_be_noted(tmp_path):
    with CivitaiServer() as server:
        version = server.add_model("a\ud800b.safetensors", safetensors_bytes(200), type="LORA")
        (file,) = Rig(server, tmp_path).resolve(f"https://civitai.com/api/download/models/{version}")
    assert file.filename == "ab.safetensors"
    json.dumps(file.aliases, ensure_ascii=False).encode()
