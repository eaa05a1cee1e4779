"""Results on their way out: time and peak memory, inline beside plain base64 + json, and by S3 beside boto3.

"delivered" is the SDK's own code around the worker's, from the handler's call to the platform's answer; "sdk alone" is
the same without the worker's way of sending.
Each row is a process of its own, so that its peak is its own. "peak" is what the process grew by at most, over what it
had when it began; the answer is the JSON that goes out.

    python benchmarks/results.py [--video-mb 2048]      # needs moto[server], the tests' S3 server
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pybase64

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from worker.results.delivery import Delivery, DeliveryOptions, RenderedFrom
from worker.results.outputs import Output, OutputFile
from worker.s3.address import Keys, bucket_address
from worker.s3.upload import Body, Bucket
from worker.stop import Stop

ROUNDS = 7
CASES = {
    "1 PNG of 1.5 MB": (1, 1_500_000),
    "8 PNGs of 1 MB": (8, 1_000_000),
    "8 PNGs of 4 MB": (8, 4_000_000),
    "1 PNG of 32 MB": (1, 32_000_000),
}


def files_in(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.png"))


def plain(folder: Path) -> str:
    """Return base64 in JSON, as fast as memory allows."""
    images = [
        {"filename": path.name, "b64": pybase64.b64encode_as_string(path.read_bytes())} for path in files_in(folder)
    ]
    return json.dumps({"images": images}, ensure_ascii=False)


def answer(folder: Path, image_format: str = "original") -> dict[str, Any]:
    """Return the handler's answer."""
    files = [OutputFile(Output("9", path.name, "", "output"), path) for path in files_in(folder)]
    delivery = Delivery(
        DeliveryOptions("base64", image_format, 80, False, 1000, None), RenderedFrom("job", {}), files, Stop()
    )
    return delivery.answer(lambda: {**delivery.entries_by_kind(), "warnings": []})


def handler(folder: Path) -> int:
    """Make the worker's answer from the files. Return the size of its base64."""
    return sum(len(entry["b64"]) for entry in answer(folder)["images"])


def ours(folder: Path) -> str:
    """Return the same as the JSON that the SDK makes of it."""
    return json.dumps(answer(folder), ensure_ascii=False)


def webp(folder: Path) -> int:
    """Do the same with every picture converted."""
    return sum(len(entry["b64"]) for entry in answer(folder, "webp")["images"])


def delivered(folder: Path) -> int:
    """Run a job in the SDK and post its result to a platform that discards it."""
    from worker.memory import lower_mmap_threshold
    from worker.runpod_sdk.streamed_results import stream_large_results, without_debug_dump

    assert stream_large_results()
    lower_mmap_threshold()
    return _in_sdk(folder, without_debug_dump)


def sdk_alone(folder: Path) -> int:
    """Do the same with the SDK's own way of sending."""
    return _in_sdk(folder, lambda handler: handler)


def _in_sdk(folder: Path, wrapped: Callable[..., Any]) -> int:
    from runpod.http_client import AsyncClientSession
    from runpod.serverless.modules import rp_job

    sizes = []

    async def handle(event: dict[str, Any]) -> dict[str, Any]:
        made = await asyncio.to_thread(answer, folder)
        sizes.append(sum(len(entry["b64"]) for entry in made["images"]))
        return made

    async def whole() -> None:
        async with AsyncClientSession() as session:
            await rp_job.handle_job(session, {"handler": wrapped(handle)}, {"id": "job", "input": {}})

    asyncio.run(whole())
    return sizes[0]


def upload(folder: Path) -> str:
    """Upload a video as the worker does."""
    path = folder / "video.mp4"
    config = json.loads(os.environ["S3_CONFIG"])
    keys = Keys(config["accessId"], config["accessSecret"])
    bucket = Bucket(bucket_address(config["endpointUrl"], config["bucketName"], keys))
    with bucket.uploads(Stop()) as uploads:
        uploads.put("ours/video.mp4", Body(path.stat().st_size, path=path), "video/mp4")
    return ""


def boto(folder: Path) -> str:
    """Upload it with boto3's own upload_file, as RunPod's rp_upload and its users do."""
    import boto3

    config = json.loads(os.environ["S3_CONFIG"])
    keys = {"aws_access_key_id": config["accessId"], "aws_secret_access_key": config["accessSecret"]}
    client = boto3.client("s3", endpoint_url=config["endpointUrl"], region_name="us-east-1", **keys)
    client.upload_file(str(folder / "video.mp4"), config["bucketName"], "boto/video.mp4")
    return ""


WAYS: dict[str, Callable[[Path], str | int]] = {
    "plain": plain,
    "handler": handler,
    "ours": ours,
    "webp": webp,
    "sdk alone": sdk_alone,
    "delivered": delivered,
    "upload": upload,
    "boto": boto,
}


def high_water_mb() -> float:
    """Return this process's peak memory. Not ru_maxrss: that one starts with the parent's."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def child(way: str, folder: Path, rounds: int) -> None:
    if "RUNPOD_WEBHOOK_POST_OUTPUT" in os.environ:
        import runpod  # noqa: F401 - its memory is not the answer's
    before, times = high_water_mb(), []
    for _ in range(rounds):
        started = time.perf_counter()
        made = WAYS[way](folder)
        times.append(time.perf_counter() - started)
        size = len(made) if isinstance(made, str) else made
        del made
    result = {"s": statistics.median(times), "peak_mb": high_water_mb() - before, "answer_mb": size / 2**20}
    print(json.dumps(result), file=sys.stderr)  # the SDK logs to the other


def run(way: str, folder: Path, rounds: int = ROUNDS, **env: str) -> dict[str, float]:
    command = [sys.executable, __file__, "--child", way, "--folder", str(folder), "--rounds", str(rounds)]
    done = subprocess.run(command, env={**os.environ, **env}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stderr.splitlines()[-1])


def noise_png(size: int) -> bytes:
    from io import BytesIO

    from PIL import Image

    side, out = int((size / 3) ** 0.5), BytesIO()
    Image.frombytes("RGB", (side, side), os.urandom(side * side * 3)).save(out, "PNG", compress_level=0)
    return out.getvalue()


@contextmanager
def platform_at() -> Iterator[dict[str, str]]:
    """Run a platform that discards results. Yield the environment that leads the SDK to it."""

    class Sink(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            left = int(self.headers["Content-Length"])
            while left:
                left -= len(self.rfile.read(min(left, 1 << 16)))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Sink) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/job-done/$ID?gpu=x"
        yield {"RUNPOD_WEBHOOK_POST_OUTPUT": address, "RUNPOD_LOG_LEVEL": "INFO"}
        server.shutdown()


def inline_rows(base: Path) -> None:
    print("| inline | ms | of plain | peak MB | answer MB | peak / answer |\n|---|---|---|---|---|---|")
    for number, (name, (count, size)) in enumerate(CASES.items()):
        folder = base / str(number)
        folder.mkdir()
        for index in range(count):
            (folder / f"{index}.png").write_bytes(noise_png(size))
        rows = {way: run(way, folder) for way in ("plain", "handler", "ours", "webp")}
        with platform_at() as env:
            rows.update({way: run(way, folder, **env) for way in ("sdk alone", "delivered")})
        for way, row in rows.items():
            speed = rows["plain"]["s"] / row["s"]
            ratio = row["peak_mb"] / row["answer_mb"]
            print(
                f"| {name}, {way} | {row['s'] * 1e3:.1f} | {speed:.2f} | {row['peak_mb']:.1f} |"
                f" {row['answer_mb']:.1f} | {ratio:.2f} |"
            )


def upload_rows(base: Path, video_mb: int) -> None:
    from tests.support.s3_server import S3Server

    folder = base / "video"
    folder.mkdir()
    with (folder / "video.mp4").open("wb") as file:
        for _ in range(video_mb):
            file.write(os.urandom(1 << 20))
    print(f"\n| {video_mb} MB video to S3 (moto on this machine) | s | MB/s | peak MB |\n|---|---|---|---|")
    for way in ("upload", "boto"):
        with S3Server() as s3:
            direct = {**s3.s3_config(), "endpointUrl": s3._moto}  # without the proxy that makes faults
            row = run(way, folder, 1, S3_CONFIG=json.dumps(direct))
            name = "ours" if way == "upload" else "boto3 upload_file"
            print(f"| {name} | {row['s']:.1f} | {video_mb / row['s']:.0f} | {row['peak_mb']:.1f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--video-mb", type=int, default=256, help="0 leaves S3 out (default: 256)")
    parser.add_argument("--child", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--rounds", type=int, default=1, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options.child, options.folder, options.rounds)
        return
    print(f"Python {platform.python_version()}, {os.cpu_count()} cores, medians of {ROUNDS}\n")
    with tempfile.TemporaryDirectory() as base:
        inline_rows(Path(base))
        if options.video_mb:
            upload_rows(Path(base), options.video_mb)


if __name__ == "__main__":
    main()
