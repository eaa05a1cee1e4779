"""Four worker processes on one models folder: no file is ever wrong under a final name, everybody gets his models."""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from model_manager import ModelManager
from tests.support.civitai_server import CivitaiServer
from tests.support.safetensors_files import safetensors_bytes
from worker.settings import Settings

REPO = Path(__file__).resolve().parents[2]
WORKERS = 4

WORKER = """
import json, sys
from model_manager import ModelManager
from worker.settings import Settings
manager = ModelManager(Settings.from_environ())
print("ready", flush=True)
repo_list = json.loads(sys.stdin.readline())
result = manager.prepare(repo_list, {})
print(json.dumps(result.ready + result.downloaded), flush=True)
"""


@pytest.fixture
def server():
    with CivitaiServer() as server:
        yield server


@pytest.fixture
def environ(server, tmp_path):
    """A models folder on what passes for a shared volume: nobody prunes it."""
    return {**server.env(), "MODELS_DIR": str(tmp_path / "models"), "COMFYUI_URL": "http://127.0.0.1:1", "PRUNE": "0"}


class Watcher:
    """Reads every file that has a final name, again and again, and remembers each that was not one of ``contents``."""

    def __init__(self, root, contents):
        self.root, self.contents = root, set(contents)
        self.wrong = []
        self.looks = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join()

    def _watch(self):
        while not self._stop.wait(0.001):
            for path in self.root.glob("*/*.safetensors"):
                self.looks += 1
                if path.read_bytes() not in self.contents:
                    self.wrong.append(path.name)


def run_workers(environ, lists):
    """What each worker has at its end, all begun at once: its (folder/name, identity) pairs."""
    command = [sys.executable, "-c", WORKER]
    environ = {**os.environ, **environ, "PYTHONPATH": str(REPO)}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    workers = [subprocess.Popen(command, cwd=REPO, env=environ, **pipes) for _ in lists]
    try:
        for worker in workers:
            assert worker.stdout.readline() == "ready\n"
        for worker, repo_list in zip(workers, lists, strict=True):
            worker.stdin.write(json.dumps(repo_list) + "\n")
            worker.stdin.flush()
        outputs = [worker.communicate(timeout=60)[0] for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
            worker.communicate()
    return [{each["identity"]: f"{each['folder']}/{each['name']}" for each in json.loads(out)} for out in outputs]


def line(version):
    return f"lora https://civitai.com/api/download/models/{version}"


def test_four_workers_fetching_the_same_ten_models_never_show_a_wrong_byte(server, environ, tmp_path):
    contents = [safetensors_bytes(700_000 + number, seed=f"shared {number}") for number in range(10)]
    names = [f"{number % 9}.safetensors" for number in range(10)]
    versions = [
        server.add_model(name, data, type="LORA", bytes_per_s=4e6) for name, data in zip(names, contents, strict=True)
    ]
    repo_list = "\n".join(map(line, versions))
    root = tmp_path / "models"
    with Watcher(root, contents) as watcher:
        results = run_workers(environ, [repo_list] * WORKERS)
    assert watcher.wrong == []
    assert watcher.looks
    assert all(result == results[0] for result in results)
    assert len(results[0]) == 10
    assert sorted(path.read_bytes() for path in root.glob("loras/*")) == sorted(contents)
    assert list(root.rglob("*.part")) == []
    asked = len(server.seen("storage"))
    again = ModelManager(Settings.from_environ(environ)).prepare(repo_list, {})
    assert (len(again.ready), again.downloaded) == (10, [])
    assert len(server.seen("storage")) == asked, "what a lost entry costs is one recognition, not a download"


def test_four_workers_whose_models_share_one_name_each_get_their_own(server, environ, tmp_path):
    """Same name, same length, other bytes: whoever is late takes another name."""
    contents = {}
    for number in range(WORKERS):
        data = safetensors_bytes(700_000, seed=f"namesake {number}")
        contents[server.add_model("flux.safetensors", data, type="LORA", bytes_per_s=4e6)] = data
    root = tmp_path / "models"
    with Watcher(root, contents.values()) as watcher:
        results = run_workers(environ, [line(version) for version in contents])
    assert watcher.wrong == []
    for (version, data), result in zip(contents.items(), results, strict=True):
        ((identity, name),) = result.items()
        assert identity.startswith(f"civitai:{version}:")
        assert (root / name).read_bytes() == data
