"""The pruner: it gathers what the rules need, deletes what they allow, and remembers what it deleted."""

import logging
import time

import pytest

from tests.support.inventories import entry_for
from tests.support.model_bench import claims_of, lora, put, tree
from worker.errors import Code, WorkerError
from worker.models import pruner as module
from worker.models.ensure_state import ModelJob
from worker.models.inventory import ModelFolders
from worker.models.leases import Leases
from worker.models.locations import Location
from worker.models.prompt_names import find_mentions
from worker.models.prune_rules import SPARE_BYTES, PrunePlan
from worker.models.pruner import Pruner
from worker.process_id import process_id
from worker.settings import Settings
from worker.stop import Stop

A, B = Location("loras", "a.safetensors"), Location("loras", "b.safetensors")


@pytest.fixture
def pruner(root):
    """Makes the pruner of a worker that started on an empty disk; then two models came to it."""

    def make(environ=None, *, shared=False, release=None, free_bytes=lambda _: 10**12):
        settings = Settings.from_environ(
            {"COMFYUI_URL": "http://127.0.0.1:1", "MODELS_DIR": str(root), **(environ or {})}
        )
        made = Pruner(settings, ModelFolders(root), Leases(root), shared=shared, release=release, free_bytes=free_bytes)
        put(root, str(A), b"a" * 30)
        put(root, str(B), b"b" * 20)
        return made

    return make


def job(prompt=None, **more):
    given = {"prune": True, "no_other_job": lambda: True, "started_ns": time.time_ns() + 10**9, **more}
    return ModelJob(
        lines=["a line"],
        mentions=find_mentions(prompt or {}),
        stop=Stop(),
        report=lambda files: None,
        read_ahead=False,
        **given,
    )


def planned(pruner, job, *listed):
    return [file.location for file in pruner.plan(job, pruner.folders.read(), listed).to_delete]


def pruned(pruner, job, *listed):
    stock = pruner.folders.read()
    pruner.prune(job, stock, pruner.plan(job, stock, listed))
    return job


def test_what_is_unlisted_goes_and_is_reported(pruner, root, caplog):
    caplog.set_level(logging.INFO)
    done = pruned(pruner(), job(), B)
    assert tree(root).keys() == {str(B)}
    assert done.pruned == [{"name": "a.safetensors", "folder": "loras", "bytes": 30}]
    assert done.deleted == {A}
    assert "pruned loras/a.safetensors (30 B): deleted" in caplog.text


def test_what_was_on_the_disk_before_the_worker_stays(pruner, root):
    put(root, "loras/before.safetensors")
    assert planned(pruner(), job()) == [A, B]


def test_what_another_worker_claims_is_not_planned(pruner, root):
    worker = pruner()
    claims_of(root, process_id(), using=[str(A)])
    assert planned(worker, job()) == [B]


def test_what_another_worker_came_to_claim_after_the_plan_stays(pruner, root, caplog):
    caplog.set_level(logging.INFO)
    worker, running = pruner(), job()
    stock = worker.folders.read()
    plan = worker.plan(running, stock, ())
    claims_of(root, process_id(), using=[str(A)])
    worker.prune(running, stock, plan)
    assert running.deleted == {B}
    assert "pruned loras/a.safetensors (30 B): stays: another worker came to use it" in caplog.text


@pytest.mark.parametrize(
    ("environ", "shared", "reason"),
    [
        ({}, False, None),
        ({"PRUNE": "0"}, False, "prune is off"),
        ({}, True, "the models are on a shared volume that PRUNE_ROOTS does not name"),
        ({"PRUNE_ROOTS": "{root}"}, True, None),
        ({"PRUNE_ROOTS": "/elsewhere"}, True, "the models are on a shared volume that PRUNE_ROOTS does not name"),
    ],
)
def test_whether_a_worker_prunes_at_all_and_why_not(pruner, root, environ, shared, reason):
    worker = pruner({name: value.format(root=root) for name, value in environ.items()}, shared=shared)
    assert worker.blocked_by() == reason


def test_a_job_without_lines_or_beside_another_deletes_nothing(pruner):
    worker = pruner()
    empty = job()
    empty.lines = []
    assert planned(worker, empty) == planned(worker, job(no_other_job=lambda: False)) == []
    assert planned(worker, job(prune=False)) == []
    assert planned(worker, job()) == [A, B]


def test_a_job_that_came_after_the_plan_was_made_prevents_the_deletion(pruner, root):
    answers = iter([True, False])
    pruned(pruner(), job(no_other_job=lambda: next(answers)))
    assert tree(root).keys() == {str(A), str(B)}


def test_on_a_named_volume_what_was_used_within_a_jobs_time_stays(pruner, root):
    worker = pruner({"PRUNE_ROOTS": str(root), "JOB_TIMEOUT_S": "600"}, shared=True)
    now = time.time()
    entries = [
        entry_for(worker.folders, str(A), last_used=now - 600 - 30),
        entry_for(worker.folders, str(B), "civitai:2:3", last_used=now - 600 - 90),
    ]
    worker.folders.commit({entry.location: entry for entry in entries})
    assert planned(worker, job()) == [B]


def test_settings_reach_the_rules(pruner):
    assert planned(pruner({"KEEP_MODELS": "a*"}), job()) == [B]
    assert planned(pruner({"KEEP_GB": "0.00000005"}), job()) == []
    dry = pruner({"PRUNE_DRY_RUN": "1"})
    assert pruned(dry, job()).warnings == [
        "PRUNE_DRY_RUN is on: 2 models would be deleted: loras/a.safetensors, loras/b.safetensors"
    ]


def test_deleted_files_leave_the_manifest_and_their_names_are_remembered(pruner):
    worker = pruner()
    known = entry_for(worker.folders, str(A))
    worker.folders.commit({A: known})
    done = pruned(worker, job())
    assert worker.folders.read(fresh=True).entries == {}
    assert worker.deleted_names[A] == known.identity
    assert worker.deleted_names[B].startswith("unknown:20:")
    assert done.pruned[0]["identity"] == known.identity


def make_room(worker, job, needed):
    stock = worker.folders.read()
    plan = worker.plan(job, stock, ())
    worker.make_room(job, stock, needed, plan)
    return stock, plan


def test_room_is_made_only_if_the_models_do_not_fit_and_only_as_much_as_needed(pruner):
    assert make_room(pruner(free_bytes=lambda _: SPARE_BYTES + 100), fits := job(), 100) and not fits.deleted
    make_room(pruner(free_bytes=lambda _: SPARE_BYTES + 70), tight := job(), 100)
    assert tight.deleted == {A}


def test_what_made_room_is_not_deleted_a_second_time(pruner, caplog):
    caplog.set_level(logging.INFO)
    worker, running = pruner(free_bytes=lambda _: SPARE_BYTES + 70), job()
    worker.prune(running, *make_room(worker, running, 100))
    assert running.deleted == {A, B}
    assert caplog.text.count("pruned loras/a.safetensors") == 1


@pytest.mark.parametrize("shared", [True, False])
def test_a_disk_that_is_full_all_the_same_is_an_error_and_nothing_goes(pruner, root, shared):
    worker = pruner({"PRUNE_ROOTS": str(root)}, shared=shared, free_bytes=lambda _: SPARE_BYTES)
    with pytest.raises(WorkerError) as caught:
        make_room(worker, job(), 40 if shared else 51)
    assert caught.value.code is Code.DISK_FULL
    assert tree(root).keys() == {str(A), str(B)}


def test_room_that_comes_free_late_is_waited_for(pruner):
    free = iter([SPARE_BYTES + 70, 99, 100])
    make_room(pruner(free_bytes=lambda _: next(free)), running := job(), 100)
    assert running.deleted == {A}
    assert list(free) == []


def test_room_that_never_comes_free_is_an_error(pruner, monkeypatch):
    monkeypatch.setattr(module, "ROOM_WAIT_S", 0.0)
    free = iter([SPARE_BYTES + 70, 99, 99, 99])
    with pytest.raises(WorkerError, match="still has them open"):
        make_room(pruner(free_bytes=lambda _: next(free)), job(), 100)


def test_comfyui_is_asked_once_a_job_to_close_its_files_and_may_fail(pruner, root, caplog):
    asked = []

    def release():
        asked.append(sorted(tree(root)))
        raise WorkerError(Code.COMFYUI_DIED, "no answer")

    worker, running = pruner(release=release, free_bytes=lambda _: SPARE_BYTES + 70), job()
    worker.prune(running, *make_room(worker, running, 100))
    assert asked == [[str(A), str(B)]]
    assert running.deleted == {A, B}
    assert "ComfyUI did not close its model files (WorkerError)" in caplog.text


def test_a_file_that_cannot_be_deleted_is_a_warning_and_the_others_go(pruner, monkeypatch):
    def delete(root, file, delete=module.delete):
        if file.location == A:
            raise PermissionError(13, "Permission denied")
        return delete(root, file)

    monkeypatch.setattr(module, "delete", delete)
    done = pruned(pruner(), job())
    assert done.warnings == ["loras/a.safetensors could not be pruned: Permission denied"]
    assert done.deleted == {B}


def test_a_use_is_written_down_when_the_last_one_is_a_minute_old(pruner):
    worker, now = pruner(), time.time()
    old = entry_for(worker.folders, str(A), last_used=now - 90)
    new = entry_for(worker.folders, str(B), "civitai:2:3", last_used=now - 30)
    worker.folders.commit({A: old, B: new})
    worker.record_use({A: old, B: new}, worker.folders.read(), PrunePlan())
    entries = worker.folders.read().entries
    assert entries[A].last_used >= now
    assert entries[B].last_used == new.last_used


def test_models_that_the_prompt_names_are_used_too_and_count_for_keep_gb(pruner):
    worker = pruner({"KEEP_GB": "0.000000031"})
    naming, stock = job(lora("a.safetensors")), worker.folders.read()
    worker.record_use({}, stock, worker.plan(naming, stock, ()))
    assert planned(worker, job()) == [B], "a was used last, and there is room for one of them"
