"""Films of any size up and down with flat memory, each side in a process of its own. ``LARGE_MB=2048`` for real ones.

Down: the worker's upload, an S3 whose objects lie on the disk, the client's fetch with the connection cut half way.
Up: the client's upload, the same S3, the worker's fetch.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from client.sending.uploads import UploadSource
from tests.client.conftest import PROMPT, Local
from tests.client.support import configure_bucket, wait_state
from tests.support.disk_s3 import DiskS3
from worker.settings import REPO_ROOT

MEGABYTES = int(os.environ.get("LARGE_MB") or 64)
SIZE = MEGABYTES * 1_000_000
GROWTH_MB = 40  # of resident memory; a film that is held once would be all of its size
pytestmark = pytest.mark.timeout(120 + MEGABYTES)

MEASURED = """
import json, sys

def memory(name):
    return next(int(line.split()[1]) / 1000 for line in open("/proc/self/status") if line.startswith(name))

def measured(work):
    before = memory("VmRSS:")
    answer = work()
    print(json.dumps([answer, round(memory("VmHWM:") - before, 1)]))
"""

WORKER_UPLOADS = """
from pathlib import Path
from worker.s3.upload import Body, Bucket
from worker.stop import Stop
from worker.s3.address import Keys, bucket_address

path, url = Path(sys.argv[1]), sys.argv[2]
bucket = Bucket(bucket_address(url, "pics", Keys("A", "S")))

def work():
    with bucket.uploads(Stop()) as uploads:
        uploads.put("job/film.mp4", Body(path.stat().st_size, path=path), "video/mp4")
    return bucket.link("job/film.mp4").url

measured(work)
"""

CLIENT_FETCHES = """
from pathlib import Path
from client.results.link_download import ResultLink, download

part, entry = Path(sys.argv[1]), json.loads(sys.argv[2])
part.touch()
measured(lambda: download(ResultLink.of(entry, "http://127.0.0.1:1/v2/ep"), part))
"""

CLIENT_UPLOADS = """
import threading
from pathlib import Path
from client.s3 import SignedBucket
from client.sending.uploads import Uploader, UploadSource

path, url = Path(sys.argv[1]), sys.argv[2]

def work():
    source = UploadSource.of(path)
    uploader = Uploader(SignedBucket.of(url, "pics", "", "A", "S"), threading.Event())
    return [uploader.upload(source), source.key]

measured(work)
"""

WORKER_FETCHES = """
from pathlib import Path
from worker.stop import Stop
from worker.inputs.links import InputLinks

part, url = Path(sys.argv[1]), sys.argv[2]

def work():
    with InputLinks((url.split("/")[2],), Stop()) as links:
        return links.download(url, "files[0].url", part, 2**40)

measured(work)
"""

PROGRAMS = {
    "the worker uploads": WORKER_UPLOADS,
    "the client fetches": CLIENT_FETCHES,
    "the client uploads": CLIENT_UPLOADS,
    "the worker fetches": WORKER_FETCHES,
}


def in_process(what: str, *arguments: str) -> tuple[Any, float]:
    """Run a program. Return its answer, and by how many MB its memory grew at most."""
    command = [sys.executable, "-c", MEASURED + PROGRAMS[what], *arguments]
    done = subprocess.run(command, cwd=REPO_ROOT, capture_output=True, text=True, timeout=60 + MEGABYTES, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    answer, growth = json.loads(done.stdout.splitlines()[-1])
    sys.stdout.write(f"{MEGABYTES} MB, {what}: memory grew by {growth} MB\n")
    return answer, growth


@pytest.fixture
def room() -> Iterator[Path]:
    """A folder that is gone at once after the test: pytest's own would keep gigabytes of three runs."""
    with tempfile.TemporaryDirectory(prefix="large-files-") as folder:
        yield Path(folder)


@pytest.fixture
def film(room) -> tuple[Path, str]:
    """A file in which no two pieces are alike, so that none can be lost or doubled unseen; and its SHA-256."""
    path, digest, left = room / "film.mp4", hashlib.sha256(), SIZE
    noise = os.urandom(1 << 20)
    with path.open("wb") as file:
        while left:
            piece = (left.to_bytes(8, "big") + noise[8:])[:left]
            digest.update(piece)
            left -= file.write(piece)
    return path, digest.hexdigest()


def test_a_film_comes_down_with_flat_memory_though_the_connection_breaks_half_way(film, room):
    path, sha256 = film
    with DiskS3(room) as s3:
        url, sending = in_process("the worker uploads", str(path), s3.url)
        s3.cut_after.append(SIZE // 2)
        entry = json.dumps({"url": url, "bytes": SIZE, "filename": "film.mp4"})
        got, receiving = in_process("the client fetches", str(room / "got.mp4"), entry)
    assert got == sha256
    assert (room / "got.mp4").stat().st_size == SIZE
    ranges = [asked for method, _, asked in s3.seen if method == "GET"]
    assert len(ranges) == 2 and int(ranges[1][6:-1]) > SIZE // 4, "it went on where it broke off"
    assert max(sending, receiving) < GROWTH_MB


def test_a_film_goes_up_with_flat_memory(film, room):
    path, sha256 = film
    with DiskS3(room) as s3:
        (url, key), sending = in_process("the client uploads", str(path), s3.url)
        assert s3.path(key).stat().st_size == SIZE
        got, receiving = in_process("the worker fetches", str(room / "got.mp4"), url)
    assert got == sha256
    assert max(sending, receiving) < GROWTH_MB


@pytest.fixture
def pack(ready) -> Iterator[Local]:
    """A configured pack whose films are gone after the test, since pytest would keep them."""
    yield ready
    ready.post("/remote/config", {"forget_bucket": True})
    for found in (*ready.comfy.base.rglob("*.mp4"), ready.comfy.base / "input" / "film.png"):
        found.unlink(missing_ok=True)


def test_through_the_whole_pack_up_and_down_with_flat_memory(pack, endpoint, film, room):
    """The memory of the local ComfyUI itself, from the Run button to the saved film."""
    path, sha256 = film
    comfy = pack.comfy
    os.link(path, comfy.base / "input" / "film.png")
    process = Path(f"/proc/{comfy.engine.process.pid}")
    with DiskS3(room) as s3:
        configure_bucket(pack, s3)
        os.link(path, s3.path("job/film.mp4"))
        names = {"filename": "film_00001_.mp4", "subfolder": "", "type": "output", "node_id": "9"}
        entry = {"url": f"{s3.url}/pics/job/film.mp4?X-Amz-Signature=s", "bytes": SIZE, **names}
        s3.cut_after.append(SIZE // 2)
        endpoint.statuses = [{"status": "COMPLETED", "output": {"images": [], "files": [entry]}}]
        (process / "clear_refs").write_text("5")  # the peak is counted from here
        before = memory(process, "VmRSS:")
        loader = {"class_type": "LoadImage", "inputs": {"image": "film.png"}}
        prompt_id = pack.run({**PROMPT, "1": loader}).json()["prompt_id"]
        job = wait_state(pack, prompt_id, "done", "failed", timeout=60 + MEGABYTES)
        growth = memory(process, "VmHWM:") - before
    assert job["state"] == "done", job["error"]
    sys.stdout.write(f"{MEGABYTES} MB, the whole pack: memory grew by {growth:.1f} MB\n")
    (saved,) = job["outputs"]["9"]["images"]
    saved_path = comfy.base / "output" / saved["subfolder"] / saved["filename"]
    for there in (saved_path, s3.path(f"comfy-inputs/{sha256}.png")):
        assert UploadSource.of(there).sha256 == sha256
    assert growth < GROWTH_MB


def memory(process: Path, name: str) -> float:
    """A number of a process's memory, in MB."""
    lines = (process / "status").read_text().splitlines()
    return next(int(line.split()[1]) / 1000 for line in lines if line.startswith(name))
