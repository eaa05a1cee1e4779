from __future__ import annotations

import pytest

from tests.support.civitai_hosts import COMMIT
from tests.support.civitai_server import Canned, CivitaiServer
from tests.support.model_rig import Rig
from tests.support.safetensors_files import safetensors_bytes
from worker.errors import Code, WorkerError

DATA = safetensors_bytes(5000)
LINK = "https://huggingface.co/org/repo/resolve/main/sub/x%20y.safetensors"


@pytest.fixture
def server():
    with CivitaiServer() as server:
        server.add_hub_file("org/repo", "sub/x y.safetensors", DATA)
        yield server


def refusal(rig: Rig, text: str) -> WorkerError:
    with pytest.raises(WorkerError) as caught:
        rig.resolve(text)
    assert "repo_list line 1 (`" in caught.value.message
    return caught.value


def test_the_first_answers_headers_describe_the_file_at_its_commit(server, rig):
    (file,) = rig.resolve(f"clip {LINK}")
    assert file.identity == f"hf:org/repo@{COMMIT}:sub/x y.safetensors"
    assert (file.folder, file.filename, file.size) == ("text_encoders", "x y.safetensors", 5000)
    assert file.sha256 == server.hub["org/repo/sub/x y.safetensors"].sha256
    assert file.url == f"{server.hf_url}/org/repo/resolve/{COMMIT}/sub/x%20y.safetensors"
    assert server.seen("storage") == []


def test_it_is_downloaded_and_renamed(server, rig):
    (done,) = rig.fetch(f"clip {LINK} as mine.safetensors")
    assert done.path == rig.models_dir / "text_encoders" / "mine.safetensors"
    assert done.path.read_bytes() == DATA
    assert done.file.aliases == ("x y.safetensors",)


def test_a_renamed_repository_is_followed(server, rig):
    server.hub_renamed["old/name"] = "org/repo"
    (file,) = rig.resolve(f"clip {LINK.replace('org/repo', 'old/name')}")
    assert file.sha256 is not None


def test_a_file_the_hub_serves_itself_has_no_published_hash(server, rig):
    headers = {"X-Repo-Commit": COMMIT, "ETag": '"' + "a" * 40 + '"', "Content-Type": "application/octet-stream"}
    server.hub["org/repo/sub/x y.safetensors"].always = Canned(200, DATA, headers)
    (done,) = rig.fetch(f"clip {LINK}")
    assert done.file.sha256 is None
    assert done.file.size == 5000
    assert done.path.read_bytes() == DATA


def test_the_token_goes_to_the_hub_and_to_nobody_else(server, tmp_path):
    rig = Rig(server, tmp_path, HF_TOKEN=server.hf_token, CIVITAI_TOKEN=server.token)
    server.hub["org/repo/sub/x y.safetensors"].needs_token = True
    rig.fetch(f"clip {LINK}")
    assert {request.headers.get("Authorization") for request in server.seen("hf")} == {f"Bearer {server.hf_token}"}
    assert all("Authorization" not in request.headers for request in server.seen("storage"))


@pytest.mark.parametrize(
    ("answer", "token", "expected"),
    [
        (None, "", (Code.MODEL_AUTH, "Hugging Face wants a token")),
        (None, "hf_wrong", (Code.MODEL_AUTH, "does not accept the token")),
        (
            Canned(403, b"", {"X-Error-Code": "GatedRepo", "X-Error-Message": "Ask for access"}),
            "",
            (Code.MODEL_FORBIDDEN, "Ask"),
        ),
        (
            Canned(404, b"Entry not found", {"Content-Type": "text/plain"}),
            "",
            (Code.MODEL_NOT_FOUND, "Entry not found"),
        ),
        (Canned(429, b""), "", (Code.MODEL_RATE_LIMITED, "limits")),
        (Canned(503, b""), "", (Code.DOWNLOAD_FAILED, "answered 503")),
        (Canned(451, b""), "", (Code.MODEL_REGION_BLOCKED, "country")),
    ],
)
def test_refusals_have_the_contracts_codes(server, tmp_path, answer, token, expected):
    code, words = expected
    file = server.hub["org/repo/sub/x y.safetensors"]
    file.needs_token, file.always = True, answer
    error = refusal(Rig(server, tmp_path, HF_TOKEN=token), f"clip {LINK}")
    assert error.code is code
    assert words in error.message
    if code is Code.MODEL_AUTH:
        assert "HF_TOKEN" in error.hint


def test_a_403_of_the_hub_is_not_tried_again(server, rig):
    server.hub["org/repo/sub/x y.safetensors"].always = Canned(403)
    refusal(rig, f"clip {LINK}")
    assert len(server.requests) == 1


@pytest.mark.parametrize("size", ["\u00b2", "9" * 5000, "-1", "1e3"])
def test_an_odd_size_of_the_hub_does_not_end_the_look_up(server, rig, size):
    headers = {"X-Linked-Size": size.encode("latin-1").decode("latin-1"), "Location": f"{server.hf_url}/x"}
    server.hub["org/repo/sub/x y.safetensors"].always = Canned(302, b"", headers)
    (file,) = rig.resolve(f"vae {LINK}")
    assert file.size is None
