"""The jobs on disk: theirs alone who owns them, and a file that is no database is left alone."""

from __future__ import annotations

import pytest

from endpoint.app import Endpoint
from endpoint.options import Options
from endpoint.store import StoreError


def test_a_broken_file_is_named_and_left_alone(tmp_path):
    (tmp_path / "jobs.sqlite3").write_bytes(b"no database" * 100)
    with pytest.raises(StoreError, match=r"jobs\.sqlite3 cannot be used"):
        Endpoint(Options(data_dir=tmp_path), "key")
    assert (tmp_path / "jobs.sqlite3").read_bytes().startswith(b"no database")


def test_what_is_on_disk_is_its_owners_only(tmp_path, client):
    client.submit({"secret": 1})
    for name in ("jobs.sqlite3", "jobs.sqlite3-wal", "lock"):
        assert (tmp_path / name).stat().st_mode & 0o077 == 0
