"""Ensure when every model is there: what does a warm job pay before its prompt may run?

    python benchmarks/warm_ensure.py [--repeat 30] [--write]

Sparse files with real safetensors headers (checkpoints of 2500 tensors, LoRAs and VAEs of 500), listed by a repo_list
of as many lines. Three ways to find that all are present, in one run on one disk, medians in milliseconds:

* ours: the whole of ``ModelManager.prepare`` (list, manifest, folders, one stat a file, what to prune, the report, the
  claim against other workers, given up at the end);
  "same list" is a worker that got this list before, "new list" one that must read its lines first, "first job" a
  process that has just started (manifest and folders read for the first time);
* every safetensors header read and checked again;
* every file hashed: a sample is hashed, the rest is that speed times the files' bytes.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import statistics
import struct
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import report
from benchmarks.report import Goal, over
from model_manager import ModelManager
from worker.models.locations import Location
from worker.models.manifest import Entry
from worker.settings import Settings
from worker.sites.types import Download, Downloaded, ModelFile, RepoLine, Report
from worker.stop import Stop

COUNTS = (5, 100, 500)
TARGETS_MS = {5: 2, 100: 4, 500: 10}
SAMPLE_BYTES = 256 << 20


class NoNetwork:
    """A source that fails if it is used."""

    def resolve(self, lines: list[RepoLine], stop: Stop) -> list[ModelFile]:
        raise AssertionError("a warm job must not ask the network")

    def fetch(self, downloads: list[Download], stop: Stop, report: Report) -> list[Downloaded]:
        raise AssertionError("a warm job must not fetch")


def header(tensors: int, each: int) -> tuple[bytes, int]:
    """Return a safetensors header of so many tensors of ``each`` bytes, and the number of bytes after it."""
    facts = {
        f"lora_unet_down_blocks_{number}_attn1_to_q.lora_up.weight": {
            "dtype": "F16",
            "shape": [each // 2],
            "data_offsets": [number * each, (number + 1) * each],
        }
        for number in range(tensors)
    }
    text = json.dumps(facts).encode()
    return struct.pack("<Q", len(text)) + text, tensors * each


HEADERS = {
    "checkpoints": header(2500, 2_600_000),  # 6.5 GB, as an SDXL checkpoint
    "loras": header(500, 456_000),  # 228 MB
    "vae": header(500, 670_000),  # 335 MB
}


def build(root: Path, count: int) -> str:
    """Make ``count`` models and a manifest of them. Return the repo_list that lists them."""
    manager = make_manager(root)
    entries = {}
    lines = []
    for number in range(count):
        word, folder = (("ckpt", "checkpoints"), ("vae", "vae"), *[("lora", "loras")] * 8)[number % 10]
        lines.append(f"{word} https://civitai.com/api/download/models/{1_000_000 + number}")
        location = Location(folder, f"someModelName_v{number}.safetensors")
        path = root / str(location)
        path.parent.mkdir(parents=True, exist_ok=True)
        head, body = HEADERS[folder]
        with path.open("wb") as file:
            file.write(head)
            file.truncate(len(head) + body)
        facts = path.stat()
        (line,) = manager._parse(lines[-1])
        entries[location] = Entry(
            location,
            f"civitai:{1_000_000 + number}:{number}",
            location.name,
            facts.st_size,
            facts.st_mtime_ns,
            keys=(line.key,),
            aliases=(f"{1_000_000 + number}.safetensors",),
            sha256=f"{number:064x}",
            verified="sha256",
            source=line.url,
            last_used=time.time(),
        )
    manager.folders.commit(entries)
    return "\n".join(lines)


def make_manager(root: Path) -> ModelManager:
    return ModelManager(
        Settings.from_environ({"MODELS_DIR": str(root), "COMFYUI_URL": "http://127.0.0.1:1"}), NoNetwork()
    )


PROMPT = {
    str(n): {"class_type": "LoraLoader", "inputs": {"lora_name": f"someModelName_v{n}.safetensors"}} for n in range(9)
}


def check_headers(root: Path) -> None:
    for path in root.glob("*/*.safetensors"):
        with path.open("rb") as file:
            length = struct.unpack("<Q", file.read(8))[0]
            facts = json.loads(file.read(length))
            end = max(value["data_offsets"][1] for name, value in facts.items() if name != "__metadata__")
            assert 8 + length + end == os.fstat(file.fileno()).st_size


def hash_speed() -> float:
    """Return the speed of SHA-256 on one core, in bytes per second."""
    block = os.urandom(4 << 20)
    digest = hashlib.sha256()
    started = time.perf_counter()
    for _ in range(SAMPLE_BYTES // len(block)):
        digest.update(block)
    return SAMPLE_BYTES / (time.perf_counter() - started)


def median_ms(repeat: int, work: Callable[[], object], before: Callable[[], object] = lambda: None) -> float:
    times = []
    for _ in range(repeat):
        before()
        started = time.perf_counter()
        work()
        times.append((time.perf_counter() - started) * 1e3)
    return statistics.median(times)


def measure(root: Path, count: int, repeat: int, speed: float) -> tuple[str, Goal]:
    """Return the table's row, and the goal by the slowest of our three ways."""
    repo_list = build(root, count)
    manager = make_manager(root)

    def ensure() -> None:
        assert len(manager.prepare(repo_list, PROMPT).ready) == count
        manager.release()

    def restart() -> None:
        nonlocal manager
        manager = make_manager(root)

    def new_list() -> None:
        nonlocal repo_list
        repo_list += "\n"

    first = median_ms(repeat, ensure, restart)
    fresh = median_ms(repeat, ensure, new_list)
    time.sleep(2.1)  # folders that changed a moment ago are always read again; a warm worker's did not
    same = median_ms(repeat, ensure)
    headers = median_ms(3, lambda: check_headers(root))
    hashing = sum(path.stat().st_size for path in root.glob("*/*.safetensors")) / speed
    ours = [same, fresh, first]
    others = [headers, hashing * 1e3]
    cells = [f"{count}", *(f"{ms:.2f}" for ms in ours), f"{TARGETS_MS[count]}", *(f"{ms:,.0f}" for ms in others)]
    cells += [f"{ms / max(ours):,.0f}x" for ms in others]
    goal = Goal(
        f"ensure when all is there, {count} models", f"<= {TARGETS_MS[count]} ms",
        f"{same:.2f} ms; new list {fresh:.2f}, first job {first:.2f}",
        f"re-reading headers takes {headers / max(ours):,.0f} times the slowest of them",
        over(max(ours), TARGETS_MS[count], "ms"),
    )  # fmt: skip
    return f"| {' | '.join(cells)} |", goal


def main() -> None:
    parser = report.arguments(__doc__)
    parser.add_argument("--repeat", type=int, default=30)
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    speed = hash_speed()
    columns = ["models", "ours, same list", "ours, new list", "ours, first job", "target", "headers", "SHA-256"]
    columns += ["headers / slowest of ours", "SHA-256 / slowest of ours"]
    rows = [
        f"Milliseconds, medians of {options.repeat}; SHA-256 at {speed / 1e9:.2f} GB/s on one core, extrapolated.\n",
        f"| {' | '.join(columns)} |",
        f"|{'---|' * len(columns)}",
    ]
    goals = []
    for count in COUNTS:
        with tempfile.TemporaryDirectory() as folder:
            row, goal = measure(Path(folder) / "models", count, options.repeat, speed)
        rows.append(row)
        goals.append(goal)
    report.publish("warm_ensure", "\n".join(rows), goals, write=options.write)


if __name__ == "__main__":
    main()
