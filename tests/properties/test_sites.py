"""The model sites: whatever their answers hold, a line becomes a file under a safe name or an error that quotes it."""

from __future__ import annotations

import json
from io import BytesIO

import requests
from hypothesis import given
from hypothesis import strategies as st

from tests.properties.strategies import ANY_CHARACTER, JSON, TEXT, broken
from worker.errors import Code, WorkerError
from worker.models import plan
from worker.models.inventory import Inventory
from worker.models.locations import DiskFile
from worker.models.manifest import Entry
from worker.net.answers import HttpAnswer
from worker.net.retry import Retry
from worker.sites import civitai, direct_link, hugging_face
from worker.sites.client import FinalResponse, Sites, _json_body, _next_hop
from worker.sites.errors import SiteError, login_error, site_error, storage_error
from worker.sites.repo_list import parse_repo_list
from worker.sites.types import MANAGED_FOLDERS
from worker.stop import Stop

HOSTS = ("models.example",)
FILE = {
    "id": 11,
    "name": "style.safetensors",
    "type": "Model",
    "sizeKB": 6.5,
    "metadata": {"format": "SafeTensor", "size": "pruned", "fp": "fp16"},
    "primary": True,
    "pickleScanResult": "Success",
    "virusScanResult": "Success",
    "hashes": {"SHA256": "A" * 64},
}
VERSION = {
    "id": 7,
    "model": {"type": "LORA", "name": "x"},
    "baseModel": "SDXL 1.0",
    "files": [FILE, {**FILE, "id": 12, "primary": False}],
}
MODEL = {"id": 5, "type": "LORA", "name": "x", "modelVersions": [VERSION]}
CIVITAI = st.sampled_from(
    [
        "https://civitai.com/api/download/models/7",
        "lora https://civitai.com/models/5",
        "https://civitai.com/models/0",
        "https://civitai.com/api/download/models/7?fileId=11",
        "vae https://civitai.com/api/download/models/7?type=VAE&format=SafeTensor&size=full as mine.safetensors",
    ]
)


class FakeClient:
    """Answers every question for metadata with ``facts``, every one for bytes with these headers."""

    sites = Sites(model_hosts=HOSTS)
    retry = Retry(scale=0.0)

    def __init__(self, facts=None, status=206, headers=(), url="https://models.example/a.safetensors"):
        self.facts, self.status, self.headers, self.url = facts, status, dict(headers), url

    def json(self, url, line, stop, budget):
        return self.facts if isinstance(self.facts, dict) else _json_body(response(json.dumps(self.facts).encode()))

    def follow(self, url, line, span=None, until=None):
        answer = response(b"", self.status, self.headers)
        answer.url = self.url
        return FinalResponse(answer, self.url)


def response(body, status=200, headers=()):
    answer = requests.Response()
    answer.status_code, answer.raw = status, BytesIO(body)
    answer.headers.update(headers)
    return answer


def looked_up(resolve, text, client, allow_pickle=False):
    """The file, checked for all that the disk and the manifest need of it; None where the line was refused."""
    (line,) = parse_repo_list(text, hosts=HOSTS, allow_pickle=True)
    try:
        file = resolve(line, client, Stop(), allow_pickle)
    except WorkerError as error:
        assert error.code is not Code.INTERNAL
        assert "repo_list line 1" in error.message
        json.dumps(error.answer(), ensure_ascii=False).encode()
        return None
    assert file.folder in MANAGED_FOLDERS
    (want,) = plan.unique_wants([file])
    (location,) = plan.choose_locations(
        [want], Inventory(occupied=frozenset({(file.folder, file.filename.casefold())})), {}
    )
    for name in (file.filename, location.name):
        assert name not in ("", ".", "..")
        assert not set(name) & set("/\\\0")
        assert len(name.encode()) <= 255
    assert file.size is None or file.size >= 0
    entry = plan.new_entry(want, DiskFile(location, 1, 1, 1, 1, False), 1.0, sha256=None, origin="downloaded")
    written = json.loads(json.dumps(entry.to_json(), ensure_ascii=False).encode())
    assert Entry.from_json(str(location), written) == entry
    return file


@given(CIVITAI, broken(VERSION, MODEL), st.booleans())
def test_any_metadata_of_civitai_ends_in_a_file_or_in_an_error_that_quotes_the_line(text, facts, allow_pickle):
    looked_up(civitai.resolve, text, FakeClient(facts), allow_pickle)


@given(
    st.builds(
        "{}{}".format,
        st.text(st.sampled_from("ab\ud800") | st.sampled_from("ab/\\.\u0301 ") | ANY_CHARACTER, max_size=12),
        st.sampled_from([".safetensors", ".ckpt", ""]),
    ),
    st.booleans(),
)
def test_any_name_that_civitai_publishes_becomes_a_safe_one_or_a_refusal(name, with_choice):
    version = {**VERSION, "files": [{**FILE, "name": name}]}
    text = f"lora https://civitai.com/api/download/models/7{'?fileId=11' if with_choice else ''}"
    looked_up(civitai.resolve, text, FakeClient(version))


HEADER_TEXT = st.one_of(TEXT, st.sampled_from(["12", "²", "9" * 5000, "-1", '"' + "a" * 64 + '"', "a" * 40])).filter(
    lambda text: all(ord(c) < 256 for c in text)
)
HEADERS = st.dictionaries(
    st.sampled_from(
        [
            "X-Repo-Commit",
            "X-Linked-Size",
            "X-Linked-ETag",
            "Content-Length",
            "Content-Range",
            "Content-Disposition",
            "Location",
        ]
    ),
    st.one_of(
        HEADER_TEXT,
        HEADER_TEXT.map("bytes 0-0/{}".format),
        HEADER_TEXT.map('attachment; filename="{}.safetensors"'.format),
    ),
)
STATUSES = st.sampled_from([200, 206, 206, 302])


@given(HEADERS, STATUSES, st.sampled_from(["", " as mine.safetensors"]))
def test_any_headers_of_the_hub_end_in_a_file_or_in_an_error_that_quotes_the_line(headers, status, name):
    text = f"vae https://huggingface.co/org/repo/resolve/main/sub/a.safetensors{name}"
    looked_up(hugging_face.resolve, text, FakeClient(status=status, headers=headers))


@given(
    HEADERS, STATUSES, TEXT, st.sampled_from(["/a.safetensors", "/get?id=1 as b.safetensors", "/%2e%2e%2f as c.sft"])
)
def test_any_headers_of_a_plain_host_end_in_a_file_or_in_an_error_that_quotes_the_line(headers, status, text, path):
    url = f"https://cdn.example/x?response-content-disposition={text}"
    looked_up(
        direct_link.resolve, f"lora https://models.example{path}", FakeClient(status=status, headers=headers, url=url)
    )


@given(st.binary(max_size=60) | JSON.map(json.dumps).map(str.encode) | st.sampled_from([b"[" * 99_999, b"1" * 9999]))
def test_any_metadata_body_is_an_object_or_a_refusal(body):
    try:
        assert isinstance(_json_body(response(body)), dict)
    except SiteError as refused:
        assert refused.code is Code.DOWNLOAD_FAILED


DATES = st.sampled_from(
    ["Wed, 21 Oct 2015 07:28:00 GMT", "Mon, 1 Jan 9999 00:00:00 -9999", "1 Jan 1 0:0:0 +99999999999"]
)
ANSWERS = st.builds(
    lambda status, after, kind, said, body, with_token: HttpAnswer(
        status, {"Retry-After": after, "Content-Type": kind, "X-Error-Message": said}, body, with_token
    ),
    st.sampled_from([200, 206, 400, 401, 403, 404, 408, 410, 418, 429, 451, 500, 503]),
    st.one_of(HEADER_TEXT, DATES),
    st.sampled_from(["text/html; charset=x", "application/json", "text/plain", ""]) | HEADER_TEXT,
    HEADER_TEXT,
    st.one_of(
        st.binary(max_size=30),
        JSON.map(json.dumps).map(str.encode),
        broken({"message": "no", "deadline": "soon"}).map(json.dumps).map(str.encode),
    ),
    st.booleans(),
)


@given(ANSWERS, st.sampled_from(["civitai", "hf", "http"]))
def test_any_answer_that_is_no_file_becomes_a_refusal_of_one_readable_line(answer, site):
    for refused in (site_error(site, answer), storage_error(answer), login_error(site)):
        assert refused.what.isprintable()
        assert len(refused.what) < 1000
        assert refused.retry_after_s is None or refused.retry_after_s >= 0


@given(
    TEXT.filter(lambda text: all(ord(c) < 256 for c in text))
    | st.sampled_from(["http://[", "//x:y/", "https://a:99999/"])
)
def test_any_location_leads_somewhere_or_is_refused(location):
    try:
        assert _next_hop("https://civitai.com/a", location)
    except SiteError as refused:
        assert refused.code is Code.DOWNLOAD_FAILED
