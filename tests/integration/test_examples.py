"""Every job in ``examples/`` runs as it stands: its links resolve, its models come, and its prompt finds them."""

import base64
import io
import json

import pytest
from PIL import Image

from tests.support.civitai_server import CivitaiServer
from tests.support.safetensors_files import safetensors_bytes
from tests.support.worker_bench import WorkerBench, on_worker
from worker.models.prompt_names import loader_classes
from worker.settings import REPO_ROOT
from worker.sites import hugging_face
from worker.sites.repo_list import parse_repo_list

EXAMPLES = sorted((REPO_ROOT / "examples").glob("*.json"))


def publish(server: CivitaiServer, repo_list: object) -> int:
    """Have the loopback sites publish what the lines ask for; how many models that is."""
    lines = parse_repo_list(repo_list)
    for line in lines:
        if line.site == "hf":
            repo, _, path = hugging_face.split(line.url)
            server.add_hub_file(repo, path, safetensors_bytes(seed=path))
        else:
            version = server.add_version([server.new_file("published.safetensors", safetensors_bytes())])
            version.id = int(line.url.rpartition("/")[2])
            server.versions[version.id] = version
    return len(lines)


def test_there_are_examples():
    assert len(EXAMPLES) >= 3


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_runs_as_it_stands(path, tmp_path):
    fields = json.loads(path.read_text())["input"]

    async def scenario(bench: WorkerBench) -> None:
        answer = await bench.run(**fields)
        assert len(answer["models"]["downloaded"]) == count == len(loader_classes(fields["prompt"]))
        assert answer["warnings"] == []
        assert answer["images"]
        for image in answer["images"]:
            Image.open(io.BytesIO(base64.b64decode(image["b64"]))).verify()

    with CivitaiServer() as server:
        count = publish(server, fields.get("repo_list", ""))
        on_worker(tmp_path, server, scenario)
