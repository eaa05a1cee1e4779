"""A full disk: room is made first where it may be, and DISK_FULL where it may not or cannot."""

from pathlib import Path

import pytest

from tests.support.model_bench import model_bytes, named, tree, unhurried
from worker.errors import Code, WorkerError
from worker.models import prune_rules as prune


def disk_of(root, capacity):
    """The bytes free on a disk of ``capacity`` that holds the models alone."""
    return lambda _: capacity - sum(len(data) for data in tree(root).values())


def test_room_is_made_first_largest_first_and_only_as_much_as_needed(manager, source, root, monkeypatch):
    monkeypatch.setattr(prune, "SPARE_BYTES", 0)
    for version, size in ((1, 1000), (2, 3000), (3, 2000), (4, 2500)):
        source.add(version, data=model_bytes(version, size))
    worker = manager(free_bytes=disk_of(root, 6700))
    worker.prepare(source.list(1, 2, 3), {}, prune=False)
    seen = []
    source.before_fetch = lambda downloads: seen.append(sorted(tree(root)))
    result = worker.prepare(source.list(4), {})
    assert seen == [["loras/m1.safetensors", "loras/m3.safetensors"]]
    assert sorted(tree(root)) == ["loras/m4.safetensors"]
    assert named(result.pruned) == [f"loras/m{version}.safetensors" for version in (1, 2, 3)]


@pytest.mark.parametrize(
    "job", [{"capacity": 4900}, {"prune": False}, {"environ": {"PRUNE_DRY_RUN": "1"}}, {"shared": 1}]
)
def test_a_full_disk_is_an_error_and_nothing_goes_when_room_cannot_or_may_not_be_made(
    manager, source, root, monkeypatch, job
):
    monkeypatch.setattr(prune, "SPARE_BYTES", 0)
    for version, size in ((1, 1000), (2, 3000), (3, 5000)):
        source.add(version, data=model_bytes(version, size))
    volume = root.parent if job.get("shared") else Path("/no/such/volume")
    environ = {"PRUNE_ROOTS": str(root), **job.get("environ", {})}
    worker = manager(environ, volume=volume, free_bytes=disk_of(root, job.get("capacity", 6000)))
    worker.prepare(source.list(1, 2), {}, prune=False)
    unhurried(worker)
    source.fetched.clear()
    with pytest.raises(WorkerError) as caught:
        worker.prepare(source.list(3), {}, prune=job.get("prune"))
    assert caught.value.code is Code.DISK_FULL
    assert caught.value.details["needed_bytes"] == len(model_bytes(3, 5000))
    assert sorted(tree(root)) == ["loras/m1.safetensors", "loras/m2.safetensors"]
    assert source.fetched == []


def test_only_what_is_missing_needs_room(manager, source, root):
    source.add(1, data=model_bytes(1, 100_000))
    worker = manager(free_bytes=lambda _: prune.SPARE_BYTES + 200_000)
    worker.prepare(source.list(1), {})
    source.add(2, data=model_bytes(2, 200))
    worker._pruner._free_bytes = lambda _: prune.SPARE_BYTES + 1000
    assert named(worker.prepare(source.list(1, 2), {}).downloaded) == ["loras/m2.safetensors"]
    worker._pruner._free_bytes = lambda _: 0
    assert len(worker.prepare(source.list(1, 2), {}).ready) == 2


def test_bytes_that_do_not_come_free_end_in_disk_full(stocked, source, root, monkeypatch):
    monkeypatch.setattr("worker.models.pruner.ROOM_WAIT_S", 0.0)
    source.add(3, data=model_bytes(3, 5000))
    monkeypatch.setattr(prune, "SPARE_BYTES", 0)
    worker = stocked()
    worker._pruner._free_bytes = lambda _: 2000
    with pytest.raises(WorkerError, match="DISK_FULL"):
        worker.prepare(source.list(3), {})
