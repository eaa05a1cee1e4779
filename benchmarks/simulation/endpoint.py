"""The endpoint itself: a queue, workers that start, work, idle and stop, and the bill.

Rules, as RunPod documents them (benchmarks/simulation/settings.py): jobs are taken in the order of their arrival by any
free worker; a worker is billed from its start until it has stopped, in whole seconds; it stops when it found no job for
``idle_timeout_s``. What is not documented: which of several free workers takes a job (any, by chance).
"""

from __future__ import annotations

import heapq
import itertools
import math
import random
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from benchmarks.simulation.settings import MONTH_S, Endpoint
from benchmarks.simulation.store import Memory, OwnDisk, Volume
from benchmarks.simulation.workload import Job

BUSY = -1.0
ROUNDING_S = 1e-6


@dataclass
class Bill:
    """Worker seconds by what they were spent on, and whole lives as they are billed."""

    start_s: float = 0.0
    download_s: float = 0.0
    load_s: float = 0.0
    render_s: float = 0.0
    idle_s: float = 0.0
    flex_s: int = 0
    active_s: int = 0
    volume_gb: float = 0.0

    @property
    def worker_s(self) -> float:
        """All the workers' seconds."""
        return self.start_s + self.download_s + self.load_s + self.render_s + self.idle_s


@dataclass
class Served:
    """One job's way: seconds from its arrival until its picture was begun, and until it was done."""

    job: Job
    waited_s: float
    done_s: float
    downloads: int


@dataclass
class Outcome:
    """All that a run tells."""

    endpoint: Endpoint
    served: list[Served] = field(default_factory=list)
    bill: Bill = field(default_factory=Bill)
    lives: int = 0
    """Cold and warm starts of workers."""
    ended_at: float = 0.0

    @property
    def cost(self) -> float:
        """In USD: workers, their disks, and the volume for as long as the run lasted."""
        here, bill = self.endpoint, self.bill
        workers = bill.flex_s * here.price + bill.active_s * here.active_price
        disk_gb = here.container_gb + (0 if here.volume else here.keep_gb)
        disks = (bill.flex_s + bill.active_s) * disk_gb * here.disk_gb_month / MONTH_S
        return workers + disks + bill.volume_gb * self.ended_at * here.volume_gb_month / MONTH_S


@dataclass(eq=False)
class _Worker:
    """A slot for one."""

    active: bool
    disk: OwnDisk | Volume
    memory: Memory
    started_at: float = -1.0
    stopped_at: float = -math.inf
    free_at: float = BUSY
    """Since when it has had nothing to do; ``BUSY`` when it has, or is stopped."""
    comfyui_at: float = 0.0
    """When ComfyUI answers."""


class Simulation:
    """One run. Build it, then :meth:`run` it once."""

    def __init__(self, endpoint: Endpoint, seed: int = 0) -> None:
        self._set = endpoint
        self._chance = random.Random(seed)
        self._volume = Volume(endpoint) if endpoint.volume else None
        self._stopped = [
            _Worker(number < endpoint.active_workers, self._new_disk(), Memory(endpoint))
            for number in range(endpoint.max_workers)
        ]
        self._stopped.reverse()
        self._free: list[_Worker] = []
        self._starting = self._busy = 0
        self._queue: deque[Job] = deque()
        self._events: list[tuple[float, int, Callable[[float], None]]] = []
        self._order = itertools.count()
        self._out = Outcome(endpoint)

    def run(self, jobs: Iterable[Job]) -> Outcome:
        """Serve every job; ends when the last worker has stopped (active ones: when the last job is done)."""
        coming = iter(jobs)
        self._next_arrival(coming)
        for _ in range(self._set.active_workers):
            self._start(0.0)
        while self._events:
            now, _, happen = heapq.heappop(self._events)
            happen(now)
        self._out.ended_at = max(self._out.ended_at, *(served.job.at + served.done_s for served in self._out.served))
        for worker in [worker for worker in self._free if worker.active]:
            self._stop(worker, self._out.ended_at)
        self._out.bill.volume_gb = self._volume.gb if self._volume else 0.0
        return self._out

    def _new_disk(self) -> OwnDisk | Volume:
        return self._volume or OwnDisk(self._set)

    def _at(self, time: float, happen: Callable[[float], None]) -> None:
        heapq.heappush(self._events, (time, next(self._order), happen))

    # Jobs come

    def _next_arrival(self, coming: Iterator[Job]) -> None:
        job = next(coming, None)
        if job is not None:
            self._at(job.at, lambda now: self._arrive(job, coming, now))

    def _arrive(self, job: Job, coming: Iterator[Job], now: float) -> None:
        self._queue.append(job)
        self._give_out(now)
        if self._set.scaler == "request count":
            self._scale_by_count(now)
        elif self._queue:
            self._at(now + self._set.queue_delay_s, self._scale_by_delay)
        self._next_arrival(coming)

    def _scale_by_delay(self, now: float) -> None:
        """One worker for each job that has waited too long and that no starting worker is for yet."""
        first = self._starting
        if first < len(self._queue) and now - self._queue[first].at >= self._set.queue_delay_s - ROUNDING_S:
            self._start(now)

    def _scale_by_count(self, now: float) -> None:
        wanted = math.ceil((len(self._queue) + self._busy) / self._set.request_count)
        while self._starting + self._busy + len(self._free) < wanted and self._stopped:
            self._start(now)

    def _give_out(self, now: float) -> None:
        while self._queue and self._free:
            chosen = self._chance.randrange(len(self._free))
            self._free[chosen], self._free[-1] = self._free[-1], self._free[chosen]
            self._work(self._free.pop(), self._queue.popleft(), now)

    # A worker's life

    def _start(self, now: float) -> None:
        if not self._stopped:
            return
        worker = self._stopped.pop()
        here = self._set
        kept = now - worker.stopped_at <= here.flash_kept_s
        if not kept:
            worker.disk, worker.memory = self._new_disk(), Memory(here)
        start_s = min(here.flash_s, here.start_s) if kept else here.start_s
        worker.started_at, worker.comfyui_at = now, now + start_s
        self._starting += 1
        self._out.lives += 1
        self._at(now + min(here.take_s, start_s), lambda then: self._ready(worker, then))

    def _ready(self, worker: _Worker, now: float) -> None:
        self._starting -= 1
        self._out.bill.start_s += now - worker.started_at
        self._become_free(worker, now)

    def _become_free(self, worker: _Worker, now: float) -> None:
        worker.free_at = now
        self._free.append(worker)
        self._give_out(now)
        if worker.free_at == now and not worker.active:
            idle_s = self._set.idle_timeout_s if self._set.scaler == "queue delay" else 0.0
            self._at(now + idle_s, lambda then: self._idle_over(worker, now, then))

    def _idle_over(self, worker: _Worker, since: float, now: float) -> None:
        if worker.free_at == since:
            self._free.remove(worker)
            self._stop(worker, now)

    def _stop(self, worker: _Worker, now: float) -> None:
        self._out.bill.idle_s += now - worker.free_at
        billed = math.ceil(now - worker.started_at - ROUNDING_S)
        if worker.active:
            self._out.bill.active_s += billed
        else:
            self._out.bill.flex_s += billed
        self._out.ended_at = max(self._out.ended_at, now)
        worker.stopped_at, worker.free_at = now, BUSY
        self._stopped.append(worker)

    def _work(self, worker: _Worker, job: Job, now: float) -> None:
        bill = self._out.bill
        bill.idle_s += now - worker.free_at
        there_at, downloaded = worker.disk.bring(job.models, now)
        up_at = max(there_at, worker.comfyui_at)
        ahead_s = up_at - there_at if self._set.read_ahead else 0.0
        load_s = worker.memory.load_s(job.models, worker.disk.read_mb_s, downloaded, ahead_s)
        begins_at = up_at + load_s
        bill.download_s += there_at - now
        bill.start_s += up_at - there_at
        bill.load_s += load_s
        bill.render_s += job.render_s
        ends_at = begins_at + job.render_s
        self._out.served.append(Served(job, begins_at - job.at, ends_at - job.at, len(downloaded)))
        worker.free_at = BUSY
        self._busy += 1
        self._at(ends_at, lambda then: self._done(worker, then))

    def _done(self, worker: _Worker, now: float) -> None:
        self._busy -= 1
        self._become_free(worker, now)
