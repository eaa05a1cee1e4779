from __future__ import annotations

import json

import pytest

from tests.support.civitai_server import Canned
from tests.support.model_rig import Rig
from tests.support.safetensors_files import safetensors_bytes
from worker.errors import Code, WorkerError
from worker.sites.client import SiteClient
from worker.sites.errors import SiteError
from worker.sites.types import ModelFile

DATA = safetensors_bytes(5000)


def link(version: int, query: str = "") -> str:
    return f"https://civitai.com/api/download/models/{version}{query}"


def one(rig: Rig, text: str) -> ModelFile:
    (file,) = rig.resolve(text)
    return file


def refusal(rig: Rig, text: str) -> WorkerError:
    with pytest.raises(WorkerError) as caught:
        rig.resolve(text)
    assert "repo_list line 1 (`" in caught.value.message
    return caught.value


def test_a_version_is_described_by_its_metadata(server, rig):
    version = server.add_model("style XL.safetensors", DATA, type="LORA")
    file = one(rig, link(version))
    listed = server.file(version)
    assert file.identity == f"civitai:{version}:{listed.id}"
    assert (file.folder, file.filename, file.size) == ("loras", "style XL.safetensors", 5000)
    assert file.sha256 == listed.sha256
    assert file.url == f"{server.url}/api/download/models/{version}?fileId={listed.id}"
    assert file.aliases == (f"{version}.safetensors",)
    assert file.published
    assert [request.path for request in server.requests] == [f"/api/v1/model-versions/{version}"]


def test_a_page_link_means_the_newest_version_or_the_one_it_names(server, rig):
    old = server.add_version([server.new_file("old.safetensors", DATA)])
    new = server.add_version([server.new_file("new.safetensors", DATA)], model_id=old.model_id)
    page = f"https://civitai.com/models/{old.model_id}/some-slug"
    assert one(rig, page).identity.startswith(f"civitai:{new.id}:")
    assert one(rig, page).folder == "checkpoints"
    assert one(rig, f"{page}?modelVersionId={old.id}").filename == "old.safetensors"


def test_the_name_after_as_wins_and_the_sites_name_becomes_an_alias(server, rig):
    version = server.add_model("published.safetensors", DATA)
    file = one(rig, f"{link(version)} as mine.safetensors")
    assert file.filename == "mine.safetensors"
    assert file.aliases == ("published.safetensors", f"{version}.safetensors")


def test_a_dangerous_published_name_is_made_one_path_component(server, rig):
    version = server.add_model("../../..\\evil\u202e:x.safetensors", DATA)
    file = one(rig, link(version))
    assert file.filename == "evil_x.safetensors"
    assert "../../..\\evil\u202e:x.safetensors" in file.aliases


def two_precisions(server, **second):
    a = server.new_file("flux_dev.safetensors", DATA, metadata={"format": "SafeTensor", "fp": "fp16", "size": "full"})
    more = {"primary": False, "metadata": {"format": "SafeTensor", "fp": "fp8", "size": "pruned"}, **second}
    b = server.new_file("flux_dev.safetensors", DATA + b"", **more)
    return server.add_version([a, b]), a, b


def test_which_file_of_a_version(server, rig):
    version, a, b = two_precisions(server)
    chosen = {
        "": a,
        f"?fileId={b.id}": b,
        "?fp=fp8": b,
        "?fp=FP8&type=Model": b,
        "?size=full&format=SafeTensor": a,
        "?quantType=nf4": a,  # no file says a quantType, so it decides nothing
    }
    for query, file in chosen.items():
        assert one(rig, link(version.id, query)).identity == f"civitai:{version.id}:{file.id}", query


def test_no_file_fits(server, rig):
    version, a, b = two_precisions(server)
    for query in ("?fp=nf4", "?fileId=999"):
        error = refusal(rig, link(version.id, query))
        assert error.code is Code.MODEL_NOT_FOUND
        assert f"flux_dev.safetensors (fileId={a.id}), flux_dev.safetensors (fileId={b.id})" in error.message


def test_a_version_without_a_primary_file(server, rig):
    version, a, b = two_precisions(server)
    a.primary = False
    error = refusal(rig, link(version.id))
    assert error.code is Code.INVALID_REPO_LIST
    assert "?fileId=<id>" in error.hint
    b.name = "flux.zip"
    assert one(rig, link(version.id)).identity.endswith(f":{a.id}")


def test_a_safe_file_is_taken_before_a_primary_pickle(server, rig):
    version, a, b = two_precisions(server)
    a.name = "flux_dev.ckpt"
    assert one(rig, link(version.id)).identity.endswith(f":{b.id}")
    b.name = "other.pt"
    assert refusal(rig, link(version.id)).code is Code.MODEL_UNSAFE
    allowing = Rig(server, rig.models_dir, ALLOW_PICKLE="1")
    assert one(allowing, link(version.id)).filename == "flux_dev.ckpt"


def test_a_type_word_chooses_the_component_of_that_type(server, rig):
    version, _, vae = two_precisions(server, type="VAE")
    assert one(rig, f"vae {link(version.id)}").identity.endswith(f":{vae.id}")
    assert one(rig, link(version.id, f"?fileId={vae.id}")).folder == "vae"


@pytest.mark.parametrize("scan", ["pickle_scan", "virus_scan"])
def test_scanners_are_heeded(server, rig, scan):
    version = server.add_model("x.safetensors", DATA)
    allowing = Rig(server, rig.models_dir, ALLOW_PICKLE="1")
    for result, trusted in (("Pending", True), ("Error", True), ("Danger", False)):
        setattr(server.file(version), scan, result)
        error = refusal(rig, link(version))
        assert error.code is Code.MODEL_UNSAFE
        assert result in error.message
        if trusted:
            assert one(allowing, link(version))
        else:
            assert refusal(allowing, link(version)).code is Code.MODEL_UNSAFE
    setattr(server.file(version), scan, None)
    assert one(rig, link(version))


def test_an_undecidable_folder_asks_for_a_type_word(server, rig):
    version = server.add_model("x.safetensors", DATA, type="Checkpoint", base_model="Something New")
    error = refusal(rig, link(version))
    assert error.code is Code.INVALID_REPO_LIST
    assert "Checkpoint / Model / Something New" in error.message
    assert "one of ckpt, checkpoint, lora" in error.message
    assert one(rig, f"unet {link(version)}").folder == "diffusion_models"


def test_metadata_without_hash_or_with_a_wrong_size_is_still_metadata(server, rig):
    version = server.add_model("x.safetensors", DATA, sha256=None, size_kb=1.0)
    file = one(rig, link(version))
    assert (file.sha256, file.size, file.published) == (None, 1024, True)


def test_metadata_may_fail_for_a_moment(server, rig):
    version = server.add_model("x.safetensors", DATA)
    server.versions[version].metadata_answers = [Canned(503), Canned(429, {"error": "slow down"})]
    assert one(rig, link(version)).published


@pytest.mark.parametrize("status", [404, 500, 403])
def test_without_metadata_the_download_names_the_file(server, rig, status):
    version = server.add_model("style.safetensors", DATA, type="LORA")
    server.versions[version].metadata_always = Canned(status)
    server.file(version).disposition = 'attachment; filename="模型 style.safetensors"'
    file = one(rig, f"lora {link(version)}")
    assert (file.filename, file.folder, file.size, file.sha256) == ("模型 style.safetensors", "loras", 5000, None)
    assert not file.published
    assert file.identity == f"civitai:{version}:primary"
    error = refusal(rig, link(version))
    assert error.code is Code.INVALID_REPO_LIST
    assert "put its type before the link" in error.message


def test_without_metadata_a_signed_link_may_hold_the_name(server, rig):
    version = server.add_model("x.safetensors", DATA)
    server.versions[version].metadata_always = Canned(500)
    signed = (
        server.sign(server.file(version))
        + "&response-content-disposition=attachment%3B%20filename%3D%22y.safetensors%22"
    )
    server.file(version).send_disposition = False
    server.file(version).always = Canned(307, b"", {"Location": signed})
    assert one(rig, f"lora {link(version)}").filename == "y.safetensors"
    server.file(version).always = None
    assert one(rig, f"lora {link(version)}").filename == f"{version}.safetensors"


def test_without_metadata_a_page_link_can_not_be_resolved(server, rig):
    version = server.add_version([server.new_file("x.safetensors", DATA)])
    version.metadata_always = Canned(500)
    assert refusal(rig, f"https://civitai.com/models/{version.model_id}").code is Code.DOWNLOAD_FAILED
    assert refusal(rig, "https://civitai.com/models/999999").code is Code.MODEL_NOT_FOUND


@pytest.mark.parametrize("body", [b"[]", b"not json", b'"text"', b"{" * 100_000, b"{}" + b" " * (9 << 20)])
def test_metadata_that_is_none_counts_as_missing(server, rig, body):
    version = server.add_model("x.safetensors", DATA)
    server.versions[version].metadata_always = Canned(200, body, {"Content-Type": "application/json"})
    assert not one(rig, f"lora {link(version)}").published


def test_metadata_with_odd_contents_is_refused_politely(server, rig):
    version = server.add_model("x.safetensors", DATA)
    for files in ([], "none", [None], [{"id": "x", "name": 5}], [{"id": 5, "name": ".."}]):
        server.versions[version].metadata_always = Canned(200, {"id": version, "files": files, "model": "?"})
        assert refusal(rig, f"lora {link(version)}").code in (
            Code.MODEL_NOT_FOUND,
            Code.DOWNLOAD_FAILED,
            Code.INVALID_REPO_LIST,
        )


def test_a_404_is_asked_once_more_at_the_second_host_but_only_for_the_public_site(server, tmp_path, monkeypatch):
    asked = []

    def json(self: SiteClient, url: str, *_: object) -> dict[str, object]:
        asked.append(url)
        raise SiteError(Code.MODEL_NOT_FOUND, "no such version", status=404)

    monkeypatch.setattr(SiteClient, "json", json)
    public = Rig(server, tmp_path, CIVITAI_URL="https://civitai.com")
    refusal(public, "https://civitai.com/models/5")
    refusal(Rig(server, tmp_path), "https://civitai.com/models/5")
    assert asked == [
        "https://civitai.com/api/v1/models/5",
        "https://civitai.red/api/v1/models/5",
        f"{server.url}/api/v1/models/5",
    ]


def test_half_a_character_in_a_published_name_can_still_be_noted(server, rig):
    version = server.add_model("a\ud800b.safetensors", DATA, type="LORA")
    file = one(rig, link(version))
    assert file.filename == "ab.safetensors"
    json.dumps(file.aliases, ensure_ascii=False).encode()
