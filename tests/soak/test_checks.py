"""Every check of the soak fails on what it is there to find, and on nothing else."""

from __future__ import annotations

import base64
import hashlib
import io
import itertools
import os

import pytest
from PIL import Image

from tests.soak import checks
from tests.soak.chaos import SPARED, WorkerProcesses, find_workers, may_strike
from tests.soak.checks import Growth, Sample
from tests.soak.generator import Generator, Picture, Plan, make_models
from tests.soak.ledger import COMFYUI_KILLED, WORKER_KILLED, WORKER_TERMINATED, Ending, Kill, Ledger, Removal
from tests.soak.soak import IS_PRUNED, IS_THERE, names_in
from tests.soak.watch import FolderWatch, deleted_and_open

RED, BLUE = (255, 0, 0), (0, 0, 255)
A = {"folder": "loras", "name": "a.safetensors"}


def picture(colour=RED, size=(8, 8), node_id="9"):
    data = io.BytesIO()
    Image.new("RGB", size, colour).save(data, "PNG")
    return {"node_id": node_id, "b64": base64.b64encode(data.getvalue()).decode()}


def plan(**fields):
    return Plan(1, {}, **{"pictures": {"9": Picture((8, 8), RED)}, **fields})


def ending(the_plan=None, state="COMPLETED", *, cancelled=False, images=None, models=None, **status):
    """A job that was asked for at 100 s, taken at 101, ran from 102 to 104 and was there at 104.5."""
    timings = {"run_s": 2.0, "collect_s": 0.0, "total_s": 3.0}
    output = {"images": [picture()] if images is None else images, "models": models or {}, "timings": timings}
    facts = {"status": state, "delayTime": 1000, "executionTime": 3500, "workerId": "worker2-x", **status}
    if state == "COMPLETED":
        facts["output"] = output
    return Ending(the_plan or plan(), "id", (100.0, 100.0), facts, cancelled)


def judged(found, kills=(), drawn=None):
    return checks.judge(found, kills, {} if drawn is None else drawn)


# --- jobs


def test_a_job_that_ended_as_planned_is_right():
    assert judged(ending()) == []
    assert judged(ending(plan(error="TIMEOUT", pictures={}), "FAILED", error="TIMEOUT: too late. Ask for less.")) == []


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (ending(state="FAILED", error="MODEL_MISSING: x. y"), "FAILED with 'MODEL_MISSING"),
        (ending(plan(error="TIMEOUT")), "should have failed with TIMEOUT"),
        (ending(plan(error="TIMEOUT"), "FAILED", error="INTERNAL: x. y"), "where TIMEOUT was right"),
        (ending(state="CANCELLED"), "though nobody cancelled it"),
        (ending(state="TIMED_OUT"), "ended as TIMED_OUT"),
        (ending(images=[]), "pictures of the nodes []"),
        (ending(images=[picture(), picture(node_id="39")]), "pictures of the nodes ['39', '9']"),
        (ending(images=[picture(), picture()]), "2 pictures"),
        (ending(images=[picture(BLUE)]), "its colours are"),
        (ending(images=[picture(size=(9, 8))]), "(9, 8) pixels"),
        (ending(plan(lists=(1, 2)), models={"ready": [A]}), "lists 2 models"),
        (ending(plan(lists=(1,)), models={"ready": [A], "pruned": [A]}), "pruned what it lists"),
    ],
)
def test_a_job_that_ended_otherwise_is_a_violation(wrong, said):
    (sentence,) = judged(wrong)
    assert said in sentence


def test_a_cancelled_job_may_have_been_faster_but_not_wrong():
    assert judged(ending(state="CANCELLED", cancelled=True)) == []
    assert judged(ending(cancelled=True)) == []
    assert judged(ending(cancelled=True, images=[picture(BLUE)]))


def test_one_recipe_has_one_picture():
    drawn = {}
    planned = plan(pictures={"9": Picture((8, 8), recipe="20 steps of [1]")})
    assert judged(ending(planned), drawn=drawn) == judged(ending(planned), drawn=drawn) == []
    assert "differs from another" in judged(ending(planned, images=[picture(BLUE)]), drawn=drawn)[0]


@pytest.mark.parametrize(
    ("kill", "excused"),
    [
        (Kill(102, COMFYUI_KILLED, "worker2-x"), True),
        (Kill(102, COMFYUI_KILLED, "worker3-y"), False),
        (Kill(102, WORKER_KILLED, "worker2-x"), False),
        (Kill(60, COMFYUI_KILLED, "worker2-x"), False),
        (Kill(106, COMFYUI_KILLED, "worker2-x"), False),
    ],
)
def test_only_a_kill_of_its_own_comfyui_excuses_a_death(kill, excused):
    died = ending(state="FAILED", error="COMFYUI_DIED: x. y")
    assert (judged(died, [kill]) == []) is excused


def test_a_job_is_lost_only_to_two_kills():
    lost = ending(state="FAILED", error="WORKER_LOST: x. y")
    kills = [Kill(101, WORKER_KILLED, "worker2-w"), Kill(103, WORKER_TERMINATED, "worker2-x")]
    assert judged(lost, kills) == []
    assert judged(lost, kills[:1])


# --- models


def test_a_download_too_many_is_a_violation():
    gone = [Removal("loras/a.safetensors", 1, 2), Removal("loras/a.1007.safetensors", 1, 2)]
    names = {"a.safetensors": 2}
    assert checks.check_downloads({"a.safetensors": 4}, gone, {}, names) == []
    assert checks.check_downloads({"a.safetensors": 5}, gone, {"a.safetensors": 3}, names) == []
    assert checks.check_downloads({"a.safetensors": 5}, gone, {"a.safetensors": 1}, names) == [
        "a.safetensors was downloaded 5 times and deleted 2 times"
    ]


def test_downloads_and_deletions_are_read_from_the_workers_logs():
    log = (
        "INFO    | - | worker.downloads.pool | a.safetensors is there: 1.0 MB in 0.5 s (2.0 MB/s)\n"
        "INFO    | - | worker.downloads.pool | a.1007.safetensors is there: 1.0 MB in 0.5 s (2.0 MB/s)\n"
        "INFO    | - | worker.models.recognise | b.safetensors is there already\n"
        "INFO    | id | worker.models.pruner | pruned loras/a.1007.safetensors (1.0 MB): deleted\n"
        "INFO    | id | worker.models.pruner | pruned loras/a.safetensors (1.0 MB): was already gone\n"
        "INFO    | id | worker.models.pruner | pruned loras/b.safetensors (1.0 MB): stays: another worker uses it\n"
    )
    assert names_in(log, IS_THERE) == {"a.safetensors": 2}
    assert names_in(log, IS_PRUNED) == {"a.safetensors": 1}


@pytest.mark.parametrize(("seen", "missed", "found"), [(102.9, 103.0, 1), (102.4, 102.6, 0), (103.9, 104.1, 0)])
def test_a_file_that_goes_while_its_job_surely_runs_is_a_violation(seen, missed, found):
    job = ending(models={"ready": [A]})
    assert job.surely_in_use == (102.5, 104.0)
    assert len(checks.check_in_use([job], [Removal("loras/a.safetensors", seen, missed)])) == found
    assert checks.check_in_use([job], [Removal("loras/other.safetensors", seen, missed)]) == []


def test_a_soak_without_kills_prunes_and_models_in_use_is_none():
    assert len(checks.check_it_was_one([ending()], [], [])) == 3
    one = [ending(models={"ready": [A]})], [Removal("x", 1, 2)], [Kill(1, WORKER_KILLED, "w")]
    assert checks.check_it_was_one(*one) == []


def test_what_is_left_and_what_is_missing_after_the_last_job_are_violations():
    assert checks.check_left(["a"], ["a"]) == []
    assert checks.check_left(["a", "b"], ["a", "c"]) == ["b was left on the disk", "c is missing after the last job"]


def test_the_folder_watch_sees_deletions_replacements_and_wrong_bytes(tmp_path):
    ledger = Ledger()
    watch = FolderWatch(tmp_path, {"a.safetensors": {hashlib.sha256(b"right").hexdigest()}}, ledger)
    path = tmp_path / "loras" / "a.safetensors"
    path.parent.mkdir()
    watch.look()
    path.write_bytes(b"right")
    watch.look()
    assert (ledger.removals, ledger.wrong_files, watch.largest) == ([], [], 5)
    path.with_suffix(".new").write_bytes(b"wrong")
    path.with_suffix(".new").replace(path)
    watch.look()
    path.unlink()
    watch.look()
    watch.look()
    assert [removal.place for removal in ledger.removals] == ["loras/a.safetensors"] * 2
    assert all(removal.seen <= removal.missed for removal in ledger.removals)
    assert ledger.wrong_files == ["loras/a.safetensors"]


# --- leaks


def samples(values, what="rss"):
    facts = {"rss": 100 << 20, "fds": 20, "threads": 5}
    return [Sample(float(at), **{**facts, what: value}) for at, value in enumerate(values)]


@pytest.mark.parametrize(("what", "each"), [("rss", 1 << 20), ("fds", 1), ("threads", 1)])
def test_what_grows_through_the_second_half_is_a_leak(what, each):
    values = [20 + each * number for number in range(120)]
    (sentence,) = checks.check_growth(checks.growths("worker1 handler 7", samples(values, what)))
    assert sentence.startswith(f"worker1 handler 7: {what} grew from ")


@pytest.mark.parametrize("values", [[100] * 120, [number * 10 for number in range(60)] + [600] * 60, [1, 99] * 60])
def test_what_settles_or_swings_is_none(values):
    assert checks.check_growth(checks.growths("p", samples(values, "fds"))) == []


def test_a_short_life_says_nothing():
    assert checks.growths("p", samples(range(40), "fds")) == []
    assert not Growth("p", "fds", 20, 28).is_leak


def test_a_deleted_file_that_a_process_holds_is_found(tmp_path):
    path = tmp_path / "a.safetensors"
    path.write_bytes(b"x")
    with path.open("rb"):
        assert deleted_and_open([os.getpid()], tmp_path) == []
        path.unlink()
        (sentence,) = deleted_and_open([os.getpid()], tmp_path)
        assert str(path) in sentence
    assert deleted_and_open([os.getpid(), 2**22 + 1], tmp_path) == []


# --- the load


def test_equal_seeds_give_equal_models_and_jobs_and_every_kind_of_job_comes():
    models = make_models(3)
    links = {model.number: f"https://civitai.com/api/download/models/{model.number}" for model in models}

    def first(count, seed):
        return list(itertools.islice(Generator(seed, models, links), count))

    jobs = first(400, 3)
    assert (make_models(3), first(400, 3)) == (models, jobs)
    assert first(400, 4) != jobs
    assert {job.error for job in jobs} >= {None, "MODEL_MISSING", "MODEL_CORRUPT", "TIMEOUT", "NO_OUTPUT"}
    assert {len(job.lists) for job in jobs} == {0, 1, 2, 3, 4, 5}
    assert any(job.cancel_after_s is not None for job in jobs)
    assert {number for job in jobs for number in job.lists} == {model.number for model in models[:-1]}


def test_the_spared_worker_keeps_its_handler_always_and_its_comfyui_later():
    spared, other = WorkerProcesses(f"{SPARED}a", 1, 2), WorkerProcesses("worker2-b", 3, None)
    assert not may_strike(WORKER_KILLED, spared, 0.0)
    assert may_strike(COMFYUI_KILLED, spared, 0.1)
    assert not may_strike(COMFYUI_KILLED, spared, 0.5)
    assert may_strike(WORKER_KILLED, other, 0.5)
    assert not may_strike(COMFYUI_KILLED, other, 0.1)


def test_processes_that_belong_to_no_worker_are_no_victims():
    assert find_workers({os.getpid(): "python handler.py", 2**22 + 1: "python main.py"}) == []
