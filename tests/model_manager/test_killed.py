"""A worker killed with -9 at any moment of a download leaves nothing wrong behind, and the next one finishes its work.

``KILLS`` sets how many workers are killed (default 8).
"""

import os
import random
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from model_manager import ModelManager
from tests.support.civitai_server import CivitaiServer
from tests.support.model_rig import QUICK
from tests.support.safetensors_files import safetensors_bytes
from worker.downloads.source import WebModelSource
from worker.settings import Settings

REPO = Path(__file__).resolve().parents[2]
KILLS = int(os.environ.get("KILLS", "8"))
DOWNLOAD_S = 0.5

WORKER = """
import sys
from model_manager import ModelManager
from worker.settings import Settings
manager = ModelManager(Settings.from_environ())
print("ready", flush=True)
manager.prepare(sys.argv[1], {}, prune=False)
print("done", flush=True)
"""


@pytest.fixture(scope="module")
def site():
    """Three models that take half a second to bring; two share a name."""
    with CivitaiServer() as server:
        contents = {}
        for number, name in enumerate(["one.safetensors", "two.safetensors", "two.safetensors"]):
            data = safetensors_bytes(600_000 + number, seed=f"killed {number}")
            version = server.add_model(name, data, type="LORA", bytes_per_s=len(data) / DOWNLOAD_S)
            contents[version] = data
        yield server, contents


def test_whenever_a_worker_is_killed_the_next_one_finishes_and_nothing_else_is_touched(site, tmp_path):
    server, contents = site
    rng = random.Random()
    outcomes = set()
    for number in range(KILLS):
        root = tmp_path / str(number)
        precious = make_precious(root)
        environ = {**server.env(), "MODELS_DIR": str(root), "COMFYUI_URL": "http://127.0.0.1:1"}
        repo_list = "\n".join(f"lora https://civitai.com/api/download/models/{version}" for version in contents)
        outcomes.add(kill_worker(environ, repo_list, rng.uniform(0, DOWNLOAD_S * 1.4)))

        left = models(root)
        assert all(left[name] == data for name, data in precious.items())
        new = [data for name, data in left.items() if name not in precious]
        assert all(data in contents.values() for data in new), "bytes under a final name must be whole and right"

        settings = Settings.from_environ(environ)
        result = ModelManager(settings, WebModelSource(settings, retry=QUICK)).prepare(repo_list, {})
        assert len(result.downloaded) + len(result.ready) == len(contents)
        assert result.pruned == []
        after = models(root)
        assert sorted(data for name, data in after.items() if name not in precious) == sorted(contents.values())
        assert all(after[name] == data for name, data in precious.items())
        assert [path.name for path in root.rglob("*.part")] == []
    server.check()
    assert "killed" in outcomes


def make_precious(root):
    precious = {"loras/mine.safetensors": b"mine", "checkpoints/sub/baked.safetensors": b"baked", "loras/x.ckpt": b"x"}
    for name, data in precious.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return precious


def kill_worker(environ, repo_list, after_s):
    """Start a worker, kill it so long after it began; whether it was killed or had finished by then."""
    command = [sys.executable, "-c", WORKER, repo_list]
    environ = {**os.environ, **environ, "PYTHONPATH": str(REPO)}
    with subprocess.Popen(command, cwd=REPO, env=environ, stdout=subprocess.PIPE, text=True) as worker:
        assert worker.stdout.readline() == "ready\n"
        with suppress(subprocess.TimeoutExpired):
            worker.wait(after_s)
        worker.kill()
        return "finished" if worker.stdout.read() == "done\n" else "killed"


def models(root):
    """Every file under a final name, and its bytes."""
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file() and ".comfy-worker" not in path.parts and path.suffix != ".part"
    }
