"""What the manifest remembers, and what happens when it is lost, broken, or written by several workers."""

import json
import os
import threading
import time
from dataclasses import replace

import pytest

from tests.support.inventories import entry_for
from tests.support.model_bench import put
from worker.models.inventory import ModelFolders
from worker.models.locations import Location
from worker.models.manifest import ABANDONED_S, MANIFEST_PATH, Entry


def test_what_was_committed_is_known_to_the_next_worker(tmp_path):
    put(tmp_path, "loras/a.safetensors")
    folders = ModelFolders(tmp_path)
    entry = entry_for(folders, "loras/a.safetensors", aliases=("x.safetensors",), sha256="ab", last_used=5.0)
    folders.commit({entry.location: entry})
    read = ModelFolders(tmp_path).read()
    assert read.entries == {entry.location: entry}
    assert read.by_key["k"] == entry
    assert read.by_identity["civitai:1:2", "loras"] == entry


BROKEN = [
    "",
    "{",
    "[]",
    "null",
    '{"version": 99, "files": {}}',
    '{"version": 1}',
    '{"version": 1, "files": 3}',
    "[" * 9999,
]


@pytest.mark.parametrize("text", BROKEN)
def test_a_manifest_that_cannot_be_read_is_an_empty_one(tmp_path, text):
    put(tmp_path, "loras/a.safetensors")
    put(tmp_path, MANIFEST_PATH, text.encode())
    folders = ModelFolders(tmp_path)
    assert folders.read().entries == {}
    entry = entry_for(folders, "loras/a.safetensors")
    folders.commit({entry.location: entry})
    assert ModelFolders(tmp_path).read().entries == {entry.location: entry}


def test_a_broken_entry_is_dropped_alone(tmp_path):
    put(tmp_path, "loras/a.safetensors")
    folders = ModelFolders(tmp_path)
    entry = entry_for(folders, "loras/a.safetensors")
    folders.commit({entry.location: entry})
    path = tmp_path / MANIFEST_PATH
    document = json.loads(path.read_text())
    good = document["files"]["loras/a.safetensors"]
    document["files"] |= {"loras/b": 3, "loras/c": {**good, "size": "9"}, "loras/d": {"identity": "x"}}
    document["files"]["loras/a.safetensors"] = {**good, "of a later version": True}
    path.write_text(json.dumps(document))
    assert ModelFolders(tmp_path).read().entries == {entry.location: entry}


def test_two_workers_writing_in_turn_lose_nothing(tmp_path):
    workers = [ModelFolders(tmp_path), ModelFolders(tmp_path)]
    for worker in workers:
        worker.read()
    for number in range(6):
        name = f"loras/{number}.safetensors"
        put(tmp_path, name)
        entry = entry_for(workers[0], name, f"civitai:1:{number}")
        workers[number % 2].commit({entry.location: entry})
    assert len(ModelFolders(tmp_path).read().entries) == 6


def test_workers_writing_at_once_lose_no_note_and_never_leave_a_broken_manifest(tmp_path):
    for number in range(40):
        put(tmp_path, f"loras/{number}.safetensors")
    start = threading.Barrier(4)

    def work(mine):
        folders = ModelFolders(tmp_path)
        start.wait()
        for number in range(mine, 40, 4):
            entry = entry_for(folders, f"loras/{number}.safetensors", f"civitai:1:{number}")
            folders.commit({entry.location: entry})
            assert json.loads((tmp_path / MANIFEST_PATH).read_text())["version"] == 1

    threads = [threading.Thread(target=work, args=(mine,)) for mine in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    entries = ModelFolders(tmp_path).read().entries
    assert len(entries) == 40, "every note of every worker is kept"
    assert sorted(path.name for path in (tmp_path / MANIFEST_PATH).parent.iterdir()) == ["lock", "manifest.json"]


def test_an_entry_whose_file_is_gone_is_forgotten_at_the_next_write(tmp_path):
    folders = ModelFolders(tmp_path)
    for name in ("a", "b"):
        put(tmp_path, f"loras/{name}.safetensors")
        entry = entry_for(folders, f"loras/{name}.safetensors", f"civitai:1:{name}")
        folders.commit({entry.location: entry})
    (tmp_path / "loras" / "a.safetensors").unlink()
    folders.read(fresh=True)
    folders.commit({entry.location: replace(entry, last_used=9.0)})
    assert list(json.loads((tmp_path / MANIFEST_PATH).read_text())["files"]) == ["loras/b.safetensors"]


def test_what_another_worker_downloaded_meanwhile_is_not_forgotten_with_what_was_deleted(tmp_path):
    path = put(tmp_path, "loras/a.safetensors")
    folders = ModelFolders(tmp_path)
    entry = entry_for(folders, "loras/a.safetensors")
    folders.commit({entry.location: entry})
    folders.commit({entry.location: None})
    assert ModelFolders(tmp_path).read().entries == {entry.location: entry}
    path.unlink()
    folders.commit({entry.location: None})
    assert str(entry.location) not in (tmp_path / MANIFEST_PATH).read_text()


def test_a_begun_download_is_remembered_for_a_day(tmp_path):
    now = time.time()
    for name, age in (("new", 60), ("old", ABANDONED_S + 60)):
        begun = Entry(
            Location("loras", f"{name}.safetensors"), "civitai:1:2", "x", 0, 0, last_used=now - age, origin="pending"
        )
        ModelFolders(tmp_path).commit({begun.location: begun})
    assert [location.name for location in ModelFolders(tmp_path).read().pending] == ["new.safetensors"]


def test_a_begun_download_is_no_fact_about_a_file(tmp_path):
    """Not even about one of time 0, as reproducible images have them."""
    path = put(tmp_path, "loras/a.safetensors", b"")
    os.utime(path, ns=(0, 0))
    begun = Entry(Location("loras", path.name), "civitai:1:2", path.name, 0, 0, last_used=time.time(), origin="pending")
    folders = ModelFolders(tmp_path)
    folders.commit({begun.location: begun})
    assert folders.read().entries == {}


def test_a_disk_that_cannot_be_written_costs_only_the_memory(tmp_path, caplog):
    put(tmp_path, "loras/a.safetensors")
    put(tmp_path, ".comfy-worker", b"a file where the folder should be")
    folders = ModelFolders(tmp_path)
    entry = entry_for(folders, "loras/a.safetensors")
    folders.commit({entry.location: entry})
    assert "could not be written" in caplog.text


def test_what_a_worker_left_that_was_killed_while_it_wrote_is_removed(tmp_path):
    put(tmp_path, "loras/a.safetensors")
    left = put(tmp_path, ".comfy-worker/.manifest.json.77-0123abcd")
    being_written = put(tmp_path, ".comfy-worker/.manifest.json.78-0123abcd", age_ns=0)
    folders = ModelFolders(tmp_path)
    entry = entry_for(folders, "loras/a.safetensors")
    folders.commit({entry.location: entry})
    assert not left.exists()
    assert being_written.exists()
