"""Disks that are small, full or read-only. Needs the right to mount a tmpfs, which CI's root has."""

from __future__ import annotations

import gc
import subprocess

import pytest

from tests.faults.assembled.in_process import InProcess
from tests.support.prompts import image_prompt
from tests.support.safetensors_files import safetensors_bytes

fault = pytest.mark.fault
MiB = 1 << 20
DISK = 80 * MiB  # of which the worker leaves 64 MiB to others


@pytest.fixture(scope="module")
def models_dir(tmp_path_factory):
    """A disk of its own for the models of this module's worker."""
    folder = tmp_path_factory.mktemp("small") / "worker" / "models"
    folder.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", folder]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a tmpfs")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


@pytest.fixture(scope="module")
def worker(models_dir):
    subject = InProcess(models_dir.parent)
    yield subject
    subject.close()


@pytest.fixture
def read_only(models_dir):
    """The disk cannot be written until the returned function is called."""

    def remount(how: str) -> None:
        gc.collect()  # a descriptor of a finished download would keep the disk writable
        subprocess.run(["mount", "-o", f"remount,{how}", models_dir], check=True)

    remount("ro")
    yield lambda: remount("rw")
    remount("rw")


@fault("disk-read-only")
def test_a_disk_that_cannot_be_written_is_said(worker, case, read_only):
    line = worker.add("unwritable.safetensors", safetensors_bytes(50_000, "unwritable"))
    told = case.meets(worker, {"prompt": image_prompt(0xABC303), "repo_list": [worker.own, line]})
    assert "MODELS_DIR" in told["error"]
    read_only()
    case.next_job(worker)


@fault("disk-too-small")
def test_a_list_that_cannot_fit_is_refused_before_its_first_byte(worker, case):
    line = worker.add("large.safetensors", safetensors_bytes(30 * MiB, "large"))
    told = case.runs(worker, prompt=image_prompt(0xABC301), repo_list=[worker.own, line])
    assert told["details"]["needed_bytes"] == 30 * MiB


@fault("disk-fills")
def test_a_file_whose_size_nobody_told_fills_the_disk_and_goes_again(worker, case):
    data = safetensors_bytes(DISK + MiB, "endless")
    line = worker.add("endless.safetensors", data, size_kb=1.0, send_length=False, ignore_range=True)
    case.runs(worker, prompt=image_prompt(0xABC302), repo_list=[worker.own, line])
