"""Does it slow a job down if 200 callers poll its status? Jobs alone and jobs polled take turns, in one run.

Two jobs: a sampler that mostly waits (as a GPU's host does), and pictures drawn on the CPU, which polls compete with.
The time is the endpoint's own executionTime, from the worker's taking the job to its answer.

    python benchmarks/pollers.py [--pollers 200] [--every 1.0] [--rounds 10] [--write]
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable
from multiprocessing.synchronize import Event
from pathlib import Path

import aiohttp
import requests

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import report

ROOT = Path(__file__).resolve().parents[1]
KEY = "benchmark"
HEADERS = {"Authorization": f"Bearer {KEY}"}


def node(class_type: str, **inputs: object) -> dict:
    return {"class_type": class_type, "inputs": inputs}


def sampler(seed: int) -> dict:
    return {
        "1": node("CheckpointLoaderSimple", ckpt_name="tiny.safetensors"),
        "2": node("CLIPTextEncode", text="a cat", clip=["1", 1]),
        "3": node("EmptyLatentImage", width=512, height=512, batch_size=1),
        "4": node(
            "KSampler", seed=seed, steps=40, cfg=1.0, sampler_name="euler", scheduler="normal", denoise=1.0,
            model=["1", 0], positive=["2", 0], negative=["2", 0], latent_image=["3", 0],
        ),
        "5": node("VAEDecode", samples=["4", 0], vae=["1", 2]),
        "6": node("SaveImage", images=["5", 0], filename_prefix="bench"),
    }  # fmt: skip


def drawing(seed: int) -> dict:
    return {
        "1": node("EmptyImage", width=1024, height=1024, batch_size=4, color=seed),
        "2": node("ImageScale", image=["1", 0], upscale_method="lanczos", width=4096, height=4096, crop="disabled"),
        "3": node("ImageScale", image=["2", 0], upscale_method="lanczos", width=512, height=512, crop="disabled"),
        "4": node("SaveImage", images=["3", 0], filename_prefix="bench"),
    }


async def poll(url: str, every: float, stop: Event, latencies: list[float]) -> None:
    async with aiohttp.ClientSession(headers=HEADERS) as session:
        while not stop.is_set():
            started = time.perf_counter()
            async with session.get(url) as response:
                await response.read()
            latencies.append(time.perf_counter() - started)
            await asyncio.sleep(max(0.0, every - (time.perf_counter() - started)))


def pollers(url: str, count: int, every: float, stop: Event, results: multiprocessing.Queue) -> None:
    async def all_of_them() -> list[float]:
        latencies: list[float] = []

        async def one(number: int) -> None:
            await asyncio.sleep(every * number / count)  # spread over the interval, as real callers are
            await poll(url, every, stop, latencies)

        await asyncio.gather(*(one(number) for number in range(count)))
        return latencies

    os.nice(19)  # real callers use machines of their own: here they get only idle CPU time
    results.put(asyncio.run(all_of_them()))


def run_job(url: str, prompt: dict, count: int, every: float) -> tuple[float, list[float], float]:
    """Run one job. Return its executionTime in ms, the pollers' latencies, and the seconds they polled."""
    session = requests.Session()
    session.headers.update(HEADERS)
    stop, results = multiprocessing.Event(), multiprocessing.Queue()
    crowd = None
    if count:  # started before the job, so that their start is not measured
        last = session.post(f"{url}/run", json={"input": {"action": "inspect"}}, timeout=30).json()["id"]
        crowd = multiprocessing.Process(target=pollers, args=(f"{url}/status/{last}", count, every, stop, results))
        crowd.start()
        time.sleep(every + 0.5)
    started = time.perf_counter()
    job = session.post(f"{url}/run", json={"input": {"prompt": prompt}}, timeout=30).json()["id"]
    while (status := session.get(f"{url}/status/{job}", timeout=30).json())["status"] in ("IN_QUEUE", "IN_PROGRESS"):
        time.sleep(0.05)
    took = time.perf_counter() - started
    assert status["status"] == "COMPLETED", status
    latencies = []
    if crowd:
        stop.set()
        latencies = results.get()
        crowd.join()
    session.close()
    return status["executionTime"], latencies, took + every + 0.5


def start_endpoint(base: Path) -> tuple[subprocess.Popen, str]:
    checkpoints = base / "models" / "checkpoints"
    checkpoints.mkdir(parents=True)
    header = b'{"x":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}'
    (checkpoints / "tiny.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + b"abcd")
    env = {
        **os.environ, "RUNPOD_API_KEY": KEY, "COMFYUI_PATH": str(ROOT / "simulator"), "SIMULATOR_STEP_MS": "50",
        "COMFYUI_ARGS": f"--base-directory '{base}'", "MODELS_DIR": str(base / "models"),
    }  # fmt: skip
    argv = [sys.executable, "-m", "endpoint", "--port", "0", "--data-dir", str(base / "data"), "--grace", "0"]
    log = (base / "log").open("wb")
    process = subprocess.Popen(argv, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=log, text=True)
    assert process.stdout
    url = process.stdout.readline().strip()
    assert url, (base / "log").read_text()
    return process, url


def cpu_s(pid: int) -> float:
    """Return the CPU time of one process so far, without its children."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure(process: subprocess.Popen, url: str, name: str, prompt: Callable[[int], dict], options: Namespace) -> str:
    """Return the table's row of one kind of job."""
    run_job(url, prompt(10**6), 0, options.every)
    alone, watched, latencies, polled_s, cost_s = [], [], [], 0.0, 0.0
    for number in range(options.rounds):
        start_s = cpu_s(process.pid)
        alone.append(run_job(url, prompt(2 * number), 0, options.every)[0])
        between_s = cpu_s(process.pid)
        took, seen, spent = run_job(url, prompt(2 * number + 1), options.pollers, options.every)
        cost_s += cpu_s(process.pid) - between_s - (between_s - start_s)
        watched.append(took)
        latencies += seen
        polled_s += spent
    cuts = statistics.quantiles(latencies, n=20)
    a, w = statistics.median(alone), statistics.median(watched)
    print(json.dumps({"alone": alone, "watched": watched}), file=sys.stderr)
    return (
        f"| {name} | {a:.0f} | {w:.0f} | {w / a:.3f} | {len(latencies) / polled_s:.0f} "
        f"| {cuts[9] * 1000:.1f} / {cuts[18] * 1000:.1f} | {1000 * cost_s / len(latencies):.2f} |"
    )


def main() -> None:
    parser = report.arguments(__doc__)
    parser.add_argument("--pollers", type=int, default=200)
    parser.add_argument("--every", type=float, default=1.0, help="seconds between two polls of one caller")
    parser.add_argument("--rounds", type=int, default=10)
    options = parser.parse_args()
    rows = [
        f"{options.pollers} callers, each asking every {options.every:g} s; {options.rounds} rounds.\n",
        "| job | alone, median ms | watched, median ms | ratio | polls a second | poll p50 / p95 ms "
        "| endpoint CPU ms a poll |",
        "|---|---|---|---|---|---|---|",
    ]
    with tempfile.TemporaryDirectory() as folder:
        process, url = start_endpoint(Path(folder))
        try:
            for name, prompt in (("sampler, 40 x 50 ms", sampler), ("drawing on the CPU", drawing)):
                rows.append(measure(process, url, name, prompt, options))
        finally:
            process.terminate()
            process.wait()
    report.publish("pollers", "\n".join(rows), write=options.write)


if __name__ == "__main__":
    main()
