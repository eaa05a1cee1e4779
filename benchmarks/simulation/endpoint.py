"""The endpoint itself: a queue, workers that start, work, idle and stop, and the bill.

Rules, as RunPod documents them (benchmarks/simulation/settings.py): jobs are taken in the order of their arrival by any
free worker; a worker is billed from its start until it has stopped, in whole seconds; it stops when it found no job for
``idle_timeout_s``. Not documented: which of several free workers takes a job (here any, at random).
"""

from __future__ import annotations

import heapq
import itertools
import math
import random
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from benchmarks.simulation.settings import MONTH_S, EndpointSettings
from benchmarks.simulation.store import Memory, OwnDisk, Volume
from benchmarks.simulation.workload import SimulatedJob

BUSY = -1.0
ROUNDING_S = 1e-6


@dataclass
class Bill:
    """Worker seconds by use, and whole lives as they are billed."""

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
        """The sum of all workers' seconds."""
        return self.start_s + self.download_s + self.load_s + self.render_s + self.idle_s


@dataclass
class Served:
    """A job that was served: seconds from its arrival until its picture was begun, and until it was done."""

    job: SimulatedJob
    waited_s: float
    done_s: float
    downloads: int


@dataclass
class Outcome:
    """The result of a run."""

    endpoint: EndpointSettings
    served: list[Served] = field(default_factory=list)
    bill: Bill = field(default_factory=Bill)
    lives: int = 0
    """Cold and warm starts of workers."""
    ended_at: float = 0.0

    @property
    def cost(self) -> float:
        """USD for workers, their disks, and the volume for the length of the run."""
        settings, bill = self.endpoint, self.bill
        workers = bill.flex_s * settings.price + bill.active_s * settings.active_price
        disk_gb = settings.container_gb + (0 if settings.volume else settings.keep_gb)
        disks = (bill.flex_s + bill.active_s) * disk_gb * settings.disk_gb_month / MONTH_S
        return workers + disks + bill.volume_gb * self.ended_at * settings.volume_gb_month / MONTH_S


@dataclass(eq=False)
class _Worker:
    """A worker, running or stopped."""

    active: bool
    disk: OwnDisk | Volume
    memory: Memory
    started_at: float = -1.0
    stopped_at: float = -math.inf
    free_at: float = BUSY
    """Start of its idle time; ``BUSY`` while it works or is stopped."""
    comfyui_at: float = 0.0
    """Time of ComfyUI's first answer."""


class Simulation:
    """One run. Build it, then :meth:`run` it once."""

    def __init__(self, endpoint: EndpointSettings, seed: int = 0) -> None:
        self._settings = endpoint
        self._random = random.Random(seed)
        self._volume = Volume(endpoint) if endpoint.volume else None
        self._stopped = [
            _Worker(number < endpoint.active_workers, self._new_disk(), Memory(endpoint))
            for number in range(endpoint.max_workers)
        ]
        self._stopped.reverse()
        self._free: list[_Worker] = []
        self._starting = self._busy = 0
        self._queue: deque[SimulatedJob] = deque()
        self._events: list[tuple[float, int, Callable[[float], None]]] = []
        self._order = itertools.count()
        self._out = Outcome(endpoint)

    def run(self, jobs: Iterable[SimulatedJob]) -> Outcome:
        """Serve every job; ends when the last worker has stopped (active ones: when the last job is done)."""
        arrivals = iter(jobs)
        self._next_arrival(arrivals)
        for _ in range(self._settings.active_workers):
            self._start(0.0)
        while self._events:
            now, _, action = heapq.heappop(self._events)
            action(now)
        self._out.ended_at = max(self._out.ended_at, *(served.job.at + served.done_s for served in self._out.served))
        for worker in [worker for worker in self._free if worker.active]:
            self._stop(worker, self._out.ended_at)
        self._out.bill.volume_gb = self._volume.gb if self._volume else 0.0
        return self._out

    def _new_disk(self) -> OwnDisk | Volume:
        return self._volume or OwnDisk(self._settings)

    def _at(self, time: float, action: Callable[[float], None]) -> None:
        heapq.heappush(self._events, (time, next(self._order), action))

    # Jobs arrive

    def _next_arrival(self, arrivals: Iterator[SimulatedJob]) -> None:
        job = next(arrivals, None)
        if job is not None:
            self._at(job.at, lambda now: self._arrive(job, arrivals, now))

    def _arrive(self, job: SimulatedJob, arrivals: Iterator[SimulatedJob], now: float) -> None:
        self._queue.append(job)
        self._assign(now)
        if self._settings.scaler == "request count":
            self._scale_by_count(now)
        elif self._queue:
            self._at(now + self._settings.queue_delay_s, self._scale_by_delay)
        self._next_arrival(arrivals)

    def _scale_by_delay(self, now: float) -> None:
        """Start a worker for each job that has waited too long, less the workers that are starting."""
        index = self._starting
        if index < len(self._queue) and now - self._queue[index].at >= self._settings.queue_delay_s - ROUNDING_S:
            self._start(now)

    def _scale_by_count(self, now: float) -> None:
        target = math.ceil((len(self._queue) + self._busy) / self._settings.request_count)
        while self._starting + self._busy + len(self._free) < target and self._stopped:
            self._start(now)

    def _assign(self, now: float) -> None:
        while self._queue and self._free:
            chosen = self._random.randrange(len(self._free))
            self._free[chosen], self._free[-1] = self._free[-1], self._free[chosen]
            self._work(self._free.pop(), self._queue.popleft(), now)

    # A worker's life

    def _start(self, now: float) -> None:
        if not self._stopped:
            return
        worker = self._stopped.pop()
        settings = self._settings
        kept = now - worker.stopped_at <= settings.flash_kept_s
        if not kept:
            worker.disk, worker.memory = self._new_disk(), Memory(settings)
        start_s = min(settings.flash_s, settings.start_s) if kept else settings.start_s
        worker.started_at, worker.comfyui_at = now, now + start_s
        self._starting += 1
        self._out.lives += 1
        self._at(now + min(settings.take_s, start_s), lambda then: self._ready(worker, then))

    def _ready(self, worker: _Worker, now: float) -> None:
        self._starting -= 1
        self._out.bill.start_s += now - worker.started_at
        self._become_free(worker, now)

    def _become_free(self, worker: _Worker, now: float) -> None:
        worker.free_at = now
        self._free.append(worker)
        self._assign(now)
        if worker.free_at == now and not worker.active:
            idle_s = self._settings.idle_timeout_s if self._settings.scaler == "queue delay" else 0.0
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

    def _work(self, worker: _Worker, job: SimulatedJob, now: float) -> None:
        bill = self._out.bill
        bill.idle_s += now - worker.free_at
        present_at, downloaded = worker.disk.fetch(job.models, now)
        up_at = max(present_at, worker.comfyui_at)
        ahead_s = up_at - present_at if self._settings.read_ahead else 0.0
        load_s = worker.memory.load_s(job.models, worker.disk.read_mb_s, downloaded, ahead_s)
        begins_at = up_at + load_s
        bill.download_s += present_at - now
        bill.start_s += up_at - present_at
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
