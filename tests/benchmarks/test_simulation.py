"""The simulated endpoint: every job once, every second billed once, and cases that can be worked out by hand."""

import itertools
import math
import statistics
from dataclasses import replace

import pytest

from benchmarks.simulation.endpoint import Simulation
from benchmarks.simulation.settings import MONTH_S, EndpointSettings, Workload
from benchmarks.simulation.store import Memory, OwnDisk, Volume
from benchmarks.simulation.workload import DAY_S, SimulatedJob, jobs

CKPT = (("a", 4.0),)
OTHER = (("b", 4.0),)
PLAIN = EndpointSettings(
    max_workers=1, idle_timeout_s=5, queue_delay_s=4, start_s=10, take_s=2, download_mb_s=400, disk_read_mb_s=2000
)  # 4 GB: 10 s to download, 2 s to load from the disk, 0.667 s from memory
FROM_MEMORY_S = 4.0 / 6
LOADS = [
    Workload(jobs=600, jobs_per_s=0.2, arrivals=arrivals, checkpoints=checkpoints)
    for arrivals in ("steady", "bursty", "daily")
    for checkpoints in (1, 8)
]
ENDPOINTS = [
    EndpointSettings(max_workers=1),
    EndpointSettings(max_workers=8, keep_gb=20, idle_timeout_s=60),
    EndpointSettings(max_workers=8, volume=True),
    EndpointSettings(max_workers=8, scaler="request count", request_count=1),
    EndpointSettings(max_workers=6, active_workers=2, flash_kept_s=120),
    EndpointSettings(max_workers=6, baked=True, take_s=15),
]


def run(endpoint, *jobs_there):
    return Simulation(endpoint).run(iter(jobs_there))


def job(number, at, models=CKPT, render_s=12.0):
    return SimulatedJob(number, at, models, render_s)


@pytest.mark.parametrize("load", LOADS, ids=lambda load: f"{load.arrivals}-{load.checkpoints}")
@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=range(len(ENDPOINTS)))
def test_every_job_is_served_once_and_every_second_of_a_worker_is_on_the_bill_once(endpoint, load):
    outcome = Simulation(endpoint, seed=5).run(jobs(load, seed=5))
    bill = outcome.bill
    assert sorted(served.job.number for served in outcome.served) == list(range(load.jobs))
    assert all(served.waited_s >= 0 for served in outcome.served)
    assert bill.render_s == pytest.approx(sum(served.job.render_s for served in outcome.served))
    billed = bill.flex_s + bill.active_s
    assert bill.worker_s <= billed + 1e-3
    assert billed < bill.worker_s + outcome.lives, "more than a second was rounded up in a worker's life"


def test_the_cost_is_the_billed_seconds_at_their_prices_with_the_disks_and_the_volume():
    endpoint = EndpointSettings(max_workers=4, active_workers=1, volume=True, container_gb=40)
    outcome = Simulation(endpoint, seed=1).run(jobs(Workload(jobs=300, jobs_per_s=0.3), seed=1))
    bill = outcome.bill
    assert bill.flex_s > 0
    assert bill.active_s == math.ceil(outcome.ended_at - 1e-6)
    disks = (bill.flex_s + bill.active_s) * 40 * 0.10 / MONTH_S
    volume = bill.volume_gb * outcome.ended_at * 0.07 / MONTH_S
    assert outcome.cost == pytest.approx(bill.flex_s * 0.00031 + bill.active_s * 0.00021 + disks + volume)


def test_one_seed_gives_one_outcome_and_another_seed_another():
    load, endpoint = Workload(jobs=400, jobs_per_s=0.3), EndpointSettings(max_workers=5, keep_gb=10)
    first, again, other = (Simulation(endpoint, seed).run(jobs(load, seed)) for seed in (7, 7, 8))
    assert (first.served, first.bill) == (again.served, again.bill)
    assert first.served != other.served


def test_a_first_job_waits_for_the_scaler_then_for_the_slower_of_start_and_download():
    outcome = run(PLAIN, job(0, 100.0))
    (served,) = outcome.served
    assert served.waited_s == pytest.approx(4 + 2 + 10 + FROM_MEMORY_S)  # delay, take, download; ComfyUI is up by then
    bill = outcome.bill
    assert (bill.start_s, bill.download_s, bill.idle_s) == pytest.approx((2, 10, 5))
    assert bill.flex_s == math.ceil(2 + 10 + FROM_MEMORY_S + 12 + 5)


def test_a_worker_that_waits_for_comfyui_first_pays_start_and_download_one_after_the_other():
    outcome = run(replace(PLAIN, take_s=10), job(0, 0.0))
    assert outcome.served[0].waited_s == pytest.approx(4 + 10 + 10 + FROM_MEMORY_S)


def test_a_small_download_is_hidden_behind_the_start():
    outcome = run(PLAIN, job(0, 0.0, (("a", 0.4),)))
    assert outcome.served[0].waited_s == pytest.approx(4 + 10 + 0.4 / 6)
    assert outcome.bill.start_s == pytest.approx(2 + 8 - 1)


def test_a_second_job_of_the_same_models_within_the_idle_time_begins_at_once():
    first_done = 4 + 2 + 10 + FROM_MEMORY_S + 12
    outcome = run(PLAIN, job(0, 0.0), job(1, first_done + 4.9))
    assert outcome.served[1].waited_s == pytest.approx(0)
    assert outcome.lives == 1
    later = run(PLAIN, job(0, 0.0), job(1, first_done + 5.1))
    assert later.lives == 2
    assert later.served[1].downloads == 1, "a stopped worker's disk is gone"


def test_flashboot_keeps_what_a_stopped_worker_had():
    kept = replace(PLAIN, flash_kept_s=60, flash_s=3)
    outcome = run(kept, job(0, 0.0), job(1, 60.0))
    assert outcome.lives == 2
    assert outcome.served[1].waited_s == pytest.approx(4 + 3)
    assert outcome.served[1].downloads == 0


def test_jobs_are_taken_in_the_order_of_their_arrival_and_a_late_one_starts_a_worker():
    outcome = run(replace(PLAIN, max_workers=2), job(0, 0.0), job(1, 1.0), job(2, 2.0))
    assert [served.job.number for served in outcome.served] == [0, 1, 2]
    assert outcome.lives == 2


def test_the_request_count_starts_one_worker_for_so_many_jobs():
    burst = [job(number, number / 100) for number in range(8)]
    by_four = run(replace(PLAIN, max_workers=20, scaler="request count", request_count=4), *burst)
    by_one = run(replace(PLAIN, max_workers=20, scaler="request count", request_count=1), *burst)
    assert (by_four.lives, by_one.lives) == (2, 8)


def test_pruning_keeps_the_list_and_the_budget_of_the_most_recently_used():
    disk = OwnDisk(replace(PLAIN, keep_gb=4.0))
    assert disk.fetch(CKPT, 0.0) == (10.0, {"a"})
    assert disk.fetch(OTHER, 0.0) == (10.0, {"b"})
    assert disk.fetch(CKPT, 0.0) == (0.0, set())
    assert disk.fetch((("c", 4.0),), 0.0)[1] == {"c"}
    assert disk.fetch(CKPT, 0.0)[1] == set()
    assert disk.fetch(OTHER, 0.0)[1] == {"b"}, "the least recently used one was over the budget"


def test_without_a_budget_only_the_list_stays():
    disk = OwnDisk(PLAIN)
    assert [disk.fetch(models, 0.0)[1] for models in (CKPT, OTHER, CKPT)] == [{"a"}, {"b"}, {"a"}]


def test_on_a_volume_a_model_is_downloaded_once_and_the_others_wait_for_it():
    volume = Volume(replace(PLAIN, volume_mb_s=200))
    assert volume.fetch(CKPT, 0.0) == (20.0, {"a"})
    assert volume.fetch(CKPT, 5.0) == (20.0, set())
    assert volume.fetch(CKPT, 50.0) == (50.0, set())
    assert volume.gb == 4.0


def test_what_is_on_the_gpu_or_in_memory_is_not_read_again():
    memory = Memory(replace(PLAIN, memory_gb=8.0))
    assert memory.load_s(CKPT, 2000, set()) == 2.0
    assert memory.load_s(CKPT, 2000, set()) == 0.0
    assert memory.load_s(OTHER, 2000, set()) == 2.0
    assert memory.load_s(CKPT, 2000, set()) == pytest.approx(FROM_MEMORY_S)
    memory.load_s((("c", 4.0),), 2000, set())
    assert memory.load_s(OTHER, 2000, set()) == 2.0, "memory holds two of the three"


def test_what_was_read_ahead_while_comfyui_started_need_not_be_waited_for():
    def load_s(ahead_s):
        return Memory(PLAIN).load_s(CKPT, 200, set(), ahead_s)

    assert [load_s(ahead_s) for ahead_s in (0, 15, 60)] == pytest.approx([20, 5, FROM_MEMORY_S])
    slow = replace(PLAIN, volume=True, volume_mb_s=200)
    with_it, without = (
        run(replace(slow, read_ahead=on), job(0, 0.0), job(1, 500.0)).served[1].waited_s for on in (True, False)
    )
    assert without - with_it == pytest.approx(8)  # ComfyUI comes 8 s after the job was taken


def test_one_worker_that_is_always_on_waits_as_the_queue_of_one_server_does():
    """M/D/1: the mean wait is rho * D / (2 * (1 - rho)) (Pollaczek and Khinchine)."""
    endpoint = EndpointSettings(max_workers=1, active_workers=1, start_s=0, take_s=0)
    for rho in (0.3, 0.6, 0.8):
        load = Workload(jobs_per_s=rho / 12, render_spread=0, checkpoints=0, loras=0, jobs=60_000)
        waits = [served.waited_s for served in Simulation(endpoint).run(jobs(load, 11)).served]
        assert statistics.mean(waits) == pytest.approx(rho * 12 / (2 * (1 - rho)), rel=0.05)


def test_a_larger_budget_never_downloads_more_and_a_longer_idle_time_never_starts_more_often():
    load = Workload(jobs=2000, jobs_per_s=0.05, checkpoints=10)
    always_on = EndpointSettings(max_workers=1, active_workers=1)
    files = [
        sum(served.downloads for served in Simulation(replace(always_on, keep_gb=gb)).run(jobs(load, 3)).served)
        for gb in (0, 10, 20, 40, 80)
    ]
    assert files == sorted(files, reverse=True)
    lives = [
        Simulation(EndpointSettings(max_workers=1, idle_timeout_s=s)).run(jobs(load, 3)).lives for s in (1, 10, 60, 600)
    ]
    assert lives == sorted(lives, reverse=True)


@pytest.mark.parametrize("arrivals", ["steady", "bursty", "daily"])
def test_arrivals_come_in_order_at_the_mean_rate(arrivals):
    load = Workload(jobs=86_400, jobs_per_s=0.5, arrivals=arrivals)  # two days
    times = [each.at for each in jobs(load, 2)]
    assert times == sorted(times)
    assert len(times) / times[-1] == pytest.approx(0.5, rel=0.1)
    if arrivals == "bursty":
        assert all(at % 600 < 60 for at in times)
    if arrivals == "daily":
        nights = sum(1 for at in times if at % DAY_S < DAY_S / 4 or at % DAY_S > 3 * DAY_S / 4)
        assert nights < 0.35 * len(times)


def test_popular_models_are_asked_for_as_often_as_zipf_says():
    load = Workload(jobs=40_000, checkpoints=3, loras=0)
    names = [each.models[0][0] for each in jobs(load, 4)]
    shares = [names.count(f"ckpt-{number}") / len(names) for number in range(3)]
    assert shares == pytest.approx([6 / 11, 3 / 11, 2 / 11], abs=0.01)


def test_a_job_lists_a_model_once():
    load = Workload(jobs=500, loras=2, loras_per_job=4)
    for each in itertools.islice(jobs(load, 6), 500):
        assert len({name for name, _ in each.models}) == len(each.models)
