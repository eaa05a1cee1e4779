from __future__ import annotations

import pytest
from requests.structures import CaseInsensitiveDict

from tests.support.civitai_server import Canned
from tests.support.downloading import SMALL
from tests.support.model_rig import Rig
from worker.errors import Code, WorkerError
from worker.sites.direct_link import size_of


@pytest.mark.parametrize("text", ["\u00b2", "9" * 5000, "-1", "1e3", ""])
def test_what_is_no_size_is_an_unknown_size(text):
    assert size_of(200, CaseInsensitiveDict({"Content-Length": text})) is None
    assert size_of(206, CaseInsensitiveDict({"Content-Range": f"bytes 0-0/{text}"})) is None


def test_the_size_is_that_of_the_whole_file_and_not_of_the_range():
    assert size_of(200, CaseInsensitiveDict({"Content-Length": "300"})) == 300
    assert size_of(206, CaseInsensitiveDict({"Content-Length": "1", "Content-Range": "bytes 0-0/300"})) == 300
    assert size_of(206, CaseInsensitiveDict({"Content-Length": "1"})) is None


def test_a_named_host_is_downloaded_from(server, tmp_path):
    file = server.add_hub_file("org/repo", "x.safetensors", SMALL)
    file.always = Canned(200, SMALL, {"Content-Type": "application/octet-stream"})
    host = server.hf_url.removeprefix("http://")
    rig = Rig(server, tmp_path, MODEL_HOSTS=host)
    (done,) = rig.fetch(f"vae http://{host}/org/repo/resolve/main/x.safetensors?v=1 as y.safetensors")
    assert done.path == tmp_path / "vae" / "y.safetensors"
    assert done.file.identity == f"http:http://{host}/org/repo/resolve/main/x.safetensors?v=1"
    assert not done.file.published
    assert done.file.aliases == ("x.safetensors",)


def test_a_link_without_a_file_name_takes_the_one_its_server_gives(server, tmp_path):
    file = server.add_hub_file("org/repo", "get", SMALL)
    headers = {
        "Content-Type": "application/octet-stream",
        "Content-Disposition": 'attachment; filename="a b.safetensors"',
    }
    file.always = Canned(200, SMALL, headers)
    host = server.hf_url.removeprefix("http://")
    rig = Rig(server, tmp_path, MODEL_HOSTS=host)
    link = f"vae http://{host}/org/repo/resolve/main/get"
    (found,) = rig.resolve(f"{link} as mine.safetensors")
    assert (found.filename, found.aliases, found.size) == ("mine.safetensors", ("a b.safetensors",), len(SMALL))
    headers["Content-Disposition"] = 'attachment; filename=".."'
    with pytest.raises(WorkerError, match="name it with `as`") as caught:
        rig.resolve(f"{link} as mine.safetensors")
    assert caught.value.code is Code.DOWNLOAD_FAILED
