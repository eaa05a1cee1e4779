"""A models folder with other workers, and a worker with other jobs: shared volumes, races and turns."""

import threading

import pytest

from tests.support.model_bench import model_bytes, named, put, tree, unhurried
from worker.downloads.pool import path_taken_error
from worker.errors import WorkerError
from worker.stop import Stop, StoppedError


def test_a_shared_volume_is_never_pruned_unless_named(stocked, source, root):
    worker = unhurried(stocked(volume=root.parent))
    assert worker.prepare(source.list(2), {}, prune=True).pruned == []
    assert (root / "loras/m1.safetensors").exists()


def test_a_shared_volume_that_is_reached_through_a_symlink_is_still_shared(manager, source, root, tmp_path):
    source.add(2)
    (tmp_path / "volume" / "models").mkdir(parents=True)
    root.symlink_to(tmp_path / "volume" / "models")
    worker = unhurried(manager(volume=tmp_path / "volume"))
    put(root, "loras/m1.safetensors", b"another worker's")
    assert worker.prepare(source.list(2), {}).pruned == []
    assert (root / "loras/m1.safetensors").exists()


def test_a_shared_volume_that_prune_roots_names_is_pruned_of_what_nobody_used_lately(manager, source, root):
    source.add(1)
    source.add(2)
    put(root, "loras/m1.safetensors", b"long there")
    worker = manager({"PRUNE_ROOTS": str(root.parent), "JOB_TIMEOUT_S": "1"}, volume=root.parent)
    used = worker.prepare(source.list(2), {}).pruned
    assert used == [], "its inode is a moment old: another worker may just have brought it"
    assert named(unhurried(worker).prepare(source.list(2), {}).pruned) == ["loras/m1.safetensors"]


@pytest.mark.parametrize("said", [{"sha256": None}, {"size": None, "sha256": None, "published": False}])
def test_bytes_that_another_worker_put_at_a_path_meanwhile_are_not_taken_for_ours(manager, source, root, said):
    """The download finds the name taken and fails; what is there looks as good, but it is another."""
    data = source.add(1, **said)
    other = data[:-1] + bytes([data[-1] ^ 1])

    def taken(downloads):
        source.before_fetch = lambda downloads: None
        put(root, "loras/m1.safetensors", other)
        raise path_taken_error(downloads[0])

    source.before_fetch = taken
    worker = manager()
    assert named(worker.prepare(source.list(1), {}).downloaded) == ["loras/m1.10.safetensors"]
    assert tree(root) == {"loras/m1.safetensors": other, "loras/m1.10.safetensors": data}
    if "size" in said:  # a size and a header would be enough for another job to take it
        (root / "loras/m1.10.safetensors").unlink()
        assert named(worker.prepare(source.list(1), {}).downloaded) == ["loras/m1.10.safetensors"]


def test_a_model_that_another_worker_deletes_meanwhile_is_fetched_again(stocked, source, root):
    source.add(3)
    worker = stocked()
    deleting = [root / "loras/m2.safetensors"]
    source.before_fetch = lambda downloads: deleting and deleting.pop().unlink()
    result = worker.prepare(source.list(2, 3), {})
    assert named(result.downloaded) == ["loras/m2.safetensors", "loras/m3.safetensors"]
    assert (root / "loras/m2.safetensors").read_bytes() == model_bytes(2)


def test_a_worker_that_keeps_deleting_is_reported(stocked, source, root):
    worker = stocked()
    same = worker.folders.is_unchanged
    worker.folders.is_unchanged = lambda entry: (
        same(entry) and (root / str(entry.location)).unlink() is None and same(entry)
    )
    with pytest.raises(WorkerError, match="keep changing"):
        worker.prepare(source.list(2), {})


def test_a_file_that_another_worker_pruned_first_is_no_error(stocked, source, root):
    worker = stocked()
    source.add(3)
    source.before_fetch = lambda downloads: (root / "loras/m1.safetensors").unlink()
    assert named(worker.prepare(source.list(3), {}).pruned) == ["loras/m2.safetensors"]


def test_two_jobs_of_one_worker_take_turns_and_fetch_once(manager, source):
    source.add(1)
    worker = manager()
    inside, go_on = threading.Event(), threading.Event()

    def slow(downloads):
        inside.set()
        assert go_on.wait(10)

    source.before_fetch = slow
    results = []
    threads = [threading.Thread(target=lambda: results.append(worker.prepare(source.list(1), {}))) for _ in range(2)]
    for thread in threads:
        thread.start()
    assert inside.wait(10)
    go_on.set()
    for thread in threads:
        thread.join()
    assert source.fetched == ["m1.safetensors"]
    assert sorted(len(result.ready) for result in results) == [0, 1]


def test_a_job_waiting_for_its_turn_can_be_cancelled_and_runs_into_its_deadline(manager, source):
    worker = manager()
    with worker._lock:
        stop = Stop()
        stop.set()
        with pytest.raises(StoppedError):
            worker.prepare(source.list(1), {}, stop=stop)
        with pytest.raises(WorkerError, match="TIMEOUT"):
            worker.prepare(source.list(1), {}, stop=Stop(deadline=0.0))
