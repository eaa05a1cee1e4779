"""The sweeps of the simulated endpoint: each makes the rows of a table, which a plot may be drawn from."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, replace

from benchmarks.simulation.endpoint import Outcome, Simulation
from benchmarks.simulation.settings import EndpointSettings, Workload
from benchmarks.simulation.workload import jobs

SEED = 20
WORKERS = (1, 3, 10, 30, 100, 300, 1000)
IDLE_S = (1, 5, 15, 30, 60, 120, 300, 600)
KEEP_GB = (0, 7, 15, 30, 60, 120)
LOAD = {"steady": 0.4, "bursty": 0.1}
"""The mean, of what the workers could render if they did nothing else; a burst is ten times the mean."""
ROOMY = 150.0
"""GB, more than all models of the usual workload: a disk that is never full."""


@dataclass(frozen=True)
class Row:
    """One run: its labels and its outcome."""

    labels: tuple[str, ...]
    outcome: Outcome

    @property
    def waits_s(self) -> list[float]:
        """Seconds of each job from its arrival until its picture is begun."""
        return [served.waited_s for served in self.outcome.served]

    @property
    def per_thousand(self) -> float:
        """USD for 1,000 pictures."""
        return 1000 * self.outcome.cost / len(self.outcome.served)

    @property
    def median_s(self) -> float:
        """Median wait."""
        return statistics.median(self.waits_s)

    @property
    def p95_s(self) -> float:
        """95th percentile of the waits."""
        return statistics.quantiles(self.waits_s, n=20)[18]

    @property
    def downloads(self) -> float:
        """Files a job."""
        return sum(served.downloads for served in self.outcome.served) / len(self.outcome.served)

    def share(self, part: str) -> float:
        """Return the share of worker seconds spent on ``start``, ``download``, ``load``, ``render`` or ``idle``."""
        return float(getattr(self.outcome.bill, f"{part}_s")) / self.outcome.bill.worker_s

    def cells(self) -> list[str]:
        """Return the table's row."""
        shares = [f"{100 * self.share(part):.0f} %" for part in ("start", "download", "load", "idle")]
        numbers = [f"{self.per_thousand:.2f}", f"{self.median_s:.1f}", f"{self.p95_s:.1f}", f"{self.downloads:.2f}"]
        return [*self.labels, *numbers, *shares]


COLUMNS = ("$ / 1,000 pictures", "wait, median s", "p95 s", "downloads a job", "start", "download", "load", "idle")


def table(labels: tuple[str, ...], rows: list[Row]) -> str:
    """Return Markdown; the last four columns are shares of the billed seconds, the rest of which is rendering."""
    lines = [labels + COLUMNS, ("---",) * (len(labels) + len(COLUMNS)), *(row.cells() for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def run(labels: tuple[str, ...], endpoint: EndpointSettings, load: Workload) -> Row:
    """Simulate one endpoint under one load; all endpoints get the same jobs."""
    return Row(labels, Simulation(endpoint, SEED).run(jobs(load, SEED)))


POLICIES = {
    "prune to the list": {"keep_gb": 0.0},
    "KEEP_GB=30": {"keep_gb": 30.0},
    "keep all": {"keep_gb": ROOMY},
    "volume": {"volume": True},
}


def by_workers(arrivals: str) -> list[Row]:
    """Vary the workers from 1 to 1,000, each with the same load."""
    rows = []
    for count in WORKERS:
        load = Workload(
            jobs_per_s=LOAD[arrivals] * count / 12, jobs=max(4000, 100 * count), arrivals=arrivals, checkpoints=10
        )
        for name, policy in POLICIES.items():
            rows.append(
                run((f"{count:,}", name), EndpointSettings(max_workers=count, idle_timeout_s=30, **policy), load)
            )
    return rows


def by_idle_timeout() -> list[Row]:
    """Vary the idle timeout and the time between pictures, with up to three workers."""
    rows = []
    for every_s in (20, 60, 300):
        for idle_s in IDLE_S:
            load = Workload(jobs_per_s=1 / every_s, jobs=3000)
            rows.append(run((f"{every_s} s", f"{idle_s}"), EndpointSettings(idle_timeout_s=idle_s, keep_gb=30), load))
    return rows


def by_keep_gb() -> list[Row]:
    """Vary the models that a worker's own disk keeps, and their variety."""
    rows = []
    for checkpoints in (1, 5, 20, 100):
        for keep_gb in KEEP_GB:
            load = Workload(jobs_per_s=0.3, jobs=4000, checkpoints=checkpoints, loras=4 * checkpoints)
            endpoint = EndpointSettings(max_workers=10, idle_timeout_s=30, keep_gb=keep_gb)
            rows.append(run((f"{checkpoints}", f"{keep_gb}"), endpoint, load))
    return rows


def by_place() -> list[Row]:
    """Compare a network volume with the workers' own disks, at several speeds of the sites and the volume."""
    rows = []
    for every_s, workers in ((300, 3), (60, 3), (3, 10)):
        load = Workload(jobs_per_s=1 / every_s, jobs=3000, checkpoints=10)
        for download in (100.0, 400.0):
            own = EndpointSettings(max_workers=workers, idle_timeout_s=30, download_mb_s=download, keep_gb=ROOMY)
            rows.append(run((f"{every_s} s", f"{download:.0f}", "own disk"), own, load))
            for speed in (200.0, 400.0):
                volume = replace(own, volume=True, keep_gb=0, volume_mb_s=speed)
                rows.append(run((f"{every_s} s", f"{download:.0f}", f"volume, {speed:.0f} MB/s"), volume, load))
    return rows


def by_scaler() -> list[Row]:
    """Compare the rules that start a worker, under steady and bursty arrivals of the same mean."""
    scalers: dict[str, dict[str, object]] = {
        f"queue delay {delay} s": {"queue_delay_s": float(delay)} for delay in (1, 4, 15, 30, 60)
    }
    scalers |= {f"request count {n}": {"scaler": "request count", "request_count": n} for n in (1, 4)}
    rows = []
    for arrivals in ("steady", "bursty"):
        load = Workload(jobs_per_s=0.2, jobs=4000, arrivals=arrivals)
        for name, scaler in scalers.items():
            endpoint = EndpointSettings(max_workers=20, idle_timeout_s=15, keep_gb=30, **scaler)  # type: ignore[arg-type]
            rows.append(run((arrivals, name), endpoint, load))
    return rows


def by_active() -> list[Row]:
    """Vary the active workers over a day with a quiet night."""
    load = Workload(jobs_per_s=0.25, jobs=21_600, arrivals="daily")
    return [
        run(
            (f"{active}",), EndpointSettings(max_workers=15, active_workers=active, idle_timeout_s=30, keep_gb=30), load
        )
        for active in (0, 1, 2, 3, 5, 8, 12)
    ]


def by_start() -> list[Row]:
    """Compare cold starts: downloads beside ComfyUI's start or after it, models in the image, FlashBoot."""
    load = Workload(jobs_per_s=1 / 60, jobs=3000)
    base = EndpointSettings(keep_gb=30)
    ways = {
        "downloads beside ComfyUI's start (as built)": base,
        "ComfyUI first, then the download (as peers do)": replace(base, take_s=base.start_s, read_ahead=False),
        "models in the image": replace(base, baked=True),
        "FlashBoot keeps a worker 60 s": replace(base, flash_kept_s=60),
        "FlashBoot keeps a worker 600 s": replace(base, flash_kept_s=600),
    }
    return [run((name,), endpoint, load) for name, endpoint in ways.items()]
