"""A cold worker whose first job has a model to fetch: does the download go on beside the start?

In turns, from an nginx on loopback that limits each connection: the worker's start alone, the download alone, the two
in one cold job, and the same job on a worker that waits for ComfyUI first, as others do. On the simulator, or on the
ComfyUI at COMFYUI_PATH.

    python benchmarks/cold_job.py [--size 256] [--rate 8] [--runs 5] [--write]
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import report
from benchmarks.cold_start import engine, one_start
from benchmarks.downloads import PORTS, MiB, need_nginx, once, served
from benchmarks.report import Goal, over

LIMIT_S = 0.5
ALONE, DOWNLOAD, BOTH, PEER = "the start alone", "the download alone", "both, as built", "both, ComfyUI first"


def round_of(number: int, names: dict[str, str], into: Path, scratch: Path) -> dict[str, float]:
    """Seconds until the first image, or until the file is there."""
    host = f"127.0.0.1:{PORTS['limited']}"
    lines = "\n".join(f"ckpt http://{host}/{name}" for name in names)

    def start(way: str, repo_list: str = "") -> float:
        folder = Path(tempfile.mkdtemp(dir=scratch, prefix=f"{number}-"))
        (folder / "models").mkdir()
        return one_start(way, folder, repo_list, MODEL_HOSTS=host)["first_image"]

    return {
        ALONE: start("as built"),
        DOWNLOAD: once("ours", f"http://{host}", into, names, 16)["seconds"],
        BOTH: start("as built", lines),
        PEER: start("one after the other", lines),
    }


def main() -> None:
    parser = report.arguments(__doc__)
    parser.add_argument("--size", type=int, default=256, help="MiB of the model")
    parser.add_argument("--rate", type=int, default=8, help="MiB/s of each of 16 connections")
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    need_nginx()
    with served(options.size * MiB, 1, options.rate) as (names, into), tempfile.TemporaryDirectory() as scratch:
        rounds = [round_of(number, names, into, Path(scratch)) for number in range(options.runs + 1)][1:]
    median = {what: statistics.median(each[what] for each in rounds) for what in rounds[0]}
    late = statistics.median(each[BOTH] - max(each[ALONE], each[DOWNLOAD]) for each in rounds)
    rows = [f"| seconds, medians of {options.runs} ({engine()}, {options.size} MiB) | |", "|---|---|"]
    rows += [f"| {what} | {seconds:.2f} |" for what, seconds in median.items()]
    rows.append(f"| both, over the longer of the two alone | {late:+.2f} |")
    goal = Goal(
        f"cold job with a model to fetch ({engine()})", f"max(start, download) + <= {LIMIT_S} s", f"{late:+.2f} s",
        f"{median[BOTH] / median[PEER]:.2f} of ComfyUI first, then the download", over(late, LIMIT_S, "s"),
    )  # fmt: skip
    report.publish("cold_job", "\n".join(rows), [goal], write=options.write)


if __name__ == "__main__":
    main()
