"""The models that count as present, and the moments when the disk is read again."""

import os
from pathlib import Path

import pytest

from tests.support.inventories import entry_for
from tests.support.model_bench import HOUR_NS, put
from worker.models import inventory as module
from worker.models.inventory import ModelFolders


def settle(root):
    """Let the folders look as if nothing changed lately."""
    for folder, _, _ in os.walk(root):
        then = Path(folder).stat().st_mtime_ns - HOUR_NS
        os.utime(folder, ns=(then, then))


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
