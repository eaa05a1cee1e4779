"""Jobs as callers send them: arrival, models, GPU time. Pure and seeded."""

from __future__ import annotations

import itertools
import math
import random
from bisect import bisect
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from benchmarks.simulation.settings import Workload

DAY_S = 86_400.0
BURST_S = 60.0
"""Length of a burst."""
BURST_FACTOR = 10
"""Times the mean rate in a burst; between bursts nothing comes, so there is one in ten minutes."""


@dataclass(frozen=True)
class SimulatedJob:
    """One job: ``models`` maps each model's name to its GB, the checkpoint first."""

    number: int
    at: float
    models: tuple[tuple[str, float], ...]
    render_s: float


def jobs(load: Workload, seed: int) -> Iterator[SimulatedJob]:
    """Yield ``load.jobs`` jobs in the order of their arrival."""
    times = {"steady": _steady, "bursty": _bursty, "daily": _daily}[load.arrivals]
    chance = random.Random(seed)
    arrivals = times(load.jobs_per_s, random.Random(seed + 1))
    pick_checkpoint = _zipf("ckpt", load.checkpoints, load.zipf)
    pick_lora = _zipf("lora", load.loras, load.zipf)
    for number, at in enumerate(itertools.islice(arrivals, load.jobs)):
        models = {pick_checkpoint(chance): load.checkpoint_gb} if load.checkpoints else {}
        models |= {pick_lora(chance): load.lora_gb for _ in range(load.loras_per_job if load.loras else 0)}
        render = load.render_s * math.exp(chance.gauss(0, load.render_spread))
        yield SimulatedJob(number, at, tuple(models.items()), render)


def _zipf(kind: str, count: int, power: float) -> Callable[[random.Random], str]:
    sums = list(itertools.accumulate(1 / rank**power for rank in range(1, count + 1)))
    return lambda chance: f"{kind}-{bisect(sums, chance.random() * sums[-1])}"


def _steady(rate: float, chance: random.Random) -> Iterator[float]:
    now = 0.0
    while True:
        now += chance.expovariate(rate)
        yield now


def _bursty(rate: float, chance: random.Random) -> Iterator[float]:
    for at in _steady(rate * BURST_FACTOR, chance):
        burst, within = divmod(at, BURST_S)
        yield burst * BURST_S * BURST_FACTOR + within


def _daily(rate: float, chance: random.Random) -> Iterator[float]:
    """Yield arrivals at 0.1 of the mean rate at midnight to 1.9 of it at noon."""
    for at in _steady(rate * 1.9, chance):
        if chance.random() * 1.9 < 1 - 0.9 * math.cos(2 * math.pi * at / DAY_S):
            yield at
