"""The cost of an endpoint's settings and the waits of its callers: 1 to 1,000 workers, simulated.

    python benchmarks/endpoint_simulation.py [--write]

No network and no clock: the same numbers on every machine. The rules, the prices and the source of each number are in
benchmarks/simulation/settings.py. With --write the tables go into docs/scaling.md and the plots into docs/pictures
(matplotlib; without it the plots are left as they are).
"""

from __future__ import annotations

import importlib.util
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import report
from benchmarks.simulation import sweeps
from benchmarks.simulation.sweeps import Row, table

PAGE = report.PAGE.with_name("scaling.md")
PICTURES = PAGE.parent / "pictures"
SWEEPS = {
    "workers_steady": (("workers", "models"), lambda: sweeps.by_workers("steady")),
    "workers_bursty": (("workers", "models"), lambda: sweeps.by_workers("bursty")),
    "idle_timeout": (("a picture every", "idle timeout, s"), sweeps.by_idle_timeout),
    "keep_gb": (("checkpoints", "KEEP_GB"), sweeps.by_keep_gb),
    "place": (("a picture every", "download, MB/s", "models on"), sweeps.by_place),
    "scaler": (("arrivals", "scaler"), sweeps.by_scaler),
    "active": (("active workers",), sweeps.by_active),
    "start": (("start",), sweeps.by_start),
}


def draw(rows: dict[str, list[Row]]) -> None:
    from benchmarks.simulation.plots import lines

    for arrivals in ("steady", "bursty"):
        lines(
            PICTURES / f"scaling-workers-{arrivals}.svg", rows[f"workers_{arrivals}"],
            f"1 to 1,000 workers, {arrivals} arrivals, load in proportion", "max workers (logarithmic)",
            group=lambda row: row.labels[1], x=lambda row: float(row.labels[0].replace(",", "")), wait_scale="log",
        )  # fmt: skip
    lines(
        PICTURES / "scaling-idle-timeout.svg", rows["idle_timeout"], "Idle timeout, up to 3 workers",
        "idle timeout, seconds (logarithmic)",
        group=lambda row: f"a picture every {row.labels[0]}", x=lambda row: float(row.labels[1]),
    )  # fmt: skip
    lines(
        PICTURES / "scaling-keep-gb.svg", rows["keep_gb"], "KEEP_GB, 10 workers, a picture every 3.3 s", "KEEP_GB",
        group=lambda row: f"{row.labels[0]} checkpoints", x=lambda row: float(row.labels[1]), scale="linear",
    )  # fmt: skip


def main() -> None:
    write = report.arguments(__doc__).parse_args().write
    rows = {}
    for name, (labels, sweep) in SWEEPS.items():
        started = time.perf_counter()
        rows[name] = sweep()
        print(f"\n{name}: {len(rows[name])} runs in {time.perf_counter() - started:.1f} s\n")
        report.publish(name, table(labels, rows[name]), write=write, page=PAGE, measured=False)
    if write and importlib.util.find_spec("matplotlib"):
        draw(rows)


if __name__ == "__main__":
    main()
