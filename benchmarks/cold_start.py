"""The time from the start of the worker's process to its first accepted job and its first image, in parts.

The real `start.sh` under the real SDK loop, against a loopback RunPod that has a job waiting. Beside it, in turns on
the same machine: the same worker with one thing after the other (ComfyUI started and waited for, then the SDK
imported), and with Comfy's API nodes loaded. On the simulator, or, with COMFYUI_PATH (and COMFYUI_ARGS=--cpu where
there is no GPU), on a real ComfyUI.

    python benchmarks/cold_start.py [--runs 5] [--write]
"""

from __future__ import annotations

import contextlib
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import requests

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import report
from benchmarks.report import Goal
from tests.support.prompts import image_prompt
from tests.support.runpod_platform import REPO_ROOT, RunPodPlatform, WorkerProcess
from worker.settings import SIMULATOR_PATH

ONE_AFTER_THE_OTHER = """
import asyncio, time
from handler import Worker
from worker.settings import Settings

worker = Worker(Settings.from_environ())
worker.runner.launch()
server = worker.runner.server
while not asyncio.run(is_up(server.url)):
    time.sleep(0.05)
import runpod
runpod.serverless.start({"handler": worker.handle})
"""
IS_UP = """
import aiohttp

async def is_up(url):
    async with aiohttp.ClientSession() as session:
        try:
            async with session.get(f"{url}/system_stats") as answer:
                return answer.status == 200
        except aiohttp.ClientError:
            return False
"""
START = [str(REPO_ROOT / "start.sh")]
WAYS: dict[str, tuple[list[str], dict[str, str]]] = {
    "as built": (START, {}),
    "one after the other": (
        [sys.executable, "-c", IS_UP + ONE_AFTER_THE_OTHER],
        {"COMFYUI_ARGS": "--disable-api-nodes", "RUNPOD_LOG_LEVEL": "INFO"},
    ),
    "as built, with API nodes": (START, {"COMFYUI_API_NODES": "1"}),
}
MOMENTS = ("comfyui_started", "first_job_take", "comfyui_answers", "first_image")


def begun_at(pid: int) -> float:
    """Return the start of a process on the monotonic clock (to 10 ms, as the kernel counts)."""
    ticks = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    return ticks / os.sysconf("SC_CLK_TCK") + time.monotonic() - time.clock_gettime(time.CLOCK_BOOTTIME)


def answers(worker: WorkerProcess) -> tuple[int, bool]:
    """Return the process id of the worker's ComfyUI (0: none yet), and True if it answers."""
    try:
        pid = worker.comfyui_pid()
        words = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
        port = words[words.index("--port") + 1]
    except (AssertionError, OSError, ValueError):
        return 0, False
    with contextlib.suppress(requests.RequestException):
        return pid, requests.get(f"http://127.0.0.1:{port}/system_stats", timeout=5).ok
    return pid, False


def one_start(way: str, folder: Path, repo_list: str = "", **more: str) -> dict[str, float]:
    """Return the seconds from the process's start to each moment; with ``repo_list`` the job has models to download."""
    command, env = WAYS[way]
    comfyui_path = os.environ.get("COMFYUI_PATH", str(SIMULATOR_PATH))
    own_folder = f" --base-directory '{folder}'" if comfyui_path == str(SIMULATOR_PATH) else ""
    flags = f"{os.environ.get('COMFYUI_ARGS', '')} {env.get('COMFYUI_ARGS', '')}{own_folder}"
    env = {**env, "COMFYUI_PATH": comfyui_path, "COMFYUI_ARGS": flags, "MODELS_DIR": str(folder / "models")}
    env |= more
    moments: dict[str, float] = {}
    with RunPodPlatform() as platform:
        wanted = {"repo_list": repo_list} if repo_list else {"skip_repo_list": True}
        job = platform.submit({"prompt": image_prompt(), **wanted})
        started = time.monotonic()
        with WorkerProcess(platform, folder / "worker.log", command=command, **env) as worker:
            while "first_image" not in moments:
                now = time.monotonic() - started
                assert now < 300, f"no image after {now:.0f} s:\n{worker.log[-3000:]}"
                if "first_job_take" not in moments and any(kind == "job-take" for kind, _ in platform.log):
                    moments["first_job_take"] = now
                if "comfyui_answers" not in moments:
                    pid, up = answers(worker)
                    if pid and "comfyui_started" not in moments:
                        moments["comfyui_started"] = max(0.0, begun_at(pid) - started)
                    if up:
                        moments["comfyui_answers"] = time.monotonic() - started
                status = platform.jobs[job]["status"]
                assert status in ("IN_QUEUE", "IN_PROGRESS", "COMPLETED"), platform.jobs[job]
                if status == "COMPLETED":
                    moments["first_image"] = time.monotonic() - started
                time.sleep(0.005)
    moments.setdefault("comfyui_answers", moments["first_image"])
    return moments


def tables(medians: dict[str, dict[str, float]], runs: int) -> tuple[str, Goal]:
    """Return the page's table, and the goal: the share of the shorter start that is hidden behind the longer one."""
    rows = [
        f"| seconds after the process's start, medians of {runs} | ComfyUI started | first job-take | ComfyUI answers "
        "| first image |",
        "|---|---|---|---|---|",
    ]
    rows += [
        f"| {way} | " + " | ".join(f"{median[moment]:.2f}" for moment in MOMENTS) + " |"
        for way, median in medians.items()
    ]
    ours, theirs = medians["as built"], medians["one after the other"]
    sdk_s = ours["first_job_take"] - ours["comfyui_started"]
    comfyui_s = ours["comfyui_answers"] - ours["comfyui_started"]
    both_s = max(ours["first_job_take"], ours["comfyui_answers"]) - ours["comfyui_started"]
    hidden = (sdk_s + comfyui_s - both_s) / min(sdk_s, comfyui_s)
    rows.append(
        f"\nThe SDK, from its import to its first job-take: {sdk_s:.2f} s. ComfyUI, from its start to its first "
        f"answer: {comfyui_s:.2f} s. Both together: {both_s:.2f} s, so "
        f"{100 * hidden:.0f} % of the shorter one is hidden."
    )
    goal = Goal(
        f"process start to first job taken ({engine()})", "ComfyUI not waited for; the SDK's import beside its start",
        f"{ours['first_job_take']:.2f} s; {100 * hidden:.0f} % of the shorter start hidden",
        f"{ours['first_job_take'] / theirs['first_job_take']:.2f} of one after the other; "
        f"first image {ours['first_image'] / theirs['first_image']:.2f}",
        "" if hidden > 0.9 else f"{90 - 100 * hidden:.0f} % of the shorter start",
    )  # fmt: skip
    return "\n".join(rows), goal


def engine() -> str:
    return "a real ComfyUI" if "COMFYUI_PATH" in os.environ else "simulator"


def main() -> None:
    parser = report.arguments(__doc__)
    parser.add_argument("--runs", type=int, default=5, help="starts of each kind (default: 5)")
    options = parser.parse_args()
    found: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory() as scratch:
        for run in range(options.runs + 1):
            for way in WAYS:
                folder = Path(scratch, f"{way.replace(' ', '-')}-{run}")
                (folder / "models").mkdir(parents=True)
                moments = one_start(way, folder)
                if run:  # the first of each fills the page cache
                    found[way].append(moments)
    medians = {
        way: {m: statistics.median(run[m] for run in all_runs) for m in MOMENTS} for way, all_runs in found.items()
    }
    text, goal = tables(medians, options.runs)
    section = "cold_start_real" if "COMFYUI_PATH" in os.environ else "cold_start"
    report.publish(section, text, [goal], write=options.write)


if __name__ == "__main__":
    main()
