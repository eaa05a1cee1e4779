"""Runs results.py and keeps its tables on the page, with the goal for answers that carry their pictures.

python benchmarks/inline_results.py [--write]
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import report
from benchmarks.report import Goal, over, under

CASE = "8 PNGs of 1 MB"
SPEED, PEAK = 0.7, 2.5


def rows_of(printed: str) -> dict[str, list[str]]:
    """Return the tables' rows by their first cell."""
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in printed.splitlines() if line[:1] == "|"]
    return {row[0]: row[1:] for row in rows}


def main() -> None:
    options, more = report.arguments(__doc__).parse_known_args()
    command = [sys.executable, str(Path(__file__).with_name("results.py")), *(more or ["--video-mb", "256"])]
    printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    rows = rows_of(printed)
    took_ms, speed, *_, peak = (float(cell) for cell in rows[f"{CASE}, delivered"])
    goals = [
        Goal(
            f"{CASE} as base64, delivered: speed", f">= {SPEED} of base64 + json at memory speed", f"{took_ms} ms",
            f"{speed:.2f} of plain base64 + json", under(speed, SPEED),
        ),
        Goal(
            f"{CASE} as base64, delivered: memory", f"peak <= {PEAK} x the answer", f"{peak:.2f} x",
            f"plain base64 + json: {float(rows[f'{CASE}, plain'][-1]):.2f} x", over(peak, PEAK, "x"),
        ),
    ]  # fmt: skip
    tables = printed[printed.index("|") :]
    report.publish("inline_results", tables, goals, write=options.write)


if __name__ == "__main__":
    main()
