"""Where a file is: its text form, the folder that lists it, and what tells its bytes from others."""

import os

import pytest

from worker.models.locations import DiskFile, Location


@pytest.mark.parametrize("text", ["loras/a.safetensors", "loras/xl/deep/a.safetensors", "unet/a.gguf"])
def test_a_location_is_read_from_what_it_is_written_as(text):
    assert str(Location.parse(text)) == text


def test_a_path_is_split_after_its_first_folder():
    location = Location.parse("loras/xl/a.safetensors")
    assert location == ("loras", "xl/a.safetensors")
    assert location.basename == "a.safetensors"


@pytest.mark.parametrize(
    ("disk_folder", "folder"), [("unet", "diffusion_models"), ("clip", "text_encoders"), ("vae", "vae")]
)
def test_files_of_older_folders_are_listed_with_a_managed_one(disk_folder, folder):
    assert Location(disk_folder, "a.safetensors").folder == folder


def test_a_file_has_the_facts_of_its_stat(tmp_path):
    path = tmp_path / "a.safetensors"
    path.write_bytes(b"12345")
    os.utime(path, ns=(7, 9))
    facts = path.stat()
    location = Location("loras", path.name)
    assert DiskFile.of(location, facts, linked=True) == (location, 5, 9, facts.st_ctime_ns, facts.st_ino, True)


def test_a_fingerprint_changes_with_location_size_and_time_alone():
    file = DiskFile(Location("loras", "a"), 5, 9, 1, 2, False)
    assert file.fingerprint == file._replace(ctime_ns=3, inode=4).fingerprint
    others = [file._replace(location=Location("vae", "a")), file._replace(size=6), file._replace(mtime_ns=8)]
    assert file.fingerprint not in {other.fingerprint for other in others}
