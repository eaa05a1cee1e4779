"""The worker's own time per warm job, beside a straightforward client doing what worker-comfyui does, in one run.

Both run the same prompt on the same simulator: one 1.5 MB PNG that ComfyUI answers from its cache, so that hardly
anything but the client's own work is left. ComfyUI's execution (from `execution_start` to `execution_success`, by its
own clock) is taken off both. The two take turns, so that a noisy machine is noisy for both.

    python benchmarks/warm_job.py [--jobs 200]
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import statistics
import sys
import time
import uuid
import zlib
from pathlib import Path

import requests
import websocket

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import report
from benchmarks.report import Goal, over
from handler import Worker
from worker.settings import SIMULATOR_PATH, Settings

SIDE = 710  # pixels; noise of this size makes a PNG of 1.5 MB


def noise_png(side: int) -> bytes:
    rows = b"".join(b"\0" + os.urandom(side * 3) for _ in range(side))

    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    header = side.to_bytes(4, "big") * 2 + b"\x08\x02\0\0\0"
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows, 1)) + chunk(b"IEND", b"")


PROMPT = {
    "1": {"class_type": "LoadImage", "inputs": {"image": "benchmark_noise.png"}},
    "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "bench"}},
}


def straightforward_job(url: str) -> dict:
    """Run a job as worker-comfyui's handler does: a new connection for each call."""
    requests.get(url, timeout=5)
    client_id = str(uuid.uuid4())
    socket = websocket.create_connection(f"ws{url[4:]}/ws?clientId={client_id}", timeout=10)
    answer = requests.post(f"{url}/prompt", json={"prompt": PROMPT, "client_id": client_id}, timeout=30).json()
    prompt_id = answer["prompt_id"]
    while True:
        frame = socket.recv()
        if isinstance(frame, str):
            event = json.loads(frame)
            data = event["data"]
            if event["type"] == "executing" and data["node"] is None and data["prompt_id"] == prompt_id:
                break
    history = requests.get(f"{url}/history/{prompt_id}", timeout=30).json()[prompt_id]
    images = []
    for node in history["outputs"].values():
        for image in node["images"]:
            data = requests.get(f"{url}/view", params=image, timeout=60).content
            encoded = base64.b64encode(data).decode()
            images.append({"filename": image["filename"], "type": "base64", "data": encoded})
    socket.close()
    return {"images": images, "prompt_id": prompt_id}


def execution_ms(url: str, prompt_id: str) -> float:
    history = requests.get(f"{url}/history/{prompt_id}", timeout=30).json()[prompt_id]
    at = {name: data["timestamp"] for name, data in history["status"]["messages"]}
    return at["execution_success"] - at["execution_start"]


async def measure(jobs: int) -> dict[str, list[float]]:
    worker = Worker(Settings.from_environ({"COMFYUI_PATH": str(SIMULATOR_PATH), "LOG_LEVEL": "ERROR"}))
    files = [{"name": "benchmark_noise.png", "b64": base64.b64encode(noise_png(SIDE)).decode()}]
    own: dict[str, list[float]] = {"ours": [], "straightforward": []}
    try:
        first = await worker.handle({"id": "first", "input": {"prompt": PROMPT, "files": files}})
        assert first.get("images"), first
        url = worker.runner.server.url
        for _ in range(jobs):
            started = time.perf_counter()
            answer = await worker.handle({"id": "job", "input": {"prompt": PROMPT}})
            own["ours"].append((time.perf_counter() - started) * 1e3 - execution_ms(url, answer["prompt_id"]))
            started = time.perf_counter()
            peers = await asyncio.to_thread(straightforward_job, url)
            own["straightforward"].append((time.perf_counter() - started) * 1e3 - execution_ms(url, peers["prompt_id"]))
            assert peers["images"][0]["data"] == answer["images"][0]["b64"], "the two returned different pictures"
    finally:
        worker.runner.stop()
    return own


def main() -> None:
    parser = report.arguments(__doc__)
    parser.add_argument("--jobs", type=int, default=200, help="jobs of each kind (default: 200)")
    options = parser.parse_args()
    own = asyncio.run(measure(options.jobs))
    rows = [
        f"| own time per warm job, {options.jobs} jobs each | median ms | p95 ms | ratio of medians |",
        "|---|---|---|---|",
    ]
    median = {name: statistics.median(times) for name, times in own.items()}
    p95 = {name: statistics.quantiles(times, n=20)[18] for name, times in own.items()}
    for name in own:
        ratio = median[name] / median["straightforward"]
        rows.append(f"| {name} | {median[name]:.1f} | {p95[name]:.1f} | {ratio:.2f} |")
    goals = [
        Goal(
            f"own time of a warm job, one 1.5 MB PNG, {name}", f"<= {limit} ms", f"{found['ours']:.1f} ms",
            f"{found['ours'] / found['straightforward']:.2f} of the straightforward way's",
            over(found["ours"], limit, "ms"),
        )
        for name, found, limit in (("median", median, 4), ("p95", p95, 8))
    ]  # fmt: skip
    report.publish("warm_job", "\n".join(rows), goals, write=options.write)


if __name__ == "__main__":
    main()
