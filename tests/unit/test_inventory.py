"""What counts as present, what the manifest remembers, and what happens when it is lost, broken or shared."""

import json
import os
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.model_bench import HOUR_NS, put
from worker.models import inventory as module
from worker.models.inventory import ModelFolders
from worker.models.locations import Location
from worker.models.manifest import ABANDONED_S, MANIFEST_PATH, Entry
from worker.models.prune_rules import Outcome, delete


def settle(root):
    """Let the folders look as if nothing changed lately."""
    for folder, _, _ in os.walk(root):
        then = Path(folder).stat().st_mtime_ns - HOUR_NS
        os.utime(folder, ns=(then, then))


def entry_for(folders, name, identity="civitai:1:2", **more):
    file = folders.stat_file(Location.parse(name))
    return Entry(file.location, identity, file.location.basename, file.size, file.mtime_ns, **{"keys": ("k",), **more})


def names(inventory):
    return sorted(str(location) for location in inventory.files)


def test_files_are_found_as_comfyui_lists_them(tmp_path):
    for name in ("loras/a.safetensors", "loras/deep/er/b.SafeTensors", "checkpoints/c.ckpt", "unet/d.gguf", "vae/e.pt"):
        put(tmp_path, name)
    for name in ("loras/readme.txt", "loras/.a.safetensors.1-2.part", "style_models/s.safetensors", "loras/.git/g.pt"):
        put(tmp_path, name)
    (tmp_path / "loras" / "folder.safetensors").mkdir()
    assert names(ModelFolders(tmp_path).read()) == [
        "checkpoints/c.ckpt",
        "loras/a.safetensors",
        "loras/deep/er/b.SafeTensors",
        "unet/d.gguf",
        "vae/e.pt",
    ]


def test_a_root_that_does_not_exist_is_empty(tmp_path):
    assert names(ModelFolders(tmp_path / "none").read()) == []


def test_a_file_behind_a_symlink_is_present_and_marked(tmp_path):
    put(tmp_path, "elsewhere/x.safetensors", b"12345")
    (tmp_path / "loras").mkdir()
    (tmp_path / "loras" / "link.safetensors").symlink_to(tmp_path / "elsewhere" / "x.safetensors")
    (tmp_path / "loras" / "folder").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "vae").symlink_to(tmp_path / "elsewhere")
    files = ModelFolders(tmp_path).read().files
    assert {str(location): (file.linked, file.size) for location, file in files.items()} == {
        "loras/link.safetensors": (True, 5),
        "loras/folder/x.safetensors": (True, 5),
        "vae/x.safetensors": (True, 5),
    }


def test_a_dangling_symlink_is_not_present_but_holds_its_name(tmp_path):
    (tmp_path / "loras").mkdir()
    (tmp_path / "loras" / "A.safetensors").symlink_to(tmp_path / "gone")
    inventory = ModelFolders(tmp_path).read()
    assert names(inventory) == []
    assert ("loras", "a.safetensors") in inventory.occupied


def test_folders_linked_in_a_circle_end(tmp_path):
    put(tmp_path, "loras/a.safetensors")
    (tmp_path / "loras" / "again").symlink_to(tmp_path / "loras")
    assert names(ModelFolders(tmp_path).read()) == ["loras/a.safetensors"]


def test_what_was_committed_is_known_to_the_next_worker(tmp_path):
    put(tmp_path, "loras/a.safetensors")
    folders = ModelFolders(tmp_path)
    entry = entry_for(folders, "loras/a.safetensors", aliases=("x.safetensors",), sha256="ab", last_used=5.0)
    folders.commit({entry.location: entry})
    read = ModelFolders(tmp_path).read()
    assert read.entries == {entry.location: entry}
    assert read.by_key["k"] == entry
    assert read.by_identity["civitai:1:2", "loras"] == entry


@pytest.mark.parametrize("change", ["size", "time", "gone"])
def test_an_entry_counts_only_while_its_file_is_the_same(tmp_path, change):
    path = put(tmp_path, "loras/a.safetensors")
    folders = ModelFolders(tmp_path)
    entry = entry_for(folders, "loras/a.safetensors")
    folders.commit({entry.location: entry})
    if change == "size":
        times = path.stat().st_mtime_ns
        path.write_bytes(b"longer than before")
        os.utime(path, ns=(times, times))
    elif change == "time":
        os.utime(path)
    else:
        path.unlink()
    assert ModelFolders(tmp_path).read().entries == {}
    assert not folders.is_unchanged(entry)


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


def test_what_another_worker_brought_meanwhile_is_not_forgotten_with_what_was_deleted(tmp_path):
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


def test_an_unchanged_disk_is_not_read_again(tmp_path, monkeypatch):
    put(tmp_path, "loras/sub/a.safetensors")
    settle(tmp_path)
    folders = ModelFolders(tmp_path)
    first = folders.read()
    with monkeypatch.context() as patch:
        patch.setattr(module.os, "scandir", None)
        assert folders.read() is first


@pytest.mark.parametrize("change", ["add", "delete", "rename", "add deep", "new folder"])
def test_a_changed_folder_is_read_again(tmp_path, change):
    path = put(tmp_path, "loras/sub/a.safetensors")
    settle(tmp_path)
    folders = ModelFolders(tmp_path)
    before = names(folders.read())
    if change == "add":
        put(tmp_path, "loras/b.safetensors")
    elif change == "delete":
        path.unlink()
    elif change == "rename":
        path.rename(path.with_name("c.safetensors"))
    elif change == "add deep":
        put(tmp_path, "loras/sub/new/b.safetensors")
    else:
        put(tmp_path, "vae/b.safetensors")
    assert names(folders.read()) != before


def test_a_folder_that_changed_a_moment_ago_is_read_again_though_its_time_is_the_same(tmp_path):
    """Two changes within one tick of the file system's clock leave the same time behind."""
    put(tmp_path, "loras/a.safetensors")
    folders = ModelFolders(tmp_path)
    folders.read()
    then = (tmp_path / "loras").stat().st_mtime_ns
    put(tmp_path, "loras/b.safetensors")
    os.utime(tmp_path / "loras", ns=(then, then))
    assert len(folders.read().files) == 2


def test_another_workers_manifest_is_seen(tmp_path):
    put(tmp_path, "loras/a.safetensors")
    settle(tmp_path)
    mine, other = ModelFolders(tmp_path), ModelFolders(tmp_path)
    assert mine.read().entries == {}
    entry = entry_for(other, "loras/a.safetensors")
    other.commit({entry.location: entry})
    assert mine.read().entries == {entry.location: entry}


class TestDeletingOneFile:
    """``prune.delete`` takes away the planned file or nothing."""

    def planned(self, root, name="loras/sub/a.safetensors"):
        put(root, name)
        return ModelFolders(root).read().files[Location.parse(name)]

    def test_the_planned_file_goes(self, tmp_path):
        file = self.planned(tmp_path)
        assert delete(tmp_path, file) is Outcome.DELETED
        assert not (tmp_path / str(file.location)).exists()
        assert delete(tmp_path, file) is Outcome.GONE

    def test_a_file_replaced_since_the_plan_stays(self, tmp_path):
        file = self.planned(tmp_path)
        path = tmp_path / str(file.location)
        other = put(tmp_path, "new", b"other")
        os.utime(other, ns=(file.mtime_ns, file.mtime_ns))
        other.replace(path)
        assert (path.stat().st_size, path.stat().st_mtime_ns) == (file.size, file.mtime_ns)
        assert delete(tmp_path, file) is Outcome.CHANGED
        assert path.read_bytes() == b"other"

    @pytest.mark.parametrize("data", [b"model", b"longer than it was"])
    def test_a_file_changed_in_place_since_the_plan_stays(self, tmp_path, data):
        file = self.planned(tmp_path)
        path = tmp_path / str(file.location)
        path.write_bytes(data)
        assert delete(tmp_path, file) is Outcome.CHANGED
        assert path.exists()

    def test_a_file_that_grew_within_one_tick_of_the_clock_stays(self, tmp_path):
        file = self.planned(tmp_path)
        path = tmp_path / str(file.location)
        path.write_bytes(b"longer than it was")
        os.utime(path, ns=(file.mtime_ns, file.mtime_ns))
        assert delete(tmp_path, file) is Outcome.CHANGED

    def test_a_symlink_is_never_deleted_even_if_it_is_what_was_planned(self, tmp_path):
        file = self.planned(tmp_path)
        path = tmp_path / "loras" / "link.safetensors"
        path.symlink_to("sub/a.safetensors")
        facts = path.lstat()
        link = file._replace(
            location=Location("loras", "link.safetensors"),
            size=facts.st_size,
            mtime_ns=facts.st_mtime_ns,
            inode=facts.st_ino,
        )
        assert delete(tmp_path, link) is Outcome.CHANGED
        assert path.is_symlink()

    def test_a_symlink_put_there_since_the_plan_stays_and_so_does_its_target(self, tmp_path):
        file = self.planned(tmp_path)
        path = tmp_path / str(file.location)
        path.rename(tmp_path / "moved")
        path.symlink_to(tmp_path / "moved")
        assert delete(tmp_path, file) is Outcome.CHANGED
        assert path.is_symlink()
        assert (tmp_path / "moved").exists()

    @pytest.mark.parametrize("folder", ["loras", "loras/sub"])
    def test_a_folder_turned_into_a_symlink_since_the_plan_is_not_followed(self, tmp_path, folder):
        file = self.planned(tmp_path)
        (tmp_path / folder).rename(tmp_path / "moved")
        (tmp_path / folder).symlink_to(tmp_path / "moved")
        assert delete(tmp_path, file) is Outcome.CHANGED
        assert (tmp_path / str(file.location)).exists()

    def test_a_path_that_climbs_out_is_refused(self, tmp_path):
        file = self.planned(tmp_path)
        path = tmp_path / "precious.safetensors"
        (tmp_path / str(file.location)).rename(path)
        climbing = file._replace(location=Location("loras", "../precious.safetensors"))
        assert delete(tmp_path, climbing) is Outcome.CHANGED
        assert path.exists()

    def test_a_folder_that_is_gone_is_no_error(self, tmp_path):
        file = self.planned(tmp_path)
        (tmp_path / "loras").rename(tmp_path / "moved")
        assert delete(tmp_path, file) is Outcome.GONE
