"""A cold worker whose first job has models to fetch: does the download go on beside the start?

In turns, from an nginx on loopback that limits each connection: the worker's start alone, the download alone, the two
in one cold job, and the same job on a worker that waits for ComfyUI first, as others do; once with a download shorter
than the start and once with a longer one. On the ComfyUI at COMFYUI_PATH, or on the simulator, which is told to take
5 s to listen, as a real one does.

    python benchmarks/cold_job.py [--size 256] [--rate 8] [--runs 3] [--write]
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
FILES = {"short": 1, "long": 5}
HOST = f"127.0.0.1:{PORTS['limited']}"
START, DOWNLOAD, BOTH, PEER, TAKEN = "start", "download", "both", "peer", "taken"


class Rounds:
    """Cold workers in folders of their own, in memory as the download alone is."""

    def __init__(self, into: Path) -> None:
        self._into = into

    def start(self, way: str, names: dict[str, str]) -> dict[str, float]:
        """Start a worker whose first job needs these models. Return its moments."""
        lines = "\n".join(f"ckpt http://{HOST}/{name}" for name in names)
        slow = {"SIMULATOR_MISBEHAVE": '{"start_delay_s": 5}'}
        with tempfile.TemporaryDirectory(dir=self._into.parent) as folder:
            Path(folder, "models").mkdir()
            return one_start(way, Path(folder), lines, MODEL_HOSTS=HOST, **slow)

    def one(self, names: dict[str, str]) -> dict[str, float]:
        """Return the seconds until the first image, or until the files are downloaded."""
        alone, both = self.start("as built", {}), self.start("as built", names)
        return {
            START: alone["first_image"],
            DOWNLOAD: once("ours", f"http://{HOST}", self._into, names, 16)["seconds"],
            BOTH: both["first_image"],
            TAKEN: both["first_job_take"],
            PEER: self.start("one after the other", names)["first_image"],
        }


def row_and_goal(kind: str, rounds: list[dict[str, float]]) -> tuple[str, Goal]:
    median = {what: statistics.median(each[what] for each in rounds) for what in rounds[0]}
    late = statistics.median(each[BOTH] - max(each[START], each[DOWNLOAD]) for each in rounds)
    later = statistics.median(each[BOTH] - max(each[START], each[TAKEN] + each[DOWNLOAD]) for each in rounds)
    cells = [median[what] for what in (START, DOWNLOAD, TAKEN, BOTH)]
    numbers = " | ".join([*(f"{seconds:.2f}" for seconds in cells), f"{late:+.2f}", f"{later:+.2f}"])
    goal = Goal(
        f"cold job, download {kind}er than the start ({engine()})", f"max(start, download) + <= {LIMIT_S} s",
        f"{median[BOTH]:.2f} s, {late:+.2f}", f"{median[BOTH] / median[PEER]:.2f} of ComfyUI first, then the download",
        over(late, LIMIT_S, "s"),
    )  # fmt: skip
    return f"| {kind} | {numbers} | {median[PEER]:.2f} |", goal


def main() -> None:
    parser = report.arguments(__doc__)
    parser.add_argument("--size", type=int, default=256, help="MiB of a model")
    parser.add_argument("--rate", type=int, default=8, help="MiB/s of each of 16 connections")
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    need_nginx()
    rows = [
        f"{engine().capitalize()}; models of {options.size} MiB; seconds, medians of {options.runs}.\n",
        "| download | start alone | download alone | job taken at | both, as built | over the longer alone "
        "| over the longer of start and job taken + download | both, ComfyUI first |",
        "|---|---|---|---|---|---|---|---|",
    ]
    goals = []
    all_files = max(FILES.values())
    with served(options.size * MiB, all_files, options.rate) as (names, into):
        rounds = Rounds(into)
        rounds.start("as built", {})  # fills the page cache
        for kind, count in FILES.items():
            these = dict(list(names.items())[:count])
            row, goal = row_and_goal(kind, [rounds.one(these) for _ in range(options.runs)])
            rows.append(row)
            goals.append(goal)
    report.publish("cold_job", "\n".join(rows), goals, write=options.write)


if __name__ == "__main__":
    main()
