"""Eight PNGs of 4 MB to S3: ours beside the straightforward way, which is what worker-comfyui does with RunPod's SDK.

Straightforward: each picture is read whole, written to a temporary file, and handed to ``rp_upload.upload_image``,
which makes a client, reads the file whole again, puts it and signs a link; one after another. (Its /view is left out.)
The bucket is moto's server on this machine, which holds all in memory and is slow: it bounds both ways. Each run is a
process of its own, so that its peak is its own; the two take turns.

    python benchmarks/s3_results.py [--runs 5] [--write]      # needs moto[server], the tests' S3 server
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import report
from benchmarks.report import Goal, over

COUNT, SIZE = 8, 4_000_000
PEAK = 2.5


def ours(folder: Path, config: dict[str, str]) -> int:
    from worker.results.delivery import Delivery, DeliveryOptions, RenderedFrom
    from worker.results.outputs import Output, OutputFile
    from worker.s3.address import Keys, bucket_address
    from worker.s3.upload import Bucket
    from worker.stop import Stop

    keys = Keys(config["accessId"], config["accessSecret"])
    bucket = Bucket(bucket_address(config["endpointUrl"], config["bucketName"], keys))
    files = [OutputFile(Output("9", path.name, "", "output"), path) for path in sorted(folder.glob("*.png"))]
    delivery = Delivery(
        DeliveryOptions("s3", "original", 90, False, 9.5, bucket), RenderedFrom("job", {}), files, Stop()
    )
    return len(delivery.answer(lambda: {**delivery.entries_by_kind(), "warnings": []})["images"])


def straightforward(folder: Path, config: dict[str, str]) -> int:
    from runpod.serverless.utils import rp_upload

    os.environ |= {
        "BUCKET_ENDPOINT_URL": config["endpointUrl"], "BUCKET_ACCESS_KEY_ID": config["accessId"],
        "BUCKET_SECRET_ACCESS_KEY": config["accessSecret"], "AWS_DEFAULT_REGION": "us-east-1",
    }  # fmt: skip
    links = []
    for path in sorted(folder.glob("*.png")):
        data = path.read_bytes()
        with tempfile.NamedTemporaryFile(suffix=".png", delete=False) as file:
            file.write(data)
        links.append(rp_upload.upload_image("job", file.name, bucket_name=config["bucketName"]))
        Path(file.name).unlink()
    assert all(link.startswith("http") for link in links), links
    return len(links)


WAYS: dict[str, Callable[[Path, dict[str, str]], int]] = {"ours": ours, "straightforward": straightforward}


def high_water_mb() -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def child(way: str, folder: str) -> None:
    """Run one job, without the imports, which a worker has done long before."""
    config = json.loads(os.environ["S3_CONFIG"])
    import boto3  # noqa: F401

    before, started = high_water_mb(), time.perf_counter()
    assert WAYS[way](Path(folder), config) == COUNT
    print(json.dumps({"s": time.perf_counter() - started, "peak_mb": high_water_mb() - before}), file=sys.stderr)


def once(way: str, folder: Path, config: dict[str, str]) -> dict[str, float]:
    environ = {**os.environ, "S3_CONFIG": json.dumps(config)}
    command = [sys.executable, __file__, "--child", way, str(folder)]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, float] = json.loads(done.stderr.splitlines()[-1])
    return found


def main() -> None:
    parser = report.arguments(__doc__)
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    from tests.support.s3_server import S3Server

    found: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory() as scratch, S3Server() as s3:
        config = {**s3.s3_config(), "endpointUrl": s3._moto}  # without the proxy that makes faults
        for number in range(COUNT):
            Path(scratch, f"{number}.png").write_bytes(b"\x89PNG\r\n\x1a\n" + os.urandom(SIZE - 8))
        for _ in range(options.runs):
            for way in WAYS:
                found[way].append(once(way, Path(scratch), config))
    total_mb = COUNT * SIZE / 2**20
    median = {way: {key: statistics.median(run[key] for run in runs) for key in runs[0]} for way, runs in found.items()}
    rows = [f"| {COUNT} PNGs of {SIZE // 10**6} MB to S3, medians of {options.runs} | ms | peak MB | peak / pictures |"]
    rows.append("|---|---|---|---|")
    for way, each in median.items():
        peak = each["peak_mb"]
        rows.append(f"| {way} | {each['s'] * 1e3:.0f} | {peak:.1f} | {peak / total_mb:.2f} |")
    mine, theirs = median["ours"], median["straightforward"]
    peak = mine["peak_mb"] / total_mb
    goal = Goal(
        f"{COUNT} PNGs of {SIZE // 10**6} MB to S3", f"peak memory <= {PEAK} x the pictures",
        f"{peak:.2f} x, {mine['s'] * 1e3:.0f} ms",
        f"{mine['s'] / theirs['s']:.2f} of the straightforward way's time, "
        f"{mine['peak_mb'] / theirs['peak_mb']:.2f} of its memory",
        over(peak, PEAK, "x"),
    )  # fmt: skip
    report.publish("s3_results", "\n".join(rows), [goal], write=options.write)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(*sys.argv[2:])
    else:
        main()
