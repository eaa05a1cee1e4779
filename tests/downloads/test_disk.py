from __future__ import annotations

import hashlib

import pytest

from worker.downloads.disk import free_bytes, nearest_existing, sha256_of
from worker.stop import Stop, StoppedError


def test_free_bytes_are_those_of_the_folders_own_disk(small_disk):
    assert free_bytes(small_disk) == 4 << 20
    (small_disk / "x").write_bytes(bytes(1 << 20))
    assert free_bytes(small_disk) == 3 << 20


def test_a_folder_that_is_not_made_yet_has_an_existing_parent(tmp_path):
    assert nearest_existing(tmp_path) == tmp_path
    assert nearest_existing(tmp_path / "models" / "loras") == tmp_path
    (tmp_path / "models").mkdir()
    assert nearest_existing(tmp_path / "models" / "loras") == tmp_path / "models"


def test_the_hash_is_that_of_the_whole_file_and_ends_when_its_job_does(tmp_path):
    path, data = tmp_path / "x", bytes(range(256)) * 10_000
    path.write_bytes(data)
    stop = Stop()
    assert sha256_of(path, stop) == sha256_of(path) == hashlib.sha256(data).hexdigest()
    stop.set()
    with pytest.raises(StoppedError):
        sha256_of(path, stop)
