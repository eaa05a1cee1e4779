"""The models as an answer shows them."""

from tests.support.inventories import disk, entry
from worker.models.ensure_state import ModelJob, file_facts, listed_facts
from worker.models.prompt_names import Mentions, ModelNames
from worker.stop import Stop


def test_a_listed_model_is_shown_with_its_hash_only_if_that_is_known():
    file = disk("unet/xl/a.safetensors", 5)
    facts = {"name": "xl/a.safetensors", "folder": "diffusion_models", "bytes": 5, "identity": "civitai:1:2"}
    assert listed_facts(entry(file)) == facts
    assert listed_facts(entry(file, sha256="ab")) == {**facts, "sha256": "ab"}


def test_a_file_is_shown_with_its_identity_only_if_that_is_known():
    file = disk("loras/a.safetensors", 5)
    facts = {"name": "a.safetensors", "folder": "loras", "bytes": 5}
    assert file_facts(file, None) == facts
    assert file_facts(file, entry(file)) == {**facts, "identity": "civitai:1:2"}


def test_a_report_tells_downloaded_models_from_those_that_were_ready():
    old, new = entry(disk("loras/old.safetensors")), entry(disk("loras/new.safetensors"), "civitai:2:3")
    job = ModelJob([], Mentions(), True, Stop(), lambda files: None, lambda: True, 0, False)
    job.downloaded[new.location] = new
    job.pruned.append({"name": "gone.safetensors"})
    job.warnings.append("a warning")
    names = ModelNames(renamed={"loras": {"a": "b"}})
    report = job.result([old, new], names)
    assert report.answer() == {
        "ready": [listed_facts(old)],
        "downloaded": [listed_facts(new)],
        "pruned": [{"name": "gone.safetensors"}],
    }
    assert (report.warnings, report.names) == (["a warning"], names)
